"""Weights."""

Grams = int


def grams(kilograms: float) -> Grams:
    """Grams from kilograms."""
    return int(kilograms * 1000)
