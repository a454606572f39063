"""Google's style: `Title:`, and deeper entries `name (type): text`.

Source of the format: https://google.github.io/styleguide/pyguide.html#383-functions-and-methods
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tasks.chunk.sections.entries import NAMES, OF_EXCEPTIONS, ROLE, Section, with_entries

# Titles as griffe knows them, by what people write.
_TITLES = {"Return": "Returns", "Yield": "Yields", "Raise": "Raises", "Throws": "Raises", "Throw": "Raises"}
_HEADING = re.compile(r"(?P<title>[A-Z][A-Za-z ]*):\s*")
_ENTRY = re.compile(rf"(?!(?:Note|Warning|Example|Tip|Todo)s?:){NAMES}(?:\s*\(.*?\))?\s*:(?!:|//)")
_UNTYPED = re.compile(rf"(?P<name>{NAMES})\s*:(?=\s|$)")
_OPEN_ENTRY = re.compile(rf"{NAMES}\s*\(.+\)\s*,?")
_TYPED = re.compile(rf"(?P<name>{NAMES}\s*\()(?P<type>.*?)(?=\)\s*:(?:\s|$))")


def tidied(text: str) -> str:
    """A docstring in Google's style with all of its text where griffe finds it."""
    return with_entries(_sections(text.split("\n")), _entries)


def _sections(lines: list[str]) -> list[Section]:
    sections = [Section([], [])]
    followed_deeper = False  # read from behind: by the next line that is not blank
    has_deeper = []
    for line in reversed(lines):
        has_deeper.append(followed_deeper)
        followed_deeper = line[:1].isspace() if line.strip() else followed_deeper
    for line, is_heading in zip(lines, reversed(has_deeper), strict=True):
        if is_heading and _HEADING.fullmatch(line):
            title = line.strip().removesuffix(":")
            sections.append(Section([f"{_TITLES.get(title, title)}:"], []))
        elif line[:1].strip() and sections[-1].heading:
            sections.append(Section([], [line]))  # prose behind a section
        else:
            sections[-1].body.append(line)
    return sections


def _entries(section: Section, stray: list[str]) -> Iterator[str]:
    lines = section.body
    margin = next((_indent(line) for line in lines if line.strip()), 0)
    of_entry = False
    for previous, line, following in zip(["", *lines], lines, [*lines[1:], ""], strict=False):
        said = line
        if line.strip() and _indent(line) <= margin:
            content = line.strip()
            if section.title in OF_EXCEPTIONS:
                content = ROLE.sub(r"\1", content, count=1)
            if _ENTRY.match(content):
                of_entry, said = True, f"{' ' * margin}{_with_plain_type(content, section.title)}"
            elif _OPEN_ENTRY.fullmatch(content) and _indent(following) > margin:
                of_entry, said = True, f"{line.rstrip(' ,')}:"
            else:
                if of_entry and not previous.strip():
                    of_entry = False
                    stray += [""] if stray and stray[-1].strip() else []
                said = f"{' ' * 2 * margin}{content}"
        if of_entry:
            yield said
        else:
            stray.append(line)


def _with_plain_type(entry: str, title: str) -> str:
    """An entry as griffe reads it: its type no role, but what that refers to, and without a colon."""
    if title == "attributes" and (untyped := _UNTYPED.match(entry)):
        # griffe would take the type of the attribute before.
        return f"{untyped['name']} ():{entry[untyped.end() :]}"
    if typed := _TYPED.match(entry):
        kind = re.sub(r"\s*:\s*", " ", ROLE.sub(r"\1", typed["type"]))
        return f"{typed['name']}{kind}{entry[typed.end() :]}"
    return entry


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
