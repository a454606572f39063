"""How the parts of a package use each other, as a drawing.

The parts stand in a column, users above what they use as far as there is such an order;
an arc leads from each part to those it uses. The same parts and uses give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

# By part, the parts that it uses; names are relative to the package.
Uses = tuple[tuple[str, tuple[str, ...]], ...]

# Past this a column of arcs cannot be read; the parts with the most uses are drawn.
_MOST_PARTS = 20

# All lengths are in pixels of the drawing. A curve's controls lie a third farther out than it goes.
_ROW = 32
_NARROWEST, _WIDENING, _WIDEST = 24, 32, 400
_ASIDE = 5
_MARGIN = 6


class Part(Struct, frozen=True):
    """One row of the drawing."""

    name: str
    href: str


class Arc(Struct, frozen=True):
    """One use: the rows of user and used, the curve between them and its arrowhead."""

    user: int
    used: int
    path: str
    tip: str


class Diagram(Struct, frozen=True):
    """What a template needs to draw the uses inside one package; lengths are in pixels.

    Arcs that follow the order are on the right, those against it on the left.
    """

    parts: tuple[Part, ...]
    down: tuple[Arc, ...]
    up: tuple[Arc, ...]
    texts: tuple[tuple[Part, tuple[Part, ...]], ...]
    left_out: int
    width_down: int
    width_up: int
    height: int


def diagram(uses: Uses, hrefs: Mapping[str, str]) -> Diagram | None:
    """Lay the parts of a package out; None where there is nothing to see.

    Args:
        uses: What the parts use.
        hrefs: By part, where its page is; other parts are not drawn.
    """
    edges = {(a, b) for a, targets in uses for b in targets if a in hrefs and b in hrefs and a != b}
    names = {name for edge in edges for name in edge}
    if len(names) < 3:
        return None
    degree = {name: sum(name in edge for edge in edges) for name in names}
    kept = set(sorted(names, key=lambda n: (-degree[n], n))[:_MOST_PARTS])
    edges = {(a, b) for a, b in edges if a in kept and b in kept}
    parts = {name: Part(name, hrefs[name]) for name in _users_first(kept, edges)}
    row = {name: number for number, name in enumerate(parts)}
    arcs = sorted((row[a], row[b]) for a, b in edges)
    texts = tuple(
        (part, tuple(parts[b] for b in parts if (name, b) in edges))
        for name, part in parts.items()
        if any(a == name for a, _ in edges)
    )
    down = [(a, b) for a, b in arcs if a < b]
    up = [(a, b) for a, b in arcs if a > b]
    width_down, width_up = _width(down), _width(up)
    return Diagram(
        tuple(parts.values()),
        tuple(_arc(a, b, width_down) for a, b in down),
        tuple(_arc(a, b, width_up) for a, b in up),
        texts,
        len(names) - len(kept),
        width_down,
        width_up,
        len(parts) * _ROW,
    )


def _users_first(names: set[str], edges: set[tuple[str, str]]) -> list[str]:
    """An order in which few uses point upwards (Eades, Lin and Smyth's heuristic)."""
    used: dict[str, set[str]] = {name: {b for a, b in edges if a == name} for name in names}
    users: dict[str, set[str]] = {name: {a for a, b in edges if b == name} for name in names}
    left = set(names)
    first: list[str] = []
    last: list[str] = []
    while left:
        ends = sorted(n for n in left if not used[n] & left)
        starts = sorted(n for n in left if not users[n] & left)
        if ends:
            last.append(ends[-1])
        elif starts:
            first.append(starts[0])
        else:
            first.append(min(left, key=lambda n: (len(users[n] & left) - len(used[n] & left), n)))
        left -= {*first, *last}
    return first + last[::-1]


def _reach(rows: int) -> int:
    """How far out the controls of an arc over so many rows are."""
    return min(_NARROWEST + _WIDENING * rows, _WIDEST)


def _width(arcs: list[tuple[int, int]]) -> int:
    return max((_reach(abs(a - b)) for a, b in arcs), default=0) * 3 // 4 + _MARGIN


def _arc(user: int, used: int, width: int) -> Arc:
    down = user < used
    edge, out = (0, 1) if down else (width, -1)
    aside = _ASIDE if down else -_ASIDE
    start = user * _ROW + _ROW // 2 + aside
    end = used * _ROW + _ROW // 2 - aside
    bend = edge + out * _reach(abs(user - used))
    path = f"M{edge} {start}C{bend} {start} {bend} {end} {edge + out * 6} {end}"
    return Arc(user, used, path, f"M{edge} {end}l{out * 8} -4v8z")
