"""Tools of several kinds.

Each example here is one that a reader would meet in real code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, overload

from workshop.units import Grams, grams

HEAVIEST: Grams = 20_000
"""No tool weighs more."""

Grip = Callable[[str], bool]


class ToolError(Exception):
    """A tool was used for what it is not made for."""


class Tool:
    """What every tool has in common.

    Args:
        name: What it is called.
        weight: How heavy it is, in grams.
    """

    count: ClassVar[int] = 0

    def __init__(self, name: str, weight: Grams = 500) -> None:
        self.name = name
        self.weight = weight

    @property
    def heavy(self) -> bool:
        """Whether one needs both hands."""
        return self.weight > grams(2)

    def use(self, on: str, /, *targets: str, times: int = 1, gently: bool = False, **options: object) -> int:
        """Use the tool on something.

        The tool is used as often as asked, and put back.

        Args:
            on: What it is used on first.
            *targets: What it is used on after that.
            times: How often.
            gently: With less force; see `Hammer.strike` for what that means.
            **options: Handed on as they are.

        Returns:
            How often it was used.

        Raises:
            ToolError: It is not made for this.
            ValueError: `times` is negative.

        Example:
            >>> Tool("saw").use("board", times=2)
            2
        """
        if times < 0:
            raise ValueError(times)
        if not on:
            raise ToolError(on)
        return times * (1 + len(targets))

    async def fetch(self) -> Tool:
        """Bring the tool."""
        return self

    @staticmethod
    def names() -> Iterator[str]:
        """All names that tools have had."""
        yield from ()

    @classmethod
    def named(cls, name: str) -> Tool:
        return cls(name)


class Hammer(Tool):
    """Strikes."""

    def use(self, on: str, /, *targets: str, times: int = 1, gently: bool = False, **options: object) -> int:
        return super().use(on, *targets, times=times, gently=gently, **options)

    @overload
    def strike(self, target: str) -> int: ...
    @overload
    def strike(self, target: list[str], force: float) -> list[int]: ...
    def strike(self, target: str | list[str], force: float = 1.0) -> int | list[int]:
        """Strike a target, or several with the same force."""
        return 1 if isinstance(target, str) else [1 for _ in target]

    class Head:
        """The part that strikes."""

        material = "steel"


@dataclass(frozen=True)
class Plan:
    """What is to be built, `</script><script>alert(1)</script>` or not."""

    title: str
    steps: list[str] = field(default_factory=list)
    budget: float | None = None


def sharpen(tool: Tool, angle: float = 22.5, *, stone: str = "fine") -> Tool:
    """Sharpen a tool.

    Parameters
    ----------
    tool : Tool
        What to sharpen.
    angle : float
        In degrees.
    stone : str
        How fine the stone is.

    Returns
    -------
    Tool
        The same tool, sharper.

    Notes
    -----
    A stone wears out.
    """
    return tool


def undocumented(first, second=None):
    return first or second
