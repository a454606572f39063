"""What a file defines, read from its syntax tree, and from nothing else.

Shares no code with the parser whose symbols become pages: the two have to agree.
"""

from __future__ import annotations

import ast
import builtins
import keyword
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache

from msgspec import Struct

Function = ast.FunctionDef | ast.AsyncFunctionDef

_WORD = re.compile(r"[^\W\d]\w*")
_NEWLINE = re.compile(r"\r\n|\r|\n")
# Python's own, and the letters in how literals are spelled: `b''`, `1e9j`, `f'{x!r}'`.
_PYTHONS = frozenset((*vars(builtins), *keyword.kwlist, *keyword.softkwlist, *"abefjrsu"))
_BLOCKS = ("body", "cases", "handlers", "orelse", "finalbody")


class Definition(Struct, eq=False):
    """A definition: its node, its first line with decorators, and whether it stands in a class."""

    node: ast.AST
    line: int
    in_class: bool


class Argument(Struct, eq=False):
    """A parameter as a caller sees it; `name` has its stars, `kind` is as a page says it."""

    name: str
    kind: str
    annotation: ast.expr | None
    default: ast.expr | None


class Code:
    """A file's definitions by their dotted names, in the order of the source."""

    def __init__(self, source: str) -> None:
        """Parse.

        Raises:
            SyntaxError, RecursionError, MemoryError: As ast.parse.
        """
        self.source = source
        self.tree = ast.parse(source)
        self.definitions: dict[str, list[Definition]] = defaultdict(list)
        self._enter(self.tree.body, "", in_class=False)

    def _enter(self, body: Sequence[ast.stmt], scope: str, in_class: bool) -> None:
        stack: list[ast.AST] = list(reversed(body))
        while stack:
            node = stack.pop()
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    self._add(scope, name, node, _first_line(node), in_class)
                    self._enter_function(node, f"{scope}{name}.", scope if in_class else None)
                case ast.ClassDef(name=name):
                    self._add(scope, name, node, _first_line(node), in_class)
                    self._enter(node.body, f"{scope}{name}.", in_class=True)
                case _:
                    for name in _assigned(node):
                        self._add(scope, name, node, getattr(node, "lineno", 0), in_class)
                    stack += _statements_in(node)[::-1]

    def _enter_function(self, function: Function, scope: str, owner: str | None) -> None:
        """Definitions inside of a function, and the attributes that it gives its first argument."""
        receiver = next((a.arg for a in (*function.args.posonlyargs, *function.args.args)), None)
        stack: list[ast.AST] = list(reversed(function.body))
        while stack:
            node = stack.pop()
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self._enter([node], scope, in_class=False)
                continue
            if owner is not None and isinstance(node, ast.Assign | ast.AnnAssign):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    match target:
                        case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name == receiver:
                            self._add(owner, attribute, node, node.lineno, in_class=True)
            stack += _statements_in(node)[::-1]

    def _add(self, scope: str, name: str, node: ast.AST, line: int, in_class: bool) -> None:
        self.definitions[f"{scope}{name}"].append(Definition(node, line, in_class))

    @cached_property
    def has_generators(self) -> bool:
        """Whether any function can be one: most files have none, and need no closer look."""
        return "yield" in self.source

    @cached_property
    def lines(self) -> list[str]:
        """The source line by line, as Python counts them."""
        return _NEWLINE.split(self.source)

    @cached_property
    def texts(self) -> list[tuple[str, int, int]]:
        """What strings say, and comments that document (`#: …`): each with its first and its last line."""
        constants = (node for node in ast.walk(self.tree) if isinstance(node, ast.Constant))
        found = [(c.value, c.lineno, c.end_lineno or c.lineno) for c in constants if isinstance(c.value, str)]
        if "#:" in self.source:
            lines = enumerate(self.lines, 1)
            found += [(line.partition("#:")[2], number, number) for number, line in lines if "#:" in line]
        return found

    @cached_property
    def words(self) -> frozenset[str]:
        """All names in the code and in what its strings say, and those of Python itself; none of comments."""
        found = set(_PYTHONS)
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Constant):
                if isinstance(node.value, str | bytes):  # as it is, and as it is spelled
                    found.update(_WORD.findall(f"{node.value!s} {node.value!r}"))
            else:
                for field in node._fields:
                    found.update(_names(getattr(node, field, None)))
        return frozenset(found)


def _names(value: object) -> list[str]:
    """The names in a field of a node: one, with dots or without, or several."""
    if isinstance(value, str):
        return value.split(".")
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def _statements_in(node: ast.AST) -> list[ast.AST]:
    """What stands in the blocks of a statement: of an `if`, a `try`, a `match` …."""
    return [n for block in _BLOCKS for n in getattr(node, block, ())]


def _first_line(node: Function | ast.ClassDef) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _assigned(node: ast.AST) -> Iterator[str]:
    """The names that a statement gives a value."""
    match node:
        case ast.Assign(targets=targets):
            stack = list(targets)
        case ast.AnnAssign(target=target):
            stack = [target]
        case _:
            name = getattr(node, "name", None) if type(node).__name__ == "TypeAlias" else None
            stack = [name] if isinstance(name, ast.expr) else []
    while stack:
        match stack.pop():
            case ast.Name(id=name):
                yield name
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                stack += parts
            case ast.Starred(value=part):
                stack.append(part)


# --- functions


def callers_arguments(definition: Definition) -> list[Argument]:
    """The parameters of a function that a caller passes: without the receiver of a method."""
    node = definition.node
    assert isinstance(node, Function)
    found = list(arguments_of(node))
    positional = node.args.posonlyargs or node.args.args
    if definition.in_class and positional and not is_decorated(node, "staticmethod"):
        return found[1:]
    return found


def arguments_of(function: Function) -> Iterator[Argument]:
    """All parameters of a function, in the order of its signature."""
    given = function.args
    positional = [*given.posonlyargs, *given.args]
    required = len(positional) - len(given.defaults)
    for number, argument in enumerate(positional):
        default = given.defaults[number - required] if number >= required else None
        kind = "positional only" if number < len(given.posonlyargs) else ""
        yield Argument(argument.arg, kind, argument.annotation, default)
    if given.vararg:
        yield Argument(f"*{given.vararg.arg}", "", given.vararg.annotation, None)
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield Argument(argument.arg, "keyword only", argument.annotation, default)
    if given.kwarg:
        yield Argument(f"**{given.kwarg.arg}", "", given.kwarg.annotation, None)


def is_decorated(node: Function, name: str) -> bool:
    """Whether one of the decorators goes by a name, from whatever module."""
    return name in decorated_with(node)


def decorated_with(node: Function) -> list[str]:
    """The last names of the decorators."""
    return [_decorator_name(decorator) for decorator in node.decorator_list]


def _decorator_name(decorator: ast.expr) -> str:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")


def yields(function: Function) -> bool:
    """Whether a function is a generator: it yields itself, and not only a function inside of it."""
    return any(isinstance(node, ast.Yield | ast.YieldFrom) for node in _own_nodes(function))


def _own_nodes(function: Function) -> Iterator[ast.AST]:
    stack: list[ast.AST] = list(function.body)
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            stack += ast.iter_child_nodes(node)


def raised(function: Function) -> set[str]:
    """The exceptions of all `raise` statements, as they are written there."""
    raises = (node.exc for node in ast.walk(function) if isinstance(node, ast.Raise))
    return {_dotted(_class_of(node)) for node in raises if node is not None}


def _class_of(raised: ast.expr) -> ast.expr:
    """The class of which an exception is made: `E` of `E`, `E(…)` and `E(…).with_traceback(…)`."""
    match raised:
        case ast.Call(func=ast.Attribute(value=ast.Call(func=called), attr="with_traceback")):
            return called
        case ast.Call(func=called):
            return called
    return raised


def _dotted(node: ast.expr) -> str:
    """A dotted name; "" of anything else."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


# --- trees compared


def same(one: ast.AST | None, other: ast.AST | None) -> bool:
    """Whether two trees say the same, wherever they stand."""
    stack: list[tuple[object, object]] = [(one, other)]
    while stack:
        a, b = stack.pop()
        if isinstance(a, ast.AST):
            if type(a) is not type(b):
                return False
            skipped = ("ctx", "kind", "type_comment")
            stack += [(getattr(a, f, None), getattr(b, f, None)) for f in a._fields if f not in skipped]
        elif isinstance(a, list):
            if not isinstance(b, list) or len(a) != len(b):
                return False
            stack += zip(a, b, strict=True)
        elif type(a) is not type(b) or a != b:
            return False
    return True


def same_type_parameters(one: ast.AST, other: ast.AST) -> bool:
    """Whether two definitions are generic in the same way (PEP 695, from Python 3.12 on)."""
    return same_all(getattr(one, "type_params", []), getattr(other, "type_params", []))


def same_all(some: Sequence[ast.AST], others: Sequence[ast.AST]) -> bool:
    """Whether two lists of trees say the same."""
    return len(some) == len(others) and all(map(same, some, others))


@lru_cache(maxsize=10_000)
def expression(text: str) -> ast.expr | None:
    """The tree of an expression; None of what is none."""
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError):
        pass
    try:  # what stands alone only in brackets: `*Ts`, `a := 1`
        body = ast.parse(f"({text},)", mode="eval").body
    except (SyntaxError, ValueError):
        return None
    return body.elts[0] if isinstance(body, ast.Tuple) and len(body.elts) == 1 else None


def says(text: str | None, node: ast.expr | None) -> bool:
    """Whether a text is the source of an expression; where there is none, there must be none."""
    if text is None or node is None:
        return text is None and node is None
    return same(expression(text), node)


def head(text: str, keyword: str) -> ast.stmt | None:
    """The tree of the head of a `def` or a `class`, without a body; None of what is none."""
    try:
        parsed = ast.parse(f"{text}: ...").body
    except (SyntaxError, ValueError):
        return None
    wanted = ast.ClassDef if keyword == "class" else (ast.FunctionDef, ast.AsyncFunctionDef)
    return parsed[0] if len(parsed) == 1 and isinstance(parsed[0], wanted) else None
