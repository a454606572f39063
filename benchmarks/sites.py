"""What a reader gets: without a model, with every function's summary by the bundled one, with the sure ones.

    python benchmarks/sites.py [--package networkx] [--runs N]

A package is built as it is published, and with all its docstrings emptied, so that nothing is left but code.
Every build is a process of its own with an empty cache; seconds are medians of interleaved runs.

- Latency: the whole build's seconds by symbol; and the engine's alone by text, as installed (not tuned).
- Accuracy: what pages say of the code (signatures, parameters, exceptions, results, identifiers in a model's
  texts) and, apart from that, their links; and how much of it the gate finds wrong. Counted in the pages as
  they are drawn, before the gate decides: in what is published there is nothing wrong that it can find, for
  else it would not be. Before that, of what the model wrote: the sentences that were dropped.
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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from build import DOCMILL, copy_of, machine

from flows.pipeline import Pipeline
from flows.settings import cache_home, resolve_settings
from models.config import BUNDLED
from tasks.documents import Finding
from tasks.gate.compare import invented
from tasks.gate.page import Page, read_page
from tasks.ingest import open_source

HERE = Path(__file__).resolve().parent
LINKS = "links"
OF_LINKS = ("dead-link", "stale-line", "stale-source")  # rules
UNSURE = "bundled, function summaries, however unsure"


class Judged(NamedTuple):
    """What pages say by kind, and what the gate finds wrong of it that no human wrote."""

    said: Counter[str]
    wrong: list[Finding]


class Run(NamedTuple):
    """A build: its seconds, its report and its pages, judged."""

    seconds: float
    report: dict[str, Any]
    judged: Judged


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
    """The bundled model, whose summaries of functions are shown however unsure it is, and in whatever words.

    That is all that it is asked for, like the one that is shipped.
    """
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


def built(source: Path, model: str | Path, work: Path) -> Run:
    """A clean build, whether the gate lets it pass or not."""
    report = work / "report.json"
    command = [DOCMILL, "build", source, "--model", model, "--out", work / "site", "--report", report]
    with cache_at(work / "cache"):
        start = time.perf_counter()
        status = subprocess.run([str(c) for c in command], stdout=subprocess.DEVNULL).returncode
        seconds = time.perf_counter() - start
        found = json.loads(report.read_text())
        if status and found["gate"] is None:
            raise SystemExit(f"{source}: the build ended with {status}: {found['error']}")
        return Run(seconds, found, judged(source, model, work / "site"))


@contextmanager
def cache_at(folder: Path) -> Iterator[None]:
    """Have docmill keep what it caches there, in this process and in those that it starts."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    try:
        yield
    finally:
        del os.environ["XDG_CACHE_HOME"]
        if before is not None:
            os.environ["XDG_CACHE_HOME"] = before


def judged(source: Path, model: str | Path, site: Path) -> Judged:
    """The pages of a build that has just ended, as they lie in the cache: before the gate decided."""
    settings = resolve_settings(source, {"model": str(model), "out": str(site)}).settings
    with Pipeline(open_source(str(source), None, cache_home()), settings) as pipeline:
        snapshot = pipeline.ingest()
        parsed = pipeline.chunk(snapshot)
        rendered = pipeline.render(snapshot, parsed, pipeline.generate(snapshot, parsed))
        findings = pipeline.gate(snapshot, rendered).findings
        keys = {name: file.key for name, file in rendered.files.items() if name.endswith(".html")}
        said: Counter[str] = Counter()
        for name, key in keys.items():
            said.update(facts_of(read_page(name, pipeline.cache.get_many([key])[key])))
    return Judged(said, [finding for finding in findings if finding.author != "human"])


def facts_of(page: Page) -> Counter[str]:
    """What one page says, by kind."""
    found = Counter({LINKS: len(page.links)})
    for symbol in page.symbols:
        found["signatures"] += len(symbol.signatures)
        found["parameters"] += len(symbol.parameters)
        found["exceptions"] += sum(not exception.of_a_human for exception in symbol.raises)
        found["results"] += symbol.returns is not None
        # Where nothing is known, all that reads like code is invented.
        named = [name for text in symbol.model_texts for name in invented(text, frozenset())]
        found["identifiers in a model's texts"] += len(named)
    return found


def accuracy(judged: Judged) -> dict[str, dict[str, Any]]:
    """How much of what pages say is so: of the code, and of their links."""
    of_code = {kind: count for kind, count in judged.said.items() if kind != LINKS}
    wrong_links = sum(finding.rule in OF_LINKS for finding in judged.wrong)
    return {
        "code": {"facts": of_code, "of": sum(of_code.values()), "wrong": len(judged.wrong) - wrong_links},
        LINKS: {"of": judged.said[LINKS], "wrong": wrong_links},
    }


def row(runs: list[Run]) -> dict[str, Any]:
    """The figures of one contender."""
    seconds = statistics.median(run.seconds for run in runs)
    _, report, judged = runs[-1]
    slots: Mapping[str, int] = report["slots"]
    texts = slots["human"] + slots["derived"] + slots["model"]
    engine = report["engine"]
    return {
        "symbols": report["symbols"],
        "seconds": round(seconds, 2),
        "ms_per_symbol": round(1000 * seconds / report["symbols"], 3),
        "engine_ms_per_request": round(1000 * engine["seconds"] / report["generated"], 2) if engine else None,
        "accuracy": accuracy(judged),
        "slots": dict(slots),
        "completeness": texts / (texts + slots["empty"]),
    }


def measure(package: str, runs: int) -> dict[str, dict[str, Any]]:
    """By workload and contender, the figures; contenders take turns."""
    found: dict[str, dict[str, list[Run]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sources = {name: copy_of(package, Path(folder, name)) for name in ("as published", "no docstrings")}
        without_docstrings(sources["no docstrings"])
        models: dict[str, str | Path] = {
            "no model": "none",
            UNSURE: without_threshold(Path(folder, "unsure")),
            "bundled": BUNDLED,
        }
        for _ in range(runs):
            for workload, source in sources.items():
                for name, model in models.items():
                    with tempfile.TemporaryDirectory() as work:
                        run = built(source, model, Path(work))
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
            slots = found["slots"]
            hold = ", ".join(
                f"{part['of'] - part['wrong']:,} of {part['of']:,} ({kind})"
                for kind, part in found["accuracy"].items()
            )
            print(
                f"  {name:<46}{found['seconds']:7.1f} s {found['ms_per_symbol']:7.2f} ms/symbol"
                f"{found['engine_ms_per_request'] or 0:7.1f} ms/request"
                f"  hold: {hold}, {slots['dropped']} sentences dropped"
                f"  complete {found['completeness']:.1%} ({slots['model']} of the model)"
            )
    figures = {"machine": machine(), "package": arguments.package, **results}
    file = HERE / "results" / f"sites-{datetime.now(UTC):%Y-%m-%d}.json"
    file.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
