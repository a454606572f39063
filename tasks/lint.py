"""Docstrings that contradict their signature, less those that a repository has always had.

A file that was moved is held against what it was: its old debt is no new one.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path, PurePosixPath

from tasks.chunk.contradictions import HINT
from tasks.chunk.python import parse_module
from tasks.documents import Contradiction, SourceError
from tasks.files import text_of
from tasks.fresh_stack import on_fresh_stack
from tasks.ingest.tree import CODE_SUFFIXES

_ENTRY = re.compile(r"(?P<path>.+?)::(?P<said>\S* [a-z]+-[a-z]+: .+)")
_HEADER = "# Docstrings that contradicted their signature when this was written, for docmill plan --lint\n"
_MOST_COMPARED = 20_000  # pairs of files; beyond, only those of one name
_ALIKE = 0.5  # the share of lines that a moved file keeps at least, as git has it


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
        raise SourceError(f"baseline {str(file)!r}: is no baseline; --update-baseline writes one")
    entries = [line for line in lines if line and not line.startswith("#")]
    if wrong := next((line for line in entries if not _ENTRY.fullmatch(line)), None):
        raise SourceError(
            f"baseline {str(file)!r}: no entry: {wrong[:80]!r}; --update-baseline writes it anew"
        )
    return Counter(entries)


def baseline_of(found: Iterable[Contradiction]) -> bytes:
    """A baseline of all that was found, to be committed."""
    return (_HEADER + "".join(f"{line}\n" for line in sorted(map(_entry, found)))).encode()


def _entry(found: Contradiction) -> str:
    """What a contradiction is called in a baseline."""
    return f"{found.path}::{_said(found)}"


def _said(found: Contradiction) -> str:
    """What a contradiction says, without its line, which moves with edits above it, or a hint, which moves
    with other parameters.
    """
    return f"{found.symbol} {found.rule}: {found.message.partition(HINT)[0]}"


def beyond(baseline: Counter[str], found: Iterable[Contradiction], root: Path) -> list[Contradiction]:
    """Those that a baseline does not hold, or not as often.

    What it holds of a file that is gone counts as well where another file has the same: it was moved.

    Args:
        baseline: Its entries.
        found: What was found.
        root: The source's root.
    """
    left = baseline.copy()
    moved: Counter[str] = Counter()
    unknown = [one for one in found if not _taken(left, _entry(one))]
    for entry in left if unknown else ():
        parts = _ENTRY.fullmatch(entry)
        if parts and not (root / parts["path"]).is_file():
            moved[parts["said"]] += left[entry]
    return [one for one in unknown if not _taken(moved, _said(one))]


def _taken(left: Counter[str], entry: str) -> bool:
    """Whether there is one of an entry, which then is used up."""
    left[entry] -= 1
    return left[entry] >= 0


def new_since(found: Iterable[Contradiction], now: Path, before: Path) -> Iterator[Contradiction]:
    """Those that were not there before, and those whose signature or docstring is not as it was.

    Args:
        found: What was found.
        now: The source's root.
        before: The root of the source as it was.
    """
    by_path: dict[str, list[Contradiction]] = {}
    for one in found:
        by_path.setdefault(one.path, []).append(one)
    moved = _moved([path for path in by_path if not (before / path).is_file()], now, before)
    for path, here in by_path.items():
        was = before / moved.get(path, path)
        changed = _changed_lines(was, now / path)
        known = Counter(map(_said, _found_in(was)))
        for one in here:
            first, last = one.span
            is_known = _taken(known, _said(one))
            if not is_known or any(first <= line <= last for line in changed):
                yield one


def _moved(paths: Sequence[str], now: Path, before: Path) -> dict[str, str]:
    """Of files that were not there before, where the file was that each is most alike, and that is gone."""
    there = _code_in(before) if paths else ()
    gone = {path: (before / path).read_bytes() for path in there if not (now / path).is_file()}
    moved = dict(_moved_whole({path: (now / path).read_bytes() for path in paths}, gone))
    new = {path: _lines(now / path) for path in paths if path not in moved}
    old = {path: _lines(before / path) for path in gone.keys() - moved.values()}
    many = len(new) * len(old) > _MOST_COMPARED
    alike = []
    for path, lines in new.items():
        for was, lines_then in old.items():
            same_name = PurePosixPath(path).name == PurePosixPath(was).name
            most, least = max(lines.total(), lines_then.total()), min(lines.total(), lines_then.total())
            if least >= _ALIKE * most and (same_name or not many):
                alike.append(((lines & lines_then).total() / most, same_name, path, was))
    taken: set[str] = set()
    for share, _, path, was in sorted(alike, reverse=True):
        if share >= _ALIKE and path not in moved and was not in taken:
            moved[path] = was
            taken.add(was)
    return moved


def _moved_whole(new: Mapping[str, bytes], gone: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """Files that were moved as they were, each with where it was; of several, one of the same name."""
    by_content: dict[bytes, list[str]] = {}
    for path, content in gone.items():
        by_content.setdefault(content, []).append(path)
    for path, content in new.items():
        if same := by_content.get(content):
            was = max(same, key=lambda old: PurePosixPath(old).name == PurePosixPath(path).name)
            same.remove(was)
            yield path, was


def _code_in(folder: Path) -> Iterator[str]:
    files = (file for file in folder.rglob("*") if file.name.endswith(CODE_SUFFIXES) and file.is_file())
    return (file.relative_to(folder).as_posix() for file in files)


def _lines(file: Path) -> Counter[bytes]:
    """The lines of a file that say something, and how often each is in it."""
    return Counter(line for line in file.read_bytes().splitlines() if line.strip())


def _found_in(file: Path) -> list[Contradiction]:
    """What is found in a file; nothing in one that is not there, or that cannot be parsed."""

    def found(text: str) -> list[Contradiction]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a source's invalid escapes are its own affair
            return parse_module(text, file.name, "").contradictions

    try:
        (parsed,) = on_fresh_stack(found, [text_of(file.read_bytes(), file.name)])
    except (OSError, ValueError, SyntaxError, RecursionError):
        return []
    return parsed


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
