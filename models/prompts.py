"""Code as a model reads it: one function or class, turned into the text of a prompt.

Training and generation both come through here, so that the model is asked what it was taught. The text is
made from the syntax tree and holds neither docstrings nor comments nor formatting: a reformatted function
gives the same bytes, and therefore the same key and the same answer.

In scope: removing what must not be read, shortening literals, eliding what does not fit, masking a name.
Not in scope: finding definitions in files, tokens (the caller says what fits), frames and chat templates.
"""

import ast
import copy
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

PROMPT_VERSION = 1  # part of every key of generated text: raise it when the text below changes
SUMMARY_SEPARATOR = "<|summary|>"  # one token of the bundled model, between the code and its summary
NEUTRAL_NAME = "func"

_LONGEST_TEXT = 60  # characters of a string or bytes literal
_LONGEST_LITERAL = 12  # elements of a list, tuple, set or dict literal
_WIDEST_INTEGER = 64  # bits; beyond that the digits say nothing, and too many cannot be printed
_ELLIPSIS = "..."

_BLOCKS = ("body", "orelse", "finalbody")
_Node = TypeVar("_Node", bound=ast.AST)
_Literal = ast.List | ast.Tuple | ast.Set | ast.Dict


class PromptError(ValueError):
    """A definition cannot become a prompt: it is nested too deeply, or its signature alone is too long."""


def normalized(node: Definition) -> str:
    """Return the source of `node` without docstrings, comments and formatting, long literals shortened."""
    return _source(_readable(node))


def elided(node: Definition, fits: Callable[[str], bool]) -> str:
    """Return the normalized source with as many blocks as needed replaced by `...` until it fits.

    The deepest blocks go first, the larger ones first among equals; then the statements of the definition
    itself, from the last one up; the signature is what remains in the end.
    """
    tree = _readable(node)
    if fits(text := _source(tree)):
        return text
    blocks = _deepest_first(tree)
    outline = _hide(tree, set(blocks))
    if fits(_source(outline)):
        return _least(len(blocks), lambda count: _source(_hide(tree, set(blocks[:count]))), fits)
    statements = len(outline.body)
    shortest = _keep_statements(outline, 0)
    if not fits(_source(shortest)):
        raise PromptError(f"the signature of {node.name!r} alone exceeds the prompt's length")
    return _least(statements, lambda count: _source(_keep_statements(outline, statements - count)), fits)


def masked(node: Definition) -> Definition:
    """Return a copy of `node` whose own name is a neutral one, in recursive calls and decorators too."""
    tree = copy.deepcopy(node)
    for part in ast.walk(tree):
        if isinstance(part, ast.Name) and part.id == node.name:
            part.id = NEUTRAL_NAME
        elif isinstance(part, ast.Attribute) and part.attr == node.name and _is_own_instance(part.value):
            part.attr = NEUTRAL_NAME
    tree.name = NEUTRAL_NAME
    return tree


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


def _readable(node: Definition) -> Definition:
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


def _deepest_first(tree: Definition) -> list[tuple[int, str]]:
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


def _keep_statements(node: Definition, count: int) -> Definition:
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
