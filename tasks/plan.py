"""Why something is built anew: two builds' ledgers, held against each other.

A ledger names what a build was made from. From the ledger of the standing site and that
of the next one follows, for each symbol and page, whether and why it changes. A change
is certain if its own inputs changed, and possible if it hangs on a text that is not
written yet. What changes although nothing of the source did is docmill's own doing: it
was upgraded, or something that it is built on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from tasks.chunk import Chunk, load_modules
from tasks.documents import Module, PageEntry, Symbol, TextEntry, TextOrigin
from tasks.result_cache import ResultCache

Reason = Literal[
    "code", "dependency", "prompt", "model", "parameters", "profile", "docmill", "missing", "removed"
]


class Ledger(Struct, frozen=True):
    """What a build was made from.

    `release` is the one it tells of. `parameters` digests settings that every page depends on;
    `prose` the repository's own pages, with the pictures they may show.
    `texts` says, by path and symbol, what the model was asked. `slots` counts the site's texts by origin, and
    what of the model's is not shown. `revision` is what was built, if it was fetched and so is that alone.
    `made_by` digests docmill's code and libraries, `drawn_by` those that draw pages.
    """

    release: str
    parameters: str
    chunks: dict[str, Chunk]
    prose: dict[str, str]
    pages: dict[str, PageEntry]
    origin: TextOrigin | None = None
    texts: dict[str, dict[str, TextEntry]] = {}
    slots: dict[str, int] = {}
    revision: str | None = None
    made_by: str = ""
    drawn_by: str = ""

    def was_edited(self, path: str, new: Ledger) -> bool:
        """Whether a file, or what is decided on its texts, is not as it was."""
        before, now = self.chunks.get(path), new.chunks.get(path)
        if before is None or now is None:
            return True
        return (before.digest, before.overrides) != (now.digest, now.overrides)

    def only_docmill_differs(self, new: Ledger) -> bool:
        """Whether the source is as it was, and docmill is not."""
        paths = self.chunks.keys() | new.chunks.keys()
        return self.made_by != new.made_by and not any(self.was_edited(path, new) for path in paths)


class Change(Struct, frozen=True):
    """One symbol's text or page that is built anew, and why.

    `id` is a symbol's id; a module's (`path::`) stands for its page, and the path of a page
    of the repository's own for that.
    """

    id: str
    what: Literal["text", "page"]
    reason: Reason
    certain: bool


class Unwritten(Struct, frozen=True):
    """The texts that the cache does not hold, by path the names of their symbols.

    Those of `certain` will be written. Those of `possible` are made from others that are
    yet to be written, and may come out as they were.
    """

    certain: Mapping[str, tuple[str, ...]] = {}
    possible: Mapping[str, tuple[str, ...]] = {}


def changes(old: Ledger | None, new: Ledger, unwritten: Unwritten, cache: ResultCache) -> list[Change]:
    """All that the next build makes anew, in order of id.

    Args:
        old: The standing site's ledger; None where there is none.
        new: The next one's.
        unwritten: What a model is to write.
        cache: Where the modules of both are found.
    """
    found = [
        *_texts(old, new, unwritten),
        *_pages(old, new, unwritten),
        *_symbols(old, new, cache),
        *_prose(old, new),
    ]
    return sorted(found, key=lambda change: (change.id, change.what))


def _texts(old: Ledger | None, new: Ledger, unwritten: Unwritten) -> Iterator[Change]:
    for by_path, certain in ((unwritten.certain, True), (unwritten.possible, False)):
        for path, names in by_path.items():
            for name in names:
                yield Change(f"{path}::{name}", "text", _text_reason(old, new, path, name), certain)


def _text_reason(old: Ledger | None, new: Ledger, path: str, name: str) -> Reason:
    before, now = old.texts.get(path, {}).get(name) if old else None, new.texts[path][name]
    if old is None or before is None:
        return "missing"
    if before.request != now.request:
        same_file = path in old.pages and old.pages[path].module == new.pages[path].module
        if same_file:
            return "prompt"
        return "code" if old.was_edited(path, new) else "docmill"
    if before.parts != now.parts:
        return "dependency"
    return _origin_reason(old.origin, new.origin)


def _origin_reason(was: TextOrigin | None, now: TextOrigin | None) -> Reason:
    if was is None or now is None or was == now:
        return "missing"
    if was.model != now.model:
        return "model"
    return "parameters" if was.decoding != now.decoding else "profile"


def _pages(old: Ledger | None, new: Ledger, unwritten: Unwritten) -> Iterator[Change]:
    before = old.pages if old else {}
    showing = _showing(new, unwritten)
    upgraded = old is not None and old.only_docmill_differs(new)
    for path, entry in new.pages.items():
        was = before.get(path)
        if was is None or was.key != entry.key:
            reason = _page_reason(old, new, path, upgraded)
            # Without the text that is yet to be written, no key is that of the page to come.
            may_stay = path in showing and reason == "dependency" and was is not None
            certain = not may_stay or was is None or was.links != entry.links
            yield Change(f"{path}::", "page", reason, certain)
        elif path in showing:
            yield Change(f"{path}::", "page", "dependency", certain=False)
    for path in before.keys() - new.pages.keys():
        yield Change(f"{path}::", "page", "removed", certain=True)


def _showing(new: Ledger, unwritten: Unwritten) -> set[str]:
    """The paths whose pages show a text that is not written: a symbol's own, and a module's package's."""
    paths = {chunk.name: path for path, chunk in new.chunks.items()}
    found: set[str | None] = set()
    for by_path in (unwritten.certain, unwritten.possible):
        for path, names in by_path.items():
            found.add(path)
            if "" in names:
                found.add(paths.get(new.chunks[path].name.rpartition(".")[0]))
    return {path for path in found if path is not None}


def _page_reason(old: Ledger | None, new: Ledger, path: str, upgraded: bool) -> Reason:
    if old is None or path not in old.pages:
        return "missing"
    if old.pages[path].module != new.pages[path].module:
        return "code" if old.was_edited(path, new) else "docmill"
    if old.drawn_by != new.drawn_by:
        return "docmill"
    if old.parameters != new.parameters:
        return "parameters"
    return "docmill" if upgraded else "dependency"


def _symbols(old: Ledger | None, new: Ledger, cache: ResultCache) -> Iterator[Change]:
    """Of the pages whose module changed: which symbols did."""
    before = old.pages if old else {}
    edited = [p for p, e in new.pages.items() if p in before and before[p].module != e.module]
    was = load_modules(cache, [old.chunks[path] for path in edited] if old else [])
    now = load_modules(cache, [new.chunks[path] for path in edited])
    for path in edited:
        reason: Reason = "code" if old is None or old.was_edited(path, new) else "docmill"
        yield from _edited(path, was.get(path), now[path], reason)


def _edited(path: str, was: Module | None, now: Module, because: Reason) -> Iterator[Change]:
    before = {symbol.name: _without_place(symbol) for symbol in was.symbols} if was else {}
    for symbol in now.symbols:
        if symbol.name and before.get(symbol.name) != _without_place(symbol):
            reason: Reason = because if symbol.name in before else "missing"
            yield Change(f"{path}::{symbol.name}", "page", reason, certain=True)


def _without_place(symbol: Symbol) -> Symbol:
    return replace(symbol, line=0, end_line=0)


def _prose(old: Ledger | None, new: Ledger) -> Iterator[Change]:
    """The repository's own pages."""
    before = old.prose if old else {}
    for path in sorted(before.keys() | new.prose.keys()):
        if path not in new.prose:
            yield Change(path, "page", "removed", certain=True)
        elif path not in before:
            yield Change(path, "page", "missing", certain=True)
        elif before[path] != new.prose[path]:
            yield Change(path, "page", "code", certain=True)
        elif old is not None and old.drawn_by != new.drawn_by:
            yield Change(path, "page", "docmill", certain=True)
        elif old is not None and old.parameters != new.parameters:
            yield Change(path, "page", "parameters", certain=True)
