"""Why a file could not be parsed: broken, or newer than the running Python.

A second grammar, which follows the newest Python, tells the two apart.
"""

from __future__ import annotations

import sys

import tree_sitter_python
from tree_sitter import Language, Parser

from tasks.documents import SkippedFile

_TOO_DEEP = (
    "too many nested parentheses",
    "nested too deeply",
    "too many levels of indentation",
    "too many statically nested blocks",
)
# What the running grammar says of syntax that it does not know; all else it knows to be wrong.
_VAGUE = ("invalid syntax", "expected ", "f-string", "multiple exception types must be parenthesized")
_PYTHON_2 = ("print_statement", "exec_statement")


def explain_syntax_error(source: str, path: str, error: SyntaxError) -> SkippedFile:
    """The report's line for a file that the running interpreter's grammar rejects."""
    message = error.msg or "invalid syntax"
    where = f"line {error.lineno}" if error.lineno else "somewhere"
    if any(phrase in message for phrase in _TOO_DEEP):
        return SkippedFile(path, "nesting", f"{where}: {message}")
    if message.startswith(_VAGUE) and _is_newer(source):
        running = ".".join(str(part) for part in sys.version_info[:2])
        return SkippedFile(path, "syntax", f"{where}: syntax newer than Python {running}")
    return SkippedFile(path, "syntax", f"{where}: {message}")


def _is_newer(source: str) -> bool:
    tree = Parser(Language(tree_sitter_python.language())).parse(source.encode())
    if tree.root_node.has_error:
        return False
    stack = [tree.root_node]
    while stack:
        node = stack.pop()
        if node.type in _PYTHON_2:
            return False
        stack.extend(node.children)
    return True
