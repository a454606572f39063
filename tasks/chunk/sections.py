"""Docstrings' sections as griffe reads them: what people write a little otherwise is put right.

griffe passes over what it cannot read, and a human's text would be lost: prose behind or between
the entries of a section, an entry without its colon, a field without a name.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator
from itertools import dropwhile, islice

from griffe import Parser
from msgspec import Struct

_NAME = r"`?(?:\\?\*){0,2}[A-Za-z_]\w*(?:\.\w+)*`?"
_NAMES = rf"{_NAME}(?:\s*,\s*(?:{_NAME}|\.\.\.))*"
# Two words side by side that no type has, be it written as loosely as "list of str or None".
_JOINS = r"(?!(?:of|or|to|and|like|from)\b)"
_PROSE = re.compile(rf"(?<![\w.])(?!(?:a|an|the|optional)\b){_JOINS}[A-Za-z]+ {_JOINS}[A-Za-z]+")
_ROLE = re.compile(r":[A-Za-z][\w:+-]*:`[~!]?([\w.]+)`")

_ENTRIES = {
    *("parameters", "args", "arguments", "params", "attributes", "receives"),
    *(
        f"{kind} {what}"
        for kind in ("keyword", "other")
        for what in ("args", "arguments", "params", "parameters")
    ),
}
_EXCEPTIONS = {"raises", "exceptions", "warns"}

_UNDERLINE = re.compile(r"\s*-{3,}\s*")
_NUMPY_ENTRY = re.compile(rf"(?P<names>{_NAMES})(?:\s*:(?!:)\s*(?P<type>.*?)|\s+-\s+(?P<text>.+))?\s*")
_NUMPY_EXCEPTION = re.compile(rf"(?P<names>{_NAMES})(?:\s*:(?P<type>)\s*(?P<text>.+))?\s*")

_GOOGLE_HEADING = re.compile(r"(?P<title>[A-Z][A-Za-z ]*):\s*")
_GOOGLE_ENTRY = re.compile(rf"{_NAMES}(?:\s*\(.*?\))?\s*:(?!:)")
_GOOGLE_OPEN_ENTRY = re.compile(rf"{_NAMES}\s*\(.+\)\s*,?")

_FIELD = re.compile(r":[A-Za-z]+(?:[ \t][^\n]*?)?:(?=\s|$)")
_PARAMETER = re.compile(r":(?:param|parameter|arg|argument|key|keyword|kwarg)\b[^\n]*?(?P<name>\w+):(?=\s|$)")
_TYPE_OF = re.compile(r":type[ \t]+\**(?P<name>\w+):")
_RAISES = r":(?:raises?|except|exception)"
_EXCEPTION = re.compile(
    rf"{_RAISES}(?::[ \t]+|[ \t]+)"
    r"(?::[A-Za-z][\w:+-]*:`[~!]?(?P<role>[\w.]+)`[ \t]*:?|(?P<name>[A-Z][\w.]*):)"
)
_RETURNS = re.compile(r":returns?:")
_NAMELESS = re.compile(rf"{_RAISES}:[ \t]*(?P<text>\S.*)", re.DOTALL)


class _Section(Struct):
    """A part of a docstring: the lines of its heading, none where it has none, and those of its body."""

    heading: list[str]
    body: list[str]

    @property
    def title(self) -> str:
        return self.heading[0].strip().removesuffix(":").lower() if self.heading else ""


def tidied(text: str, style: Parser | None) -> str:
    """A docstring with all of its text where griffe finds it.

    Args:
        text: The docstring, cleaned.
        style: The one that it is written in; None of prose, which stays as it is.
    """
    if style is Parser.sphinx:
        return _with_named_fields(text)
    if style is Parser.numpy:
        return _with_entries(_numpy_sections(text.split("\n")), _numpy_entries)
    if style is Parser.google:
        return _with_entries(_google_sections(text.split("\n")), _google_entries)
    return text


def is_prose(written: str) -> bool:
    """Whether what stands where types do reads like a text."""
    return _PROSE.search(written) is not None


def _with_entries(
    sections: list[_Section], entries_of: Callable[[_Section, list[str]], Iterator[str]]
) -> str:
    """The text, section by section; what stands before the first entry of one, before all of them."""
    leading, out = list(sections[0].body), []
    for section in sections[1:]:
        stray: list[str] = []
        is_list = section.title in _ENTRIES or section.title in _EXCEPTIONS
        entries = entries_of(section, stray) if is_list else iter(section.body)
        if body := list(dropwhile(lambda line: not line.strip(), entries)):
            out += [*section.heading, *body]
        if stray:
            _add(leading, section.title, "\n".join(stray))
    return "\n".join([*leading, *out])


def _add(prose: list[str], title: str, text: str) -> None:
    """Add a text to lines of prose, under a title."""
    while prose and not prose[-1].strip():
        prose.pop()
    said = textwrap.dedent(text).strip("\n").split("\n")
    prose += ["", f"**{title.capitalize()}**", "", *said, ""]


# --- NumPy


def _numpy_sections(lines: list[str]) -> list[_Section]:
    sections = [_Section([], [])]
    position = 0
    while position < len(lines):
        heading = lines[position : position + 2]
        if len(heading) == 2 and heading[0][:1].strip() and _UNDERLINE.fullmatch(heading[1]):
            sections.append(_Section(heading, []))
            position += 2
        else:
            sections[-1].body.append(lines[position])
            position += 1
    return sections


def _numpy_entries(section: _Section, stray: list[str]) -> Iterator[str]:
    """The lines of a section's entries: `names : type`, and their texts four spaces deeper."""
    lines = textwrap.dedent("\n".join(section.body)).split("\n")
    of_exceptions = section.title in _EXCEPTIONS
    pattern = _NUMPY_EXCEPTION if of_exceptions else _NUMPY_ENTRY
    of_entry = in_prose = False
    for previous, line, following in zip(["", *lines], lines, [*lines[1:], ""], strict=False):
        if not line.strip() or line[0].isspace():
            in_prose = in_prose and bool(line.strip())
            said = line
        else:
            entry = pattern.fullmatch(_ROLE.sub(r"\1", line) if of_exceptions else line)
            if entry and not (in_prose and entry["type"] is None):
                of_entry, in_prose = True, False
                yield from _numpy_entry(entry, is_described=following[:1].isspace())
                continue
            if of_entry and not previous.strip():
                of_entry = False
                stray.append("")
            in_prose = True
            said = f"    {line}" if of_entry else line
        if of_entry:
            yield said
        else:
            stray.append(said)


def _numpy_entry(entry: re.Match[str], is_described: bool) -> Iterator[str]:
    names = ", ".join(name for name in re.split(r"\s*,\s*", entry["names"]) if name != "...")
    kind, text = entry["type"], entry["text"]
    if kind and not is_described and is_prose(kind):
        kind, text = "", kind
    yield f"{names} : {kind}" if kind else names
    if text:
        yield f"    {text}"


# --- Google


def _google_sections(lines: list[str]) -> list[_Section]:
    sections = [_Section([], [])]
    for number, line in enumerate(lines):
        if _GOOGLE_HEADING.fullmatch(line) and _is_followed_deeper(lines, number):
            sections.append(_Section([line], []))
        elif line[:1].strip() and sections[-1].heading:
            sections.append(_Section([], [line]))  # prose behind a section
        else:
            sections[-1].body.append(line)
    return sections


def _is_followed_deeper(lines: list[str], number: int) -> bool:
    later = islice(lines, number + 1, None)
    return next((line for line in later if line.strip()), "")[:1].isspace()


def _google_entries(section: _Section, stray: list[str]) -> Iterator[str]:
    """The lines of a section's entries: `name (type): text`, and more of the text deeper."""
    lines = section.body
    margin = next((_indent(line) for line in lines if line.strip()), 0)
    of_entry = False
    for previous, line, following in zip(["", *lines], lines, [*lines[1:], ""], strict=False):
        said = line
        if line.strip() and _indent(line) <= margin:
            content = (
                _ROLE.sub(r"\1", line.strip(), count=1) if section.title in _EXCEPTIONS else line.strip()
            )
            if _GOOGLE_ENTRY.match(content):
                of_entry, said = True, f"{' ' * margin}{content}"
            elif _GOOGLE_OPEN_ENTRY.fullmatch(content) and _indent(following) > margin:
                of_entry, said = True, f"{line.rstrip(' ,')}:"
            else:
                if of_entry and not previous.strip():
                    of_entry = False
                    stray.append("")
                said = f"{' ' * 2 * margin}{content}"
        if of_entry or not line.strip():
            yield said
        else:
            stray.append(said)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


# --- Sphinx


def _with_named_fields(text: str) -> str:
    """The prose before, between and behind the fields, and then these, each with its name."""
    prose: list[str] = []
    fields: list[list[str]] = []
    into, after_blank = prose, True
    for line in text.split("\n"):
        if _FIELD.match(line):
            into = []
            fields.append(into)
        elif into is not prose and after_blank and line[:1].strip():
            into = prose
            prose.append("")
        # A line of prose that begins with a role would be taken for a field, `:paramref:` for `:param`.
        into.append(f" {line}" if into is prose and line.startswith(":") else line)
        after_blank = not line.strip()
    named = {found["name"] for field in fields if (found := _PARAMETER.match(field[0]))}
    is_described = any(_RETURNS.match(field[0]) for field in fields)
    out: list[str] = []
    for field in fields:
        exception, nameless = _EXCEPTION.match(field[0]), _NAMELESS.fullmatch("\n".join(field))
        if exception:
            field[0] = f":raises {exception['role'] or exception['name']}:{field[0][exception.end() :]}"
        elif nameless:
            _add(prose, "Raises", nameless["text"])
            continue
        elif field[0].startswith(":rtype:") and not is_described:
            out.append(":returns:")
        elif (of := _TYPE_OF.match(field[0])) and of["name"] not in named:
            out.append(f":param {of['name']}:")
        out += field
    return "\n".join([*prose, "", *out]).strip("\n")
