"""What a reader gets: without a model, with all that the bundled one writes, with what it is sure enough of.

    python benchmarks/sites.py [--package networkx] [--runs N]

A package is built as it is published, and with all its docstrings emptied, so that nothing is left but code.
Every build is a process of its own with an empty cache; seconds are medians of interleaved runs.

- Latency: the whole build's seconds by symbol; and the engine's alone by text, as installed (not tuned).
- Accuracy: what pages say of the code, counted in the finished pages (signatures, parameters, exceptions,
  results, links, identifiers in a model's texts), less what the gate finds wrong there. Before that, of what
  the model wrote: the share of sentences that were dropped.
- Completeness: the share of what can have a text (of public symbols) that has one.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from build import DOCMILL, copy_of, machine

from models.config import BUNDLED
from tasks.gate.page import Page, read_page

HERE = Path(__file__).resolve().parent


def without_docstrings(folder: Path) -> None:
    """Empty every docstring in a folder's Python files."""
    for file in folder.rglob("*.py"):
        lines = file.read_bytes().splitlines(keepends=True)
        nodes = list(ast.walk(ast.parse(b"".join(lines))))
        for node in sorted(
            nodes, key=lambda node: -getattr(node, "lineno", 0)
        ):  # the last first: lines shift
            documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
                text = node.body[0]
                assert text.end_lineno is not None
                before = lines[text.lineno - 1][: text.col_offset]
                after = lines[text.end_lineno - 1][text.end_col_offset :]
                lines[text.lineno - 1 : text.end_lineno] = [before + b'""' + after]
        file.write_bytes(b"".join(lines))


def without_threshold(folder: Path) -> Path:
    """The bundled model, to be shown however unsure it is, and in whatever words."""
    shutil.copytree(BUNDLED, folder)
    description, manifest = (json.loads((folder / n).read_text()) for n in ("docmill.json", "manifest.json"))
    del description["plain_words"]
    for slots in description["asks"].values():
        slots.update(dict.fromkeys(slots))
    text = json.dumps(description).encode()
    (folder / "docmill.json").write_bytes(text)
    manifest["files"]["docmill.json"] = hashlib.sha256(text).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def built(source: Path, model: str | Path, work: Path) -> tuple[float, dict[str, Any], Path]:
    """Seconds of a clean build, its report and its site."""
    site, report = work / "site", work / "report.json"
    command = [DOCMILL, "build", source, "--model", model, "--out", site, "--report", report]
    environment = os.environ | {"XDG_CACHE_HOME": str(work / "cache")}
    start = time.perf_counter()
    subprocess.run([str(c) for c in command], env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start, json.loads(report.read_text()), site


def facts(site: Path) -> Counter[str]:
    """What the pages of a site say of the code, by kind."""
    found: Counter[str] = Counter()
    for file in sorted(site.rglob("*.html")):
        found.update(facts_of(read_page(file.relative_to(site).as_posix(), file.read_bytes())))
    return found


def facts_of(page: Page) -> Counter[str]:
    """What one page says."""
    found = Counter({"links": len(page.links)})
    for symbol in page.symbols:
        found["signatures"] += len(symbol.signatures)
        found["parameters"] += len(symbol.parameters)
        found["exceptions"] += sum(not exception.of_a_human for exception in symbol.raises)
        found["results"] += symbol.returns is not None
        found["texts of a model"] += len(symbol.model_texts)
    return found


def row(runs: list[tuple[float, dict[str, Any], Counter[str]]]) -> dict[str, Any]:
    """The figures of one contender."""
    seconds = statistics.median(s for s, _, _ in runs)
    _, report, said = runs[-1]
    slots: Mapping[str, int] = report["slots"]
    texts = slots["human"] + slots["derived"] + slots["model"]
    wrong = [f for f in report["findings"] if f["author"] != "human"]
    engine = report["engine"]
    return {
        "symbols": report["symbols"],
        "seconds": round(seconds, 2),
        "ms_per_symbol": round(1000 * seconds / report["symbols"], 3),
        "engine_ms_per_request": round(1000 * engine["seconds"] / report["generated"], 2) if engine else None,
        "facts": dict(said),
        "wrong": len(wrong),
        "accuracy": 1 - len(wrong) / said.total(),
        "slots": dict(slots),
        "completeness": texts / (texts + slots["empty"]),
    }


def measure(package: str, runs: int) -> dict[str, dict[str, Any]]:
    """By workload and contender, the figures; contenders take turns."""
    found: dict[str, dict[str, list[tuple[float, dict[str, Any], Counter[str]]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sources = {name: copy_of(package, Path(folder, name)) for name in ("as published", "no docstrings")}
        without_docstrings(sources["no docstrings"])
        models: dict[str, str | Path] = {
            "no model": "none",
            "bundled, all texts": without_threshold(Path(folder, "unsure")),
            "bundled": BUNDLED,
        }
        for _ in range(runs):
            for workload, source in sources.items():
                for name, model in models.items():
                    with tempfile.TemporaryDirectory() as work:
                        seconds, report, site = built(source, model, Path(work))
                        run = seconds, report, facts(site)
                    found.setdefault(workload, {}).setdefault(name, []).append(run)
    return {workload: {name: row(runs) for name, runs in rows.items()} for workload, rows in found.items()}


def main() -> None:
    """Measure, print a table, and keep the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--package", default="networkx", help="an installed package (default: networkx)")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    results = measure(arguments.package, arguments.runs)
    for workload, rows in results.items():
        print(f"\n{arguments.package}, {workload}")
        for name, found in rows.items():
            slots, said = found["slots"], sum(found["facts"].values())
            print(
                f"  {name:<20}{found['seconds']:7.1f} s {found['ms_per_symbol']:7.2f} ms/symbol"
                f"{found['engine_ms_per_request'] or 0:7.1f} ms/request"
                f"  {said - found['wrong']:,} of {said:,} facts hold, {slots['dropped']} sentences dropped"
                f"  complete {found['completeness']:.1%} ({slots['model']} of the model)"
            )
    figures = {"machine": machine(), "package": arguments.package, **results}
    file = HERE / "results" / f"sites-{datetime.now(UTC):%Y-%m-%d}.json"
    file.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
