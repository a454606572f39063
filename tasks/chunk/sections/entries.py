"""Sections of entries, the same in every style: names with their texts, and prose that belongs to none."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator
from itertools import dropwhile

from msgspec import Struct

# Words that begin a sentence where names stand, and that nothing can be called.
WORD = "(?:None|True|False|if|elif|else|for|while|with|return|and|or|not|try|except|finally)"
_NAME = rf"(?!{WORD}\b)`?(?:\\?\*){{0,2}}[A-Za-z_]\w*(?:\.\w+)*`?"
NAMES = rf"{_NAME}(?:\s*,\s*(?:{_NAME}|\.\.\.))*"
ROLE = re.compile(r"(?<![\w:+-]):[A-Za-z][\w:+-]{0,80}:`[~!]?([\w.]+)`")
# Two words side by side that no type has, be it written as loosely as "list of str or None".
_JOINS = r"(?!(?:of|or|to|and|like|from)\b)"
_PROSE = re.compile(rf"(?<![\w.])(?!(?:a|an|the|optional)\b){_JOINS}[A-Za-z]+ {_JOINS}[A-Za-z]+")

_OF_PARAMETERS = {
    *("parameters", "args", "arguments", "params", "receives"),
    *(
        f"{kind} {what}"
        for kind in ("keyword", "other")
        for what in ("args", "arguments", "params", "parameters")
    ),
}
OF_EXCEPTIONS = {"raises", "exceptions", "warns"}
_OF_ENTRIES = _OF_PARAMETERS | OF_EXCEPTIONS | {"attributes"}
# What is said of them all goes under such a title, apart from their table.
ABOUT_PARAMETERS = "About the parameters"
_NOTHING = re.compile(r"\W*(?:None\W*)?")
ABOUT = {"attributes": "About the attributes"} | {title: title.capitalize() for title in OF_EXCEPTIONS}


class Section(Struct):
    """A part of a docstring: the lines of its heading, none where it has none, and those of its body."""

    heading: list[str]
    body: list[str]

    @property
    def title(self) -> str:
        return self.heading[0].strip().removesuffix(":").lower() if self.heading else ""


def is_prose(written: str) -> bool:
    """Whether what stands where types do reads like a text."""
    return _PROSE.search(written) is not None


def with_entries(sections: list[Section], entries_of: Callable[[Section, list[str]], Iterator[str]]) -> str:
    """The text, section by section; what stands before the first entry of one, before all of them.

    Args:
        sections: Those of a docstring, the first without a heading.
        entries_of: Gives the lines of a section's entries, and puts others into a list.
    """
    leading, out = list(sections[0].body), []
    for section in sections[1:]:
        stray: list[str] = []
        entries = entries_of(section, stray) if section.title in _OF_ENTRIES else iter(section.body)
        body = list(dropwhile(lambda line: not line.strip(), entries))
        if body or section.title not in _OF_ENTRIES:
            out += ["", *section.heading, *body]  # without the empty line a heading of Google's is text
        if not _NOTHING.fullmatch("\n".join(stray)):
            add_titled(leading, ABOUT.get(section.title, ABOUT_PARAMETERS), "\n".join(stray))
    return "\n".join([*leading, *out])


def add_titled(prose: list[str], title: str, text: str) -> None:
    """Add a text to lines of prose, under a title."""
    while prose and not prose[-1].strip():
        prose.pop()
    said = textwrap.dedent(text).strip("\n").split("\n")
    prose += ["", f"**{title}**", "", *said, ""]
