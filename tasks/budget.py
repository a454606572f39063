"""How much a build may spend on a model, and what it has spent."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from tasks.generate.answers import Rendered

_BUDGET = re.compile(r"([0-9]{1,12})(\.[0-9]{1,6})? *(symbols?|tokens?|minutes?)?", re.IGNORECASE)


class Budget(Struct, frozen=True):
    """What may be sent to a model: so many symbols, tokens (read and written) or minutes of its time."""

    symbols: int | None = None
    tokens: int | None = None
    minutes: float | None = None


def parse_budget(text: str) -> Budget:
    """Read `500`, `500 symbols`, `200000 tokens`, `10 minutes` or `1.5 minutes`.

    Raises:
        ValueError: The text is none of these.
    """
    match = _BUDGET.fullmatch(text.strip())
    unit = match and (match[3] or "symbols").lower().rstrip("s")
    if match is None or (match[2] and unit != "minute"):
        raise ValueError("give a number of symbols, tokens or minutes: 500, 200000 tokens, 1.5 minutes")
    if unit == "minute":
        return Budget(minutes=float(match[1] + (match[2] or "")))
    return Budget(tokens=int(match[1])) if unit == "token" else Budget(symbols=int(match[1]))


class Spending:
    """Counts against a budget from now on.

    Args:
        budget: What may be spent.
        clock: Seconds.
    """

    def __init__(self, budget: Budget, clock: Callable[[], float] = time.monotonic) -> None:
        self._budget, self._clock = budget, clock
        self._symbols: set[str] = set()
        self._tokens = 0
        self._began = clock()

    @property
    def is_timed(self) -> bool:
        """Whether what is sent should soon be answered, for the time to be known."""
        return self._budget.minutes is not None

    def allows(self, request: Rendered, most_tokens: Callable[[Rendered], int]) -> bool:
        """Whether a request may be sent; if so, it is counted, its tokens as if the model wrote the most."""
        budget, symbol = self._budget, request.wanted.id
        if budget.minutes is not None and self._clock() - self._began >= 60 * budget.minutes:
            return False
        fresh = symbol not in self._symbols
        if fresh and budget.symbols is not None and len(self._symbols) >= budget.symbols:
            return False
        if budget.tokens is not None:
            most = most_tokens(request)
            if self._tokens + most > budget.tokens:
                return False
            self._tokens += most
        self._symbols.add(symbol)
        return True
