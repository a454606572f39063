"""Tools, and where they are kept."""

from workshop.store.shelf import Shelf
from workshop.tools import Hammer, Tool, sharpen

__all__ = ["Hammer", "Shelf", "Tool", "sharpen"]
