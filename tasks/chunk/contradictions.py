"""Docstrings that contradict their signature: what a human has to mend, with its line.

Only what cannot be meant is reported: a parameter that does not exist, a simple type or a literal
default that is another in the code, a result of what returns nothing. Not a default of None, for
which docstrings give the value that then counts, nor `args1` of `*args`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from functools import cached_property

from tasks.chunk.docstrings import ParsedDocstring
from tasks.documents import Contradiction, Parameter
from tasks.secrets import has_secret

# Types that say different things; a number may be documented by any type that it can be given as.
_SIMPLE = {"int", "float", "complex", "str", "bytes", "bool", "list", "tuple", "dict", "set", "frozenset"}
_ALIKE = ({"int", "float", "complex", "bool"}, {"list", "tuple"}, {"set", "frozenset"})
# "Defaults to 5.", where nothing follows that it could hang on. Strings are told loosely in prose.
_VALUE = r"(?P<value>`{0,2}(?:[-+]?\d+(?:\.\d+)?(?:e-?\d+)?|True|False)`{0,2})"
_DEFAULT = re.compile(
    rf"\b(?:defaults?(?: (?:to|is|value is|value)\s|:\s?| ?=\s?)|(?P<by>by default,? )){_VALUE}"
    r"(?=[)\]]|\.?\s*\Z|\.\s|\s*\n\s*\n)",
    re.IGNORECASE,
)
# Behind a type: "int, optional (default 4)".
_DEFAULT_OF_TYPE = re.compile(rf"\bdefaults?(?: to| is|:| ?=)?\s?{_VALUE}\)?\.?\s*\Z", re.IGNORECASE)
_BEHIND_TYPE = re.compile(r"(?<![,(\s])[,(\s]+(?:optional|defaults?)\b.*", re.IGNORECASE | re.DOTALL)
_CONDITION = re.compile(r"\b(?:if|when|where|unless|for|with|else|otherwise|not)\b", re.IGNORECASE)
_WRAPPED = re.compile(r"\n[ \t]*(?=[a-z])")
_SENTENCE = re.compile(r"[.;:]\s")
_LONGEST_SENTENCE = 300
# What may stand before it in its sentence, so that it is of the parameter, and always so.
_OF_THE_PARAMETER = re.compile(r"(?:\A|\.\s|\n|[(\[;])\s*(?:the|it|and|which)?\s*\Z", re.IGNORECASE)
_ENTRY = re.compile(r"[ \t]*(?:[:@]\w+[^:]*?[ \t])?(?P<names>\**\w+(?:,[ \t]*\**\w+)*)[ \t]*(?:[:(]|\r?$)")
_RESULT = re.compile(r"^[ \t]*[:@]?(?:returns?|rtype|yields?)\b", re.MULTILINE | re.IGNORECASE)
_FURTHER_RESULT = re.compile(r"^[A-Za-z][\w.\[\], ]*:\s", re.MULTILINE)
_MOST_COMPARED = 200  # names, with which a misspelt one is compared
HINT = "; did you mean "  # what follows depends on other parameters
_NOTHING = ("None", "NoReturn", "Never")
_SAYS_NOTHING = re.compile(r"\W*(?:none|nothing)\b", re.IGNORECASE)


class Lines:
    """Finds in which line of a file a docstring speaks of something."""

    def __init__(self, text: str, first: int) -> None:
        self.text, self.first = text, first

    def of(self, name: str) -> int:
        """The line in which the description of a parameter begins."""
        return self._described.get(name, self.first)

    @cached_property
    def _described(self) -> dict[str, int]:
        lines: dict[str, int] = {}
        for number, line in enumerate(self.text.split("\n"), self.first):
            if entry := _ENTRY.match(line):
                for name in re.findall(r"\w+", entry["names"]):
                    lines.setdefault(name, number)
        return lines

    def of_result(self) -> int:
        """The line in which the description of a result begins."""
        found = _RESULT.search(self.text)
        return self.first + self.text.count("\n", 0, found.start()) if found else self.first


def of_parameters(
    parsed: ParsedDocstring, parameters: Sequence[Parameter], lines: Lines
) -> Iterator[tuple[str, int, str]]:
    """What a docstring says of parameters and is not so: rule, line and message.

    Args:
        parsed: The docstring, taken apart.
        parameters: Those of the signature.
        lines: Where the docstring stands.
    """
    by_name = {p.name: p for p in parameters}
    takes_any = any(p.kind == "var_keyword" for p in parameters)
    repeated = tuple(p.name for p in parameters if p.kind == "var_positional")
    for name, text in parsed.parameters.items():
        if name in by_name:
            yield from ((rule, lines.of(name), text) for rule, text in _disagreements(parsed, by_name[name]))
        elif not (text or name in parsed.types):
            continue  # a line of prose that stands where names do
        elif not takes_any and name.isidentifier() and not (repeated and name.startswith(repeated)):
            close = get_close_matches(name, by_name, 1) if len(by_name) <= _MOST_COMPARED else ()
            hint = f"{HINT}{close[0]}" if close else ""
            message = f"describes parameter {name}, which the signature lacks{hint}"
            yield "described-parameter", lines.of(name), message


def _disagreements(parsed: ParsedDocstring, parameter: Parameter) -> Iterator[tuple[str, str]]:
    written = parsed.types.get(parameter.name, "")
    described, annotated = _simple(written), _simple(parameter.annotation or "")
    if described and annotated and not _compatible(described, annotated):
        yield "described-type", f"describes {parameter.name} as {described}, and it is annotated {annotated}"
    default = (
        parsed.defaults.get(parameter.name)
        or _said_with_the_type(written)
        or _said(parsed.parameters[parameter.name])
    )
    if default is not None and parameter.default is not None:
        said, real = _literal(default), _literal(parameter.default)
        is_the_text = real == ("str", default)  # without quotes
        if (
            said
            and real
            and said != real
            and not is_the_text
            and not {said[0], real[0]} & {"NoneType", "tuple"}
        ):
            is_secret = any(has_secret(f"{parameter.name} = {text}") for text in (default, parameter.default))
            values = (
                "another default than it has"
                if is_secret
                else f"the default {default}, and it is {parameter.default}"
            )
            yield "described-default", f"gives {parameter.name} {values}"


def _said(text: str) -> str | None:
    """The default that a text gives, once and without a condition; None if it gives none."""
    text = _WRAPPED.sub(" ", text) if "efault" in text else ""
    found = list(_DEFAULT.finditer(text))
    if len(found) != 1:
        return None
    before = text[: found[0].start()][-_LONGEST_SENTENCE:]
    sentence = _SENTENCE.split(before)[-1]
    follows = found[0]["by"] and sentence.rstrip().endswith(",") and not _CONDITION.search(sentence)
    return found[0]["value"].strip("`") if follows or _OF_THE_PARAMETER.search(before) else None


def _said_with_the_type(written: str) -> str | None:
    """The default that stands behind a type, once and without a condition."""
    found = _DEFAULT_OF_TYPE.search(written)
    if found is None or _CONDITION.search(written) or written.lower().count("default") > 1:
        return None
    return found["value"].strip("`")


def of_result(
    parsed: ParsedDocstring, returns: str | None, has_result: bool, lines: Lines
) -> Iterator[tuple[str, int, str]]:
    """A described result of a function that has none.

    Args:
        parsed: The docstring, taken apart.
        returns: What the function is annotated to return.
        has_result: Whether it returns anything.
        lines: Where the docstring stands.
    """
    described = parsed.types.get("return") or parsed.returns
    if (
        described
        and not _SAYS_NOTHING.match(described)
        and (returns in _NOTHING or (returns is None and not has_result))
    ):
        yield "described-result", lines.of_result(), "describes a result, and nothing is returned"


def of_type_of_result(
    parsed: ParsedDocstring, returns: str | None, lines: Lines
) -> Iterator[tuple[str, int, str]]:
    """A result of one simple type that is described with another.

    Args:
        parsed: The docstring, taken apart.
        returns: What the function is annotated to return.
        lines: Where the docstring stands.
    """
    said, annotated = _simple(parsed.types.get("return", "")), _simple(returns or "")
    if said and annotated and not _compatible(said, annotated) and not _FURTHER_RESULT.search(parsed.returns):
        message = f"describes the result as {said}, and it is annotated {annotated}"
        yield "described-type", lines.of_result(), message


def in_symbol(
    path: str, symbol: str, span: tuple[int, int], found: Iterable[tuple[str, int, str]]
) -> list[Contradiction]:
    """Contradictions, as those of one symbol."""
    return [Contradiction(rule, path, symbol, line, message, span) for rule, line, message in found]


def _simple(written: str) -> str:
    """A type's name, if it is one that says exactly what a value is."""
    name = _BEHIND_TYPE.sub("", written).strip()
    return name if name in _SIMPLE else ""


def _compatible(one: str, other: str) -> bool:
    return one == other or any({one, other} <= alike for alike in _ALIKE)


def _literal(text: str) -> tuple[str, object] | None:
    """A literal's type and value; None of what is none."""
    try:
        value = ast.literal_eval(text.strip(" `."))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return (type(value).__name__, value) if not isinstance(value, int | float) else ("number", float(value))
