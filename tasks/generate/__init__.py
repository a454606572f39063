"""Symbols → Docs, the part that a model writes: only what is missing, each text once.

The key of a text is the exact request, the model, the decoding and the execution
profile. What is cached is the raw completion; checks and thresholds apply on every build.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from tasks.chunk import Chunk, load_modules
from tasks.documents import Completions, Generated, Links, Outline, Snapshot
from tasks.files import read_file
from tasks.generate.asking import ASKING_VERSION, Asked, RawText, asked_of
from tasks.generate.checks import checked
from tasks.keys import digest, key
from tasks.resolve import overridden_text
from tasks.result_cache import ResultCache

if TYPE_CHECKING:  # torch is slow to import, and a build whose texts are all there needs none
    from tasks.generate.writer import Writer

# Raised whenever the same completion would be stored otherwise.
TEXT_VERSION = 1

_BATCH = 100
_COMPLETIONS_A_WRITE = 64


class _Wanted(Struct, frozen=True):
    path: str
    asked: Asked
    key: str


class Asking(Struct, frozen=True):
    """All that a model is asked for a source, and which of it has no answer yet."""

    wanted: list[_Wanted]
    missing: set[str]

    @property
    def texts(self) -> dict[str, dict[str, str]]:
        """By path and symbol, a digest of the request."""
        requests: dict[str, dict[str, list[Asked]]] = {}
        for wanted in self.wanted:
            requests.setdefault(wanted.path, {}).setdefault(wanted.asked.symbol, []).append(wanted.asked)
        return {path: {name: digest(a) for name, a in asked.items()} for path, asked in requests.items()}

    @property
    def unwritten(self) -> dict[str, tuple[str, ...]]:
        """By path, the symbols that have no answer yet."""
        return _by_path([w for w in self.wanted if w.key in self.missing])


def plan_asking(
    snapshot: Snapshot,
    chunks: list[Chunk],
    links: Mapping[str, str],
    outlines: Mapping[str, Outline],
    writer: Writer,
    cache: ResultCache,
) -> Asking:
    """Work out all requests of a source, and look their keys up.

    Args:
        snapshot: The source.
        chunks: Its parsed files.
        links: By path, the key of each module's Links.
        outlines: Their outlines, by path.
        writer: The model.
        cache: Where texts are found.
    """
    wanted = list(_wanted(snapshot, chunks, links, outlines, writer, cache))
    return Asking(wanted, cache.missing(w.key for w in wanted))


def generate(
    asking: Asking,
    writer: Writer,
    model: str,
    budget: int | None,
    cache: ResultCache,
    tell: Callable[[int, int], None],
) -> Generated:
    """Have the model write what no human wrote and nothing derives.

    Args:
        asking: The requests.
        writer: The model.
        model: Its name, for the report.
        budget: At most so many symbols are sent to the model; None for all.
        cache: Where texts are found and put.
        tell: Told, as the work goes on, how many symbols of how many are written.
    """
    to_write = [w for w in asking.wanted if w.key in asking.missing]
    written = to_write if budget is None else _first_symbols(to_write, budget)
    _write(written, writer, cache, tell)
    completions, dropped = accepted(asking.wanted, writer, cache)
    return Generated(
        completions,
        generated=_symbols(written),
        reused=_symbols(asking.wanted) - _symbols(to_write),
        dropped=dropped,
        degraded=len(written) < len(to_write),
        engine=writer.statistics(model),
        texts=asking.texts,
        written=_by_path(written),
        origin=writer.origin,
    )


def _first_symbols(wanted: list[_Wanted], count: int) -> list[_Wanted]:
    """The requests of so many symbols: none of them half written."""
    symbols = set(list(dict.fromkeys((w.path, w.asked.symbol) for w in wanted))[:count])
    return [w for w in wanted if (w.path, w.asked.symbol) in symbols]


def _symbols(wanted: list[_Wanted]) -> int:
    return len({(w.path, w.asked.symbol) for w in wanted})


def _by_path(wanted: list[_Wanted]) -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for w in wanted:
        found.setdefault(w.path, {}).setdefault(w.asked.symbol)
    return {path: tuple(names) for path, names in found.items()}


def _wanted(
    snapshot: Snapshot,
    chunks: list[Chunk],
    links: Mapping[str, str],
    outlines: Mapping[str, Outline],
    writer: Writer,
    cache: ResultCache,
) -> Iterator[_Wanted]:
    """The requests for public symbols that have no text, in order of path."""
    parsed = iter([chunk for chunk in chunks if chunk.path in links])
    while batch := list(islice(parsed, _BATCH)):
        asked = _asked(snapshot.root, batch, writer, cache)
        found = cache.get_many(links[chunk.path] for chunk in batch)
        for chunk in batch:
            linked = msgspec.json.decode(found[links[chunk.path]], type=Links)
            public = set(linked.public)
            for request in asked[chunk.path]:
                inherits = overridden_text(linked.overrides.get(request.symbol, ()), outlines)
                if request.symbol in public and inherits is None:
                    yield _Wanted(chunk.path, request, _text_key(request, writer))


def _text_key(asked: Asked, writer: Writer) -> str:
    return key("text", TEXT_VERSION, asked.prompt, asked.frames, writer.identity)


def _asked(root: str, chunks: list[Chunk], writer: Writer, cache: ResultCache) -> dict[str, list[Asked]]:
    """The requests of some files, made where the cache does not hold them."""
    manner = [writer.manner, writer.identity["fingerprint"], writer.identity["generation"]]
    keys = {chunk.path: key("asked", 1, ASKING_VERSION, chunk.key, manner) for chunk in chunks}
    found = cache.get_many(keys.values())
    new = [chunk for chunk in chunks if keys[chunk.path] not in found]
    modules = load_modules(cache, new)
    for chunk in new:
        source = read_file(root, chunk.path, chunk.digest).decode("utf-8-sig")
        requests = asked_of(modules[chunk.path], source, writer.manner, writer.fits)
        found[keys[chunk.path]] = msgspec.json.encode(requests)
    cache.put_many({keys[chunk.path]: found[keys[chunk.path]] for chunk in new})
    return {path: msgspec.json.decode(found[k], type=list[Asked]) for path, k in keys.items()}


def _write(
    wanted: list[_Wanted], writer: Writer, cache: ResultCache, tell: Callable[[int, int], None]
) -> None:
    """Send requests to the engine, each distinct one once, and store what comes back."""
    by_key = {w.key: w for w in wanted}
    answers = writer.write((k, w.asked) for k, w in by_key.items())
    done = 0
    while batch := list(islice(answers, _COMPLETIONS_A_WRITE)):
        cache.put_many({k: msgspec.json.encode(raw) for k, raw in batch})
        done += len(batch)
        tell(done, len(by_key))


def accepted(wanted: list[_Wanted], writer: Writer, cache: ResultCache) -> tuple[Completions, int]:
    """What may be shown of the texts that are there, and how many sentences may not."""
    floor = writer.meta.min_logprob
    accepted: dict[str, dict[str, dict[str, str]]] = {}
    dropped = 0
    remaining = iter(wanted)
    while batch := list(islice(remaining, _BATCH)):
        found = cache.get_many(w.key for w in batch)
        for w in batch:
            if w.key not in found:
                continue  # beyond the budget
            raw = msgspec.json.decode(found[w.key], type=RawText)
            for frame, text, ended, logprob in zip(
                w.asked.frames, raw.texts, raw.ended, raw.logprobs, strict=True
            ):
                kept, lost = checked(text, w.asked.prompt, ended)
                dropped += lost
                if kept and (floor is None or logprob >= floor):
                    accepted.setdefault(w.path, {}).setdefault(w.asked.symbol, {})[frame.slot] = kept
    return accepted, dropped
