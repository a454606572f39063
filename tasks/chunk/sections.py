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
_ROLE = re.compile(r"(?<![\w:+-]):[A-Za-z][\w:+-]{0,80}:`[~!]?([\w.]+)`")

_ENTRIES = {
    *("parameters", "args", "arguments", "params", "attributes", "receives"),
    *(
        f"{kind} {what}"
        for kind in ("keyword", "other")
        for what in ("args", "arguments", "params", "parameters")
    ),
}
_EXCEPTIONS = {"raises", "exceptions", "warns"}
# What is said of them all goes under such a title, apart from their table.
_ABOUT_PARAMETERS = "About the parameters"
_ABOUT = {"attributes": "About the attributes"} | {title: title.capitalize() for title in _EXCEPTIONS}

_UNDERLINE = re.compile(r"\s*-{3,}\s*")
_NUMPY_ENTRY = re.compile(rf"(?P<names>{_NAMES})(?:\s*:(?!:)\s*(?P<type>.*)|\s+-\s+(?P<text>.+))?")
_NUMPY_EXCEPTION = re.compile(rf"(?P<names>{_NAMES})(?:\s*:(?P<type>)\s*(?P<text>.+))?")
_SHORTEST_TEXT = 5  # words of what stands in the place of a type

_GOOGLE_HEADING = re.compile(r"(?P<title>[A-Z][A-Za-z ]*):\s*")
_GOOGLE_ENTRY = re.compile(rf"(?!(?:Note|Warning|Example|Tip|Todo)s?:){_NAMES}(?:\s*\(.*?\))?\s*:(?!:|//)")
_GOOGLE_TYPE = re.compile(rf"({_NAMES}\s*\()(.*?)(?=\)\s*:(?:\s|$))")
_FENCE = ("```", "~~~")
_GOOGLE_OPEN_ENTRY = re.compile(rf"{_NAMES}\s*\(.+\)\s*,?")

_FIELD = re.compile(r":(?P<kind>[A-Za-z]+)(?P<rest>[ \t][^\n]*?)?:(?=\s|$)")
_OF_PARAMETERS = {"param", "parameter", "arg", "argument", "key", "keyword", "kwarg"}
_OF_ATTRIBUTES = {"var", "ivar", "cvar"}
_OF_EXCEPTIONS = {"raise", "raises", "except", "exception"}
_OF_RESULTS = {"return", "returns"}
_TITLES = {"param": _ABOUT_PARAMETERS, "ivar": _ABOUT["attributes"], "raises": _ABOUT["raises"]}
_RAISED_BY_ROLE = re.compile(
    r":[a-z]+:?[ \t]+(?::[A-Za-z][\w:+-]{0,80}:`[~!]?(?P<role>[\w.]+)`[ \t]*:?|(?P<name>[A-Z][\w.]*):)"
)


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
        if any(line.strip() for line in stray):
            _add(leading, _ABOUT.get(section.title, _ABOUT_PARAMETERS), "\n".join(stray))
    return "\n".join([*leading, *out])


def _add(prose: list[str], title: str, text: str) -> None:
    """Add a text to lines of prose, under a title."""
    while prose and not prose[-1].strip():
        prose.pop()
    said = textwrap.dedent(text).strip("\n").split("\n")
    prose += ["", f"**{title}**", "", *said, ""]


# --- NumPy


def _numpy_sections(lines: list[str]) -> list[_Section]:
    sections = [_Section([], [])]
    position, in_fence = 0, False
    while position < len(lines):
        heading = lines[position : position + 2]
        in_fence ^= heading[0].lstrip().startswith(_FENCE)
        if not in_fence and len(heading) == 2 and heading[0][:1].strip() and _UNDERLINE.fullmatch(heading[1]):
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
            entry = pattern.fullmatch((_ROLE.sub(r"\1", line) if of_exceptions else line).rstrip())
            is_described = following[:1].isspace()
            is_name = is_described and "," not in line
            if entry and not (in_prose and entry["type"] is None and not is_name):
                of_entry, in_prose = True, False
                yield from _numpy_entry(entry, is_described)
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


def _numpy_entry(entry: re.Match[str], is_described: bool) -> Iterator[str]:
    written = re.split(r"\s*,\s*", entry["names"].replace("`", "").replace("\\", ""))
    names = ", ".join(name for name in written if name != "...")
    kind, text = entry["type"], entry["text"]
    if kind and not is_described and len(kind.split()) >= _SHORTEST_TEXT and is_prose(kind):
        kind, text = "", kind
    yield f"{names} : {kind}" if kind else names
    if text:
        yield f"    {text}"


# --- Google


def _google_sections(lines: list[str]) -> list[_Section]:
    sections = [_Section([], [])]
    in_fence = False
    for number, line in enumerate(lines):
        in_fence ^= line.lstrip().startswith(_FENCE)
        if in_fence:
            sections[-1].body.append(line)
        elif _GOOGLE_HEADING.fullmatch(line) and _is_followed_deeper(lines, number):
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
            content = _readable(line.strip(), section.title in _EXCEPTIONS)
            if _GOOGLE_ENTRY.match(content):
                of_entry, said = True, f"{' ' * margin}{content}"
            elif _GOOGLE_OPEN_ENTRY.fullmatch(content) and _indent(following) > margin:
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


def _readable(entry: str, of_exception: bool) -> str:
    """An entry whose name, of an exception, or else whose type is no role but what that refers to."""
    if of_exception:
        return _ROLE.sub(r"\1", entry, count=1)

    def plain(found: re.Match[str]) -> str:
        return found[1] + re.sub(r"\s*:\s*", " ", _ROLE.sub(r"\1", found[2]))  # griffe ends a type at a colon

    return _GOOGLE_TYPE.sub(plain, entry, count=1)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


# --- Sphinx


def _with_named_fields(text: str) -> str:
    """The prose before, between and behind the fields, and then these, each with its name and told once."""
    prose: list[str] = []
    fields: list[list[str]] = []
    into, after_blank = prose, True
    for line in text.split("\n"):
        if _FIELD.match(line):
            into = []
            fields.append(into)
        elif into is not prose and line[:1].strip() and (after_blank or line.startswith(".. ")):
            into = prose
            prose.append("")
        # A line of prose that begins with a role would be taken for a field, `:paramref:` for `:param`.
        into.append(f" {line}" if into is prose and line.startswith(":") else line)
        after_blank = not line.strip()
    named: dict[tuple[str, str], list[str]] = {}
    nameless: dict[str, list[str]] = {}
    for field in fields:
        for kind, name, said in _told(field):
            if kind == "other":
                prose += field
            elif not name and kind in ("param", "ivar", "raises"):
                nameless.setdefault(_TITLES[kind], []).extend(said)
            elif (kind, name) in named:
                named[kind, name] += ["", *(f"    {line}" for line in said)]
            else:
                named[kind, name] = [
                    f":{kind} {name}: {said[0]}" if name else f":{kind}: {said[0]}",
                    *said[1:],
                ]
    for kind, of in (("type", "param"), ("vartype", "ivar")):
        for name in [name for known, name in named if known == kind and (of, name) not in named]:
            named[of, name] = [f":{of} {name}:"]
    if ("rtype", "") in named:
        named.setdefault(("returns", ""), [":returns:"])
    for title, said in nameless.items():
        _add(prose, title, "\n".join(said))
    return "\n".join([*prose, "", *(line for lines in named.values() for line in lines)]).strip("\n")


def _told(field: list[str]) -> Iterator[tuple[str, str, list[str]]]:
    """What a field tells: of which kind, of what, and the lines that say it."""
    head = _FIELD.match(field[0])
    assert head is not None
    kind, words = head["kind"].lower(), (head["rest"] or "").replace(",", " ").split()
    said = [field[0][head.end() :].strip(), *field[1:]]
    if kind in _OF_PARAMETERS | _OF_ATTRIBUTES:
        of, of_type = ("param", "type") if kind in _OF_PARAMETERS else ("ivar", "vartype")
        name = words[-1].lstrip("*\\") if words else ""
        yield of, name, said
        if len(words) > 1:
            yield of_type, name, [(head["rest"] or "").strip().removesuffix(words[-1]).rstrip(" *\\")]
    elif kind in ("type", "vartype") and len(words) == 1:
        yield kind, words[0].lstrip("*\\"), said
    elif kind in _OF_EXCEPTIONS:
        by_role = _RAISED_BY_ROLE.match(field[0])
        names = [word for word in words if word not in ("or", "and")]
        if by_role:
            yield (
                "raises",
                by_role["role"] or by_role["name"],
                [field[0][by_role.end() :].strip(), *field[1:]],
            )
        elif all(re.fullmatch(r"[A-Za-z_][\w.]*", name) and name[0].isupper() for name in names[1:]):
            for name in names or [""]:
                yield "raises", name, said
        else:
            yield "raises", words[0], [f"{' '.join(words[1:])}: {said[0]}", *said[1:]]
    elif kind in _OF_RESULTS or kind == "rtype":
        yield "rtype" if kind == "rtype" else "returns", "", said
    else:
        yield "other", "", said
