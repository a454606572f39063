"""Small readings of a syntax tree."""

from __future__ import annotations

import ast
import builtins
import inspect
import io
import re
import tokenize
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

from tasks.documents import Parameter
from tasks.keys import digest_bytes

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
Definition = FunctionNode | ast.ClassDef

_CHILD_FIELDS = {
    kind: tuple(name for name in kind._fields if name not in ("ctx", "type_comment", "kind"))
    for kind in vars(ast).values()
    if isinstance(kind, type) and issubclass(kind, ast.AST)
}
CONDITIONAL = (
    *(ast.If, ast.Try, ast.TryStar, ast.With, ast.For, ast.While, ast.Match),
    *(ast.ExceptHandler, ast.match_case),
)
BLOCKS = ("body", "handlers", "cases", "orelse", "finalbody")
_LEAVING = (ast.Return, ast.Raise, ast.Continue, ast.Break)
_NOT_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER)
_ESCAPES = {
    code: chr(code).encode("unicode_escape").decode()
    for code in (*range(0x20), *range(0x7F, 0xA0))
    if chr(code) not in "\t\n"
}
# Where messages are filled in, by `%` and by `format`.
_PRINTF = re.compile(r"%(?:\(\w+\))?[-#0 +]*(?:\*|\d+)?(?:\.(?:\*|\d+))?[a-zA-Z%]")
_FIELD = re.compile(r"\{\{|\}\}|\{(?:[^{}]|\{[^{}]*\})*\}")
_OPENING, _CLOSING = ("(", "[", "{"), (")", "]", "}")
_ACCESSORS = ("setter", "deleter", "getter")
# Decorators that a label on the page, the kind of a symbol or its overloads tell of.
_LABELLED = {"classmethod", "staticmethod", "abstractmethod", "cached_property", "final", "override"}
_LABELLED |= {"property", "overload"}
# The standard library's others of which the result takes what the function takes.
_TAKING_THE_SAME = {"asynccontextmanager", "cache", "contextmanager", "lru_cache"}


def join(scope: str, name: str) -> str:
    """A name inside a scope; the outermost is ""."""
    return f"{scope}.{name}" if scope else name


def last_part(dotted: str) -> str:
    """The last name of a dotted one."""
    return dotted.rsplit(".", 1)[-1]


def first_line(node: Definition) -> int:
    """The line in which a definition begins, its decorators included."""
    return node.decorator_list[0].lineno if node.decorator_list else node.lineno


def callee_of(node: ast.expr) -> ast.expr:
    """What a call calls; anything else itself."""
    return node.func if isinstance(node, ast.Call) else node


def class_bases(tree: ast.Module) -> Bases:
    """The bases of a file's classes; none is known of what it imports, perhaps by the name of a builtin."""
    found: dict[str, list[str]] = {}
    for node in _statements_in(tree.body):
        match node:
            case ast.ClassDef(name=name, bases=written):
                bases = [base_name(base) or "" for base in written]
                found[name] = ["" if base == name else base for base in bases]
            case ast.ImportFrom(names=names):
                found |= {alias.asname or alias.name: [""] for alias in names}
    return found


def made_by(node: ast.expr) -> ast.expr:
    """What makes an exception, also in `Error(…).with_traceback(…)`."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Call() as made, attr="with_traceback")):
            return made
    return node


def base_name(node: ast.expr) -> str | None:
    """The dotted name of a base class; `Generic[T]` names `Generic`."""
    return dotted_name(node.value if isinstance(node, ast.Subscript) else node)


def dotted_name(node: ast.expr) -> str | None:
    """A dotted name as written; None of anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    return ".".join([node.id, *reversed(parts)])


def is_accessor(decorator: str, name: str) -> bool:
    """`@x.setter` of a property `x`; `@Base.x.setter` where a base class has it."""
    owner, _, role = decorator.rpartition(".")
    return role in _ACCESSORS and last_part(owner) == name


def is_none(node: ast.expr | None) -> bool:
    """Whether nothing is returned, or None."""
    return node is None or (isinstance(node, ast.Constant) and node.value is None)


def is_class_name(name: str) -> bool:
    """`raise error` re-raises a variable; an exception class starts with a capital."""
    return last_part(name).lstrip("_")[:1].isupper()


def message_of(arguments: Sequence[ast.expr]) -> str:
    """The text of an exception's message on one line, with an ellipsis for each computed part.

    A word before further arguments is none: exceptions of a package's own begin with whatever they are of.
    """
    text = " ".join(_literal_text(arguments[0]).split()) if arguments else ""
    return text if " " in text or len(arguments) == 1 else ""


Bases = Mapping[str, Sequence[str]]  # of classes, by their names; "" for what cannot be told


def never_raised(body: list[ast.stmt], bases: Bases) -> Iterator[ast.Raise]:
    """The `raise` statements that a function with this body is never left by.

    A handler ends them, or `finally`, or `contextlib.suppress`; or they are not reached: behind a statement
    that leaves the block, or below a condition that does not hold at run time. `bases` are those of the
    classes of its file.
    """
    blocks: list[Sequence[ast.AST]] = [body]
    while blocks:
        block = blocks.pop()
        for place, node in enumerate(block):
            yield from _ended_in(node, bases)
            dead = _unreached_in(node)
            yield from _raises_in(dead)
            blocks += [inner for inner in _blocks_of(node) if inner is not dead]
            if isinstance(node, _LEAVING):
                yield from _raises_in(block[place + 1 :])
                break


def _blocks_of(node: ast.AST) -> Iterator[list[ast.AST]]:
    """The blocks of a statement that run with it: not those of a definition."""
    if not isinstance(node, Definition):
        yield from (block for field in BLOCKS if (block := getattr(node, field, None)))


def _statements_in(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Statements with those of their blocks, however deep, and in no order; not what definitions hold."""
    stack = list(nodes)
    while stack:
        node = stack.pop()
        yield node
        for block in _blocks_of(node):
            stack += block


def _raises_in(nodes: Iterable[ast.AST]) -> Iterator[ast.Raise]:
    return (node for node in _statements_in(nodes) if isinstance(node, ast.Raise))


def _ended_in(node: ast.AST, bases: Bases) -> Iterator[ast.Raise]:
    """The `raise` statements inside of a statement that it keeps from leaving it."""
    match node:
        case ast.Try() | ast.TryStar():
            if any(isinstance(last, ast.Return | ast.Break | ast.Continue) for last in node.finalbody):
                yield from _raises_in([*node.body, *node.handlers, *node.orelse])
            elif node.handlers:
                handlers = [(handler.type, _raises_again(handler)) for handler in node.handlers]
                yield from (raised for raised in _raises_in(node.body) if _is_ended(raised, handlers, bases))
        case ast.With(items=items):
            handlers = [(taken, False) for item in items for taken in _suppressed(item.context_expr)]
            if handlers:
                yield from (raised for raised in _raises_in(node.body) if _is_ended(raised, handlers, bases))


def _unreached_in(node: ast.AST) -> list[ast.stmt]:
    """The block of a statement below a condition that is never so at run time."""
    match node:
        case ast.If(test=test) | ast.While(test=test):
            holds = _holds(test)
            return [] if holds is None else node.orelse if holds else node.body
    return []


def _holds(test: ast.expr) -> bool | None:
    """Whether a condition holds at run time, where it is always the same."""
    match test:
        case ast.Constant(value=value):
            return bool(value)
        case ast.Name() | ast.Attribute() if last_part(dotted_name(test) or "") == "TYPE_CHECKING":
            return False
    return None


def _suppressed(node: ast.expr) -> list[ast.expr]:
    """The exceptions that `suppress(…)` takes."""
    match node:
        case ast.Call(func=called, args=taken) if dotted_name(called) in ("suppress", "contextlib.suppress"):
            return taken
    return []


def _is_ended(raised: ast.Raise, handlers: Iterable[tuple[ast.expr | None, bool]], bases: Bases) -> bool:
    """Whether an exception is taken for sure, and not raised again; of handlers, the first one takes it."""
    for types, raises_again in handlers:
        takes = _takes(types, raised, bases)
        if takes or (takes is None and raises_again):
            return not raises_again
    return False


def _takes(types: ast.expr | None, raised: ast.Raise, bases: Bases) -> bool | None:
    """Whether a handler's classes take an exception; None if that cannot be told."""
    error = None if raised.exc is None else callee_of(made_by(raised.exc))
    if types is None:
        return True
    if error is None:
        return None
    taken = [_is_of(error, one, bases) for one in (types.elts if isinstance(types, ast.Tuple) else [types])]
    return True if True in taken else None if None in taken else False


def _raises_again(handler: ast.ExceptHandler) -> bool:
    """Whether a handler raises what it took, or one made by it or of its type, or keeps it for later."""
    return any(_is_same(raised.exc, handler.name) for raised in _raises_in(handler.body)) or any(
        isinstance(kept, ast.Assign) and isinstance(kept.value, ast.Name) and kept.value.id == handler.name
        for statement in handler.body
        for kept in ast.walk(statement)
    )


def _is_same(raised: ast.expr | None, taken: str | None) -> bool:
    """Whether a raised expression is what was taken: `e`, `e.with_traceback(…)`, `type(e)(…)`."""
    match raised:
        case None:
            return True
        case ast.Name(id=name):
            return name == taken
        case ast.Call(func=called):
            return any(isinstance(part, ast.Name) and part.id == taken for part in ast.walk(called))
    return False


def _is_of(error: ast.expr, taken: ast.expr, bases: Bases) -> bool | None:
    """Whether an exception is of a class, as far as the names tell."""
    name, other = dotted_name(error), dotted_name(taken)
    if name is None or other is None:
        return None
    ancestors = list(_lineage(name, bases))
    kinds = [getattr(builtins, ancestor, None) for ancestor in ancestors if ancestor not in bases]
    known = [kind for kind in kinds if isinstance(kind, type)]
    kind_taken = None if other in bases else getattr(builtins, other, None)
    if other in ancestors or (isinstance(kind_taken, type) and any(issubclass(k, kind_taken) for k in known)):
        return True
    if len(known) == len(kinds):
        return False if other in bases or isinstance(kind_taken, type) else None
    if kind_taken in (Exception, BaseException):  # of which a package's own nearly always are
        return kind_taken is BaseException or last_part(name) != "CancelledError"
    return None


def _lineage(name: str, bases: Bases) -> Iterator[str]:
    """A class and all that it is derived from, as far as the file tells."""
    names = [name]
    for one in names:  # to which its bases are added
        yield one
        names += [base for base in bases.get(one, ()) if base not in names]


def never_returns(node: FunctionNode) -> bool:
    """Whether a function is annotated so."""
    match node.returns:
        case ast.Constant(value=str(written)):
            name: str | None = written
        case annotation:
            name = None if annotation is None else dotted_name(annotation)
    return last_part(name or "") in ("NoReturn", "Never")


def always_raises(node: FunctionNode) -> bool:
    """Whether a function only raises, and not to say that others are to define it."""
    match _code_of(node):
        case [ast.Raise() as raised]:
            return "NotImplemented" not in ast.dump(raised)
    return False


def returns_itself(node: FunctionNode) -> bool:
    """Whether a method only returns what it is called on."""
    match _code_of(node), node.args:
        case [ast.Return(value=ast.Name(id=name))], ast.arguments(args=[ast.arg(arg=receiver), *_]):
            return name == receiver
    return False


def _code_of(node: FunctionNode) -> list[ast.stmt]:
    """The statements of a function, but for its docstring."""
    return node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body


def _literal_text(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return _encodable(text)
        case ast.JoinedStr(values=parts):
            return "".join(_literal_text(part) or "…" for part in parts)
        case ast.BinOp(left=left, op=ast.Mod()):
            return _PRINTF.sub(lambda found: "%" if found[0] == "%%" else "…", _literal_text(left))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            texts = [_literal_text(left), _literal_text(right)]
            return "".join(text or "…" for text in texts) if any(texts) else ""
        case ast.Call(func=ast.Attribute(value=text, attr="format")):
            return _FIELD.sub(
                lambda found: found[0][0] if found[0] in ("{{", "}}") else "…", _literal_text(text)
            )
    return ""


def is_labelled(decorator: str, name: str) -> bool:
    """Whether a page tells of a decorator by other means."""
    return last_part(decorator) in _LABELLED or is_accessor(decorator, name)


def takes_what_it_says(name: str, decorators: Iterable[str]) -> bool:
    """Whether a function takes what its signature says; what other decorators take, that does not tell."""
    return all(is_labelled(d, name) or last_part(d) in _TAKING_THE_SAME for d in decorators)


def labels_of(node: FunctionNode, decorators: list[str]) -> tuple[str, ...]:
    """What a page tells of a function beside its name."""
    labels = ["async"] if isinstance(node, ast.AsyncFunctionDef) else []
    if any(last_part(d) == "setter" and is_accessor(d, node.name) for d in decorators):
        labels.append("writable")
    known = ("classmethod", "staticmethod", "abstractmethod", "cached_property", "final", "override")
    return (*labels, *(name for name in known if any(last_part(d) == name for d in decorators)))


def parameters_text(parameters: tuple[Parameter, ...]) -> str:
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


def plain_targets(targets: Iterable[ast.expr], is_whole: bool = True) -> Iterator[tuple[str, bool]]:
    """The names that are assigned to, and whether each takes the whole value."""
    for target in targets:
        match target:
            case ast.Name(id=name):
                yield name, is_whole
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                yield from plain_targets(parts, is_whole=False)
            case ast.Starred(value=part):
                yield from plain_targets([part], is_whole=False)


def exported_names(node: ast.expr | None) -> Iterator[str]:
    """The names that a value of `__all__` lists; `module.*` for all that another module's lists."""
    match node:
        case ast.Constant(value=str(text)):
            yield _encodable(text)
        case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
            for item in items:
                yield from exported_names(item)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            yield from exported_names(left)
            yield from exported_names(right)
        case ast.Starred(value=inner) | ast.Call(func=ast.Name(id="list" | "tuple" | "sorted"), args=[inner]):
            yield from exported_names(inner)
        case ast.Attribute(value=module, attr="__all__") if (name := dotted_name(module)) is not None:
            yield f"{name}.*"


def is_empty(node: ast.expr | None) -> bool:
    """Whether a value is a list or a tuple of nothing."""
    return isinstance(node, ast.List | ast.Tuple) and not node.elts


def docstring_of(node: Definition | ast.Module) -> str:
    """The docstring, cleaned; "" without one."""
    return _encodable(ast.get_docstring(node) or "")


def _encodable(text: str) -> str:
    """A literal's text; a lone surrogate, which no encoding has, and control characters as their escapes."""
    return text.encode("utf-8", "backslashreplace").decode().translate(_ESCAPES)


def on_one_line(code: str) -> str | None:
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


def branches(node: ast.stmt) -> Iterator[ast.stmt]:
    """An `if` and each `elif` of it, which the syntax tree nests ever deeper; any other statement alone."""
    branch: ast.stmt | None = node
    while branch is not None:
        yield branch
        branch = elif_of(branch)


def elif_of(node: ast.AST) -> ast.If | None:
    """The `elif` that follows an `if` or `elif`."""
    match node:
        case ast.If(orelse=[ast.If() as following]):
            return following
    return None


def following_docstring(body: list[ast.stmt], position: int) -> str | None:
    """The string below an assignment documents it."""
    match body[position + 1 : position + 2]:
        case [ast.Expr(value=ast.Constant(value=str(text)))]:
            return inspect.cleandoc(_encodable(text))
    return None


def docstring_of_property(value: ast.expr | None) -> str:
    """What `property(…, doc="…")` says of what is assigned; "" of anything else."""
    match value:
        case ast.Call(func=ast.Name(id="property"), args=arguments, keywords=keywords):
            given = [*arguments[3:4], *(keyword.value for keyword in keywords if keyword.arg == "doc")]
            match given:
                case [ast.Constant(value=str(text))]:
                    return inspect.cleandoc(_encodable(text))
    return ""


def own_statements(body: list[ast.stmt]) -> Iterator[tuple[ast.stmt, str | None]]:
    """The statements of a body and of its blocks, each with the string that follows it."""
    for position, node in enumerate(body):
        yield node, following_docstring(body, position)
        if isinstance(node, CONDITIONAL):
            for field in BLOCKS:
                yield from own_statements(getattr(node, field, []))


def spelled_out(value: object) -> str:
    """A constant in full; a whole number in hexadecimal, for Python prints no very long decimals."""
    return hex(value) if type(value) is int else repr(value)


def code_digest(trace: Iterable[str]) -> str:
    """The digest of spelled-out code."""
    return digest_bytes("\0".join(trace).encode("utf-8", "surrogatepass"))


def push_children(node: ast.AST, stack: list[ast.AST], trace: list[str]) -> None:
    """Put a node's children on the stack, and what else it holds into the trace."""
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


def attrs_aliases(node: ast.ClassDef) -> dict[str, str]:
    """The attributes of a class of attrs for which its constructor takes another name, by that name.

    https://www.attrs.org/en/stable/init.html#private-attributes-and-aliases
    """
    found = {}
    for statement in _statements_in(node.body):
        match statement:
            case (
                ast.AnnAssign(target=ast.Name(id=name), value=ast.Call(keywords=keywords))
                | ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(keywords=keywords))
            ):
                for keyword in keywords:
                    match keyword:
                        case ast.keyword(arg="alias", value=ast.Constant(value=str(alias))):
                            found[alias] = name
    return found


def attribute_chain(node: ast.Attribute, found: dict[str, None], stack: list[ast.AST]) -> list[str]:
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


def is_stub(node: FunctionNode) -> bool:
    """Whether a function is left to others: nothing but a docstring, `pass`, `...`, `return` and `raise`.

    One that is said to be abstract may do a part of it.
    """
    named = (dotted_name(callee_of(decorator)) or "" for decorator in node.decorator_list)
    return "abstractmethod" in map(last_part, named) or all(map(_does_nothing, node.body))


def _does_nothing(node: ast.stmt) -> bool:
    match node:
        case ast.Pass() | ast.Raise() | ast.Expr(value=ast.Constant()):
            return True
        case ast.Return(value=value):
            return is_none(value)
    return False


def is_text(node: ast.stmt) -> bool:
    """Whether a statement is a string alone."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def names_in(nodes: Iterable[ast.AST], bound: Container[str]) -> dict[str, None]:
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
            chain: dict[str, None] = {}
            attribute_chain(node, chain, stack)  # type: ignore[arg-type]
            found.update((name, None) for name in chain if name.partition(".")[0] not in bound)
        elif kind is ast.Constant:
            if _is_quoted_class(node.value):  # type: ignore[attr-defined]
                found.setdefault(node.value)  # type: ignore[attr-defined]
        elif kind in _CHILD_FIELDS:
            push_children(node, stack, [])
    return found


def _is_quoted_class(value: object) -> bool:
    return isinstance(value, str) and value.replace(".", "").isidentifier() and is_class_name(value)
