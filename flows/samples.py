"""Functions as a model is shown them, to measure or to calibrate with."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import flows
import models
import tasks
from models.prompts import PromptError, definitions, elided

_LONGEST = 1000  # characters


def calibration() -> Iterator[str]:
    """Functions of docmill's own code, short ones."""
    return prompts(own_files(), lambda text: len(text) <= _LONGEST)


def own_files() -> Iterator[Path]:
    """docmill's own code."""
    for package in (flows, tasks, models):
        yield from sorted(Path(package.__path__[0]).rglob("*.py"))


def prompts(files: Iterable[Path], fits: Callable[[str], bool]) -> Iterator[str]:
    """The functions of Python files, elided until they fit."""
    for file in files:
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
