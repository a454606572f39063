"""How a stage hands work to several processes, without knowing how many there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol


class Spread(Protocol):
    """Calls `function(part, cache, *common)` for parts of `items`, in any order, anywhere.

    The parts' results are what they put into the result cache.
    """

    def __call__(self, function: Callable[..., None], items: Sequence[Any], *common: Any) -> None: ...
