"""Code as a model reads it: one function, or the outline of a class, module or package, as a prompt's text.

Training and generation both come through here, so that the model is asked what it was taught. The text is
made from the syntax tree and holds neither docstrings nor comments nor formatting: a reformatted function
gives the same bytes, and therefore the same key and the same answer.

A function is shown by its code, under the head of its class. What has parts is shown by them: an outline is
a head and a line for each member, with the member's summary where there is one.

In scope: removing what must not be read, shortening literals, eliding what does not fit, masking a name, what
stands before the text of a slot.
Not in scope: tokens (the caller says what fits), where summaries come from, chat templates.
"""

import ast
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from textwrap import indent
from typing import Any, TypeVar

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef

PROMPT_VERSION = 3  # part of every key of generated text: raise it when the text below changes

# A model that was trained for slots has a token for each kind of them: what follows it is such a text.
SUMMARY_SEPARATOR = "<|summary|>"
SLOT_MARKS = {
    "summary": SUMMARY_SEPARATOR,
    "param": "<|param|>",
    "returns": "<|returns|>",
    "raises": "<|raises|>",
}
# At most, of the model's own; in the order of a page.
SLOT_TOKENS = {"summary": 48, "description": 96, "param": 32, "returns": 32, "raises": 32}
OPENING_TOKENS = 48  # of what opens the first slot of an answer, at most
_MARK_TOKENS = 2  # a mark and a colon

NEUTRAL_NAME = "func"
NEUTRAL_CLASS, NEUTRAL_MODULE = "Class", "module"

_LONGEST_TEXT = 60  # characters of a string or bytes literal
_LONGEST_LITERAL = 12  # elements of a list, tuple, set or dict literal
_WIDEST_INTEGER = 64  # bits; beyond that the digits say nothing, and too many cannot be printed
_LONGEST_HEAD = 100  # characters of a class's bases
_MOST_PARAMETERS = 12  # named in a member's line
_MOST_WORDS = 25  # of a member's summary
_ELLIPSIS = "..."
_INDENTATION = "    "

_BLOCKS = ("body", "orelse", "finalbody")
_Node = TypeVar("_Node", bound=ast.AST)
_Literal = ast.List | ast.Tuple | ast.Set | ast.Dict


def slot_opening(slot: str) -> str:
    """Return what stands before a slot's text: `<|summary|>`, `<|param|>x:`, `<|raises|>KeyError:`."""
    kind, _, name = slot.partition(".")
    return SLOT_MARKS[kind] + (f"{name}:" if name else "")


def slot_groups(slots: Iterable[str], most: int, heading: int = _MARK_TOKENS) -> Iterator[list[str]]:
    """Split slots, in their order, into those that one answer has room for.

    Args:
        slots: As in a Doc: `summary`, `param.x`, …
        most: Tokens of an answer.
        heading: Tokens that stand before a text, at most, beside a name.
    """
    group: list[str] = []
    used = 0
    for slot in slots:
        kind, _, name = slot.partition(".")
        tokens = SLOT_TOKENS[kind] + heading + len(name.encode())  # no token is shorter than a byte
        if group and used + tokens > most:
            yield group
            group, used = [], 0
        group.append(slot)
        used += tokens
    if group:
        yield group


class PromptError(ValueError):
    """A definition cannot become a prompt: it is nested too deeply, or its signature alone is too long."""


def definitions(tree: ast.Module) -> Iterator[tuple[Definition, str]]:
    """Yield the functions and classes of a file, each with the head of its class ("" where it has none)."""
    waiting: list[tuple[ast.AST, str]] = [(tree, "")]
    while waiting:
        node, owner = waiting.pop()
        if isinstance(node, Definition):
            yield node, owner
            owner = class_head(node) if isinstance(node, ast.ClassDef) else ""
        # An expression, which most nodes are part of, holds no definition.
        children = [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr)]
        waiting += [(child, owner) for child in reversed(children)]


def class_head(node: ast.ClassDef) -> str:
    """Return `class Name(Base, ...):`, without the bases if those are long."""
    try:
        bases = ", ".join(map(ast.unparse, node.bases))
    except (RecursionError, ValueError):  # nested too deeply, or a number too long to be printed
        bases = ""
    return f"class {node.name}({bases}):" if 0 < len(bases) <= _LONGEST_HEAD else f"class {node.name}:"


def normalized(node: Function) -> str:
    """Return the source of `node` without docstrings, comments and formatting, long literals shortened."""
    return _source(_readable(node))


def placed(code: str, owner: str) -> str:
    """Return a function's normalized source under the head of its class ("" for none)."""
    return f"{owner}\n{indent(code, _INDENTATION)}" if owner else code


def elided(node: Function, owner: str, fits: Callable[[str], bool]) -> str:
    """Return the normalized source with as many blocks as needed replaced by `...` until it fits.

    The deepest blocks go first, the larger ones first among equals; then the statements of the function
    itself, from the last one up; in the end only the signature remains, and the head of its class, `owner`.
    """

    def text(tree: Function) -> str:
        return placed(_source(tree), owner)

    tree = _readable(node)
    if fits(whole := text(tree)):
        return whole
    blocks = _deepest_first(tree)
    outline = _hide(tree, set(blocks))
    if fits(text(outline)):
        return _least(len(blocks), lambda count: text(_hide(tree, set(blocks[:count]))), fits)
    statements = len(outline.body)
    shortest = _keep_statements(outline, 0)
    if not fits(text(shortest)):
        raise PromptError(f"the signature of {node.name!r} alone exceeds the prompt's length")
    return _least(statements, lambda count: text(_keep_statements(outline, statements - count)), fits)


def members(node: ast.ClassDef | ast.Module) -> dict[str, str]:
    """Return what a class or module defines for others to use: by name, the member's line of an outline.

    Names with a leading underscore are left out, special methods are not. Of a name that is defined more
    than once the first definition counts that is no overload. Variables are members of classes only.
    """
    lines: dict[str, str] = {}
    overloads: set[str] = set()
    for statement in node.body:
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                line = _function_line(statement, isinstance(node, ast.ClassDef))
            case ast.ClassDef(name=name):
                line = class_head(statement).removesuffix(":")
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]) if (
                isinstance(node, ast.ClassDef)
            ):
                line = name
            case _:
                continue
        is_private = name.startswith("_") and not (name.startswith("__") and name.endswith("__"))
        if not is_private and (name not in lines or name in overloads):
            lines[name] = line
            overloads.discard(name)
            if isinstance(statement, Function) and "overload" in _decorators(statement):
                overloads.add(name)
    return lines


def _function_line(node: Function, in_class: bool) -> str:
    kind = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    if any(name.endswith("property") for name in _decorators(node)):
        return f"property {node.name}"
    arguments = node.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    names = names[1:] if in_class and names[:1] in (["self"], ["cls"]) else names
    names += [f"*{arguments.vararg.arg}"] if arguments.vararg else []
    names += [a.arg for a in arguments.kwonlyargs]
    names += [f"**{arguments.kwarg.arg}"] if arguments.kwarg else []
    shown = names[:_MOST_PARAMETERS] + [_ELLIPSIS] * (len(names) > _MOST_PARAMETERS)
    return f"{kind} {node.name}({', '.join(shown)})"


def _decorators(node: Function) -> list[str]:
    """The last names of plain decorators: `overload` of `@typing.overload`."""
    names = [d for d in node.decorator_list if isinstance(d, ast.Name | ast.Attribute)]
    return [d.id if isinstance(d, ast.Name) else d.attr for d in names]


def outline(head: str, lines: Mapping[str, str], summaries: Mapping[str, str]) -> str:
    """Return a head with a line for each member, the member's summary behind it if there is one."""
    described = (
        f"{_INDENTATION}{line}: {_brief(summaries[name])}" if name in summaries else _INDENTATION + line
        for name, line in lines.items()
    )
    return "\n".join([head, *described])


def _brief(summary: str) -> str:
    words = summary.split()
    return " ".join(words) if len(words) <= _MOST_WORDS else " ".join([*words[:_MOST_WORDS], _ELLIPSIS])


def elided_outline(text: str, fits: Callable[[str], bool]) -> str:
    """Return an outline with as many of its last members as needed replaced by `...` until it fits."""
    head, *lines = text.split("\n")

    def without(count: int) -> str:
        return "\n".join([head, *lines[: len(lines) - count], _INDENTATION + _ELLIPSIS])

    if not fits(without(len(lines))):
        raise PromptError(f"{head!r} alone exceeds the prompt's length")
    if fits(text):
        return text
    return _least(len(lines), without, fits)


def masked(node: Function) -> Function:
    """Return a copy of `node` whose own name is a neutral one, in recursive calls and decorators too."""
    tree = copy.deepcopy(node)
    for part in ast.walk(tree):
        if isinstance(part, ast.Name) and part.id == node.name:
            part.id = NEUTRAL_NAME
        elif isinstance(part, ast.Attribute) and part.attr == node.name and _is_own_instance(part.value):
            part.attr = NEUTRAL_NAME
    tree.name = NEUTRAL_NAME
    return tree


def masked_class(node: ast.ClassDef) -> ast.ClassDef:
    """Return a copy of `node` whose own name is a neutral one."""
    return _changed(node, {"name": NEUTRAL_CLASS})


def _is_own_instance(value: ast.expr) -> bool:
    match value:
        case ast.Name(id="self" | "cls") | ast.Call(func=ast.Name(id="super")):
            return True
    return False


def _source(tree: ast.AST) -> str:
    try:
        return ast.unparse(tree)
    except RecursionError:
        raise PromptError("the code is nested too deeply to be read") from None
    except ValueError as error:  # formatted strings that only a newer Python can write in one line
        raise PromptError(f"the code cannot be written as source: {error}") from None


def _readable(node: Function) -> Function:
    try:
        return _rewritten(node)
    except RecursionError:
        raise PromptError(f"the code of {node.name!r} is nested too deeply to be read") from None


def _rewritten(node: _Node) -> _Node:
    """Return `node` as the model may see it; what needs no change is shared with the original, not copied."""
    changes: dict[str, Any] = {}
    for field, value in node.__dict__.items():
        new = _rewritten_list(field, value) if isinstance(value, list) else _rewritten_value(value)
        if new is not value:
            changes[field] = new
    if isinstance(node, _Literal):
        changes |= _first_elements(node, changes)
    return _changed(node, changes) if changes else node


def _rewritten_value(value: object) -> object:
    if isinstance(value, ast.Constant):
        return _shortened(value)
    return _rewritten(value) if isinstance(value, ast.AST) else value


def _rewritten_list(field: str, values: list[object]) -> list[object]:
    """Rewrite each node of a list; statements that are only text, docstrings among them, are left out."""
    new = [_rewritten_value(value) for value in values if not _is_text_statement(value)]
    if values and not new and field in _BLOCKS:
        return [_ellipsis_statement()]
    if len(new) == len(values) and all(a is b for a, b in zip(new, values, strict=True)):
        return values
    return new


def _is_text_statement(value: object) -> bool:
    return (
        isinstance(value, ast.Expr)
        and isinstance(value.value, ast.Constant | ast.JoinedStr)
        and not (isinstance(value.value, ast.Constant) and value.value.value is ...)
    )


def _shortened(constant: ast.Constant) -> ast.Constant:
    match constant.value:
        case str() as text if len(text) > _LONGEST_TEXT:
            return ast.Constant(text[:_LONGEST_TEXT] + _ELLIPSIS)
        case bytes() as data if len(data) > _LONGEST_TEXT:
            return ast.Constant(data[:_LONGEST_TEXT] + _ELLIPSIS.encode())
        case int() as number if number.bit_length() > _WIDEST_INTEGER:
            return ast.Constant(...)
    return constant


def _first_elements(node: _Literal, changes: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a long literal cut to its first elements, with `...` for the rest."""
    fields = ("keys", "values") if isinstance(node, ast.Dict) else ("elts",)
    elements = {field: changes.get(field, getattr(node, field)) for field in fields}
    is_target = isinstance(getattr(node, "ctx", None), ast.Store | ast.Del)
    if is_target or len(elements[fields[0]]) <= _LONGEST_LITERAL:
        return {}
    return {field: [*values[:_LONGEST_LITERAL], ast.Constant(...)] for field, values in elements.items()}


def _changed(node: _Node, changes: dict[str, Any]) -> _Node:
    new = copy.copy(node)
    new.__dict__.update(changes)
    return new


def _ellipsis_statement() -> ast.Expr:
    return ast.Expr(ast.Constant(...))


def _deepest_first(tree: Function) -> list[tuple[int, str]]:
    """Return the blocks below the definition's own, as (node's id, field), in the order they are elided."""
    blocks = list(_blocks(tree, 0))
    blocks.sort(key=lambda block: (-block[0], -block[1]))  # stable: equals stay in the order of the source
    return [place for _, _, place in blocks]


def _blocks(node: ast.AST, depth: int) -> Iterator[tuple[int, int, tuple[int, str]]]:
    for field, children in _child_lists(node):
        if depth and field in _BLOCKS:
            yield depth, sum(1 for child in children for _ in ast.walk(child)), (id(node), field)
        for child in children:
            yield from _blocks(child, depth + 1)


def _child_lists(node: ast.AST) -> Iterator[tuple[str, list[ast.AST]]]:
    for field in (*_BLOCKS, "handlers", "cases"):
        if isinstance(children := getattr(node, field, None), list) and children:
            yield field, children


def _hide(node: _Node, places: set[tuple[int, str]]) -> _Node:
    """Return `node` with the blocks at `places` replaced by `...`."""
    changes: dict[str, Any] = {}
    for field, children in _child_lists(node):
        if (id(node), field) in places:
            changes[field] = [_ellipsis_statement()]
        else:
            new = [_hide(child, places) for child in children]
            if any(a is not b for a, b in zip(new, children, strict=True)):
                changes[field] = new
    return _changed(node, changes) if changes else node


def _keep_statements(node: Function, count: int) -> Function:
    return _changed(node, {"body": [*node.body[:count], _ellipsis_statement()]})


def _least(most: int, text: Callable[[int], str], fits: Callable[[str], bool]) -> str:
    """Return `text(count)` for the smallest count that fits, given that `text(most)` does."""
    low, high = 0, most
    best = text(most)
    while low + 1 < high:
        middle = (low + high) // 2
        if fits(attempt := text(middle)):
            high, best = middle, attempt
        else:
            low = middle
    return best
