"""Builds without a model: clean, no-op and one edit of sympy; and against Sphinx on networkx.

    python benchmarks/build.py [--runs N] [--skip-sphinx]

Every build is a process of its own, its seconds the median of interleaved runs. Peak memory
is that of the whole process tree, from one more run that is watched. Sphinx runs autodoc over what
sphinx-apidoc finds, with two jobs, from a virtual environment of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

HERE = Path(__file__).resolve().parent
DOCMILL = Path(sys.executable).with_name("docmill")
SPHINX = HERE / ".venv-sphinx"


class Timed:
    """Seconds of a process; or else the peak resident megabytes of its tree, for watching takes time."""

    def __init__(self, command: list[str | Path], watch: bool = False, **options: object) -> None:
        self.watched, self.peak_mb = watch, 0.0
        start = time.perf_counter()
        process = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
        while watch and process.poll() is None:
            self.peak_mb = max(self.peak_mb, sum(map(proportional_mb, tree(process.pid))))
            time.sleep(0.05)
        status = process.wait()
        self.seconds = time.perf_counter() - start
        if status:
            raise SystemExit(f"{command}: ended with {status}")


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [p for child in task.read_text().split() for p in tree(int(child))]
        except OSError:
            continue
    return found


def proportional_mb(pid: int) -> float:
    """Resident memory of one process, a page that several share counted once; 0 if it is gone."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    kib = [int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")]
    return sum(kib) * 1024 / 1e6


def copy_of(package: str, into: Path) -> Path:
    """A package's installed sources, to be edited."""
    origin = Path(str(files(package)))
    shutil.copytree(origin, into / package, ignore=shutil.ignore_patterns("__pycache__"))
    return into / package


def builds(package: str, edited: str, runs: int) -> dict[str, list[Timed]]:
    """Clean, no-op and one-edit builds of a package, interleaved; one round more to watch memory."""
    found: dict[str, list[Timed]] = {"clean": [], "no-op": [], "one edit": []}
    for run in range(runs + 1):
        with tempfile.TemporaryDirectory() as work:
            source = copy_of(package, Path(work))
            environment = os.environ | {"XDG_CACHE_HOME": f"{work}/cache"}
            command: list[str | Path] = [DOCMILL, "build", source, "--out", f"{work}/site", "--model", "none"]
            time.sleep(2.1)  # so that no file is too young for its digest to be remembered
            watch = run == runs
            found["clean"].append(Timed(command, watch, env=environment))
            found["no-op"].append(Timed(command, watch, env=environment))
            edit(source / edited, run)
            found["one edit"].append(Timed(command, watch, env=environment))
    return found


def edit(file: Path, number: int) -> None:
    """Change the body of one function, and only that."""
    text = file.read_text()
    line = next(line for line in text.splitlines() if line.startswith("        return "))
    file.write_text(text.replace(line, f"        changed_by_benchmark = {number}\n{line}", 1))


def against_sphinx(runs: int) -> dict[str, list[Timed]]:
    """Clean builds of networkx by docmill and by Sphinx, interleaved."""
    if not (SPHINX / "bin" / "sphinx-build").exists():
        subprocess.run([sys.executable, "-m", "venv", SPHINX], check=True)
        install: list[str | Path] = [
            SPHINX / "bin" / "pip",
            "install",
            "--quiet",
            "sphinx",
            "networkx",
            "numpy",
        ]
        subprocess.run(install, check=True)
    found: dict[str, list[Timed]] = {"docmill": [], "sphinx": []}
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as work:
            source = copy_of("networkx", Path(work))
            environment = os.environ | {"XDG_CACHE_HOME": f"{work}/cache", "PYTHONPATH": work}
            command: list[str | Path] = [DOCMILL, "build", source, "--out", f"{work}/site", "--model", "none"]
            found["docmill"].append(Timed(command, env=environment))
            apidoc = [SPHINX / "bin" / "sphinx-apidoc", "-q", "--full", "-o", f"{work}/rst", source]
            subprocess.run([str(a) for a in apidoc], check=True, env=environment)
            build: list[str | Path] = [
                SPHINX / "bin" / "sphinx-build",
                "-q",
                "-j",
                "2",
                f"{work}/rst",
                f"{work}/html",
            ]
            found["sphinx"].append(Timed(build, env=environment, stderr=subprocess.DEVNULL))
    return found


def summary(found: dict[str, list[Timed]]) -> dict[str, dict[str, float]]:
    """By row, the median of the seconds, and the peak of the run that was watched, if one was."""
    rows = {}
    for name, timed in found.items():
        rows[name] = {"seconds": round(statistics.median(t.seconds for t in timed if not t.watched), 3)}
        if peaks := [t.peak_mb for t in timed if t.watched]:
            rows[name]["peak_mb"] = round(max(peaks))
    return rows


def machine() -> str:
    """Name of the processor and number of cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.machine()
    return f"{name}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--skip-sphinx", action="store_true")
    arguments = parser.parse_args()
    results = {
        "machine": machine(),
        "load": os.getloadavg()[0],
        "sympy": summary(builds("sympy", "core/add.py", arguments.runs)),
        "networkx": summary(builds("networkx", "classes/graph.py", arguments.runs)),
    }
    if not arguments.skip_sphinx:
        results["clean build of networkx"] = summary(against_sphinx(arguments.runs))
    for workload, rows in results.items():
        if isinstance(rows, dict):
            for name, row in rows.items():
                memory = f"{row['peak_mb']:6.0f} MB" if "peak_mb" in row else ""
                print(f"{workload:<26}{name:<10}{row['seconds']:8.2f} s {memory}")
    file = HERE / "results" / f"build-{datetime.now(UTC):%Y-%m-%d}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
