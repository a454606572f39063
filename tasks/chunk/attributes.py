"""Which attributes a class lacks, where its file alone can tell.

Bases, decorators, metaclasses and whoever has an object may give it attributes. Where one of them is not in
the file, or only a run could tell what it sets, nothing is lacking.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cached_property

from tasks.chunk.syntax import Definition, base_name, callee_of, dotted_name, is_text, last_part

# What gives a class no attribute that a docstring would describe.
_PLAIN_BASES = {"object", "Generic", "NamedTuple", "TypedDict"}
_PLAIN_DECORATORS = {"dataclass", "final"}
# What can set attributes whose names are nowhere, or stand for those that are not there.
_SETTING = {"__dict__", "__getattr__", "__getattribute__", "__setattr__"}
_SETTING |= {"eval", "exec", "globals", "locals", "setattr", "vars"}
_WORD = re.compile(r"[^\W\d]\w*")


class FileAttributes:
    """Tells which attributes the classes of a file lack."""

    def __init__(self, tree: ast.Module) -> None:
        self.tree = tree

    def lacks(self, node: ast.ClassDef, name: str) -> bool:
        """Whether a class cannot have an attribute that its docstring describes."""
        if not name.isidentifier() or name.startswith("__") or name in self._told or _SETTING & self._names:
            return False
        bases = self._with_bases(node)
        if bases is None:
            return False
        subclasses = (c for c in self._classes if node.name in map(base_name, c.bases))
        return not any(name in _given(one.body) for one in (*bases, *subclasses))

    @cached_property
    def _classes(self) -> list[ast.ClassDef]:
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef)]

    @cached_property
    def _names(self) -> set[str]:
        """What is read, asked for, called or defined anywhere."""
        names = {node.name for node in ast.walk(self.tree) if isinstance(node, Definition)}
        names |= {node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name)}
        return names | {node.attr for node in ast.walk(self.tree) if isinstance(node, ast.Attribute)}

    @cached_property
    def _told(self) -> set[str]:
        """What any object is asked for or given, and the words of all strings that are no docstrings."""
        alone = {node.value for node in ast.walk(self.tree) if isinstance(node, ast.Expr) and is_text(node)}
        told = {node.attr for node in ast.walk(self.tree) if isinstance(node, ast.Attribute)}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in alone:
                told.update(_WORD.findall(node.value))
        return told

    def _with_bases(self, node: ast.ClassDef) -> list[ast.ClassDef] | None:
        """A class and all of its bases; None if one of them is not in the file, or made by others."""
        found = [node]
        for one in found:  # which grows by the bases of each
            if not _is_plain(one):
                return None
            for name in map(base_name, one.bases):
                if name is not None and last_part(name) in _PLAIN_BASES:
                    continue
                called = [other for other in self._classes if other.name == name]
                if len(called) != 1 or called[0] is one:
                    return None
                found += [base for base in called if base not in found]
        return found


def _is_plain(node: ast.ClassDef) -> bool:
    """Whether nothing makes a class but its bases and its body, and there is anything in that."""
    decorators = {last_part(dotted_name(callee_of(decorator)) or "") for decorator in node.decorator_list}
    is_empty = all(is_text(statement) or isinstance(statement, ast.Pass) for statement in node.body)
    return not is_empty and not node.keywords and decorators <= _PLAIN_DECORATORS


def _given(body: Iterable[ast.AST]) -> Iterator[str]:
    """The names that the body of a class defines."""
    stack = list(body)
    while stack:
        node = stack.pop()
        if isinstance(node, Definition):
            yield node.name
        elif isinstance(node, ast.alias):
            yield node.asname or node.name
        else:
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
            stack += ast.iter_child_nodes(node)
