"""Whose `flows`, `tasks`, `models` and `infra` an import reaches: other projects use these names, too.

Nothing of docmill is imported here, for it may be what is not found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path

PACKAGES = ("flows", "tasks", "models", "infra")

_HOME = Path(__file__).resolve().parent.parent


def foreign(paths: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Those of docmill's packages that an import finds elsewhere, and where.

    Args:
        paths: What an import searches, in that order.
    """
    for name in PACKAGES:
        spec = PathFinder.find_spec(name, [*paths])
        if spec is None:
            continue
        place = Path(spec.origin or next(iter(spec.submodule_search_locations or ()), name)).resolve()
        if not place.is_relative_to(_HOME / name):
            yield name, place.parent if place.name == "__init__.py" else place
