"""Docstrings that contradict their signature: what a human has to mend, with its line.

Only what cannot be meant is reported: a parameter or an attribute that does not exist, a simple type or a
literal default that is another in the code, a result of what returns nothing. Not a default of None, for
which docstrings give the value that then counts, nor parts of `*args`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from difflib import get_close_matches
from functools import cached_property

from tasks.chunk.docstrings import ParsedDocstring
from tasks.documents import Contradiction, Parameter
from tasks.secrets import has_secret, told_without_secrets

# Types that say different things, and by each what takes its values as well: it may be documented so.
_SIMPLE = {"int", "float", "complex", "str", "bytes", "bool", "list", "tuple", "dict", "set", "frozenset"}
_TAKEN_AS = {
    "bool": {"int", "float", "complex"},
    "int": {"float", "complex"},
    "float": {"complex"},
    "list": {"tuple"},
    "tuple": {"list"},
    "set": {"frozenset"},
    "frozenset": {"set"},
}
# "Defaults to 5.", where nothing follows that it could hang on. Strings are told loosely in prose.
_VALUE = r"(?P<value>`{0,2}(?:[-+]?\d+(?:\.\d+)?(?:e-?\d+)?|True|False)`{0,2})"
_DEFAULT = re.compile(
    rf"\b(?:defaults?(?: (?:to|is|value is|value)\s|:\s?| ?=\s?|\s)|(?P<by>by default,? )){_VALUE}"
    r"(?=[)\]]|\.?\s*\Z|\.\s|\s*\n\s*\n)",
    re.IGNORECASE,
)
# Behind a type: "int, optional (default 4)".
_DEFAULT_OF_TYPE = re.compile(rf"\bdefaults?(?: to| is|:| ?=)?\s?{_VALUE}\)?\.?\s*\Z", re.IGNORECASE)
_BEHIND_TYPE = re.compile(r"(?<![,(\s])[,(\s]+(?:optional|defaults?)\b.*", re.IGNORECASE | re.DOTALL)
_CONDITION = re.compile(r"\b(?:if|when|where|unless|for|with|else|otherwise|not)\b", re.IGNORECASE)
_ITEM = re.compile(r"^[ \t]*[-*+][ \t]", re.MULTILINE)  # of a list, in which other things have defaults
_WRAPPED = re.compile(r"\n[ \t]*(?=[a-z])")
_SENTENCE = re.compile(r"[.;:]\s")
_LONGEST_SENTENCE = 300
# What may stand before it in its sentence, so that it is of the parameter, and always so.
_OF_THE_PARAMETER = re.compile(r"(?:\A|\.\s|\n|[(\[;])\s*(?:the|it|and|which)?\s*\Z", re.IGNORECASE)
# Annotations that say no less than a simple type: what may be None, and containers with what they hold.
_OPTIONAL = re.compile(
    r"(?:typing\.)?Optional\[(?P<of>.*)\]|(?P<first>[^|]*)\|\s*None|None\s*\|(?P<last>[^|]*)"
)
_INDEX = r"\[[^|\[\]]*(?:\[[^|\[\]]*\][^|\[\]]*)*\]"
_HELD = re.compile(rf"(?:typing\.)?(?P<container>list|tuple|dict|set|frozenset){_INDEX}", re.IGNORECASE)
_OR_NONE = re.compile(r"\s+or\s+None\Z")
_TYPE_FIELD = re.compile(r"[ \t]*[:@](?:var)?type[ \t]+\**(?P<name>\w+)[ \t]*:")
_ENTRY = re.compile(r"[ \t]*(?:[:@]\w+[^:]*?[ \t])?(?P<names>\**\w+(?:,[ \t]*\**\w+)*)[ \t]*(?:[:(]|\r?$)")
_RESULT = re.compile(r"^[ \t]*[:@]?(?:returns?|rtype|yields?)\b", re.MULTILINE | re.IGNORECASE)
_RESULT_IN_PROSE = re.compile(r"^[ \t]*Returns?:[ \t]+(?P<said>\S.*)", re.MULTILINE)
_FURTHER_RESULT = re.compile(r"^[A-Za-z][\w.\[\], ]*:\s", re.MULTILINE)
# What begins lines of prose between entries.
_NO_NAMES = {"http", "https", "todo", "return", "returns", "raises", "yields"}
_NO_NAMES |= {"note", "notes", "example", "examples"}
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

    def of_type(self, name: str) -> int:
        """The line in which the type of a parameter is."""
        return self._typed.get(name, self.of(name))

    @cached_property
    def _typed(self) -> dict[str, int]:
        found = (
            (number, _TYPE_FIELD.match(line)) for number, line in enumerate(self.text.split("\n"), self.first)
        )
        return {field["name"]: number for number, field in found if field}

    def of_result(self) -> int:
        """The line in which the description of a result begins."""
        found = _RESULT.search(self.text)
        return self.first + self.text.count("\n", 0, found.start()) if found else self.first

    def result_in_prose(self) -> str:
        """What a line of prose, `Returns: …`, says of a result; "" if there is none."""
        found = _RESULT_IN_PROSE.search(self.text)
        return found["said"] if found else ""


def of_parameters(
    parsed: ParsedDocstring, parameters: Sequence[Parameter], lines: Lines, others: Iterable[Parameter] = ()
) -> Iterator[tuple[str, int, str]]:
    """What a docstring says of parameters and is not so: rule, line and message.

    Args:
        parsed: The docstring, taken apart.
        parameters: Those of the signature, of all signatures where there are several.
        lines: Where the docstring stands.
        others: What may be described as if it were a parameter.
    """
    by_name = {p.name: [p] for p in others} | {p.name: [] for p in parameters}
    for parameter in parameters:
        by_name[parameter.name].append(parameter)
    optional = {p.name for p in parameters if p.default is not None or p.kind.startswith("var_")}
    required = {p.name for p in parameters} - optional
    takes_any = any(p.kind.startswith("var_") for p in parameters)  # what is described may be parts of it
    for name, text in parsed.parameters.items():
        if name in by_name:
            several = by_name[name]
            typed = [p for p in several if p.annotation is not None]
            optional_in = [p for p in several if p.default is not None] or several
            for found in (
                [list(_another_type(parsed, p, lines)) for p in typed],
                [list(_another_default(parsed, p, name in required, lines)) for p in optional_in],
            ):
                yield from found[-1] if found and all(found) else ()  # what holds for one is no mistake
        elif not (text or name in parsed.types):
            continue  # a line of prose that stands where names do
        elif not takes_any and name.isidentifier() and name.lower() not in _NO_NAMES:
            message = f"describes parameter {name}, which the signature lacks{hint(name, by_name)}"
            yield "described-parameter", lines.of(name), message


def of_attribute(name: str, described: str, annotated: str, lines: Lines) -> Iterator[tuple[str, int, str]]:
    """A type that a class gives an attribute, and that is another in the code."""
    if differ := _differing(described, annotated):
        message = f"describes {name} as {differ[0]}, and it is annotated {differ[1]}"
        yield "described-type", lines.of(name), message


def of_lacking_attributes(
    names: Iterable[str], there: Collection[str], lines: Lines
) -> Iterator[tuple[str, int, str]]:
    """Attributes that a docstring describes, and that its class lacks.

    Args:
        names: Those.
        there: What the class has.
        lines: Where the docstring stands.
    """
    for name in names:
        message = f"describes attribute {name}, which the class lacks{hint(name, there)}"
        yield "described-attribute", lines.of(name), message


def hint(name: str, there: Collection[str]) -> str:
    """What may be meant by a name that is not there."""
    close = get_close_matches(name, there, 1) if len(there) <= _MOST_COMPARED else ()
    return f"{HINT}{close[0]}" if close else ""


def _another_type(
    parsed: ParsedDocstring, parameter: Parameter, lines: Lines
) -> Iterator[tuple[str, int, str]]:
    name = parameter.name
    is_one = not parameter.kind.startswith("var_")  # else the one may be of all of them, the other of each
    if is_one and (differ := _differing(parsed.types.get(name, ""), parameter.annotation or "")):
        message = f"describes {name} as {differ[0]}, and it is annotated {differ[1]}"
        yield "described-type", lines.of_type(name), message


def _another_default(
    parsed: ParsedDocstring, parameter: Parameter, is_required: bool, lines: Lines
) -> Iterator[tuple[str, int, str]]:
    name = parameter.name
    written = parsed.types.get(name, "")
    default = parsed.defaults.get(name) or _said_with_the_type(written) or _said(parsed.parameters[name])
    if default is None:
        return
    if is_required and _is_value(default):
        values = f"the default {default}, and it has none"
    elif _is_another(default, parameter.default):
        values = f"the default {default}, and it is {parameter.default}"
    else:
        return
    if any(has_secret(f"{name} = {text}") for text in (default, parameter.default or "")):
        values = "another default than it has"
    yield "described-default", lines.of(name), f"gives {name} {values}"


def _is_value(text: str) -> bool:
    """Whether a text is a literal, and not that of nothing."""
    literal = _literal(text)
    return literal is not None and literal[0] != "NoneType"


def _is_another(said: str, real: str | None) -> bool:
    """Whether a default and the real one are literals that cannot both be meant."""
    one, other = _literal(said), _literal(real or "")
    if not one or not other or one == other or other == ("str", said):  # without quotes
        return False
    return not {one[0], other[0]} & {"NoneType", "tuple"}


def _said(text: str) -> str | None:
    """The default that a text gives, once and without a condition; None if it gives none."""
    text = _WRAPPED.sub(" ", _ITEM.split(text)[0]) if "efault" in text else ""
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
    annotated = (returns or "").strip("\"'").removeprefix("typing.")
    is_nothing = annotated in _NOTHING if returns else not has_result
    if not is_nothing:
        return
    described = parsed.types.get("return") or parsed.returns or lines.result_in_prose()
    if described and not _SAYS_NOTHING.match(described):
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
    differ = _differing(parsed.types.get("return", ""), returns or "")
    if differ and not _FURTHER_RESULT.search(parsed.returns):
        message = f"describes the result as {differ[0]}, and it is annotated {differ[1]}"
        yield "described-type", lines.of_result(), message


def in_symbol(
    path: str, symbol: str, span: tuple[int, int], found: Iterable[tuple[str, int, str]]
) -> list[Contradiction]:
    """Contradictions, as those of one symbol."""
    return [
        Contradiction(rule, path, symbol, line, told_without_secrets(message), span)
        for rule, line, message in found
    ]


def _differing(described: str, annotated: str) -> tuple[str, str] | None:
    """Two types by their names, if each says exactly what a value is, and they cannot both be meant."""
    one, other = _simple(described), _simple(annotated)
    if not one or not other or one == other or other in _TAKEN_AS.get(one, ()):
        return None
    return one, other


def _simple(written: str) -> str:
    """The name of a type that says exactly what a value is, unless it is None; "" of others."""
    name = _OR_NONE.sub("", _BEHIND_TYPE.sub("", written)).strip()
    if optional := _OPTIONAL.fullmatch(name):
        name = next(part for part in optional.groups() if part is not None).strip()
    if held := _HELD.fullmatch(name):
        name = held["container"].lower()
    return name if name in _SIMPLE else ""


def _literal(text: str) -> tuple[str, object] | None:
    """A literal's type and value; None of what is none."""
    try:
        value = ast.literal_eval(text.strip(" `").rstrip("."))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return (type(value).__name__, value) if not isinstance(value, int | float) else ("number", float(value))
