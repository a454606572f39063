"""Findings judged: what blocks a build, what only warns, and what a repository has waived for now."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from tasks.documents import Author, Checked, Contradiction, DocmillError, Finding, SourceError
from tasks.entries import read_entries
from tasks.secrets import told_without_secrets

WAIVERS_FILE = "docmill.waivers.toml"

# Every rule by name, with what it demands.
RULES = {
    "unknown-symbol": "what a page documents is defined in its source",
    "stale-line": "a source line leads to the definition",
    "stale-source": "a source page shows the file as it is",
    "unknown-parameter": "a documented parameter exists",
    "missing-parameter": "every parameter is documented",
    "parameter-order": "parameters are in the order of the signature",
    "wrong-parameter": "a parameter has its kind, type and default",
    "wrong-signature": "a signature is that of the source",
    "wrong-returns": "a result has its type, and a generator yields",
    "unknown-exception": "an exception that docmill names is raised",
    "dead-link": "a link leads to a page and an anchor of the site",
    "invented-identifier": "what a model's text names is in the code",
    "stale-summary": "a list says of a module what the module's page says",
    "described-parameter": "a docstring describes parameters that the signature has",
    "described-attribute": "a docstring describes attributes that the class has",
    "described-type": "a docstring gives a parameter the type that it is annotated with",
    "described-default": "a docstring gives a parameter the default that it has",
    "described-result": "a docstring describes a result of what returns something",
    "stale-override": "an override is of a text that is there, and of the code that it was written for",
    "stale-waiver": "a waiver waives something, and has not expired",
}
_WAIVED = tuple(rule for rule in RULES if rule != "stale-waiver")


class Waiver(Struct, frozen=True, forbid_unknown_fields=True):
    """A finding that a repository lives with: which rule, of which symbol, why, and until when.

    `symbol` is an id as in symbols.json; of a dead link it is the path of the file that it is written in.
    Such a waiver is of links that a human wrote, unless its `author` says otherwise.
    """

    rule: str
    symbol: str
    reason: str
    expires: datetime.date
    author: Author | None = None

    def covers(self, finding: Finding) -> bool:
        """Whether it is about this finding."""
        author = self.author or ("human" if self.rule == "dead-link" else finding.author)
        return (self.rule, self.symbol, author) == (finding.rule, finding.symbol, finding.author)


class Judgement(Struct, frozen=True):
    """What follows from the gate's findings."""

    pages: int = 0
    blocking: tuple[Finding, ...] = ()
    warnings: tuple[Finding, ...] = ()
    waived: tuple[Finding, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many of each, for a report."""
        return {
            "pages": self.pages,
            "blocking": len(self.blocking),
            "warnings": len(self.warnings),
            "waived": len(self.waived),
        }


class GateError(DocmillError):
    """A site that the gate does not let through; the standing one is as it was."""

    def __init__(self, judgement: Judgement) -> None:
        count, first = len(judgement.blocking), judgement.blocking[0]
        places = "1 place" if count == 1 else f"{count} places"
        super().__init__(f"gate: nothing is published, for pages are wrong in {places}, the first: {first}")
        self.judgement = judgement


def read_waivers(root: Path) -> tuple[Waiver, ...]:
    """The waivers that a source holds.

    Raises:
        SourceError: The file cannot be used.
    """
    waivers = read_entries(root, WAIVERS_FILE, "waiver", Waiver)
    for number, waiver in enumerate(waivers, 1):
        if waiver.rule not in _WAIVED:
            what = "cannot be waived" if waiver.rule in RULES else "is no rule"
            rules = ", ".join(_WAIVED)
            raise SourceError(f"{WAIVERS_FILE}: waiver {number}: {waiver.rule!r} {what}; {rules}")
        if not waiver.reason.strip():
            raise SourceError(f"{WAIVERS_FILE}: waiver {number}: give a reason")
    return waivers


def still_valid(waivers: tuple[Waiver, ...], today: datetime.date) -> tuple[Waiver, ...]:
    """Those that have not expired; one holds through its last day."""
    return tuple(waiver for waiver in waivers if waiver.expires >= today)


def finding_of(contradiction: Contradiction) -> Finding:
    """What a docstring says and its signature does not, as a finding: a human's, in the source."""
    c = contradiction
    what = f"{c.symbol} {c.message}"
    return Finding(c.rule, "human", f"{c.path}::{c.symbol}", what, path=c.path, line=c.line)


def unwaived(
    found: Iterable[Contradiction], waivers: tuple[Waiver, ...], today: datetime.date
) -> list[Contradiction]:
    """Those that no waiver covers today."""
    valid = still_valid(waivers, today)
    return [one for one in found if not any(waiver.covers(finding_of(one)) for waiver in valid)]


def judge(
    checked: Checked, waivers: tuple[Waiver, ...], strict_human: bool, today: datetime.date
) -> Judgement:
    """Tell what blocks from what warns.

    What docmill or a model wrote blocks; what a human wrote warns, unless `strict_human` is set.
    """
    valid = still_valid(waivers, today)
    waived = tuple(f for f in checked.findings if any(w.covers(f) for w in valid))
    standing = [f for f in checked.findings if f not in waived]
    standing += [stale for waiver in waivers if (stale := _stale(waiver, checked, today))]
    standing = [replace(f, message=told_without_secrets(f.message)) for f in standing]
    blocks = [f.author != "human" or strict_human for f in standing]
    return Judgement(
        checked.pages,
        tuple(f for f, block in zip(standing, blocks, strict=True) if block),
        tuple(f for f, block in zip(standing, blocks, strict=True) if not block),
        waived,
    )


def _stale(waiver: Waiver, checked: Checked, today: datetime.date) -> Finding | None:
    what = f"the waiver of {waiver.rule} for {waiver.symbol}"
    if waiver.expires < today:
        message = f"{what} expired on {waiver.expires}"
    elif not any(waiver.covers(finding) for finding in checked.findings):
        message = f"{what} waives nothing"
    else:
        return None
    return Finding("stale-waiver", "human", waiver.symbol, message, path=WAIVERS_FILE)
