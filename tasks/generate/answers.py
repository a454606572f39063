"""The requests of a whole source: which are answered, which can be sent, which wait for others.

A class, a module or a package is described from the summaries of its parts. Where a model
writes those, its request can be rendered, and has a key, only when theirs are answered.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from models.checks import checked
from tasks.documents import TextEntry
from tasks.generate.asking import Asked, Member, RawText, quotable
from tasks.keys import digest, key
from tasks.result_cache import ResultCache

if TYPE_CHECKING:  # torch is slow to import, and a build whose texts are all there needs none
    from tasks.generate.writer import Writer

# Raised whenever the same completion would be stored otherwise.
TEXT_VERSION = 1

_BATCH = 100


class Wanted(Struct, frozen=True):
    """One request, and the file that its symbol is in."""

    path: str
    asked: Asked

    @property
    def id(self) -> str:
        """The symbol's id."""
        return f"{self.path}::{self.asked.symbol}"


class Rendered(Struct, frozen=True):
    """A request that can be sent: its prompt, the key of its answer, and what a text may name.

    `nameable` is the prompt as well, less what a model said of parts: that vouches for no name.
    """

    wanted: Wanted
    prompt: str
    key: str
    nameable: str


class Answers:
    """What a model is asked for a source, and what it answered so far.

    On construction all that the cache can answer is answered.

    Attributes:
        missing: The requests that can be sent, and have no answer.
        completions: By path, symbol and slot, the texts that may be shown.
        dropped: How many sentences may not.
        unsure: How many texts may not, for the model is less sure of them than its floor.
    """

    def __init__(self, wanted: list[Wanted], writer: Writer, cache: ResultCache) -> None:
        self._wanted, self._writer, self._cache = wanted, writer, cache
        self.completions: dict[str, dict[str, dict[str, str]]] = {}
        self.dropped = self.unsure = 0
        self._summaries: dict[str, str] = {}
        self._awaited = {w.id for w in wanted if "summary" in w.asked.slots}
        self._waiting: dict[str, list[Wanted]] = {}
        self._unanswered = {w.id: 0 for w in wanted}
        for w in wanted:
            self._unanswered[w.id] += 1
        self.missing = self.look_up(w for w in wanted if not self._waits(w))

    def _waits(self, wanted: Wanted) -> bool:
        """Whether a part's summary is still to come; if so, the request is lined up behind it."""
        for member in wanted.asked.members:
            if member.id in self._awaited and member.summary is None:
                self._waiting.setdefault(member.id, []).append(wanted)
                return True
        return False

    def look_up(self, ready: Iterable[Wanted]) -> list[Rendered]:
        """Answer requests from the cache, and what they free; return those that it does not hold."""
        missing: list[Rendered] = []
        ready = iter(ready)
        while batch := [self._rendered(w) for w in islice(ready, _BATCH)]:
            found = self._cache.get_many(r.key for r in batch)
            freed: list[Wanted] = []
            for r in batch:
                if r.key in found:
                    freed += self.answer(r, msgspec.json.decode(found[r.key], type=RawText))
                else:
                    missing.append(r)
            missing += self.look_up(freed) if freed else []
        return missing

    def look_again(self) -> None:
        """Answer from the cache what other builds have written meanwhile."""
        found = self._cache.get_many(r.key for r in self.missing)
        freed = [
            wanted
            for r in self.missing
            if r.key in found
            for wanted in self.answer(r, msgspec.json.decode(found[r.key], type=RawText))
        ]
        self.missing = [r for r in self.missing if r.key not in found] + self.look_up(freed)

    def _rendered(self, wanted: Wanted) -> Rendered:
        asked, fits = wanted.asked, self._writer.fits
        prompt = asked.prompt(self._summaries, fits)
        nameable = asked.prompt({}, fits) if asked.members else prompt
        text_key = key("text", TEXT_VERSION, prompt, asked.frames, self._writer.identity)
        return Rendered(wanted, prompt, text_key, nameable)

    def answer(self, rendered: Rendered, raw: RawText) -> list[Wanted]:
        """Take an answer; return the requests that only waited for it."""
        wanted = rendered.wanted
        meta = self._writer.meta
        floors = meta.asks.get(wanted.asked.kind, {})
        self._unanswered[wanted.id] -= 1
        for frame, text, ended, logprob in zip(
            wanted.asked.frames, raw.texts, raw.ended, raw.logprobs, strict=True
        ):
            name = wanted.asked.name_of(frame.slot)
            kept, lost = checked(text, rendered.nameable, ended, meta.plain_words, name)
            self.dropped += lost
            floor = floors.get(frame.slot.partition(".")[0])
            if kept and floor is not None and logprob < floor:
                self.unsure += 1
            elif kept:
                symbols = self.completions.setdefault(wanted.path, {})
                symbols.setdefault(wanted.asked.symbol, {})[frame.slot] = kept
                if frame.slot == "summary" and (quoted := quotable(kept)) is not None:
                    self._summaries[wanted.id] = quoted
        if "summary" not in wanted.asked.slots:
            return []
        self._awaited.discard(wanted.id)
        return [w for w in self._waiting.pop(wanted.id, []) if not self._waits(w)]

    # --- what a report, a plan and a ledger say

    @property
    def answered(self) -> set[str]:
        """The symbols that have all their answers."""
        return {symbol for symbol, count in self._unanswered.items() if count == 0}

    @property
    def open(self) -> int:
        """How many requests have no answer."""
        return sum(self._unanswered.values())

    @property
    def unwritten(self) -> dict[str, tuple[str, ...]]:
        """By path, the symbols whose requests can be sent."""
        return symbols_by_path(rendered.wanted for rendered in self.missing)

    @property
    def waiting(self) -> dict[str, tuple[str, ...]]:
        """By path, the symbols whose requests wait for others' answers."""
        return symbols_by_path(w for queue in self._waiting.values() for w in queue)

    def texts(self) -> dict[str, dict[str, TextEntry]]:
        """By path and symbol, what was asked."""
        requests: dict[str, dict[str, list[Asked]]] = {}
        for w in self._wanted:
            requests.setdefault(w.path, {}).setdefault(w.asked.symbol, []).append(w.asked)
        return {
            path: {name: self._entry(asked) for name, asked in symbols.items()}
            for path, symbols in requests.items()
        }

    def _entry(self, asked: list[Asked]) -> TextEntry:
        members = [member for a in asked for member in a.members]
        own = [replace(a, members=tuple(Member(m.id, m.line) for m in a.members)) for a in asked]
        if not members or any(m.id in self._awaited and m.summary is None for m in members):
            return TextEntry(digest(own))
        return TextEntry(digest(own), digest([m.summary or self._summaries.get(m.id) for m in members]))


def symbols_by_path(wanted: Iterable[Wanted]) -> dict[str, tuple[str, ...]]:
    """By path, the symbols of some requests, each once."""
    found: dict[str, dict[str, None]] = {}
    for w in wanted:
        found.setdefault(w.path, {}).setdefault(w.asked.symbol)
    return {path: tuple(names) for path, names in found.items()}
