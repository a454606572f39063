"""Python source into symbols, from the syntax tree alone.

The tree comes from the running interpreter's parser; nothing is imported or executed.
Source text (annotations, defaults, bases) is cut from the file by node positions, so
that a signature reads as its author wrote it. What a name refers to in other files is
not decided here.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

from msgspec import Struct
from msgspec.structs import replace

from tasks.chunk import contradictions, docstrings, slots
from tasks.chunk.attributes import FileAttributes
from tasks.chunk.syntax import (
    BLOCKS,
    CONDITIONAL,
    Definition,
    FunctionNode,
    attribute_chain,
    attrs_aliases,
    base_name,
    branches,
    callee_of,
    class_bases,
    code_digest,
    docstring_of,
    docstring_of_property,
    dotted_name,
    elif_of,
    exported_names,
    first_line,
    following_docstring,
    is_accessor,
    is_class_name,
    is_empty,
    is_labelled,
    is_none,
    is_stub,
    is_text,
    join,
    labels_of,
    last_part,
    made_by,
    message_of,
    names_in,
    never_raised,
    never_returns,
    on_one_line,
    own_statements,
    parameters_text,
    plain_targets,
    push_children,
    spelled_out,
    takes_what_it_says,
)
from tasks.documents import Contradiction, Kind, Parameter, Surface, Symbol
from tasks.secrets import has_secret, has_secret_literal

_ATTRS = {"define", "frozen", "mutable", "attrs", "s"}
_DATACLASS = {"dataclass", "define", "frozen", "mutable", "attrs"}
# Bases from which a class inherits no constructor that takes anything but its own attributes.
_TAKING_ATTRIBUTES = {"NamedTuple", "TypedDict"}
_WITHOUT_PARAMETERS = {"object", "Generic", "Protocol", "ABC"} | _TAKING_ATTRIBUTES
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
        SyntaxError: The running interpreter rejects the text.
        RecursionError: It is nested too deeply to be parsed.
    """
    try:
        tree = ast.parse(source)
    except MemoryError as error:  # so the parser says that its stack is full
        raise RecursionError(str(error)) from error
    package = path.rsplit("/", 1)[-1] in ("__init__.py", "__init__.pyi")
    return _Chunker(source, path, name, package, tree).run()


def _head(node: Definition) -> tuple[int, int]:
    """The lines of a definition down to its docstring."""
    return first_line(node), node.body[0].end_lineno or node.lineno


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
    def __init__(self, source: str, path: str, name: str, package: bool, tree: ast.Module) -> None:
        self.path, self.module, self.package, self.tree = path, name, package, tree
        self.attributes = FileAttributes(tree)
        self.class_bases = class_bases(tree)
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

    def run(self) -> ParsedModule:
        kind: Kind = "package" if self.package else "module"
        parsed = docstrings.parse(docstring_of(self.tree))
        last_line = max(1, len(self.offsets) - 1)
        self.symbols[""] = Symbol("", kind, 1, last_line, expected=("summary",))
        module_names: dict[str, None] = {}
        self._statements(self.tree.body, "", module_names)
        self._flush_overloads("")
        parsed.attributes = self._describe_attributes("", parsed.attributes, parsed.attribute_types)
        described = slots.of_parsed(parsed)
        self.symbols[""] = replace(self.symbols[""], slots=described, names=tuple(module_names))
        symbols = [replace(s, mentions=slots.mentions(s)) for s in self.symbols.values()]
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
        if (line := on_one_line(piece)) is not None:
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
                self._assignment(node, scope, following_docstring(body, position), names)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                self._import(node, self.imports if not scope else self.local_imports)
            elif isinstance(node, CONDITIONAL):
                for branch in branches(node):
                    self._conditional(branch, scope, names)
            elif isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant):
                self._exports_call(node.value, scope)
                names.update(names_in([node], set()))

    def _conditional(self, node: ast.AST, scope: str, names: dict[str, None]) -> None:
        for field in ("test", "iter", "items", "type", "subject", "pattern", "guard"):
            part = getattr(node, field, None)
            names.update(names_in(part if isinstance(part, list) else [part] if part else [], set()))
        for field in BLOCKS:
            if field != "orelse" or elif_of(node) is None:
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
            names.update(names_in([node], set()))
            return
        docstring = docstring or self._comment_docstring(node) or docstring_of_property(value)
        for target, is_whole in plain_targets(targets):
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
        self,
        node: ast.stmt,
        name: str,
        scope: str,
        docstring: str | None,
        is_whole: bool = True,
        bound: Collection[str] = (),
    ) -> None:
        """Note an attribute; of a function's own names, which are `bound` in it, none is a symbol's."""
        qualified = join(scope, name)
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
            slots=slots.of_prose(docstring or ""),
            expected=("summary",),
            names=tuple(names_in(parts, bound)),
            # Of what is not shown whole, a text may be about the rest.
            code=code_digest(self._text(value).split()) if value is not None and written == "…" else "",
        )

    def _value_text(self, name: str, value: ast.expr | None) -> str | None:
        """A value as written, or an ellipsis where it is too long to be shown, or a secret."""
        if value is None:
            return None
        if (value.end_lineno or value.lineno) - value.lineno > _TALLEST_VALUE:
            return "…"
        written = self._text(value)
        is_secret = has_secret(f"{name} = {written}") or has_secret_literal(value)
        return "…" if len(written) > _LONGEST_VALUE or is_secret else written

    def _export(self, value: ast.expr | None, replace_all: bool) -> None:
        """Note what `__all__` lists; a value that only a run could tell does not count."""
        written = list(exported_names(value))
        if not written and not is_empty(value):
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
        qualified = self._free_name(join(scope, node.name))
        written_bases = [self._text(base) for base in node.bases]
        keywords = [
            f"{k.arg}={self._text(k.value)}" if k.arg else f"**{self._text(k.value)}" for k in node.keywords
        ]
        parameters = ", ".join(written_bases + keywords)
        labels = (
            ["dataclass"]
            if _DATACLASS & {last_part(self._text(callee_of(d))) for d in node.decorator_list}
            else []
        )
        names = names_in([*node.decorator_list, *node.bases, *(k.value for k in node.keywords)], set())
        text = docstring_of(node)
        parsed = docstrings.parse(text) if text else docstrings.ParsedDocstring()
        is_of_attrs = _ATTRS & {last_part(self._text(callee_of(d))) for d in node.decorator_list}
        self.symbols[qualified] = Symbol(
            qualified,
            "class",
            first_line(node),
            node.end_lineno or node.lineno,
            f"class {node.name}" + (f"({parameters})" if parameters else ""),
            labels=tuple(labels),
            decorators=tuple(self._text(d) for d in node.decorator_list),
            bases=tuple(
                base_name(base) or text for base, text in zip(node.bases, written_bases, strict=True)
            ),
            expected=("summary",),
        )
        members: dict[str, None] = dict(names)
        self._statements(node.body, qualified, members)
        self._flush_overloads(f"{qualified}.")
        if is_of_attrs and not {f"{qualified}.__init__", f"{qualified}.__new__"} & self.symbols.keys():
            parsed = self._with_own_names(parsed, f"{qualified}.", attrs_aliases(node))
        self._settle_class_docs(node, qualified, parsed)
        self.symbols[qualified] = replace(self.symbols[qualified], names=tuple(members))

    def _with_own_names(
        self, parsed: docstrings.ParsedDocstring, prefix: str, aliases: dict[str, str]
    ) -> docstrings.ParsedDocstring:
        """A docstring that describes `x`, as the constructor of attrs takes it, of an attribute `_x`.

        Or of whatever else is taken as one of the aliases.
        """
        names = {name.removeprefix(prefix) for name in self.symbols if name.startswith(f"{prefix}_")}
        taken = {
            name.lstrip("_"): name
            for name in names - set(aliases.values())
            if f"{prefix}{name.lstrip('_')}" not in self.symbols
        } | aliases

        def renamed(texts: dict[str, str]) -> dict[str, str]:
            own = {name: text for name, text in texts.items() if name not in taken}
            return own | {taken[name]: text for name, text in texts.items() if name in taken}

        return replace(
            parsed,
            parameters=renamed(parsed.parameters),
            types=renamed(parsed.types),
            defaults=renamed(parsed.defaults),
        )

    def _settle_class_docs(
        self, node: ast.ClassDef, qualified: str, parsed: docstrings.ParsedDocstring
    ) -> None:
        """Parameters described by a class belong to its constructor, attributes to themselves."""
        self._attribute_contradictions(node, qualified, parsed)
        attributes = self._titled_attributes(node, qualified, parsed)
        constructor = next(
            (c for name in ("__init__", "__new__") if (c := self.symbols.get(f"{qualified}.{name}"))), None
        )
        if constructor is not None and constructor.kind == "method":
            is_plain = takes_what_it_says("__init__", [d.partition("(")[0] for d in constructor.decorators])
            more = self._describe_constructor(constructor, parsed, is_plain)
            if is_plain:
                self._class_contradictions(node, qualified, parsed, constructor)
        else:
            takes_attributes = constructor is None and self._takes_its_attributes(node, qualified)
            title = slots.NOT_IN_THE_SIGNATURE if takes_attributes else slots.BY_THE_DOCSTRING
            unknown = self._describe_attributes(qualified, parsed.parameters, parsed.types)
            more = [
                (title, docstrings.listing(unknown, parsed.types)),
                ("Raises", docstrings.listing(parsed.raises, {})),
            ]
            if takes_attributes:
                self._class_contradictions(node, qualified, parsed, None)
        more += [*attributes, ("Returns", slots.of_result(parsed))]
        told = slots.summary_and_description(parsed, more)
        self.symbols[qualified] = replace(self.symbols[qualified], slots=told)

    def _titled_attributes(
        self, node: ast.ClassDef, qualified: str, parsed: docstrings.ParsedDocstring
    ) -> list[slots.Titled]:
        """Give attributes what the docstring of their class says; return the rest, by what is known of it.

        What the class cannot have is noted as a contradiction.
        """
        left = self._describe_attributes(qualified, parsed.attributes, parsed.attribute_types)
        if not left:
            return []
        prefix, types = f"{qualified}.", parsed.attribute_types
        members = [name.removeprefix(prefix) for name in self.symbols if name.startswith(prefix)]
        unknown = [name for name in left if name not in members]
        said = [name for name in unknown if left[name] or name in types]  # what is not is no name, but prose
        lacking = [name for name in said if self.attributes.lacks(node, name)]
        found = contradictions.of_lacking_attributes(lacking, members, self._docstring_lines(node))
        self.contradictions += contradictions.in_symbol(self.path, qualified, _head(node), found)
        titled: dict[str, dict[str, str]] = {}
        for name, text in left.items():
            untold = slots.ATTRIBUTES_BY_THE_DOCSTRING if name in unknown else slots.ATTRIBUTES
            titled.setdefault(slots.NOT_IN_THE_CLASS if name in lacking else untold, {})[name] = text
        return [(title, docstrings.listing(texts, types)) for title, texts in titled.items()]

    def _describe_constructor(
        self, constructor: Symbol, parsed: docstrings.ParsedDocstring, is_plain: bool
    ) -> list[slots.Titled]:
        """Give a constructor what the class docstring says of it; return what it has no place for."""
        texts, more = slots.with_texts_of_its_class(constructor, parsed, is_plain)
        types = slots.types_of_what_exists(parsed, constructor.parameters)
        types.pop("return", None)
        self.symbols[constructor.name] = replace(
            constructor, slots=texts, doc_types=types | constructor.doc_types
        )
        return more

    def _takes_its_attributes(self, node: ast.ClassDef, qualified: str) -> bool:
        """Whether a class without a constructor takes its attributes; others may describe their methods'."""
        symbol = self.symbols[qualified]
        bases = {last_part(base) for base in symbol.bases}
        plain = all(is_labelled(self._text(callee_of(d)), node.name) for d in node.decorator_list)
        takes_them = "dataclass" in symbol.labels or (plain and not bases.isdisjoint(_TAKING_ATTRIBUTES))
        return takes_them and not node.keywords and bases <= _WITHOUT_PARAMETERS

    def _class_contradictions(
        self,
        node: ast.ClassDef,
        qualified: str,
        parsed: docstrings.ParsedDocstring,
        constructor: Symbol | None,
    ) -> None:
        """Note what the docstring of a class says of its constructor that is not so."""
        if not parsed.parameters:
            return
        prefix = f"{qualified}."
        members = [symbol for name, symbol in self.symbols.items() if name.startswith(prefix)]
        others = []
        for member in members:
            name = member.name.removeprefix(prefix)
            # Without a constructor of its own a class takes its attributes, with these defaults.
            is_taken = constructor is None and member.kind == "attribute"
            kind = (member.returns, member.value) if is_taken else (None, None)
            others.append(Parameter(name, "keyword_only", *kind))
        taken = constructor.parameters if constructor else ()
        found = contradictions.of_parameters(parsed, taken, self._docstring_lines(node), others)
        heads = [
            max(inner.lineno, inner.body[0].lineno - 1)
            for inner in node.body
            if isinstance(inner, ast.FunctionDef) and inner.name in ("__init__", "__new__")
        ]
        span = (
            first_line(node),
            max(node.body[0].end_lineno or 0, *heads, constructor.line if constructor else 0),
        )
        self.contradictions += contradictions.in_symbol(self.path, qualified, span, found)

    def _attribute_contradictions(
        self, node: ast.ClassDef, qualified: str, parsed: docstrings.ParsedDocstring
    ) -> None:
        """Note types that the docstring of a class gives attributes, and that they do not have."""
        for name, kind in parsed.attribute_types.items():
            attribute = self.symbols.get(f"{qualified}.{name}")
            if attribute is not None and attribute.kind in ("attribute", "property") and attribute.returns:
                lines = self._docstring_lines(node)
                found = contradictions.of_attribute(name, kind, attribute.returns, lines)
                self.contradictions += contradictions.in_symbol(self.path, qualified, _head(node), found)

    def _describe_attributes(
        self, qualified: str, described: Mapping[str, str], types: Mapping[str, str]
    ) -> dict[str, str]:
        """Give attributes what the docstring of their class or module says; return what is of none."""
        left = {}
        for name, text in described.items():
            attribute = self.symbols.get(join(qualified, name))
            if attribute is None or attribute.kind != "attribute":
                left[name] = text
                continue
            kind = {"return": types[name]} if name in types and not attribute.returns else {}
            self.symbols[attribute.name] = replace(
                attribute,
                slots=slots.with_text_of_class(attribute.slots, text),
                doc_types=kind | attribute.doc_types,
            )
        return left

    def _function(self, node: FunctionNode, scope: str, inside_function: bool = False) -> None:
        decorators = [self._text(callee_of(d)) for d in node.decorator_list]
        name = join(scope, node.name)
        if name in self.symbols and any(is_accessor(d, node.name) for d in decorators):
            self._fold_accessor(name, node, decorators)
            return
        in_class = not inside_function and bool(scope)
        symbol, body = self._signature_symbol(node, name, decorators, in_class)
        if any(last_part(d) == "overload" for d in decorators):
            self.pending_overloads.setdefault(name, []).append(symbol)
            return
        overloads = self.pending_overloads.pop(name, [])
        qualified = self._free_name(name)
        self.symbols[qualified] = replace(
            symbol,
            name=qualified,
            slots=slots.with_texts_of_overloads(symbol, overloads),
            overloads=tuple(overload.signature for overload in overloads),
            names=_names_of((symbol, *overloads)),
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
        if twice := [name for name, times in Counter(p.name for p in parameters).items() if times > 1]:
            # Python's compiler refuses it; its parser does not.
            message = f"duplicate argument {twice[0]!r} in function definition"
            raise SyntaxError(message, (self.path, node.lineno, node.col_offset + 1, None))
        returns = self._optional_text(node.returns)
        head = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
        signature = f"{head} {node.name}({parameters_text(parameters)})" + (
            f" -> {returns}" if returns else ""
        )
        is_property = in_class and any(
            last_part(d).endswith("property") or is_accessor(d, node.name) for d in decorators
        )
        kind: Kind = "property" if is_property else "method" if in_class else "function"
        positional = [*node.args.posonlyargs, *node.args.args]
        receiver = positional[0].arg if in_class and positional and "staticmethod" not in decorators else None
        body = self._body(node, receiver)
        text = docstring_of(node)
        parsed = docstrings.parse(text) if text else docstrings.ParsedDocstring()
        is_plain = kind != "property" and takes_what_it_says(node.name, decorators)
        if text:
            is_overload = any(last_part(d) == "overload" for d in decorators)
            overloads = () if is_overload else self.pending_overloads.get(name, ())
            known = (*(p for overload in overloads for p in overload.parameters), *parameters)
            self._contradictions(node, name, parsed, known if is_plain else None, returns, body)
        special = slots.of_special_method(node) if in_class else {}
        described = [p.name for p in parameters if p.name != receiver]
        expected = ["summary", *(f"param.{p}" for p in described)]
        if (body.returns or returns) and not (returns == "None" or never_returns(node) or kind == "property"):
            expected.append("returns")
        expected += [f"raises.{error}" for error in body.raises]
        symbol = Symbol(
            name,
            kind,
            first_line(node),
            node.end_lineno or node.lineno,
            signature,
            parameters,
            returns,
            labels_of(node, decorators) + (("generator",) if body.yields else ()),
            slots=special | slots.of_function(parsed, parameters, body.raises, is_plain),
            expected=tuple(expected),
            names=tuple(body.names),
            decorators=tuple(
                self._text(d)
                for d, name in zip(node.decorator_list, decorators, strict=True)
                if not is_labelled(name, node.name)
            ),
            doc_types=slots.types_of_what_exists(parsed, parameters),
            code=code_digest([signature, *decorators, *body.trace]),
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
        found: list[tuple[str, int, str]] = []
        if parameters is not None:
            found += contradictions.of_parameters(parsed, parameters, lines)
            found += contradictions.of_type_of_result(parsed, returns, lines)
        if not is_stub(node):
            found += contradictions.of_result(parsed, returns, body.returns, lines)
        self.contradictions += contradictions.in_symbol(self.path, name, _head(node), found)

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
        """A setter or deleter belongs to its property, and what it says to the description of that."""
        base = self.symbols[name]
        body = self._body(node, node.args.args[0].arg if node.args.args else None)
        names = dict.fromkeys([*base.names, *body.names])
        labels = dict.fromkeys([*base.labels, *labels_of(node, decorators)])
        code = code_digest([base.code, *decorators, *body.trace])
        accessor = next(last_part(d) for d in decorators if is_accessor(d, node.name))
        parsed = docstrings.parse(docstring_of(node))
        parameters = tuple(self._parameters(node.args))
        said = slots.of_function(parsed, parameters, {})
        found = contradictions.of_parameters(parsed, parameters, self._docstring_lines(node))
        self.contradictions += contradictions.in_symbol(self.path, name, _head(node), found)
        told = slots.with_texts_of_accessor(base.slots, accessor, said)
        self.symbols[name] = replace(
            base,
            names=tuple(names),
            labels=tuple(labels),
            code=code,
            slots=told,
        )

    def _flush_overloads(self, prefix: str) -> None:
        """Overloads without an implementation (stubs): the last stands for all."""
        for name in [name for name in self.pending_overloads if name.startswith(prefix)]:
            *others, last = self.pending_overloads.pop(name)
            qualified = self._free_name(name)
            self.symbols[qualified] = replace(
                last,
                name=qualified,
                line=min(symbol.line for symbol in (*others, last)),
                slots=slots.with_texts_of_overloads(last, others),
                overloads=tuple(symbol.signature for symbol in others),
                names=_names_of((last, *others)),
            )

    def _instance_attributes(self, node: FunctionNode, scope: str) -> None:
        """`self.x = …` in a constructor defines an attribute of the class."""
        if not node.args.args:
            return
        receiver = node.args.args[0].arg
        bound = {part.arg for part in ast.walk(node.args) if isinstance(part, ast.arg)}
        bound |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        for statement, docstring in own_statements(node.body):
            if isinstance(statement, ast.Assign | ast.AnnAssign):
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                for target in targets:
                    match target:
                        case ast.Attribute(value=ast.Name(id=owner), attr=name) if owner == receiver:
                            text = docstring or self._comment_docstring(statement)
                            self._attribute(statement, name, scope, text, bound=bound)

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
            body.names.update(names_in([part], set()))
        found: dict[str, None] = {}
        stores: set[str] = set()
        raised: list[ast.Raise] = []
        for statement in node.body:
            if not is_text(statement):
                self._walk_body(statement, body, found, stores, raised)
        never = set(map(id, never_raised(node.body, self.class_bases))) if raised else set()
        for statement in raised:
            if id(statement) not in never:
                self._note_raise(statement, body)
        bound |= stores - self.local_imports.keys()
        for name in found:
            root, _, rest = name.partition(".")
            if root == receiver and rest:
                body.names.setdefault(f"self.{rest}")
            elif root not in bound:
                body.names.setdefault(name)
        return body

    def _walk_body(
        self,
        statement: ast.stmt,
        body: _Body,
        found: dict[str, None],
        stores: set[str],
        raised: list[ast.Raise],
    ) -> None:
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
                trace += attribute_chain(node, found, stack)  # type: ignore[arg-type]
            elif kind is ast.Constant:
                trace.append(spelled_out(node.value))  # type: ignore[attr-defined]
            elif kind in (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef):
                body.nested.append(node)  # type: ignore[arg-type]
                trace.append(ast.dump(node))
                stores.add(node.name)  # type: ignore[attr-defined]
            elif kind in (ast.Import, ast.ImportFrom):
                self._import(node, self.local_imports)  # type: ignore[arg-type]
                trace.append(ast.dump(node))
            else:
                if kind is ast.Raise:
                    raised.append(node)  # type: ignore[arg-type]
                elif kind is ast.Return:
                    body.returns = body.returns or not is_none(node.value)  # type: ignore[attr-defined]
                elif kind in (ast.Yield, ast.YieldFrom):
                    body.returns = body.yields = True
                push_children(node, stack, trace)

    def _note_raise(self, node: ast.Raise, body: _Body) -> None:
        raised = None if node.exc is None else made_by(node.exc)
        message = ""
        if isinstance(raised, ast.Call):
            message = message_of(raised.args)
            raised = raised.func
        if has_secret(message):
            message = ""
        if (
            isinstance(raised, ast.Name | ast.Attribute)
            and (name := dotted_name(raised))
            and is_class_name(name)
        ):
            messages = body.raises.setdefault(name, [])
            if message and message not in messages and len(messages) < _MOST_MESSAGES:
                messages.append(message)


def _names_of(symbols: Iterable[Symbol]) -> tuple[str, ...]:
    """What the code of several refers to, each name once."""
    return tuple(dict.fromkeys(name for symbol in symbols for name in symbol.names))
