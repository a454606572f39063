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

from tasks.chunk.docstrings import ParsedDocstring
from tasks.documents import Contradiction, Parameter
from tasks.secrets import has_secret

# Types that say different things; a number may be documented by any type that it can be given as.
_SIMPLE = {"int", "float", "complex", "str", "bytes", "bool", "list", "tuple", "dict", "set", "frozenset"}
_ALIKE = ({"int", "float", "complex", "bool"}, {"list", "tuple"}, {"set", "frozenset"})
# "Defaults to 5.", where nothing follows that it could hang on. Strings are told loosely in prose.
_DEFAULT = re.compile(
    r"\bdefaults?(?: (?:to|is|value is|value)|:| ?=)\s"
    r"(?P<value>`{0,2}(?:[-+]?\d+(?:\.\d+)?(?:e-?\d+)?|True|False)`{0,2})"
    r"(?=[)\]]|\.?\s*\Z|\.\s|\s*\n\s*\n)",
    re.IGNORECASE,
)
# What may stand before it in its sentence, so that it is of the parameter, and always so.
_OF_THE_PARAMETER = re.compile(r"(?:\A|\.\s|\n|[(\[;])\s*(?:the|it|and|which)?\s*\Z", re.IGNORECASE)
HINT = "; did you mean "  # what follows depends on other parameters
_NOTHING = ("None", "NoReturn", "Never")
_SAYS_NOTHING = re.compile(r"\W*(?:none|nothing)\b", re.IGNORECASE)


class Lines:
    """Finds in which line of a file a docstring speaks of something."""

    def __init__(self, text: str, first: int) -> None:
        self.text, self.first = text, first

    def of(self, name: str) -> int:
        """The line in which the description of a parameter begins."""
        return self._where(
            rf"^[ \t]*(?::\w+[^:\n]*[ \t])?(?:[\w*]+,[ \t]*)*\**{re.escape(name)}\b[ \t]*[:,(\n]"
        )

    def of_section(self, name: str) -> int:
        """The line of a section's heading."""
        return self._where(rf"(?i)^[ \t]*:?{name}s?\b")

    def _where(self, pattern: str) -> int:
        found = re.search(pattern, self.text, re.MULTILINE)
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
        line = lines.of(name)
        if name in by_name:
            yield from ((rule, line, text) for rule, text in _disagreements(parsed, by_name[name]))
        elif not (text or name in parsed.types):
            continue  # a line of prose that stands where names do
        elif not takes_any and name.isidentifier() and not (repeated and name.startswith(repeated)):
            close = get_close_matches(name, by_name, 1)
            hint = f"{HINT}{close[0]}" if close else ""
            yield "described-parameter", line, f"describes parameter {name}, which the signature lacks{hint}"


def _disagreements(parsed: ParsedDocstring, parameter: Parameter) -> Iterator[tuple[str, str]]:
    described = _simple(parsed.types.get(parameter.name, ""))
    annotated = _simple(parameter.annotation or "")
    if described and annotated and not _compatible(described, annotated):
        yield "described-type", f"describes {parameter.name} as {described}, and it is annotated {annotated}"
    default = parsed.defaults.get(parameter.name) or _said(parsed.parameters[parameter.name])
    if default is not None and parameter.default is not None:
        said, real = _literal(default), _literal(parameter.default)
        if said and real and said != real and not {said[0], real[0]} & {"NoneType", "tuple"}:
            is_secret = any(has_secret(f"{parameter.name} = {text}") for text in (default, parameter.default))
            values = (
                "another default than it has"
                if is_secret
                else f"the default {default}, and it is {parameter.default}"
            )
            yield "described-default", f"gives {parameter.name} {values}"


def _said(text: str) -> str | None:
    """The default that a text gives, once and without a condition; None if it gives none."""
    found = list(_DEFAULT.finditer(text)) if "efault" in text else []
    if len(found) != 1 or not _OF_THE_PARAMETER.search(text[: found[0].start()][-80:]):
        return None
    return found[0]["value"].strip("`")


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
        line = lines.of_section("return")
        yield "described-result", line, "describes a result, and nothing is returned"


def in_symbol(
    path: str, symbol: str, span: tuple[int, int], found: Iterable[tuple[str, int, str]]
) -> list[Contradiction]:
    """Contradictions, as those of one symbol."""
    return [Contradiction(rule, path, symbol, line, message, span) for rule, line, message in found]


def _simple(written: str) -> str:
    """A type's name, if it is one that says exactly what a value is."""
    name = written.strip().removesuffix(", optional").strip()
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
