"""Docstrings that contradict their signature, less those that a repository has always had."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from pathlib import Path

from tasks.chunk.contradictions import HINT
from tasks.documents import Contradiction, SourceError

_ENTRY = re.compile(r".+?::\S* [a-z]+-[a-z]+: .+")
_HEADER = "# Docstrings that contradicted their signature when this was written, for docmill plan --lint\n"


def read_baseline(file: Path) -> Counter[str]:
    """The entries of a baseline, and how often each is in it.

    Raises:
        SourceError: It cannot be read, or is none.
    """
    try:
        lines = file.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SourceError(f"baseline {str(file)!r}: {reason}; --update-baseline writes one") from error
    if lines[:1] != [_HEADER.strip()]:
        raise SourceError(f"baseline {str(file)!r}: is none; --update-baseline writes one")
    entries = [line for line in lines if line and not line.startswith("#")]
    if wrong := next((line for line in entries if not _ENTRY.fullmatch(line)), None):
        raise SourceError(
            f"baseline {str(file)!r}: no entry: {wrong[:80]!r}; --update-baseline writes it anew"
        )
    return Counter(entries)


def baseline_of(found: Iterable[Contradiction]) -> bytes:
    """A baseline of all that was found, to be committed."""
    return (_HEADER + "".join(f"{line}\n" for line in sorted(map(entry, found)))).encode()


def entry(found: Contradiction) -> str:
    """What a contradiction is called in a baseline: without its line, which moves with edits above it, or a
    hint, which moves with other parameters.
    """
    return f"{found.path}::{found.symbol} {found.rule}: {found.message.partition(HINT)[0]}"


def beyond(baseline: Counter[str], found: Iterable[Contradiction]) -> Iterator[Contradiction]:
    """Those that a baseline does not hold, or not as often."""
    left = baseline.copy()
    for one in found:
        left[entry(one)] -= 1
        if left[entry(one)] < 0:
            yield one


def in_changed_lines(found: Iterable[Contradiction], now: Path, before: Path) -> Iterator[Contradiction]:
    """Those whose signature or docstring is not as it was.

    Args:
        found: What was found.
        now: The source's root.
        before: The root of the source as it was.
    """
    changed: dict[str, set[float]] = {}
    for one in found:
        if one.path not in changed:
            changed[one.path] = _changed_lines(before / one.path, now / one.path)
        first, last = one.span
        if any(first <= line <= last for line in changed[one.path]):
            yield one


def _changed_lines(before: Path, now: Path) -> set[float]:
    """The lines of a file, counted from 1, that were written anew; between two, where some were deleted."""
    old = before.read_bytes().splitlines() if before.is_file() else []
    lines = now.read_bytes().splitlines()
    changed: set[float] = set()
    for kind, _, _, start, end in SequenceMatcher(None, old, lines, autojunk=False).get_opcodes():
        if kind == "delete":
            changed.add(start + 0.5)
        elif kind != "equal":
            changed |= set(range(start + 1, end + 1))
    return changed
