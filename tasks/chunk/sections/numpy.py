"""NumPy's style: headings underlined by dashes, `name : type` and the text four spaces deeper.

Source of the format: https://numpydoc.readthedocs.io/en/latest/format.html
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

from tasks.chunk.sections.code import MARK
from tasks.chunk.sections.entries import (
    NAMES,
    OF_EXCEPTIONS,
    ROLE,
    Section,
    is_prose,
    with_entries,
)

# Titles of entries as griffe knows them, by what people write.
_OF_ENTRIES = {
    title.lower(): title
    for title in (
        *("Parameters", "Other Parameters", "Attributes", "Methods"),
        *("Returns", "Yields", "Receives", "Raises", "Warns"),
    )
}
_OF_ENTRIES |= dict.fromkeys(("parameter", "args", "arguments", "params"), "Parameters")
_OF_ENTRIES |= dict.fromkeys(("keyword args", "keyword arguments", "keyword parameters"), "Other Parameters")
_OF_ENTRIES |= {"return": "Returns", "yield": "Yields", "raise": "Raises", "exceptions": "Raises"}
_OF_PROSE = ("notes", "note", "examples", "example", "see also", "references", "warnings", "warning")
TITLE = rf"(?P<title>(?i:{'|'.join((*_OF_ENTRIES, *_OF_PROSE))}))[ \t]*(?::[ \t]*)?\n"
_RULED = re.compile(rf"^{TITLE}(?P<mark>=|~|\^)(?P=mark){{2,}}[ \t]*$", re.MULTILINE)
_HEADING = re.compile(rf"^{TITLE}(?=-{{3,}}[ \t]*$)", re.MULTILINE)

_UNDERLINE = re.compile(r"\s*-{3,}\s*")
_ENTRY = re.compile(rf"(?P<names>{NAMES})(?:\s*:(?!:)\s*(?P<type>.*)|\s+-\s+(?P<text>.+))?")
_EXCEPTION = re.compile(rf"(?P<names>{NAMES})(?:\s*:(?P<type>)\s*(?P<text>.+))?")
_SHORTEST_TEXT = 5  # words of what stands in the place of a type


def with_dashes(text: str) -> str:
    """A docstring whose headings are NumPy's, though it rules them otherwise or spells them freely."""
    if ruled := _RULED.search(text):
        # What a text begins with is its summary, be it ruled like a heading.
        heading = rf"^(?:{TITLE}|(?<=\n\n)\S.*\n)(?P<rule>{re.escape(ruled['mark'])}{{3,}})[ \t]*$"
        text = re.sub(heading, _dashed, text, flags=re.MULTILINE)
    return _HEADING.sub(lambda found: f"{_title(found['title'])}\n", text)


def _dashed(heading: re.Match[str]) -> str:
    title = heading.group().partition("\n")[0]
    is_heading = heading["title"] or len(heading["rule"]) >= len(title)
    return f"{title}\n{'-' * max(3, len(title))}" if is_heading else heading.group()


def _title(written: str) -> str:
    return _OF_ENTRIES.get(written.lower(), written)


def tidied(text: str) -> str:
    """A docstring in NumPy's style with all of its text where griffe finds it."""
    return with_entries(_sections(text.split("\n")), _entries)


def _sections(lines: list[str]) -> list[Section]:
    sections = [Section([], [])]
    position = 0
    while position < len(lines):
        heading = lines[position : position + 2]
        if len(heading) == 2 and heading[0][:1].strip() and _UNDERLINE.fullmatch(heading[1]):
            sections.append(Section(heading, []))
            position += 2
        else:
            sections[-1].body.append(lines[position])
            position += 1
    return sections


def _entries(section: Section, stray: list[str]) -> Iterator[str]:
    lines = textwrap.dedent("\n".join(section.body)).split("\n")
    of_exceptions = section.title in OF_EXCEPTIONS
    pattern = _EXCEPTION if of_exceptions else _ENTRY
    of_entry = in_prose = False
    for previous, line, following in zip(["", *lines], lines, [*lines[1:], ""], strict=False):
        if not line.strip() or line[0].isspace():
            in_prose = in_prose and bool(line.strip())
            said = line
        else:
            entry = pattern.fullmatch((ROLE.sub(r"\1", line) if of_exceptions else line).rstrip())
            is_described = following[:1].isspace()
            is_name = is_described and "," not in line
            if entry and not (in_prose and entry["type"] is None and not is_name):
                of_entry, in_prose = True, False
                yield from _entry(entry, is_described)
                continue
            if of_entry and not previous.strip():
                of_entry = False
                stray += [""] if stray and stray[-1].strip() else []
            in_prose = True
            said = f"    {line}" if of_entry else line
        if of_entry:
            yield said
        else:
            stray.append(said)


def _entry(entry: re.Match[str], is_described: bool) -> Iterator[str]:
    written = re.split(r"\s*,\s*", entry["names"].replace("`", "").replace("\\", ""))
    names = ", ".join(name for name in written if name != "...")
    kind, text = entry["type"], entry["text"]
    if kind and not is_described and len(kind.split()) >= _SHORTEST_TEXT and is_prose(kind):
        kind, text = "", kind
    if kind and kind.startswith("{"):
        kind = f"{MARK}{kind}"  # of which griffe would keep the braces alone, and the first for the default
    yield f"{names} : {kind}" if kind else names
    if text:
        yield f"    {text}"
