"""Links as humans wrote them in docstrings and overrides: whose a link of a page is, and where it stands.

Strings are read as Python and TOML read them, not as they are spelled; what is a comment or code is nobody's
link, however much it looks like one.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from msgspec import Struct

from tasks.gate.code import Code
from tasks.gate.page import Link

_TARGET = re.compile(
    r"\]\(\s*(?:<([^<>\n]*)>|([^\s()]*(?:\([^\s()]*\)[^\s()]*)*))"  # [text](target "title")
    r"|^[ \t]*\[[^\]\n]+\]:\s*(\S+)"  # [label]: target
    r"|<([^<>\s]+)>",  # `text <target>`_
    re.MULTILINE,
)
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")
_LINES = re.compile(r"(L\d+)(?:C\d+)?(?:-L?\d+(?:C\d+)?)?")
# Where docmill documents names: what a human means by a link to a file of the repository is never there.
_PAGES_OF_CODE = "api/"


class Written(Struct, frozen=True):
    """A link as a human wrote it, and the line that it stands in; 0 if that is not known."""

    target: str
    line: int

    def reads_like(self, link: Link) -> bool:
        """Whether a page's link can be this one, as it is or put right to the file that it means."""
        target = unquote(_ESCAPED.sub(r"\1", self.target))
        if target == unquote(link.written):
            return True
        lines = _LINES.fullmatch(fragment := target.partition("#")[2])
        is_same = (lines[1] if lines else fragment) == link.anchor.removeprefix("md-")
        return bool(fragment) and is_same and not link.target.startswith(_PAGES_OF_CODE)


def links_in_code(code: Code) -> list[Written]:
    """The links in a file's docstrings, and in whatever else its strings say."""
    found = []
    for text, first, last in code.texts:
        lines = code.lines[first - 1 : last]
        for target in _targets(text):
            line = next((n for n, spelled in enumerate(lines, first) if target in spelled), first)
            found.append(Written(target, line))
    return found


def links_in_toml(text: str) -> list[Written]:
    """The links in the strings of a TOML file."""
    targets = [target for value in _strings(tomllib.loads(text)) for target in _targets(value)]
    places = [(target, text.find(target)) for target in targets]
    return [Written(target, text.count("\n", 0, at) + 1 if at >= 0 else 0) for target, at in places]


def _targets(text: str) -> Iterator[str]:
    for found in _TARGET.findall(text):
        if target := "".join(found):  # of which one has matched
            yield target


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)
