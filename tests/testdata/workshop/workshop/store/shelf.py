"""Shelves."""

from workshop.tools import Hammer, Tool
from workshop.units import Grams


class Shelf:
    """Holds tools up to a weight."""

    limit: Grams = 50_000

    def __init__(self) -> None:
        self.tools: list[Tool] = [Hammer("first")]

    def put(self, tool: Tool) -> None:
        """Put a tool on the shelf."""
        self.tools.append(tool)
