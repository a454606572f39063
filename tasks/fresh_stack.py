"""Work at one depth of the stack, whoever asks for it.

How deeply code may be nested before Python gives up on it depends on how deep the caller
is already. In a thread of its own the depth is always the same, and so is the outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def on_fresh_stack(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Apply a function to each item, one after the other."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        for item in items:
            yield thread.submit(function, item).result()
