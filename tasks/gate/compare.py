"""Pages against the code that they document: every rule on what a page says of a symbol."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Set
from functools import cached_property
from itertools import zip_longest

from tasks.documents import Author, Finding
from tasks.gate.code import (
    Argument,
    Code,
    Definition,
    Function,
    callers_arguments,
    decorated_with,
    expression,
    head,
    is_decorated,
    raised,
    same,
    same_all,
    same_type_parameters,
    says,
    yields,
)
from tasks.gate.page import Page, ShownParameter, ShownSymbol, ShownText

_ORDINAL = re.compile(r"#\d+")
_WORD = re.compile(r"[^\W\d]\w*")
# What reads as code wherever it stands: a call, a dotted name, an underscore, an inner capital or word.
_CODE_LIKE = re.compile(
    r"[^\W\d][\w.]*\((?!e?s\))|[^\W\d]\w+(?:\.[^\W\d]\w+)+"
    r"|\w*_\w*|\w*[a-z][A-Z]\w*|\w*[A-Z]{2}[a-z]{2}\w*"
)
# "a Widget object", "an instance of Widget", "the class Widget": a class, unless Python itself is meant.
_CLASS = r"(?!(?:Python|Unicode)\b)([A-Z][a-z]\w*)"
_CLASS_LIKE = (
    re.compile(rf"(?<=[\w,] ){_CLASS} (?:class|exception|instance|object|subclass)(?:es|s)?\b"),
    re.compile(rf"\b(?:instances? of|subclass(?:es)? of|class|exception)(?: an?| the)? {_CLASS}"),
)
_CUT = "…"
_KINDS = ("module", "package")


class Comparison:
    """Compares one page with one file."""

    def __init__(self, name: str, page: Page, code: Code) -> None:
        self.name, self.page, self.code = name, page, code
        self.findings: list[Finding] = []

    def run(self) -> list[Finding]:
        """All that the page says and the file does not."""
        for symbol in self.page.symbols:
            if symbol.name:
                self._symbol(symbol)
            elif symbol.model_texts:
                self._model_texts(symbol)
        return self.findings

    def _found(
        self, rule: str, symbol: ShownSymbol, message: str, line: int = 0, author: Author = "docmill"
    ) -> None:
        self.findings.append(
            Finding(
                rule,
                author,
                f"{self.page.path}::{symbol.name}",
                message,
                self.name,
                line or symbol.line,
                self.page.path,
                symbol.source_line,
            )
        )

    # --- one symbol

    def _symbol(self, symbol: ShownSymbol) -> None:
        definitions = self.code.definitions.get(without_ordinal(symbol.name), [])
        here = [d for d in definitions if d.line == symbol.source_line]
        if not definitions:
            self._found("unknown-symbol", symbol, f"{symbol.name} is not defined in {self.page.path}")
        elif not here:
            lines = ", ".join(str(d.line) for d in definitions)
            message = f"{symbol.name} leads to line {symbol.source_line} and is defined in line {lines}"
            self._found("stale-line", symbol, message)
        else:
            name = without_ordinal(symbol.name)
            if without_ordinal(symbol.heading) != name:
                self._found("wrong-signature", symbol, f"{name} is headed {short(symbol.heading)!r}")
            if not is_of_kind(symbol.kind, here[0]):
                self._found("wrong-signature", symbol, f"{name} is no {symbol.kind}")
                return
            match here[0].node:
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    self._function(symbol, here[0], definitions)
                case ast.ClassDef() as node:
                    self._class(symbol, node)
                case node:
                    self._attribute(symbol, node)
            if symbol.model_texts:
                self._model_texts(symbol)

    def _function(self, symbol: ShownSymbol, here: Definition, definitions: list[Definition]) -> None:
        documented, overloads = overloaded(here, definitions)
        node = documented.node
        assert isinstance(node, Function)
        expected = [*overloads, node]
        if len(symbol.signatures) != len(expected):
            message = f"{symbol.name} has {len(expected)} signatures, and {len(symbol.signatures)} are shown"
            self._found("wrong-signature", symbol, message)
        for text, definition in zip(symbol.signatures, expected, strict=False):
            if not is_head_of(text, definition):
                self._found("wrong-signature", symbol, f"no signature of {symbol.name}: {short(text)}")
        self._decorators(symbol, node)
        if symbol.kind == "property":
            self._no_parameters(symbol)
        else:
            self._parameters(symbol, callers_arguments(documented))
        self._returns(symbol, node)
        derived = [exception for exception in symbol.raises if not exception.of_a_human]
        known = raised(node) if derived else set()
        for exception in derived:
            if exception.name not in known:
                message = f"{symbol.name} raises no {exception.name}"
                self._found("unknown-exception", symbol, message, exception.line)

    def _parameters(self, symbol: ShownSymbol, expected: list[Argument]) -> None:
        shown = [p.name for p in symbol.parameters]
        real = [a.name for a in expected]
        if shown != real:
            self._names(symbol, shown, real)
        by_name = {argument.name: argument for argument in expected}
        for row in symbol.parameters:
            if row.name in by_name and (wrong := _differs(row, by_name[row.name])):
                self._found("wrong-parameter", symbol, f"{symbol.name}: {row.name} {wrong}", row.line)

    def _names(self, symbol: ShownSymbol, shown: list[str], real: list[str]) -> None:
        lines = [p.line for p in symbol.parameters]
        unknown = [(name, line) for name, line in zip(shown, lines, strict=True) if name not in real]
        missing = [name for name in real if name not in shown]
        for name, line in unknown:
            self._found("unknown-parameter", symbol, f"{symbol.name} has no parameter {name}", line)
        for name in missing:
            self._found("missing-parameter", symbol, f"{symbol.name}: parameter {name} is not documented")
        if not unknown and not missing:
            at = next(n for n, (a, b) in enumerate(zip_longest(shown, real)) if a != b)
            message = f"{symbol.name}: parameters are {', '.join(real)}, and not {', '.join(shown)}"
            self._found("parameter-order", symbol, message, lines[at])

    def _returns(self, symbol: ShownSymbol, node: Function) -> None:
        if symbol.returns is None:
            return
        label, shown = symbol.returns
        generates = self.code.has_generators and yields(node)
        if label != ("Yields" if generates else "Returns"):
            verb = "yields" if generates else "returns"
            self._found("wrong-returns", symbol, f"{symbol.name} {verb}, and {label!r} is shown")
        if bool(shown) != (node.returns is not None) or (shown and not same(expression(shown), node.returns)):
            self._found(
                "wrong-returns", symbol, f"{symbol.name} does not return {short(shown) or 'just that'}"
            )

    def _decorators(self, symbol: ShownSymbol, node: Function | ast.ClassDef) -> None:
        real = iter(node.decorator_list)
        for text in symbol.decorators:  # in order, though not all of them need be shown
            shown = expression(text.removeprefix("@"))
            if not any(same(shown, decorator) for decorator in real):
                self._found("wrong-signature", symbol, f"{symbol.name} is not decorated with {short(text)}")

    def _class(self, symbol: ShownSymbol, node: ast.ClassDef) -> None:
        self._decorators(symbol, node)
        for text in symbol.signatures:
            if not is_class_head(text, node):
                self._found("wrong-signature", symbol, f"no signature of {symbol.name}: {short(text)}")
        if not symbol.signatures and (node.bases or node.keywords):
            self._found("wrong-signature", symbol, f"the bases of {symbol.name} are not shown")
        self._no_parameters(symbol)

    def _attribute(self, symbol: ShownSymbol, node: ast.AST) -> None:
        if len(symbol.signatures) != 1:
            self._found("wrong-signature", symbol, f"{symbol.name} is shown without what it is")
        for text in symbol.signatures:
            if not is_assignment_of(text, symbol.name.rpartition(".")[2], node):
                self._found("wrong-signature", symbol, f"{symbol.name} is not assigned so: {short(text)}")
        self._no_parameters(symbol)

    def _no_parameters(self, symbol: ShownSymbol) -> None:
        for row in symbol.parameters:
            message = f"{symbol.name} is no function, and has no parameter {row.name}"
            self._found("unknown-parameter", symbol, message, row.line)

    # --- texts of a model

    @cached_property
    def _known(self) -> Set[str]:
        """The words of the code and its path, of what the page lists or a human says there; kinds of file."""
        return self.code.words.union(_KINDS, *map(_WORD.findall, (self.page.path, self.page.words)))

    def _model_texts(self, symbol: ShownSymbol) -> None:
        for text in symbol.model_texts:
            for name in sorted(set(invented(text, self._known))):
                message = f"{symbol.name or self.page.path}: a model's text names {name}"
                self._found("invented-identifier", symbol, message, text.line, "model")


def invented(text: ShownText, known: Set[str]) -> Iterator[str]:
    """The words of all that looks like code in a model's text, and are not known."""
    classes = (name for pattern in _CLASS_LIKE for name in pattern.findall(text.text))
    for piece in (*text.code, *_CODE_LIKE.findall(text.text), *classes):
        for word in _WORD.findall(piece):
            if word not in known:
                yield word


def without_ordinal(name: str) -> str:
    """A qualified name without the `#2` of a further definition of it."""
    return _ORDINAL.sub("", name)


def overloaded(here: Definition, definitions: list[Definition]) -> tuple[Definition, list[Function]]:
    """What is documented by a symbol that is defined here, and the overloads that are shown with it.

    Overloads stand before the implementation. Without one, as in stubs, the last of them stands for it.
    """
    functions = [d for d in definitions if isinstance(d.node, Function)]
    at = functions.index(here)
    if _is_overload(here):
        end = next((n for n in range(at, len(functions)) if not _is_overload(functions[n])), len(functions))
        return functions[end - 1], [_function(d) for d in functions[at : end - 1]]
    start = at
    while start and _is_overload(functions[start - 1]):
        start -= 1
    return here, [_function(d) for d in functions[start:at]]


def _is_overload(definition: Definition) -> bool:
    return is_decorated(_function(definition), "overload")


def _function(definition: Definition) -> Function:
    assert isinstance(definition.node, Function)
    return definition.node


def is_head_of(text: str, node: Function) -> bool:
    """Whether a signature is that of a function."""
    shown = head(text, "def")
    return (
        isinstance(shown, Function)
        and type(shown) is type(node)
        and shown.name == node.name
        and same(shown.args, node.args)
        and same(shown.returns, node.returns)
        and same_type_parameters(shown, node)
    )


def is_class_head(text: str, node: ast.ClassDef) -> bool:
    """Whether a signature is that of a class."""
    shown = head(text, "class")
    return (
        isinstance(shown, ast.ClassDef)
        and shown.name == node.name
        and same_all(shown.bases, node.bases)
        and same_all(shown.keywords, node.keywords)
        and same_type_parameters(shown, node)
    )


def is_of_kind(kind: str, definition: Definition) -> bool:
    """Whether a definition is what a symbol is said to be."""
    node = definition.node
    if isinstance(node, ast.ClassDef):
        return kind == "class"
    if not isinstance(node, Function):
        return kind == "attribute"
    if kind == "property":
        return definition.in_class and any(
            name.endswith("property") or name in ("setter", "getter", "deleter")
            for name in decorated_with(node)
        )
    return kind == ("method" if definition.in_class else "function")


def is_assignment_of(text: str, name: str, node: ast.AST) -> bool:
    """Whether `name: type = value` is what a statement says; an ellipsis stands for any value."""
    is_cut = text.endswith(f" = {_CUT}")
    try:
        shown = ast.parse(text.removesuffix(f" = {_CUT}")).body[0]
    except (SyntaxError, ValueError, IndexError):
        return False
    match shown:
        case ast.Expr(value=ast.Name(id=found)):
            annotation, value = None, None
        case ast.AnnAssign(target=ast.Name(id=found), annotation=annotation, value=value):
            pass
        case ast.Assign(targets=[ast.Name(id=found)], value=value):
            annotation = None
        case _:
            return False
    if found != without_ordinal(name) or not same(annotation, getattr(node, "annotation", None)):
        return False
    real = getattr(node, "value", None)
    if is_cut:
        return real is not None
    return same(value, real) or (value is None and _takes_a_part(node))


def _takes_a_part(node: ast.AST) -> bool:
    """Whether an assignment unpacks its value, so that none of its names takes the whole."""
    targets = getattr(node, "targets", [])
    return any(isinstance(target, ast.Tuple | ast.List) for target in targets)


def _differs(row: ShownParameter, argument: Argument) -> str:
    """What a row says wrongly of a parameter, if anything."""
    if row.kind != argument.kind:
        return f"is {argument.kind or 'positional or keyword'}, and not {row.kind or 'both'}"
    if row.annotation is not None and not says(row.annotation, argument.annotation):
        return f"has no type {short(row.annotation)}"
    if row.annotation is None and argument.annotation is not None:
        return "is shown without its type"
    if row.default is None and argument.default is not None:
        return "is shown without its default"
    if row.default is not None and not says(row.default, argument.default):
        return f"does not default to {short(row.default)}"
    needed = argument.default is None and not argument.name.startswith("*")
    if row.required != needed:
        return "is required" if needed else "is not required"
    return ""


def short(text: str) -> str:
    """What a message shows of a piece of code."""
    line = " ".join(text.split())
    return line if len(line) <= 80 else f"{line[:79]}…"
