"""Docstrings' sections as griffe reads them: what people write a little otherwise is put right.

griffe passes over what it cannot read, and a human's text would be lost: prose behind or between
the entries of a section, an entry without its colon, a field without a name, a section in another
style than the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from griffe import Docstring, Parser
from griffe import infer_docstring_style as infer_style

from tasks.chunk.sections import fields, google, numpy

_ENTRIES = "Parameters|Other Parameters|Attributes|Returns?|Yields?|Receives|Raises?|Throws?|Warns"
# What at the margin is no prose; `note` only behind fields, for in a section of NumPy's it is.
_STARTS = re.compile(
    rf"^(?:(?P<numpy>{numpy.TITLE}-{{3,}}[ \t]*$)"
    rf"|(?P<sphinx>:(?:{'|'.join(sorted(fields.KINDS))})(?:[ \t][^\n]*?)?:(?:\s|\Z))"
    r"|(?:\A|(?<=\n\n))"
    rf"(?:(?P<google>{_ENTRIES}|(?:(?:Keyword|Other) )?(?:Arg|Argument|Param)s|Exceptions)"
    r"|(?P<note>(?:Note|Example|Warning)s?|Todo|See Also)):[ \t]*\n(?:[ \t]*\n)?[ \t]+\S)",
    re.MULTILINE,
)
_TIDIED: dict[Parser, Callable[[str], str]] = {
    Parser.numpy: numpy.tidied,
    Parser.google: google.tidied,
    Parser.sphinx: fields.tidied,
}


def parts(text: str) -> Iterator[tuple[Parser | None, str]]:
    """A docstring's parts, each in its style and with all of its text where griffe finds it.

    Args:
        text: The docstring, cleaned, its code marked.

    Yields:
        A style and what is in it, of most docstrings one; without a style what is prose.
    """
    text = numpy.with_dashes(fields.from_epytext(text))
    by_style: dict[Parser, list[str]] = {}
    starts = [*_starts(text)]
    for number, (position, style) in enumerate(starts):
        end = starts[number + 1][0] if number + 1 < len(starts) else len(text)
        by_style.setdefault(style, []).append(text[position if number else 0 : end])
    for style, pieces in by_style.items():
        yield style, _TIDIED[style]("".join(pieces))
    if not starts:
        # Which sees no field in the first and the last line.
        inferred, _ = infer_style(Docstring(f".\n{text}\n."))
        yield inferred, _TIDIED[inferred](text) if inferred else text


def _starts(text: str) -> Iterator[tuple[int, Parser]]:
    """Where sections of another style than the one before begin."""
    before: Parser | None = None
    for found in _STARTS.finditer(text):
        if found["note"]:
            style = Parser.google if before is Parser.sphinx else before
        else:
            style = next(style for style in _TIDIED if found[style.value])
        if style is not None and style is not before:
            yield found.start(), style
            before = style
