"""What one module adds to the files that describe the whole site.

Each is encoded once, when its module is drawn; a build joins them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Struct

from tasks.documents import Kind, Links, Module, Slot, SlotCounts, Symbol
from tasks.render.pages import PageInputs
from tasks.render.prose import plain_text
from tasks.resolve import anchor

_LONGEST_SUMMARY = 90
_SPHINX_ROLES = {
    "module": "module",
    "package": "module",
    "class": "class",
    "function": "function",
    "method": "method",
    "property": "property",
}


class Fragment(Struct, frozen=True):
    """One module's share of the site-wide files, and its page's digest and size.

    `symbols` are the module's objects of `symbols.json`, `search` its entry of the
    search index (both JSON), `inventory` its lines of `objects.inv`.
    """

    digest: str
    size: int
    symbol_count: int
    slots: SlotCounts
    symbols: str
    search: str
    inventory: str


def fragment_of(
    page: tuple[str, int],
    inputs: PageInputs,
    module: Module,
    links: Links,
    docs: Mapping[str, Mapping[str, Slot]],
) -> Fragment:
    """Encode a module's share; `page` is the page's digest and size."""
    public = set(links.public)
    objects = [_symbol_object(s, s.name in public, inputs, docs[s.name]) for s in module.symbols]
    counts = SlotCounts()
    for symbol in module.symbols:
        if symbol.name in public:
            counts += _counts(symbol, docs[symbol.name])
    return Fragment(
        *page,
        len(objects),
        counts,
        ",\n".join(msgspec.json.encode(o).decode() for o in objects),
        msgspec.json.encode(_search_entry(inputs, module, links, docs)).decode() if public else "",
        "".join(_inventory(inputs, module, links)),
    )


def _symbol_object(
    symbol: Symbol, public: bool, inputs: PageInputs, doc: Mapping[str, Slot]
) -> dict[str, Any]:
    url = None
    if public:
        url = _href(inputs, symbol)
    return {
        "id": f"{inputs.path}::{symbol.name}",
        "public": public,
        "kind": symbol.kind,
        "language": "python",
        "path": inputs.path,
        "line": symbol.line,
        "end_line": symbol.end_line,
        "signature": symbol.signature,
        "parameters": [
            {"name": p.name, "kind": p.kind, "annotation": p.annotation, "default": p.default}
            for p in symbol.parameters
        ],
        "returns": symbol.returns,
        "slots": {name: {"text": slot.text, "origin": slot.origin} for name, slot in doc.items()},
        "url": url,
    }


def _counts(symbol: Symbol, doc: Mapping[str, Slot]) -> SlotCounts:
    origins = [slot.origin for slot in doc.values()]
    empty = sum(name not in doc for name in symbol.expected)
    return SlotCounts(origins.count("human"), origins.count("derived"), origins.count("model"), empty)


def _search_entry(
    inputs: PageInputs, module: Module, links: Links, docs: Mapping[str, Mapping[str, Slot]]
) -> Any:
    """`[module, page, [[qualified name, kind's initial, summary …], …], offered, summary …]`.

    A summary is its text, and its origin where no human wrote it; neither where there is none. What a module
    offers of others is `[[name, kind's initial, href], …]`.
    """
    public = set(links.public)
    rows = [
        [symbol.name, symbol.kind[0], *_short_summary(docs[symbol.name])]
        for symbol in module.symbols
        if symbol.name and symbol.name in public
    ]
    offered = [[name, r.kind[0], r.href] for name, r in links.reexports.items()]
    return [module.name, quote(inputs.page), rows, offered, *_short_summary(docs[""])]


def _short_summary(doc: Mapping[str, Slot]) -> Iterator[str]:
    """A summary without markup, cut at a word where it is long, and whose it is if not a human's."""
    slot = doc.get("summary")
    if slot is None:
        return
    text = plain_text(slot.text)
    yield text if len(text) <= _LONGEST_SUMMARY else text[:_LONGEST_SUMMARY].rpartition(" ")[0] + " …"
    if slot.origin != "human":
        yield slot.origin


def _inventory(inputs: PageInputs, module: Module, links: Links) -> Iterator[str]:
    """Lines of a Sphinx inventory, version 2 (sphinx.util.inventory).

    What a module offers of others is listed under both names, for people refer to either.
    """
    public = set(links.public)
    for symbol in module.symbols:
        if symbol.name in public and "#" not in symbol.name:
            name = f"{module.name}.{symbol.name}" if symbol.name else module.name
            yield _inventory_line(name, symbol.kind, "." in symbol.name, _href(inputs, symbol))
    for name, offered in links.reexports.items():
        yield _inventory_line(f"{module.name}.{name}", offered.kind, False, offered.href)


def _inventory_line(name: str, kind: Kind, in_class: bool, href: str) -> str:
    role = _SPHINX_ROLES.get(kind) or ("attribute" if in_class else "data")
    return f"{name} py:{role} 1 {href} -\n"


def _href(inputs: PageInputs, symbol: Symbol) -> str:
    page = quote(inputs.page)
    return f"{page}#{anchor(symbol.name)}" if symbol.name else page
