"""What a build did, as `--report` writes it and people read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from tasks.documents import DocmillError, Finding, SkippedFile
from tasks.files import write_whole
from tasks.ingest.tree import printable
from tasks.waivers import GateError, Judgement

# What a model wrote and no page shows: sentences that the checks dropped, texts that it is not sure of.
NOT_SHOWN = ("dropped", "unsure")


class Report(Struct):
    """The outcome of one build; the field names are a contract with whoever reads the JSON."""

    source: dict[str, str | None]
    degraded: bool = False
    error: str | None = None
    symbols: int = 0
    slots: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("human", "derived", "model", "empty", *NOT_SHOWN), 0)
    )
    slots_before: dict[str, int] | None = None
    generated: int = 0
    reused: int = 0
    unwritten: int = 0
    pages: dict[str, int] = field(default_factory=lambda: {"total": 0, "written": 0, "removed": 0})
    gate: dict[str, int] | None = None
    findings: list[dict[str, Any]] = field(default_factory=list)
    skipped_files: list[SkippedFile] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    engine: dict[str, Any] | None = None
    published: dict[str, str] | None = None

    def fail(self, error: BaseException) -> None:
        """Note why a build failed, and which files it had left out by then."""
        known = isinstance(error, DocmillError)
        self.error = printable(str(error) if known else f"{type(error).__name__}: {error}")
        if isinstance(error, DocmillError) and error.skipped:
            self.skipped_files = sorted(error.skipped, key=lambda file: file.path)
        if isinstance(error, GateError) and self.gate is None:  # of a flow, which has a report of its own
            self.take_judgement(error.judgement)

    def take_judgement(self, judgement: Judgement) -> None:
        """Note what the gate found, and what followed from it."""
        self.gate = judgement.counts
        for outcome in ("blocking", "warnings", "waived"):
            found: tuple[Finding, ...] = getattr(judgement, outcome)
            self.findings += [
                {"outcome": outcome, "where": f.where, **msgspec.structs.asdict(f)} for f in found
            ]

    @property
    def drift(self) -> dict[str, int]:
        """By origin, how many more texts there are than on the site that stood before, where that differs.

        And how many more of the model's are not shown; of what that site did not count, nothing is said.
        """
        before = self.slots_before or {}
        return {name: by for name, n in before.items() if (by := self.slots.get(name, 0) - n)}

    @property
    def got_worse(self) -> bool:
        """Whether a smaller share of what can have a text has one than before, or a smaller one a human's."""
        if self.slots_before is None:
            return False
        before, now = _shares(self.slots_before), _shares(self.slots)
        return any(share < earlier for share, earlier in zip(now, before, strict=True))

    def write(self, file: Path) -> None:
        """Write the report as JSON, whole or not at all."""
        found = msgspec.to_builtins(self) | {"drift": self.drift, "got_worse": self.got_worse}
        write_whole(file, msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")


def _shares(slots: dict[str, int]) -> tuple[float, float]:
    """Of all that can have a text: the share that has one, and the share that has a human's."""
    texts = slots["human"] + slots["derived"] + slots["model"]
    total = max(1, texts + slots["empty"])
    return texts / total, slots["human"] / total
