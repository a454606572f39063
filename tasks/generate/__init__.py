"""Symbols → Docs, the part that a model writes: only what is missing, each text once.

The key of a text is the exact request, the model, the decoding and the execution
profile. What is cached is the raw completion; checks and thresholds apply on every build.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec

from models.config import NotANumberError
from tasks.budget import Spending
from tasks.documents import DocmillError, Generated
from tasks.generate.answers import Answers, Rendered, Wanted, symbols_by_path
from tasks.generate.asking import SlotFrame
from tasks.result_cache import ResultCache

if TYPE_CHECKING:  # torch is slow to import, and a build whose texts are all there needs none
    from tasks.generate.writer import Writer

_COMPLETIONS_A_WRITE = 64
_UNDER_WAY_WHEN_TIMED = 128  # requests: enough to keep the engine busy, few enough to end soon


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

    Raises:
        DocmillError: The model computes what is no number.
        OutOfMemoryError: The device has not the memory; what was written is in the cache.
    """
    sent = _write(answers, writer, spending, cache, tell)
    symbols = {w.id for w in sent}
    return Generated(
        answers.completions,
        generated=len(symbols),
        reused=len(answers.answered - symbols),
        dropped=answers.dropped,
        unsure=answers.unsure,
        unwritten=answers.open,
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
    except NotANumberError as error:
        raise DocmillError(f"model: {NotANumberError(stream.symbol(error.request))}") from error
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

    def symbol(self, text_key: str) -> str:
        """The id of a symbol that a request under way is for."""
        return self._same[text_key][0].wanted.id

    def arrived(self, text_key: str) -> list[Rendered]:
        """All requests that an answer is for."""
        answered = self._same.pop(text_key)
        self.sent += [rendered.wanted for rendered in answered]
        return answered
