"""Why something is built anew: two builds' ledgers, held against each other.

A ledger names what a build was made from. From the ledger of the standing site and that
of the next one follows, for each symbol and page, whether and why it changes. A change
is certain if its own inputs changed, and possible if it hangs on a text that is not
written yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from tasks.chunk import Chunk, load_modules
from tasks.documents import Module, PageEntry, Symbol, TextOrigin
from tasks.result_cache import ResultCache

Reason = Literal["code", "dependency", "prompt", "model", "parameters", "profile", "missing", "removed"]


class Ledger(Struct, frozen=True):
    """What a build was made from.

    `parameters` digests settings and templates that every page depends on; `texts` maps
    path and symbol to the digest of what the model was asked.
    """

    parameters: str
    chunks: dict[str, Chunk]
    pages: dict[str, PageEntry]
    origin: TextOrigin | None = None
    texts: dict[str, dict[str, str]] = {}


class Change(Struct, frozen=True):
    """One symbol's text or page that is built anew, and why.

    `id` is a symbol's id; a module's (`path::`) stands for its page.
    """

    id: str
    what: Literal["text", "page"]
    reason: Reason
    certain: bool


def changes(
    old: Ledger | None, new: Ledger, unwritten: Mapping[str, tuple[str, ...]], cache: ResultCache
) -> list[Change]:
    """All that the next build makes anew, in order of id.

    Args:
        old: The standing site's ledger; None where there is none.
        new: The next one's.
        unwritten: By path, the symbols whose text the cache does not hold.
        cache: Where the modules of both are found.
    """
    found = [*_texts(old, new, unwritten), *_pages(old, new, unwritten), *_symbols(old, new, cache)]
    return sorted(found, key=lambda change: (change.id, change.what))


def _texts(old: Ledger | None, new: Ledger, unwritten: Mapping[str, tuple[str, ...]]) -> Iterator[Change]:
    for path, names in unwritten.items():
        for name in names:
            yield Change(f"{path}::{name}", "text", _text_reason(old, new, path, name), certain=True)


def _text_reason(old: Ledger | None, new: Ledger, path: str, name: str) -> Reason:
    before = old.texts.get(path, {}).get(name) if old else None
    if old is None or before is None:
        return "missing"
    if before != new.texts[path][name]:
        return (
            "prompt" if old.pages.get(path) and old.pages[path].module == new.pages[path].module else "code"
        )
    was, now = old.origin, new.origin
    if was is None or now is None or was == now:
        return "missing"
    if was.model != now.model:
        return "model"
    return "parameters" if was.decoding != now.decoding else "profile"


def _pages(old: Ledger | None, new: Ledger, unwritten: Mapping[str, tuple[str, ...]]) -> Iterator[Change]:
    before = old.pages if old else {}
    for path, entry in new.pages.items():
        was = before.get(path)
        if was is None or was.key != entry.key:
            yield Change(f"{path}::", "page", _page_reason(old, new, was, entry), certain=True)
        elif unwritten.get(path):
            yield Change(f"{path}::", "page", "dependency", certain=False)
    for path in before.keys() - new.pages.keys():
        yield Change(f"{path}::", "page", "removed", certain=True)


def _page_reason(old: Ledger | None, new: Ledger, was: PageEntry | None, entry: PageEntry) -> Reason:
    if old is None or was is None:
        return "missing"
    if was.module != entry.module:
        return "code"
    return "parameters" if old.parameters != new.parameters else "dependency"


def _symbols(old: Ledger | None, new: Ledger, cache: ResultCache) -> Iterator[Change]:
    """Of the pages whose module changed: which symbols did."""
    before = old.pages if old else {}
    edited = [p for p, e in new.pages.items() if p in before and before[p].module != e.module]
    was = load_modules(cache, [old.chunks[path] for path in edited] if old else [])
    now = load_modules(cache, [new.chunks[path] for path in edited])
    for path in edited:
        yield from _edited(path, was.get(path), now[path])


def _edited(path: str, was: Module | None, now: Module) -> Iterator[Change]:
    before = {symbol.name: _without_place(symbol) for symbol in was.symbols} if was else {}
    for symbol in now.symbols:
        if symbol.name and before.get(symbol.name) != _without_place(symbol):
            reason: Reason = "code" if symbol.name in before else "missing"
            yield Change(f"{path}::{symbol.name}", "page", reason, certain=True)


def _without_place(symbol: Symbol) -> Symbol:
    return replace(symbol, line=0, end_line=0)
