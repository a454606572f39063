"""What a model is asked about a whole source: its files' requests, made by several processes.

A file's requests are kept under what they depend on; only those of files that changed are made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tasks.chunk import Chunk, load_modules
from tasks.documents import Links, Module, Outline, Snapshot
from tasks.files import read_text
from tasks.fresh_stack import on_fresh_stack
from tasks.generate.answers import Answers, Wanted
from tasks.generate.asking import ASKING_VERSION, Asked, Manner, Member, asked_of, quotable
from tasks.keys import key
from tasks.resolve import is_test, overridden_text
from tasks.result_cache import ResultCache
from tasks.spread import Spread

if TYPE_CHECKING:  # torch is slow to import, and those who make requests need none
    from tasks.generate.writer import Writer

T = TypeVar("T")

_BATCH = 100


def plan_asking(
    snapshot: Snapshot,
    chunks: list[Chunk],
    links: Mapping[str, str],
    outlines: Mapping[str, Outline],
    writer: Writer,
    cache: ResultCache,
    spread: Spread,
) -> Answers:
    """Work out all requests of a source, and answer what the cache can.

    Args:
        snapshot: The source.
        chunks: Its parsed files.
        links: By path, the key of each module's Links.
        outlines: Their outlines, by path.
        writer: The model.
        cache: Where requests and texts are found.
        spread: How the work is spread.
    """
    wanted = list(_wanted(snapshot, chunks, links, outlines, writer, cache, spread))
    return Answers(wanted, writer, cache)


class _PublicFile(Struct, frozen=True):
    """A file that has a page: its symbols that have no text from elsewhere, and what it offers of others."""

    chunk: Chunk
    names: list[str]
    offered: tuple[Member, ...]


class _FileToAsk(Struct, frozen=True):
    """A file, the symbols in it that may be asked about, and the key of the requests."""

    chunk: Chunk
    names: list[str]
    key: str


def _wanted(
    snapshot: Snapshot,
    chunks: list[Chunk],
    links: Mapping[str, str],
    outlines: Mapping[str, Outline],
    writer: Writer,
    cache: ResultCache,
    spread: Spread,
) -> Iterator[Wanted]:
    """The requests for public symbols that have no text, in order of path.

    Tests are not asked about: their names say what they test, and few readers look for more.
    """
    public = list(_public_files(chunks, links, outlines, cache))
    inside = modules_inside((f.chunk.path, f.chunk.name, outlines[f.chunk.path].headline) for f in public)
    manner = [writer.manner, writer.identity["fingerprint"], writer.identity["generation"]]
    work = [
        _FileToAsk(f.chunk, f.names, key("asked", 2, ASKING_VERSION, f.chunk.key, f.names, manner))
        for f in public
        if not is_test(f.chunk.path)
    ]
    offered = {f.chunk.path: f.offered for f in public}
    missing = cache.missing(w.key for w in work)
    spread(ask_files, [w for w in work if w.key in missing], snapshot.root, writer.manner, writer.fits)
    for batch in _batches(work):
        found = cache.get_many(w.key for w in batch)
        for w in batch:
            requests = msgspec.json.decode(found[w.key], type=list[Asked])
            parts = *offered[w.chunk.path], *inside.get(w.chunk.name, ())
            for request in whole_requests(requests, parts):
                yield Wanted(w.chunk.path, request)


def _public_files(
    chunks: list[Chunk], links: Mapping[str, str], outlines: Mapping[str, Outline], cache: ResultCache
) -> Iterator[_PublicFile]:
    for batch in _batches(chunk for chunk in chunks if chunk.path in links):
        found = cache.get_many(links[chunk.path] for chunk in batch)
        for chunk in batch:
            of_file = msgspec.json.decode(found[links[chunk.path]], type=Links)
            if of_file.public:
                yield _PublicFile(chunk, _own_texts(of_file, outlines), _offered(chunk.path, of_file))


def _offered(path: str, links: Links) -> tuple[Member, ...]:
    """What a module offers of other modules, as lines of its outline: often all that a package has."""
    written = {"class": "class ", "function": "def "}
    return tuple(
        Member(f"{path}::{name}", f"{written.get(of.kind, '')}{name}")
        for name, of in sorted(links.reexports.items())
    )


def ask_files(
    work: list[_FileToAsk], cache: ResultCache, root: str, manner: Manner, fits: Callable[[str], bool]
) -> None:
    """Make the requests for symbols of some files, and store them."""
    for batch in _batches(work):
        modules = load_modules(cache, [w.chunk for w in batch])
        asked = partial(_ask, modules, root, manner, fits)
        cache.put_many({w.key: found for w, found in zip(batch, on_fresh_stack(asked, batch), strict=True)})


def _ask(
    modules: Mapping[str, Module], root: str, manner: Manner, fits: Callable[[str], bool], file: _FileToAsk
) -> bytes:
    source = read_text(root, file.chunk.path, file.chunk.digest)
    requests = asked_of(modules[file.chunk.path], frozenset(file.names), source, manner, fits)
    return msgspec.json.encode(requests)


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    """Some at a time, so that not all that is looked up for them is held at once."""
    remaining = iter(items)
    while batch := list(islice(remaining, _BATCH)):
        yield batch


def _own_texts(links: Links, outlines: Mapping[str, Outline]) -> list[str]:
    """The public symbols of a module, without those that have their text from what they override."""
    return [name for name in links.public if overridden_text(links.overrides.get(name, ()), outlines) is None]


def modules_inside(modules: Iterable[tuple[str, str, str]]) -> dict[str, list[Member]]:
    """By the name of a package, the modules right inside it, given by path, dotted name and own summary."""
    inside: dict[str, list[Member]] = {}
    for path, dotted, headline in sorted(modules, key=lambda module: (module[1], module[0])):
        package, _, name = dotted.rpartition(".")
        if package and not name.startswith("_"):
            summary = quotable(headline) if headline else None
            inside.setdefault(package, []).append(Member(f"{path}::", f"module {name}", summary))
    return inside


def whole_requests(requests: Iterable[Asked], parts: Iterable[Member]) -> Iterator[Asked]:
    """A file's requests; the module's own with parts from other files, and none about what has no members."""
    for request in requests:
        whole = request if request.symbol else replace(request, members=(*request.members, *parts))
        if whole.members or not whole.is_outline:
            yield whole
