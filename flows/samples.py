"""Functions as a model is shown them, to measure or to calibrate with."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import flows
import models
import tasks
from models.prompts import PromptError, definitions, elided

OWN_CODE = [Path(package.__path__[0]) for package in (flows, tasks, models)]


def prompts(folder: Path, fits: Callable[[str], bool]) -> Iterator[str]:
    """The functions of all Python files in a folder, elided until they fit."""
    for file in sorted(folder.rglob("*.py")):
        try:
            with warnings.catch_warnings(action="ignore"):
                tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError, RecursionError, OSError):
            continue
        for node, owner in definitions(tree):
            if not isinstance(node, ast.ClassDef):
                try:
                    yield elided(node, owner, fits)
                except PromptError:
                    continue
