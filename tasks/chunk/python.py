"""Python source into symbols, from the syntax tree alone.

The tree comes from the running interpreter's parser; nothing is imported or executed.
Source text (annotations, defaults, bases) is cut from the file by node positions, so
that a signature reads as its author wrote it. What a name refers to in other files is
not decided here.
"""

from __future__ import annotations

import ast
import inspect
import io
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from tasks.chunk import contradictions, docstrings
from tasks.chunk.special_methods import SPECIAL_METHODS
from tasks.documents import Contradiction, Kind, Parameter, Slot, Surface, Symbol
from tasks.keys import digest_bytes
from tasks.secrets import has_secret

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
Definition = FunctionNode | ast.ClassDef

_CHILD_FIELDS = {
    kind: tuple(name for name in kind._fields if name not in ("ctx", "type_comment", "kind"))
    for kind in vars(ast).values()
    if isinstance(kind, type) and issubclass(kind, ast.AST)
}
_CONDITIONAL = (
    *(ast.If, ast.Try, ast.TryStar, ast.With, ast.For, ast.While, ast.Match),
    *(ast.ExceptHandler, ast.match_case),
)
_BLOCKS = ("body", "handlers", "cases", "orelse", "finalbody")
_ACCESSORS = ("setter", "deleter", "getter")
_OPENING, _CLOSING = ("(", "[", "{"), (")", "]", "}")
_NOT_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER)
_DATACLASS = {"dataclass", "define", "frozen", "mutable", "attrs"}
_LONGEST_VALUE = 200
_TALLEST_VALUE = 8
_MOST_MESSAGES = 3


class ParsedModule(Struct):
    """What one file says: its symbols, its surface, the imports made inside functions, and contradictions."""

    symbols: list[Symbol]
    surface: Surface
    local_imports: dict[str, str]
    contradictions: list[Contradiction]


def parse_module(source: str, path: str, name: str) -> ParsedModule:
    """Parse one file.

    Args:
        source: The file's text.
        path: Its path from the source root.
        name: The module's dotted name.

    Raises:
        SyntaxError: The running interpreter's grammar rejects the text.
        RecursionError, MemoryError: It is nested too deeply to be parsed.
    """
    tree = ast.parse(source)
    package = path.rsplit("/", 1)[-1] in ("__init__.py", "__init__.pyi")
    return _Chunker(source, path, name, package).run(tree)


class _Body(Struct):
    """What the statements of one definition refer to, raise and return.

    `trace` spells out the syntax tree without docstrings, comments and formatting.
    """

    names: dict[str, None]
    raises: dict[str, list[str]]
    returns: bool
    yields: bool
    nested: list[Definition]
    trace: list[str]


class _Chunker:
    def __init__(self, source: str, path: str, name: str, package: bool) -> None:
        self.path, self.module, self.package = path, name, package
        self.data = source.encode()
        self.offsets = [0]
        for line in self.data.splitlines(keepends=True):
            self.offsets.append(self.offsets[-1] + len(line))
        self.has_comment_docstrings = b"#:" in self.data
        self.symbols: dict[str, Symbol] = {}
        self.imports: dict[str, str] = {}
        self.local_imports: dict[str, str] = {}
        self.stars: list[str] = []
        self.exports: list[str] | None = None
        self.pending_overloads: dict[str, list[Symbol]] = {}
        self.contradictions: list[Contradiction] = []

    def run(self, tree: ast.Module) -> ParsedModule:
        kind: Kind = "package" if self.package else "module"
        slots = self._prose_slots(_docstring(tree))
        last_line = max(1, len(self.offsets) - 1)
        self.symbols[""] = Symbol("", kind, 1, last_line, expected=("summary",))
        module_names: dict[str, None] = {}
        self._statements(tree.body, "", module_names)
        self._flush_overloads("")
        self.symbols[""] = replace(self.symbols[""], slots=slots, names=tuple(module_names))
        symbols = [replace(s, mentions=_mentions(s)) for s in self.symbols.values()]
        members = {symbol.name: symbol.kind for symbol in symbols if symbol.name}
        bases = {symbol.name: symbol.bases for symbol in symbols if symbol.bases}
        surface = Surface(
            self.path,
            self.module,
            self.package,
            members,
            self.imports,
            tuple(self.stars),
            None if self.exports is None else tuple(dict.fromkeys(self.exports)),
            bases,
        )
        return ParsedModule(symbols, surface, self.local_imports, self.contradictions)

    # --- source text

    def _text(self, node: ast.AST) -> str:
        """The node's source on one line."""
        if isinstance(node, ast.NamedExpr | ast.Yield | ast.YieldFrom):  # brackets are not part of the node
            return f"({self._piece(node)})"
        return self._piece(node)

    def _piece(self, node: ast.AST) -> str:
        start = self.offsets[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        end = self.offsets[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        piece = self.data[start:end].decode()
        if node.lineno == node.end_lineno:  # type: ignore[attr-defined]
            return piece
        if (line := _on_one_line(piece)) is not None:
            return line
        try:
            return ast.unparse(node)
        except ValueError:  # a number too long to be printed
            return " ".join(piece.split())

    def _optional_text(self, node: ast.AST | None) -> str | None:
        return None if node is None else self._text(node)

    # --- statements of a module or class body

    def _statements(self, body: list[ast.stmt], scope: str, names: dict[str, None]) -> None:
        for position, node in enumerate(body):
            if isinstance(node, FunctionNode):
                self._function(node, scope)
            elif isinstance(node, ast.ClassDef):
                self._class(node, scope)
            elif (
                isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign)
                or type(node).__name__ == "TypeAlias"
            ):
                self._assignment(node, scope, _following_docstring(body, position), names)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                self._import(node, self.imports if not scope else self.local_imports)
            elif isinstance(node, _CONDITIONAL):
                for branch in _branches(node):
                    self._conditional(branch, scope, names)
            elif isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant):
                self._exports_call(node.value, scope)
                names.update(_names_in([node], set()))

    def _conditional(self, node: ast.AST, scope: str, names: dict[str, None]) -> None:
        for field in ("test", "iter", "items", "type", "subject", "pattern", "guard"):
            part = getattr(node, field, None)
            names.update(_names_in(part if isinstance(part, list) else [part] if part else [], set()))
        for field in _BLOCKS:
            if field != "orelse" or _elif(node) is None:
                self._statements(getattr(node, field, []), scope, names)

    def _import(self, node: ast.Import | ast.ImportFrom, into: dict[str, str]) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                root = alias.name.split(".", 1)[0]
                into.setdefault(alias.asname or root, alias.name if alias.asname else root)
            return
        origin = self._absolute(node.module or "", node.level)
        for alias in node.names:
            if alias.name == "*":
                self.stars.append(origin)
            else:
                into.setdefault(
                    alias.asname or alias.name, f"{origin}.{alias.name}" if origin else alias.name
                )

    def _absolute(self, module: str, level: int) -> str:
        if not level:
            return module
        parts = self.module.split(".")
        keep = len(parts) - level + (1 if self.package else 0)
        return ".".join([*parts[: max(keep, 0)], *([module] if module else [])])

    # --- assignments

    def _assignment(self, node: ast.stmt, scope: str, docstring: str | None, names: dict[str, None]) -> None:
        value = getattr(node, "value", None)
        targets = getattr(node, "targets", None) or [
            getattr(node, "target", None) or getattr(node, "name", None)
        ]
        if not scope and any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
            self._export(value, replace_all=not isinstance(node, ast.AugAssign))
            return
        if isinstance(node, ast.AugAssign):
            names.update(_names_in([node], set()))
            return
        docstring = docstring or self._comment_docstring(node)
        for target, is_whole in _plain_targets(targets):
            self._attribute(node, target, scope, docstring, is_whole)

    def _comment_docstring(self, node: ast.stmt) -> str | None:
        """The text of `#:` comments right above an assignment, or behind it, as Sphinx reads them."""
        if not self.has_comment_docstrings:
            return None
        behind = self._line(node.end_lineno or node.lineno)[node.end_col_offset or 0 :].strip()
        if behind.startswith(b"#:"):
            return behind.removeprefix(b"#:").decode().strip()
        above: list[bytes] = []
        number = node.lineno - 1
        while number > 0 and (line := self._line(number).strip()).startswith(b"#:"):
            above.insert(0, line.removeprefix(b"#:").removeprefix(b" ").rstrip())
            number -= 1
        return b"\n".join(above).decode() or None

    def _line(self, number: int) -> bytes:
        return self.data[self.offsets[number - 1] : self.offsets[number]]

    def _attribute(
        self, node: ast.stmt, name: str, scope: str, docstring: str | None, is_whole: bool = True
    ) -> None:
        qualified = _join(scope, name)
        if qualified in self.symbols:
            return
        value, annotation = getattr(node, "value", None), getattr(node, "annotation", None)
        written = self._value_text(name, value) if is_whole else None
        returns = self._optional_text(annotation)
        signature = name + (f": {returns}" if returns else "") + (f" = {written}" if written else "")
        parts = [part for part in (value, annotation) if part is not None]
        self.symbols[qualified] = Symbol(
            qualified,
            "attribute",
            node.lineno,
            node.end_lineno or node.lineno,
            signature,
            returns=returns,
            value=written,
            slots=self._prose_slots(docstring),
            expected=("summary",),
            names=tuple(_names_in(parts, set())),
            # Of what is not shown whole, a text may be about the rest.
            code=_code_digest(self._text(value).split()) if value is not None and written == "…" else "",
        )

    def _value_text(self, name: str, value: ast.expr | None) -> str | None:
        """A value as written, or an ellipsis where it is too long to be shown, or a secret."""
        if value is None:
            return None
        if (value.end_lineno or value.lineno) - value.lineno > _TALLEST_VALUE:
            return "…"
        written = self._text(value)
        return "…" if len(written) > _LONGEST_VALUE or has_secret(f"{name} = {written}") else written

    def _export(self, value: ast.expr | None, replace_all: bool) -> None:
        """Note what `__all__` lists; a value that only a run could tell does not count."""
        written = list(_exported(value))
        if not written and not _is_empty(value):
            return
        if replace_all or self.exports is None:
            self.exports = written
        else:
            self.exports += written

    def _exports_call(self, node: ast.expr, scope: str) -> None:
        """`__all__.extend([...])` and `__all__.append("...")`."""
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="__all__"), attr=method), args=[argument]):
                if not scope and method in ("extend", "append"):
                    self._export(argument, replace_all=False)

    # --- definitions

    def _class(self, node: ast.ClassDef, scope: str) -> None:
        qualified = self._free_name(_join(scope, node.name))
        written_bases = [self._text(base) for base in node.bases]
        keywords = [
            f"{k.arg}={self._text(k.value)}" if k.arg else f"**{self._text(k.value)}" for k in node.keywords
        ]
        parameters = ", ".join(written_bases + keywords)
        labels = (
            ["dataclass"] if _DATACLASS & {_last(self._text(_callee(d))) for d in node.decorator_list} else []
        )
        names = _names_in([*node.decorator_list, *node.bases, *(k.value for k in node.keywords)], set())
        text = _docstring(node)
        parsed = docstrings.parse(text) if text else docstrings.ParsedDocstring()
        self.symbols[qualified] = Symbol(
            qualified,
            "class",
            _first_line(node),
            node.end_lineno or node.lineno,
            f"class {node.name}" + (f"({parameters})" if parameters else ""),
            labels=tuple(labels),
            decorators=tuple(self._text(d) for d in node.decorator_list),
            bases=tuple(
                _base_name(base) or text for base, text in zip(node.bases, written_bases, strict=True)
            ),
            expected=("summary",),
        )
        members: dict[str, None] = dict(names)
        self._statements(node.body, qualified, members)
        self._flush_overloads(f"{qualified}.")
        self._settle_class_docs(node, qualified, parsed)
        self.symbols[qualified] = replace(self.symbols[qualified], names=tuple(members))

    def _settle_class_docs(
        self, node: ast.ClassDef, qualified: str, parsed: docstrings.ParsedDocstring
    ) -> None:
        """Parameters described by a class belong to its constructor, attributes to themselves."""
        attributes = self._describe_attributes(qualified, parsed.attributes)
        constructor = next(
            (c for name in ("__init__", "__new__") if (c := self.symbols.get(f"{qualified}.{name}"))), None
        )
        described = parsed.parameters
        if constructor is not None and constructor.kind == "method":
            known = {p.name for p in constructor.parameters}
            given = {f"param.{n}": Slot(t, "human") for n, t in described.items() if n in known and t}
            slots = given | constructor.slots
            types = {name: kind for name, kind in parsed.types.items() if name in known}
            self.symbols[constructor.name] = replace(
                constructor, slots=_ordered(slots), doc_types=types | constructor.doc_types
            )
            lists = {
                _title_of_unknown(constructor.parameters): {
                    n: t for n, t in described.items() if n not in known
                },
                # The constructor's own docstring says something else.
                _BY_THE_DOCSTRING: {
                    slot.removeprefix("param."): text.text
                    for slot, text in given.items()
                    if slots[slot] != text
                },
            }
            self._class_contradictions(node, qualified, parsed, constructor.parameters, constructor.line)
        elif constructor is None and self._takes_its_attributes(node, qualified):
            lists = {_NOT_IN_THE_SIGNATURE: self._describe_attributes(qualified, described)}
            self._class_contradictions(node, qualified, parsed, ())
        else:
            lists = {_BY_THE_DOCSTRING: self._describe_attributes(qualified, described)}
        description = _with_lists(parsed.description, lists | {"Attributes": attributes})
        slots = _human(summary=parsed.summary, description=description)
        self.symbols[qualified] = replace(self.symbols[qualified], slots=slots)

    def _takes_its_attributes(self, node: ast.ClassDef, qualified: str) -> bool:
        """Whether a class without a constructor of its own takes its attributes, or nothing at all."""
        symbol = self.symbols[qualified]
        bases = {_last(base) for base in symbol.bases}
        plain = all(_is_labelled(self._text(_callee(d)), node.name) for d in node.decorator_list)
        return (plain or "dataclass" in symbol.labels) and not node.keywords and bases <= _WITHOUT_PARAMETERS

    def _class_contradictions(
        self,
        node: ast.ClassDef,
        qualified: str,
        parsed: docstrings.ParsedDocstring,
        parameters: tuple[Parameter, ...],
        constructor_line: int = 0,
    ) -> None:
        """Note what the docstring of a class says of its constructor that is not so."""
        if not parsed.parameters:
            return
        prefix = f"{qualified}."
        members = [name.removeprefix(prefix) for name in self.symbols if name.startswith(prefix)]
        known = (*parameters, *(Parameter(name, "keyword_only") for name in members))
        found = contradictions.of_parameters(parsed, known, self._docstring_lines(node))
        heads = [
            max(inner.lineno, inner.body[0].lineno - 1)
            for inner in node.body
            if isinstance(inner, ast.FunctionDef) and inner.name in ("__init__", "__new__")
        ]
        span = _first_line(node), max(node.body[0].end_lineno or 0, *heads, constructor_line)
        self.contradictions += contradictions.in_symbol(self.path, qualified, span, found)

    def _describe_attributes(self, qualified: str, described: dict[str, str]) -> dict[str, str]:
        """Give attributes their texts from the class docstring; return what matched none."""
        left = {}
        for name, text in described.items():
            attribute = self.symbols.get(f"{qualified}.{name}")
            if attribute is None or attribute.kind != "attribute":
                left[name] = text
            elif not attribute.slots:
                self.symbols[attribute.name] = replace(attribute, slots=self._prose_slots(text))
        return left

    def _function(self, node: FunctionNode, scope: str, inside_function: bool = False) -> None:
        decorators = [self._text(_callee(d)) for d in node.decorator_list]
        name = _join(scope, node.name)
        if name in self.symbols and any(_is_accessor(d, node.name) for d in decorators):
            self._fold_accessor(name, node, decorators)
            return
        in_class = not inside_function and bool(scope)
        symbol, body = self._signature_symbol(node, name, decorators, in_class)
        if any(_last(d) == "overload" for d in decorators):
            self.pending_overloads.setdefault(name, []).append(symbol)
            return
        overloads = self.pending_overloads.pop(name, [])
        qualified = self._free_name(name)
        self.symbols[qualified] = replace(
            symbol,
            name=qualified,
            slots=_with_texts_of_overloads(symbol, overloads),
            overloads=tuple(overload.signature for overload in overloads),
        )
        if in_class and node.name == "__init__":
            self._instance_attributes(node, scope)
        for inner in body.nested:
            if isinstance(inner, ast.ClassDef):
                self._class(inner, qualified)
            else:
                self._function(inner, qualified, inside_function=True)

    def _signature_symbol(
        self, node: FunctionNode, name: str, decorators: list[str], in_class: bool
    ) -> tuple[Symbol, _Body]:
        parameters = tuple(self._parameters(node.args))
        returns = self._optional_text(node.returns)
        head = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
        signature = f"{head} {node.name}({_written(parameters)})" + (f" -> {returns}" if returns else "")
        is_property = in_class and any(
            _last(d).endswith("property") or _is_accessor(d, node.name) for d in decorators
        )
        kind: Kind = "property" if is_property else "method" if in_class else "function"
        positional = [*node.args.posonlyargs, *node.args.args]
        receiver = positional[0].arg if in_class and positional and "staticmethod" not in decorators else None
        body = self._body(node, receiver)
        text = _docstring(node)
        parsed = docstrings.parse(text) if text else docstrings.ParsedDocstring()
        if text and not any(_last(d) == "overload" for d in decorators):
            overloads = self.pending_overloads.get(name, ())
            known = (*parameters, *(p for overload in overloads for p in overload.parameters))
            # What a decorator takes, the signature does not tell.
            plain = kind != "property" and all(
                _is_labelled(d, node.name) or _last(d) in _TAKING_THE_SAME for d in decorators
            )
            self._contradictions(node, name, parsed, known if plain else None, returns, body)
        described = [p.name for p in parameters if p.name != receiver]
        expected = ["summary", *(f"param.{p}" for p in described)]
        if (
            (body.returns or returns)
            and returns not in ("None", "NoReturn", "typing.NoReturn")
            and kind != "property"
        ):
            expected.append("returns")
        expected += [f"raises.{error}" for error in body.raises]
        symbol = Symbol(
            name,
            kind,
            _first_line(node),
            node.end_lineno or node.lineno,
            signature,
            parameters,
            returns,
            _labels(node, decorators) + (("generator",) if body.yields else ()),
            slots=_special(node.name, in_class) | _function_slots(parsed, parameters, body),
            expected=tuple(expected),
            names=tuple(body.names),
            decorators=tuple(
                self._text(d)
                for d, name in zip(node.decorator_list, decorators, strict=True)
                if not _is_labelled(name, node.name)
            ),
            doc_types=_types_of_what_exists(parsed, parameters),
            code=_code_digest([signature, *decorators, *body.trace]),
        )
        return symbol, body

    def _contradictions(
        self,
        node: FunctionNode,
        name: str,
        parsed: docstrings.ParsedDocstring,
        parameters: tuple[Parameter, ...] | None,
        returns: str | None,
        body: _Body,
    ) -> None:
        """Note what the docstring of a function says that is not so; a property's may be of what it gives."""
        lines = self._docstring_lines(node)
        found = (
            list(contradictions.of_parameters(parsed, parameters, lines)) if parameters is not None else []
        )
        if not _is_stub(node):
            found += contradictions.of_result(parsed, returns, body.returns, lines)
        span = _first_line(node), node.body[0].end_lineno or node.lineno
        self.contradictions += contradictions.in_symbol(self.path, name, span, found)

    def _docstring_lines(self, node: Definition) -> contradictions.Lines:
        first, last = node.body[0].lineno, node.body[0].end_lineno or node.body[0].lineno
        text = self.data[self.offsets[first - 1] : self.offsets[last]].decode()
        return contradictions.Lines(text, first)

    def _parameters(self, arguments: ast.arguments) -> Iterator[Parameter]:
        positional = [*arguments.posonlyargs, *arguments.args]
        defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
        for index, (argument, default) in enumerate(zip(positional, defaults, strict=True)):
            kind = "positional_only" if index < len(arguments.posonlyargs) else "positional_or_keyword"
            yield self._parameter(argument, kind, default)
        if arguments.vararg:
            yield self._parameter(arguments.vararg, "var_positional", None)
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
            yield self._parameter(argument, "keyword_only", default)
        if arguments.kwarg:
            yield self._parameter(arguments.kwarg, "var_keyword", None)

    def _parameter(self, argument: ast.arg, kind: str, default: ast.expr | None) -> Parameter:
        return Parameter(
            argument.arg, kind, self._optional_text(argument.annotation), self._optional_text(default)
        )

    def _fold_accessor(self, name: str, node: FunctionNode, decorators: list[str]) -> None:
        """A setter or deleter belongs to its property."""
        base = self.symbols[name]
        body = self._body(node, node.args.args[0].arg if node.args.args else None)
        names = dict.fromkeys([*base.names, *body.names])
        labels = dict.fromkeys([*base.labels, *_labels(node, decorators)])
        code = _code_digest([base.code, *decorators, *body.trace])
        self.symbols[name] = replace(base, names=tuple(names), labels=tuple(labels), code=code)

    def _flush_overloads(self, prefix: str) -> None:
        """Overloads without an implementation (stubs): the last stands for all."""
        for name in [name for name in self.pending_overloads if name.startswith(prefix)]:
            *others, last = self.pending_overloads.pop(name)
            qualified = self._free_name(name)
            self.symbols[qualified] = replace(
                last,
                name=qualified,
                line=min(symbol.line for symbol in (*others, last)),
                slots=next((symbol.slots for symbol in (last, *others) if symbol.slots), {}),
                overloads=tuple(symbol.signature for symbol in others),
            )

    def _instance_attributes(self, node: FunctionNode, scope: str) -> None:
        """`self.x = …` in a constructor defines an attribute of the class."""
        if not node.args.args:
            return
        receiver = node.args.args[0].arg
        for statement, docstring in _own_statements(node.body):
            if isinstance(statement, ast.Assign | ast.AnnAssign):
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                for target in targets:
                    match target:
                        case ast.Attribute(value=ast.Name(id=owner), attr=name) if owner == receiver:
                            text = docstring or self._comment_docstring(statement)
                            self._attribute(statement, name, scope, text)

    def _free_name(self, name: str) -> str:
        """The name itself, or with `#2`, `#3` … for a further definition of it."""
        if name not in self.symbols:
            return name
        count = 2
        while f"{name}#{count}" in self.symbols:
            count += 1
        return f"{name}#{count}"

    # --- bodies

    def _body(self, node: FunctionNode, receiver: str | None) -> _Body:
        arguments = node.args
        bound = {a.arg for a in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]}
        bound |= {a.arg for a in (arguments.vararg, arguments.kwarg) if a}
        body = _Body({}, {}, False, False, [], [])
        head = [*node.decorator_list, arguments, *([node.returns] if node.returns else [])]
        for part in head:
            body.names.update(_names_in([part], set()))
        found: dict[str, None] = {}
        stores: set[str] = set()
        for statement in node.body:
            if not _is_text(statement):
                self._walk_body(statement, body, found, stores)
        bound |= stores - self.local_imports.keys()
        for name in found:
            root, _, rest = name.partition(".")
            if root == receiver and rest:
                body.names.setdefault(f"self.{rest}")
            elif root not in bound:
                body.names.setdefault(name)
        return body

    def _walk_body(self, statement: ast.stmt, body: _Body, found: dict[str, None], stores: set[str]) -> None:
        stack: list[ast.AST] = [statement]
        trace = body.trace
        while stack:
            node = stack.pop()
            kind = type(node)
            trace.append(kind.__name__)
            if kind is ast.Name:
                trace.append(node.id)  # type: ignore[attr-defined]
                if type(node.ctx) is ast.Load:  # type: ignore[attr-defined]
                    found.setdefault(node.id)  # type: ignore[attr-defined]
                else:
                    stores.add(node.id)  # type: ignore[attr-defined]
            elif kind is ast.Attribute:
                trace += _attribute_chain(node, found, stack)  # type: ignore[arg-type]
            elif kind is ast.Constant:
                trace.append(_spelled(node.value))  # type: ignore[attr-defined]
            elif kind in (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef):
                body.nested.append(node)  # type: ignore[arg-type]
                trace.append(ast.dump(node))
                stores.add(node.name)  # type: ignore[attr-defined]
            elif kind in (ast.Import, ast.ImportFrom):
                self._import(node, self.local_imports)  # type: ignore[arg-type]
                trace.append(ast.dump(node))
            else:
                if kind is ast.Raise:
                    self._note_raise(node, body)  # type: ignore[arg-type]
                elif kind is ast.Return:
                    body.returns = body.returns or not _is_none(node.value)  # type: ignore[attr-defined]
                elif kind in (ast.Yield, ast.YieldFrom):
                    body.returns = body.yields = True
                _push_children(node, stack, trace)

    def _note_raise(self, node: ast.Raise, body: _Body) -> None:
        raised = node.exc
        message = ""
        if isinstance(raised, ast.Call):
            message = _message(raised.args[0]) if raised.args else ""
            raised = raised.func
        if has_secret(message):
            message = ""
        if (
            isinstance(raised, ast.Name | ast.Attribute)
            and (name := _dotted(raised))
            and _is_class_name(name)
        ):
            messages = body.raises.setdefault(name, [])
            if message and message not in messages and len(messages) < _MOST_MESSAGES:
                messages.append(message)

    def _prose_slots(self, text: str | None) -> dict[str, Slot]:
        if not text:
            return {}
        parsed = docstrings.parse(text)
        lists = {_BY_THE_DOCSTRING: parsed.parameters, "Attributes": parsed.attributes}
        return _human(summary=parsed.summary, description=_with_lists(parsed.description, lists))


# --- slots


def _human(**texts: str) -> dict[str, Slot]:
    return {name: Slot(text, "human") for name, text in texts.items() if text.strip()}


def _with_lists(description: str, lists: Mapping[str, dict[str, str]]) -> str:
    """A description with lists of what it describes under their titles."""
    parts = [f"**{title}**\n\n{docstrings.listing(entries)}" for title, entries in lists.items() if entries]
    return "\n\n".join(part for part in (description, *parts) if part)


def _title_of_unknown(parameters: Iterable[Parameter]) -> str:
    """What parameters are called that a docstring describes, and a signature lacks."""
    takes_any = any(p.kind == "var_keyword" for p in parameters)
    return "Further keyword arguments" if takes_any else _NOT_IN_THE_SIGNATURE


def _special(name: str, in_class: bool) -> dict[str, Slot]:
    text = SPECIAL_METHODS.get(name) if in_class else None
    return {"summary": Slot(text, "derived")} if text else {}


def _types_of_what_exists(
    parsed: docstrings.ParsedDocstring, parameters: tuple[Parameter, ...]
) -> dict[str, str]:
    known = {p.name for p in parameters} | {"return"}
    return {name: kind for name, kind in parsed.types.items() if name in known}


def _function_slots(
    parsed: docstrings.ParsedDocstring, parameters: tuple[Parameter, ...], body: _Body
) -> dict[str, Slot]:
    """What the docstring says of what exists, and what `raise` statements tell.

    A documented parameter that the signature lacks is no slot, for it does not exist; what the
    human wrote of it is kept as prose that says so, or as a keyword where `**kwargs` can take it.
    """
    known = {p.name for p in parameters}
    stray = {name: text for name, text in parsed.parameters.items() if name not in known}
    description = _with_lists(parsed.description, {_title_of_unknown(parameters): stray})
    texts = {"summary": parsed.summary, "description": description}
    texts |= {f"param.{p.name}": parsed.parameters.get(p.name, "") for p in parameters}
    texts["returns"] = parsed.returns
    texts |= {f"raises.{name}": text for name, text in parsed.raises.items()}
    slots = _human(**texts)
    documented = {_last(name) for name in parsed.raises}
    for name, messages in body.raises.items():
        if messages and _last(name) not in documented:
            slots[f"raises.{name}"] = Slot("; ".join(messages), "derived")
    return slots


def _with_texts_of_overloads(symbol: Symbol, overloads: Sequence[Symbol]) -> dict[str, Slot]:
    """An implementation's texts; without a docstring, those of its overloads.

    The first that has one stands for all; what it says of parameters that the implementation lacks, and what
    the others say, follows as lists.
    """
    described = [o for o in overloads if any(s.origin == "human" for s in o.slots.values())]
    if not described or any(slot.origin == "human" for slot in symbol.slots.values()):
        return symbol.slots
    first, others = described[0].slots, described[1:]
    lacked = {f"param.{p.name}" for o in overloads for p in o.parameters} - {
        f"param.{p.name}" for p in symbol.parameters
    }
    further = {
        o.signature: "\n\n".join(s.text for s in o.slots.values() if s.origin == "human") for o in others
    }
    description = _with_lists(
        first["description"].text if "description" in first else "",
        {
            _BY_THE_DOCSTRING: {n.removeprefix("param."): first[n].text for n in first if n in lacked},
            "Overloads": further,
        },
    )
    found = {name: slot for name, slot in first.items() if name not in lacked}
    return _ordered(symbol.slots | found | _human(description=description))


_SLOT_ORDER = {"summary": 0, "description": 1, "param": 2, "returns": 3, "raises": 4}


def _ordered(slots: dict[str, Slot]) -> dict[str, Slot]:
    return dict(sorted(slots.items(), key=lambda item: _SLOT_ORDER[item[0].split(".", 1)[0]]))


def _mentions(symbol: Symbol) -> tuple[str, ...]:
    texts = (slot.text for slot in symbol.slots.values() if slot.origin == "human")
    return tuple(dict.fromkeys(name for text in texts for name in docstrings.mentioned(text)))


# --- small readings of the tree


def _join(scope: str, name: str) -> str:
    return f"{scope}.{name}" if scope else name


def _last(dotted: str) -> str:
    return dotted.rsplit(".", 1)[-1]


def _first_line(node: Definition) -> int:
    return node.decorator_list[0].lineno if node.decorator_list else node.lineno


def _callee(node: ast.expr) -> ast.expr:
    return node.func if isinstance(node, ast.Call) else node


def _base_name(node: ast.expr) -> str | None:
    """The dotted name of a base class; `Generic[T]` names `Generic`."""
    return _dotted(node.value if isinstance(node, ast.Subscript) else node)


def _dotted(node: ast.expr) -> str | None:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    return ".".join([node.id, *reversed(parts)])


def _is_accessor(decorator: str, name: str) -> bool:
    """`@x.setter` of a property `x`; `@Base.x.setter` where a base class has it."""
    owner, _, role = decorator.rpartition(".")
    return role in _ACCESSORS and _last(owner) == name


def _is_none(node: ast.expr | None) -> bool:
    return node is None or (isinstance(node, ast.Constant) and node.value is None)


def _is_class_name(name: str) -> bool:
    """`raise error` re-raises a variable; an exception class starts with a capital."""
    return _last(name).lstrip("_")[:1].isupper()


def _message(node: ast.expr) -> str:
    """The text of an exception's message on one line, with an ellipsis for each computed part."""
    return " ".join(_literal_text(node).split())


def _literal_text(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return _encodable(text)
        case ast.JoinedStr(values=parts):
            return "".join(_literal_text(part) or "…" for part in parts)
        case ast.BinOp(left=left, op=ast.Mod() | ast.Add()):
            return _literal_text(left)
        case ast.Call(func=ast.Attribute(value=text, attr="format")):
            return _literal_text(text)
    return ""


# Titles of lists of parameters that are no slots: what is not so, and what a file alone cannot tell.
_NOT_IN_THE_SIGNATURE = "Described, but not in the signature"
_BY_THE_DOCSTRING = "Parameters, by the docstring"
# Bases from which a class inherits no constructor that takes anything but its own attributes.
_WITHOUT_PARAMETERS = {"object", "Generic", "NamedTuple", "Protocol", "TypedDict", "ABC"}

# Decorators that a label on the page, the kind of a symbol or its overloads tell of.
_LABELLED = {"classmethod", "staticmethod", "abstractmethod", "cached_property", "final", "override"}
_LABELLED |= {"property", "overload"}
# The standard library's others of which the result takes what the function takes.
_TAKING_THE_SAME = {"asynccontextmanager", "cache", "contextmanager", "lru_cache"}


def _is_labelled(decorator: str, name: str) -> bool:
    return _last(decorator) in _LABELLED or _is_accessor(decorator, name)


def _labels(node: FunctionNode, decorators: list[str]) -> tuple[str, ...]:
    labels = ["async"] if isinstance(node, ast.AsyncFunctionDef) else []
    if any(_last(d) == "setter" and _is_accessor(d, node.name) for d in decorators):
        labels.append("writable")
    known = ("classmethod", "staticmethod", "abstractmethod", "cached_property", "final", "override")
    return (*labels, *(name for name in known if any(_last(d) == name for d in decorators)))


def _written(parameters: tuple[Parameter, ...]) -> str:
    """Parameters as in a `def`, with the `/` and `*` markers where they belong."""
    parts: list[str] = []
    kinds = [p.kind for p in parameters]
    for index, p in enumerate(parameters):
        if p.kind == "keyword_only" and not {"var_positional", "keyword_only"} & set(kinds[:index]):
            parts.append("*")
        star = {"var_positional": "*", "var_keyword": "**"}.get(p.kind, "")
        text = star + p.name + (f": {p.annotation}" if p.annotation is not None else "")
        if p.default is not None:
            text += f" = {p.default}" if p.annotation is not None else f"={p.default}"
        parts.append(text)
        if p.kind == "positional_only" and "positional_only" not in kinds[index + 1 :]:
            parts.append("/")
    return ", ".join(parts)


def _plain_targets(targets: Iterable[ast.expr], is_whole: bool = True) -> Iterator[tuple[str, bool]]:
    """The names that are assigned to, and whether each takes the whole value."""
    for target in targets:
        match target:
            case ast.Name(id=name):
                yield name, is_whole
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                yield from _plain_targets(parts, is_whole=False)
            case ast.Starred(value=part):
                yield from _plain_targets([part], is_whole=False)


def _exported(node: ast.expr | None) -> Iterator[str]:
    """The names that a value of `__all__` lists; `module.*` for all that another module's lists."""
    match node:
        case ast.Constant(value=str(text)):
            yield _encodable(text)
        case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
            for item in items:
                yield from _exported(item)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            yield from _exported(left)
            yield from _exported(right)
        case ast.Starred(value=inner) | ast.Call(func=ast.Name(id="list" | "tuple" | "sorted"), args=[inner]):
            yield from _exported(inner)
        case ast.Attribute(value=module, attr="__all__") if (name := _dotted(module)) is not None:
            yield f"{name}.*"


def _is_empty(node: ast.expr | None) -> bool:
    return isinstance(node, ast.List | ast.Tuple) and not node.elts


def _docstring(node: Definition | ast.Module) -> str:
    return _encodable(ast.get_docstring(node) or "")


def _encodable(text: str) -> str:
    """A literal's text; a lone surrogate, which no encoding has, as its escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def _on_one_line(code: str) -> str | None:
    """Code without comments and line breaks, else as written; None where a string spans lines.

    The comma that ends a last line goes too, unless it makes a tuple of one.
    """
    parts: list[str] = []
    commas = [0]
    row, column = 1, 0
    for token in tokenize.generate_tokens(io.StringIO(f"({code})").readline):
        text = token.string
        if token.type in _NOT_CODE:
            continue
        if "\n" in text:
            return None
        before = parts[-1] if parts else ""
        breaks = token.start[0] != row
        if text in _CLOSING and commas.pop() > 1 and before == "," and breaks:
            parts.pop()
        if not breaks:
            parts.append(token.line[column : token.start[1]])
        elif before not in _OPENING and text not in (*_CLOSING, "."):
            parts.append(" ")
        parts.append(text)
        if text in _OPENING:
            commas.append(0)
        commas[-1] += text == ","
        row, column = token.end
    return "".join(parts)[1:-1]


def _branches(node: ast.stmt) -> Iterator[ast.stmt]:
    """An `if` and each `elif` of it, which the syntax tree nests ever deeper; any other statement alone."""
    branch: ast.stmt | None = node
    while branch is not None:
        yield branch
        branch = _elif(branch)


def _elif(node: ast.AST) -> ast.If | None:
    match node:
        case ast.If(orelse=[ast.If() as following]):
            return following
    return None


def _following_docstring(body: list[ast.stmt], position: int) -> str | None:
    """The string below an assignment documents it."""
    match body[position + 1 : position + 2]:
        case [ast.Expr(value=ast.Constant(value=str(text)))]:
            return inspect.cleandoc(_encodable(text))
    return None


def _own_statements(body: list[ast.stmt]) -> Iterator[tuple[ast.stmt, str | None]]:
    """The statements of a body and of its blocks, each with the string that follows it."""
    for position, node in enumerate(body):
        yield node, _following_docstring(body, position)
        if isinstance(node, _CONDITIONAL):
            for field in _BLOCKS:
                yield from _own_statements(getattr(node, field, []))


def _spelled(value: object) -> str:
    """A constant in full; a whole number in hexadecimal, for Python prints no very long decimals."""
    return hex(value) if type(value) is int else repr(value)


def _code_digest(trace: Iterable[str]) -> str:
    return digest_bytes("\0".join(trace).encode("utf-8", "surrogatepass"))


def _push_children(node: ast.AST, stack: list[ast.AST], trace: list[str]) -> None:
    for field in _CHILD_FIELDS[type(node)]:
        child = getattr(node, field, None)
        if type(child) is list:
            for item in reversed(child):
                if isinstance(item, ast.AST):
                    stack.append(item)
                else:
                    trace.append(repr(item))
        elif isinstance(child, ast.AST):
            stack.append(child)
        elif child is not None:
            trace.append(repr(child))


def _attribute_chain(node: ast.Attribute, found: dict[str, None], stack: list[ast.AST]) -> list[str]:
    """Note a dotted name, or push what the attributes are of; return the names in the chain."""
    root: ast.expr = node
    parts: list[str] = []
    while type(root) is ast.Attribute:
        parts.append(root.attr)
        root = root.value
    if type(root) is ast.Name:
        parts.append(root.id)
        parts.reverse()
        found.setdefault(".".join(parts))
    else:
        stack.append(root)
    return parts


def _is_stub(node: FunctionNode) -> bool:
    """Whether a function's body is left to others: nothing but a docstring, `pass`, `...` or a `raise`."""
    stub = (ast.Pass, ast.Raise)
    return all(
        isinstance(s, stub) or (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
        for s in node.body
    )


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _names_in(nodes: Iterable[ast.AST], bound: set[str]) -> dict[str, None]:
    """Dotted names that the nodes refer to, those in string annotations included."""
    found: dict[str, None] = {}
    stack = list(nodes)
    while stack:
        node = stack.pop()
        kind = type(node)
        if kind is ast.Name:
            if node.id not in bound:  # type: ignore[attr-defined]
                found.setdefault(node.id)  # type: ignore[attr-defined]
        elif kind is ast.Attribute:
            _attribute_chain(node, found, stack)  # type: ignore[arg-type]
        elif kind is ast.Constant:
            if _is_quoted_class(node.value):  # type: ignore[attr-defined]
                found.setdefault(node.value)  # type: ignore[attr-defined]
        elif kind in _CHILD_FIELDS:
            _push_children(node, stack, [])
    return found


def _is_quoted_class(value: object) -> bool:
    return isinstance(value, str) and value.replace(".", "").isidentifier() and _is_class_name(value)
