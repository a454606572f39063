"""`symbols.json` against the code: what other tools read of a symbol is held to it just as pages are."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import groupby
from urllib.parse import unquote

import msgspec
from msgspec import Struct

from tasks.documents import Finding
from tasks.gate.code import Argument, Code, Definition, Function, arguments_of, raised, says
from tasks.gate.compare import (
    is_assignment_of,
    is_class_head,
    is_head_of,
    is_of_kind,
    overloaded,
    short,
    without_ordinal,
)

LISTING = "symbols.json"

_KINDS = {"positional only": "positional_only", "": "positional_or_keyword", "keyword only": "keyword_only"}


class Listed(Struct, frozen=True):
    """What `symbols.json` says of one file's symbols, and the page that documents them, "" if none does."""

    path: str
    page: str
    data: bytes


class _Place(Struct):
    path: str
    url: str | None


class _Parameter(Struct):
    name: str
    kind: str
    annotation: str | None
    default: str | None


class _Slot(Struct):
    origin: str


class _Symbol(Struct):
    id: str
    kind: str
    path: str
    line: int
    signature: str
    parameters: list[_Parameter]
    returns: str | None
    slots: dict[str, _Slot]


def listed_files(data: bytes) -> Iterator[Listed]:
    """Take `symbols.json` apart, file by file.

    Raises:
        ValueError: It is not what it should be.
    """
    place = msgspec.json.Decoder(_Place)
    objects = ((place.decode(raw), raw) for raw in msgspec.json.decode(data, type=list[msgspec.Raw]))
    for path, of_file in groupby(objects, key=lambda placed: placed[0].path):
        page, parts = "", []
        for placed, raw in of_file:
            page = page or unquote((placed.url or "").partition("#")[0])
            parts.append(bytes(raw))
        yield Listed(path, page, b"[%b]" % b",".join(parts))


def wrongly_listed(listed: Listed, code: Code) -> Iterator[Finding]:
    """All that `symbols.json` says of a file's symbols and the file does not."""
    for symbol in msgspec.json.decode(listed.data, type=list[_Symbol]):
        for rule, what in _wrong(symbol, code):
            message = f"{symbol.id} {what}"
            yield Finding(rule, "docmill", symbol.id, message, LISTING, path=symbol.path, line=symbol.line)


def _wrong(symbol: _Symbol, code: Code) -> Iterator[tuple[str, str]]:
    name = symbol.id.removeprefix(f"{symbol.path}::")
    if not name:
        if symbol.kind not in ("module", "package"):
            yield "wrong-signature", f"is no {symbol.kind}"
        yield from _wrong_parameters(symbol, [])
        yield from _wrong_exceptions(symbol, None)
        return
    definitions = code.definitions.get(without_ordinal(name), [])
    here = next((d for d in definitions if d.line == symbol.line), None)
    if here is None:
        rule = "stale-line" if definitions else "unknown-symbol"
        yield rule, f"is not defined in line {symbol.line} of {symbol.path}"
    elif not is_of_kind(symbol.kind, here):
        yield "wrong-signature", f"is no {symbol.kind}"
    else:
        is_right, returns, expected = _real(symbol, name, here, definitions)
        if not is_right:
            yield "wrong-signature", f"has no signature {short(symbol.signature)}"
        if not says(symbol.returns, returns):
            yield "wrong-returns", f"does not return {short(symbol.returns or 'just that')}"
        yield from _wrong_parameters(symbol, expected)
        function = overloaded(here, definitions)[0].node if isinstance(here.node, Function) else None
        yield from _wrong_exceptions(symbol, function)


def _real(
    symbol: _Symbol, name: str, here: Definition, definitions: list[Definition]
) -> tuple[bool, ast.expr | None, list[Argument]]:
    """Whether a signature is right; and the type of the result, and the parameters, that the code has."""
    match here.node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            function = overloaded(here, definitions)[0].node
            assert isinstance(function, Function)
            return is_head_of(symbol.signature, function), function.returns, list(arguments_of(function))
        case ast.ClassDef() as node:
            return is_class_head(symbol.signature, node), None, []
        case node:
            is_right = is_assignment_of(symbol.signature, name.rpartition(".")[2], node)
            return is_right, getattr(node, "annotation", None), []


def _wrong_parameters(symbol: _Symbol, expected: list[Argument]) -> Iterator[tuple[str, str]]:
    real = {argument.name.lstrip("*"): argument for argument in expected}
    listed = [parameter.name for parameter in symbol.parameters]
    described = [slot.removeprefix("param.") for slot in symbol.slots if slot.startswith("param.")]
    unknown = [name for name in dict.fromkeys((*listed, *described)) if name not in real]
    missing = [name for name in real if name not in listed]
    yield from (("unknown-parameter", f"has no parameter {name}") for name in unknown)
    yield from (("missing-parameter", f"is listed without its parameter {name}") for name in missing)
    if not unknown and not missing and listed != list(real):
        yield "parameter-order", f"has the parameters {', '.join(real)}, and not {', '.join(listed)}"
    for parameter in symbol.parameters:
        argument = real.get(parameter.name)
        if argument is not None and (wrong := _differs(parameter, argument)):
            yield "wrong-parameter", f"has a parameter {parameter.name} of another {wrong}"


def _wrong_exceptions(symbol: _Symbol, function: ast.AST | None) -> Iterator[tuple[str, str]]:
    said = [name for name, slot in symbol.slots.items() if slot.origin != "human"]
    derived = [name.removeprefix("raises.") for name in said if name.startswith("raises.")]
    if derived:
        known = raised(function) if isinstance(function, Function) else set()
        yield from (("unknown-exception", f"raises no {name}") for name in derived if name not in known)


def _differs(parameter: _Parameter, argument: Argument) -> str:
    """What is said wrongly of a parameter, if anything."""
    stars = len(argument.name) - len(argument.name.lstrip("*"))
    kind = _KINDS[argument.kind] if not stars else ("var_positional", "var_keyword")[stars - 1]
    if parameter.kind != kind:
        return "kind"
    if not says(parameter.annotation, argument.annotation):
        return "type"
    return "" if says(parameter.default, argument.default) else "default"
