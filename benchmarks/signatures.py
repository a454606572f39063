"""Documented parameters against `inspect.signature`, on installed packages.

    python benchmarks/signatures.py click networkx sqlalchemy sympy

Imports the packages, which docmill itself never does. Plain functions are compared:
those that are what their `def` says (no wrapper, no `__signature__`, the name they were
defined under). All others are counted by reason.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from infra.cli import main as docmill

OURS = ("flows", "infra", "models", "tasks")

Comparison = tuple[int, list[str], Counter]


def compare(package: str) -> Comparison:
    """Build a package's site and compare it: who agrees, who does not, and the others by reason."""
    folder = Path(str(files(package)))
    with tempfile.TemporaryDirectory() as work:
        site = Path(work, "site")
        status = docmill(["build", str(folder), "--model", "none", "--out", str(site)])
        if status:
            raise SystemExit(f"{package}: docmill ended with {status}")
        symbols = json.loads((site / "symbols.json").read_bytes())
        lost = missing_anchors(site, symbols)
    by_place = {(s["path"], _last(s["id"]).partition("#")[0], s["line"]): s for s in symbols}
    agreed, wrong = 0, [f"no anchor: {symbol}" for symbol in lost]
    other: Counter[str] = Counter()
    for function, reason in functions(package):
        if reason:
            other[reason] += 1
            continue
        code = function.__code__
        place = (str(Path(code.co_filename).relative_to(folder)), function.__name__, code.co_firstlineno)
        symbol = by_place.get(place)
        if symbol is None:
            wrong.append(f"not documented: {place}")
        elif documented(symbol) != actual(function):
            wrong.append(f"{place}: {documented(symbol)} is not {actual(function)}")
        else:
            agreed += 1
    return agreed, wrong, other


def _last(symbol_id: str) -> str:
    return symbol_id.rpartition("::")[2].rpartition(".")[2]


def documented(symbol: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """Names, kinds and whether there is a default, as docmill says."""
    return [(p["name"], p["kind"], p["default"] is not None) for p in symbol["parameters"]]


def actual(function: FunctionType) -> list[tuple[str, str, bool]]:
    """The same as Python says."""
    parameters = inspect.signature(function).parameters.values()
    return [(_unmangled(p.name, function), p.kind.name.lower(), p.default is not p.empty) for p in parameters]


def _unmangled(name: str, function: FunctionType) -> str:
    """`__x` inside a class `C` is `_C__x` at run time."""
    owner = function.__qualname__.rpartition(".")[0].rpartition(".")[2].lstrip("_")
    prefix = f"_{owner}__"
    return name.removeprefix(f"_{owner}") if owner and name.startswith(prefix) else name


def functions(package: str) -> Iterator[tuple[Any, str | None]]:
    """Every function defined in a package, with the reason not to compare it."""
    seen: set[int] = set()
    for module in modules(package):
        for holder in [module, *classes(module)]:
            for value in list(vars(holder).values()):
                if isinstance(value, staticmethod | classmethod):
                    value = value.__func__
                if id(value) in seen or not callable(value) or isinstance(value, type):
                    continue
                seen.add(id(value))
                if getattr(value, "__module__", None) == module.__name__:
                    yield value, unfit(value, module)


def classes(module: ModuleType) -> Iterator[type]:
    """A module's own classes, nested ones too."""
    stack = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]
    seen: set[int] = set()
    while stack:
        found = stack.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        stack += [v for v in vars(found).values() if isinstance(v, type) and v.__module__ == module.__name__]


def unfit(value: Any, module: ModuleType) -> str | None:
    """Why a callable is not what its `def` says."""
    if not inspect.isfunction(value):
        return "not a function"
    if hasattr(value, "__wrapped__"):
        return "wrapped"
    if hasattr(value, "__signature__"):
        return "sets its own signature"
    if "<locals>" in value.__qualname__ or "<lambda>" in value.__qualname__:
        return "made at run time"
    if Path(value.__code__.co_filename).resolve() != Path(module.__file__ or "").resolve():
        return "defined elsewhere (generated or exec)"
    if value.__code__.co_name != value.__name__ or value.__code__.co_qualname != value.__qualname__:
        return "renamed at run time"
    return None


def modules(package: str) -> Iterator[ModuleType]:
    """All modules of a package that can be imported."""
    root = importlib.import_module(package)
    yield root
    for info in pkgutil.walk_packages(root.__path__, package + ".", onerror=lambda name: None):
        if info.name.endswith("__main__"):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield importlib.import_module(info.name)
        except BaseException:  # noqa: BLE001 - a module that cannot be imported here has no oracle
            continue


class _Ids(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.update(value for name, value in attrs if name == "id" and value)


def missing_anchors(site: Path, symbols: list[dict[str, Any]]) -> list[str]:
    """Public symbols whose url leads nowhere."""
    from urllib.parse import unquote

    ids: dict[str, set[str]] = {}
    lost = []
    for symbol in symbols:
        if not symbol["public"]:
            continue
        page, _, fragment = symbol["url"].partition("#")
        if page not in ids:
            parser = _Ids()
            file = site / unquote(page)
            parser.feed(file.read_text() if file.is_file() else "")
            ids[page] = parser.found
        if not (site / unquote(page)).is_file() or (fragment and unquote(fragment) not in ids[page]):
            lost.append(symbol["id"])
    return lost


if __name__ == "__main__":
    failed = False
    for name in sys.argv[1:] or [*OURS, "click", "networkx", "sqlalchemy", "sympy"]:
        agreed, wrong, other = compare(name)
        print(f"{name}: {agreed:,} functions agree, {len(wrong)} do not; not compared: {dict(other)}")
        for line in wrong[:20]:
            print(f"  {line}")
        failed = failed or bool(wrong)
    sys.exit(failed)
