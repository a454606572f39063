"""Symbols → Docs, the part that a model writes: only what is missing, each text once.

The key of a text is the exact request, the model, the decoding and the execution
profile. What is cached is the raw completion; checks and thresholds apply on every build.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from tasks.budget import Spending
from tasks.chunk import Chunk, load_modules
from tasks.documents import Generated, Links, Outline, Snapshot
from tasks.files import read_file
from tasks.fresh_stack import on_fresh_stack
from tasks.generate.answers import Answers, Rendered, Wanted, symbols_by_path
from tasks.generate.asking import ASKING_VERSION, Asked, Member, SlotFrame, asked_of
from tasks.keys import key
from tasks.resolve import is_test, overridden_text
from tasks.result_cache import ResultCache

if TYPE_CHECKING:  # torch is slow to import, and a build whose texts are all there needs none
    from tasks.generate.writer import Writer

_BATCH = 100
_COMPLETIONS_A_WRITE = 64
_UNDER_WAY_WHEN_TIMED = 128  # requests: enough to keep the engine busy, few enough to end soon


def plan_asking(
    snapshot: Snapshot,
    chunks: list[Chunk],
    links: Mapping[str, str],
    outlines: Mapping[str, Outline],
    writer: Writer,
    cache: ResultCache,
) -> Answers:
    """Work out all requests of a source, and answer what the cache can.

    Args:
        snapshot: The source.
        chunks: Its parsed files.
        links: By path, the key of each module's Links.
        outlines: Their outlines, by path.
        writer: The model.
        cache: Where texts are found.
    """
    return Answers(list(_wanted(snapshot, chunks, links, outlines, writer, cache)), writer, cache)


def generate(
    answers: Answers,
    writer: Writer,
    model: str,
    spending: Spending,
    cache: ResultCache,
    tell: Callable[[int, int], None],
) -> Generated:
    """Have the model write what no human wrote and nothing derives.

    Args:
        answers: The requests, and what of them is answered.
        writer: The model.
        model: Its name, for the report.
        spending: What may still be sent to the model.
        cache: Where texts are put.
        tell: Told, as the work goes on, how many texts of how many are written.
    """
    sent = _write(answers, writer, spending, cache, tell)
    symbols = {w.id for w in sent}
    return Generated(
        answers.completions,
        generated=len(symbols),
        reused=len(answers.answered - symbols),
        dropped=answers.dropped,
        degraded=answers.open > 0,
        engine=writer.statistics(model),
        texts=answers.texts(),
        written=symbols_by_path(sent),
        origin=writer.origin,
    )


def _write(
    answers: Answers, writer: Writer, spending: Spending, cache: ResultCache, tell: Callable[[int, int], None]
) -> list[Wanted]:
    """Send requests to the engine and store what comes back; return those that were sent."""
    total = answers.open
    stream = _Stream(answers.missing, spending, writer.most_tokens)
    fresh: dict[str, bytes] = {}
    try:
        for text_key, raw in writer.write(stream.requests()):
            fresh[text_key] = msgspec.json.encode(raw)
            freed = [w for r in stream.arrived(text_key) for w in answers.answer(r, raw)]
            if freed or len(fresh) == _COMPLETIONS_A_WRITE:
                cache.put_many(fresh)
                fresh.clear()
                tell(total - answers.open, total)
            stream.add(answers.look_up(freed))
    finally:
        cache.put_many(fresh)  # what is written is not lost, whatever ends the build
    tell(total - answers.open, total)
    return stream.sent


class _Stream:
    """Requests on their way to the engine: each distinct one once, as far as the budget goes.

    Attributes:
        sent: What was answered by the model, and so had been sent.
    """

    def __init__(
        self, requests: Iterable[Rendered], spending: Spending, most_tokens: Callable[[Rendered], int]
    ) -> None:
        self.sent: list[Wanted] = []
        self._spending, self._most_tokens = spending, most_tokens
        self._most_under_way = _UNDER_WAY_WHEN_TIMED if spending.is_timed else sys.maxsize
        self._queue: deque[Rendered] = deque()
        self._same: dict[str, list[Rendered]] = {}
        self.add(requests)

    def add(self, requests: Iterable[Rendered]) -> None:
        """Queue more requests."""
        for rendered in requests:
            same = self._same.setdefault(rendered.key, [])
            same.append(rendered)
            if len(same) == 1:
                self._queue.append(rendered)

    def requests(self) -> Iterator[tuple[str, str, tuple[SlotFrame, ...]] | None]:
        """What the engine takes; None while there is nothing to send before something arrives."""
        while self._same:
            if not self._queue or len(self._same) - len(self._queue) >= self._most_under_way:
                yield None
                continue
            rendered = self._queue.popleft()
            if self._spending.allows(rendered, self._most_tokens):
                yield rendered.key, rendered.prompt, rendered.wanted.asked.frames
            else:
                del self._same[rendered.key]

    def arrived(self, text_key: str) -> list[Rendered]:
        """All requests that an answer is for."""
        answered = self._same.pop(text_key)
        self.sent += [rendered.wanted for rendered in answered]
        return answered


def _wanted(
    snapshot: Snapshot,
    chunks: list[Chunk],
    links: Mapping[str, str],
    outlines: Mapping[str, Outline],
    writer: Writer,
    cache: ResultCache,
) -> Iterator[Wanted]:
    """The requests for public symbols that have no text, in order of path.

    Tests are not asked about: their names say what they test, and few readers look for more.
    """
    parsed = [chunk for chunk in chunks if chunk.path in links]
    inside = _modules_inside(parsed, outlines)
    remaining = iter([chunk for chunk in parsed if not is_test(chunk.path)])
    while batch := list(islice(remaining, _BATCH)):
        found = cache.get_many(links[chunk.path] for chunk in batch)
        names = {
            chunk.path: _own_texts(msgspec.json.decode(found[links[chunk.path]], type=Links), outlines)
            for chunk in batch
        }
        asked = _asked(snapshot.root, batch, names, writer, cache)
        for chunk in batch:
            for request in asked[chunk.path]:
                whole = request if request.symbol else _with_modules(request, inside.get(chunk.name, ()))
                if whole.members or not whole.is_outline:
                    yield Wanted(chunk.path, whole)


def _own_texts(links: Links, outlines: Mapping[str, Outline]) -> list[str]:
    """The public symbols of a module, without those that have their text from what they override."""
    return [name for name in links.public if overridden_text(links.overrides.get(name, ()), outlines) is None]


def _modules_inside(parsed: Iterable[Chunk], outlines: Mapping[str, Outline]) -> dict[str, list[Member]]:
    """By the name of a package, the modules right inside it."""
    inside: dict[str, list[Member]] = {}
    for chunk in sorted(parsed, key=lambda chunk: (chunk.name, chunk.path)):
        package, _, name = chunk.name.rpartition(".")
        if package and not name.startswith("_"):
            summary = outlines[chunk.path].headline or None
            inside.setdefault(package, []).append(Member(f"{chunk.path}::", f"module {name}", summary))
    return inside


def _with_modules(request: Asked, modules: Iterable[Member]) -> Asked:
    """A package's request, with the modules inside it among its members."""
    return replace(request, members=(*request.members, *modules))


def _asked(
    root: str, chunks: list[Chunk], names: Mapping[str, list[str]], writer: Writer, cache: ResultCache
) -> dict[str, list[Asked]]:
    """The requests for symbols of some files, by path; made where the cache does not hold them."""
    manner = [writer.manner, writer.identity["fingerprint"], writer.identity["generation"]]
    keys = {c.path: key("asked", 2, ASKING_VERSION, c.key, names[c.path], manner) for c in chunks}
    found = cache.get_many(keys.values())
    new = [chunk for chunk in chunks if keys[chunk.path] not in found]
    modules = load_modules(cache, new)

    def requests(chunk: Chunk) -> bytes:
        source = read_file(root, chunk.path, chunk.digest).decode("utf-8-sig")
        module, wanted = modules[chunk.path], frozenset(names[chunk.path])
        return msgspec.json.encode(asked_of(module, wanted, source, writer.manner, writer.fits))

    for chunk, encoded in zip(new, on_fresh_stack(requests, new), strict=True):
        found[keys[chunk.path]] = encoded
    cache.put_many({keys[chunk.path]: found[keys[chunk.path]] for chunk in new})
    return {path: msgspec.json.decode(found[k], type=list[Asked]) for path, k in keys.items()}
