"""What of a docstring is worth learning: one clean sentence for each slot, or nothing.

In scope: finding the texts in Google's, NumPy's and Sphinx's style (by griffe), cleaning them, telling noise.
Not in scope: what the texts belong to (pairs). How a build reads docstrings (tasks.chunk) is more faithful
and more complicated: there every word is shown, here what is doubtful is left out.
"""

import inspect
import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any

from griffe import (
    Docstring,
    DocstringSectionKind,
    Parser,
    infer_docstring_style,
    parse_google,
    parse_numpy,
    parse_sphinx,
)

logging.getLogger("griffe").setLevel(logging.CRITICAL)

_LONGEST = 25  # words of a text
_SHORTEST_SUMMARY, _SHORTEST = 3, 2
_LONGEST_DOCSTRING = 20_000  # characters

_HAS_SECTIONS = re.compile(
    r"^\s*(?::(?:param|arg|returns?|raises?)\b|(?:Args|Arguments|Parameters|Returns?|Raises)\b:?\s*$)",
    re.MULTILINE,
)
_SENTENCE_END = re.compile(r"(?<![ .(]\w)(?<!e\.g)(?<!i\.e)(?<!etc)(?<!vs)(?<!cf)(?<!Eq)[.!?](?=\s|$)")
_ROLE = re.compile(r":(?:\w+:)?\w+:`[~!]?(?:([^`<]+?)\s*<[^`>]*>|([^`]*))`")
_MARKUP = re.compile(r"``?|\*\*|\\")
_NOT_A_SENTENCE = re.compile(
    r"https?:|>>>|::|---| : |[<>{}|\[\]=]|^\W|:$"
    r"|^(args|returns?|parameters?|raises|yields?|examples?|notes?)\b\s*:",
    re.IGNORECASE,
)
_SAYS_NOTHING = re.compile(
    r"^(test|tests|todo|fixme|see|same as|inherit|overrid|overload|internal|private|deprecated|docstring|noqa"
    r"|copyright|initiali[sz]e self|alias|wrapper|placeholder|dummy|constructor|no-?op|do nothing"
    r"|does nothing|not implemented|implements? |helper|magic|dunder|optional|defaults?)\b",
    re.IGNORECASE,
)
_DEFAULT = re.compile(r"\s*[,(]\s*(?:optional|defaults?)\b.*", re.IGNORECASE)
_ASCII = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "...", "\xa0": " "})

_Found = tuple[str, str]  # a slot, and what a docstring says of it


def summary(docstring: str) -> str | None:
    """Return the cleaned first sentence of a docstring, or None where it says nothing about the code."""
    return _cleaned(inspect.cleandoc(docstring), _SHORTEST_SUMMARY)


def texts_of(docstring: str, parameters: Iterable[str], raised: Iterable[str]) -> dict[str, str]:
    """Return what a function's docstring says, by slot; slots in the order in which they are asked for.

    Args:
        docstring: As it stands in the source.
        parameters: The names of the function's parameters; of others nothing is learned.
        raised: The exceptions that it raises, as written.
    """
    text = inspect.cleandoc(docstring)
    found = {"summary": text}
    if _HAS_SECTIONS.search(text) and len(text) <= _LONGEST_DOCSTRING:
        found |= dict(_sections(text))
    exceptions = {name.rpartition(".")[2]: name for name in raised}
    wanted = {"summary": "summary", **{f"param.{name}": f"param.{name}" for name in parameters}}
    wanted |= {
        "returns": "returns",
        **{f"raises.{last}": f"raises.{name}" for last, name in exceptions.items()},
    }
    cleaned = {
        slot: _cleaned(found[source], _SHORTEST_SUMMARY if slot == "summary" else _SHORTEST)
        for source, slot in wanted.items()
        if source in found
    }
    return {slot: sentence for slot, sentence in cleaned.items() if sentence is not None}


def _sections(text: str) -> Iterator[_Found]:
    docstring = Docstring(text)
    style, _ = infer_docstring_style(docstring)
    match style:
        case Parser.google:
            parsed = parse_google(docstring, warnings=False, returns_named_value=False)
        case Parser.numpy:
            parsed = parse_numpy(docstring, warnings=False)
        case Parser.sphinx:
            parsed = parse_sphinx(docstring, warnings=False)
        case _:
            return
    for section in parsed:
        yield from _entries(section)


def _entries(section: Any) -> Iterator[_Found]:
    match section.kind:
        case DocstringSectionKind.parameters | DocstringSectionKind.other_parameters:
            for item in section.value:
                for name in item.name.split(","):  # NumPy describes several at once
                    yield f"param.{name.strip(' *')}", _DEFAULT.sub("", item.description)
        case DocstringSectionKind.returns if len(section.value) == 1:
            yield "returns", section.value[0].description
        case DocstringSectionKind.raises:
            for item in section.value:
                yield (
                    f"raises.{str(item.annotation or '').strip('`~:. ').rpartition('.')[2]}",
                    item.description,
                )


def _cleaned(text: str, shortest: int) -> str | None:
    """Return the first sentence of a text without markup; None if it is none, or noise."""
    paragraph = text.split("\n\n", 1)[0].translate(_ASCII)
    text = _MARKUP.sub("", _ROLE.sub(lambda match: match[1] or match[2], " ".join(paragraph.split())))
    text = _SENTENCE_END.split(text, maxsplit=1)[0].strip()
    words = text.split()
    if not text or not text.isascii() or not shortest <= len(words) <= _LONGEST:
        return None
    if _NOT_A_SENTENCE.search(text) or _SAYS_NOTHING.search(text):
        return None
    return text[0].upper() + text[1:].removesuffix(".") + "."  # it may end with an abbreviation
