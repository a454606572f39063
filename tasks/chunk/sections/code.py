"""Code in docstrings, marked while they are taken apart: nothing in it is a heading or an entry."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Which no text has, being no character; a line that begins with it is nothing that is looked for.
MARK = "\ufdd0"
_FENCE = re.compile(r"[ \t]*(?P<mark>```|~~~)(?!.*(?P=mark))")
_TILDES = re.compile(r"[ \t]*(~{3,})\s*")
_PROMPT = (">>>", "...")


def marked(text: str) -> str:
    """A docstring with a mark before what each line of a fenced block, and of a doctest's output, says."""
    if MARK in text or not any(sign in text for sign in ("```", "~~~", ">>>")):
        return text
    lines = text.split("\n")
    fence = ""
    of_doctest = False
    for number, line in enumerate(lines):
        said = line.lstrip()
        if fence:
            if said.startswith(fence):
                fence = ""
            else:
                lines[number] = _with_mark(line)
        elif (opening := _FENCE.match(line)) and not is_underline(lines, number):
            fence, of_doctest = opening["mark"], False
        elif said.startswith(_PROMPT[0]) or (of_doctest and said.startswith(_PROMPT)):
            of_doctest = True
        else:
            of_doctest = of_doctest and bool(said)
            if of_doctest:
                lines[number] = _with_mark(line)
    return "\n".join(lines)


def is_underline(lines: Sequence[str], number: int) -> bool:
    """Whether tildes are a heading's underline, and no fence: as long as that, or closed by no others."""
    tildes = _TILDES.fullmatch(lines[number])
    title = lines[number - 1].strip() if number else ""
    if tildes is None or not title:
        return False
    return len(tildes[1]) >= len(title) or not any(
        line.strip().startswith("~~~") for line in lines[number + 1 :]
    )


def unmarked(text: str) -> str:
    """A text as it was before its code was marked."""
    return text.replace(MARK, "")


def _with_mark(line: str) -> str:
    said = line.lstrip()
    return f"{line[: len(line) - len(said)]}{MARK}{said}" if said else line
