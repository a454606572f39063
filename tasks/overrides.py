"""Texts that a human decided on outside of the code: what replaces or suppresses a text of docmill's.

An override is committed in the repository, survives rebuilds and other models, and goes
through all stages like a docstring. Where the code that it was written for changed, or
is gone, it is not dropped but reported.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from msgspec import Struct

from tasks.documents import Doubt, Finding, SourceError
from tasks.entries import entries_of, read_entries
from tasks.files import read_committed

OVERRIDES_FILE = "docmill.overrides.toml"

_SLOT = re.compile(r"summary|description|returns|(?:param|raises)\.[^\s]+")
_HEADER = re.compile(r"^[ \t]*\[\[[ \t]*override[ \t]*\]\]", re.MULTILINE)


class Override(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One text: of which symbol (an id as in symbols.json), which slot, and what stands there.

    Without `text` nothing stands there, whatever could be derived or written. `code` digests
    the symbol's code as it was when a human last looked at both.
    """

    symbol: str
    slot: str
    text: str | None = None
    suppress: bool = False
    code: str | None = None

    @property
    def path(self) -> str:
        """The file of the symbol."""
        return self.symbol.partition("::")[0]

    @property
    def name(self) -> str:
        """The qualified name of the symbol in its file."""
        return self.symbol.partition("::")[2]


def read_overrides(root: Path) -> tuple[Override, ...]:
    """The overrides that a source holds.

    Raises:
        SourceError: The file cannot be used.
    """
    found = read_entries(root, OVERRIDES_FILE, "override", Override)
    seen: set[tuple[str, str]] = set()
    for number, override in enumerate(found, 1):
        if problem := _problem(override, seen):
            raise SourceError(f"{OVERRIDES_FILE}: override {number}: {problem}")
        seen.add((override.symbol, override.slot))
    return found


def _problem(override: Override, seen: set[tuple[str, str]]) -> str | None:
    if "::" not in override.symbol:
        return f"{override.symbol!r} is no id of a symbol; it is written path/to/file.py::Class.name"
    if not _SLOT.fullmatch(override.slot):
        return f"no slot {override.slot!r}; summary, description, returns, param.NAME or raises.NAME"
    if override.suppress == (override.text is not None):
        return "give either a text, or suppress = true"
    if override.text is not None and not override.text.strip():
        return "the text is empty; suppress = true leaves a slot empty"
    if (override.symbol, override.slot) in seen:
        return f"a second one for {override.slot} of {override.symbol}"
    return None


# --- those in doubt


def stale_overrides(root: Path, doubts: Collection[Doubt]) -> list[Finding]:
    """What the gate reports of overrides that a human should look at again."""
    lines = _lines(root) if doubts else {}
    return [
        Finding(
            "stale-override",
            "human",
            doubt.symbol,
            f"the override of {doubt.slot} of {doubt.symbol}: {doubt.why}",
            path=OVERRIDES_FILE,
            line=lines.get((doubt.symbol, doubt.slot), 0),
        )
        for doubt in doubts
    ]


def _lines(root: Path) -> dict[tuple[str, str], int]:
    """Where each override stands in the file; nothing if they are not written one after another."""
    text = read_committed(root, OVERRIDES_FILE)
    found = entries_of(text, OVERRIDES_FILE, "override", Override)
    starts = [text.count("\n", 0, match.start()) + 1 for match in _HEADER.finditer(text)]
    if len(starts) != len(found):
        return {}
    return {(one.symbol, one.slot): line for one, line in zip(found, starts, strict=True)}


def accepted(root: Path, codes: Mapping[str, str]) -> str:
    """The file's text, all else as it is, with each override said to be of the code as it is now.

    Args:
        root: The source.
        codes: By id, the digest of each symbol's code that is there.
    """
    import tomlkit

    document = tomlkit.parse(read_committed(root, OVERRIDES_FILE))
    for entry in document.get("override", []):
        if entry["symbol"] in codes:
            entry["code"] = codes[entry["symbol"]]
    return tomlkit.dumps(document)
