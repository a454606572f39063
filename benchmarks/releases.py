"""Successive releases of one package: each incremental site against a clean one, byte for byte.

    python benchmarks/releases.py [PACKAGE] [COUNT]

Downloads the newest releases with pip, builds them one after the other at one place, and
each once more with empty caches.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

DOCMILL = Path(sys.executable).with_name("docmill")


def versions(package: str, count: int) -> list[str]:
    """The newest releases, oldest first."""
    command = [sys.executable, "-m", "pip", "index", "versions", package]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = next(line for line in printed.splitlines() if line.startswith("Available versions:"))
    return list(reversed(line.partition(":")[2].replace(" ", "").split(",")[:count]))


def sources(package: str, version: str, into: Path) -> None:
    """Put the sources of one release where those of the last were."""
    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", work]
        subprocess.run([*command, f"{package}=={version}"], check=True, stderr=subprocess.DEVNULL)
        with zipfile.ZipFile(next(Path(work).glob("*.whl"))) as wheel:
            wheel.extractall(work)
        shutil.rmtree(into, ignore_errors=True)
        shutil.copytree(Path(work, package), into)


def build(source: Path, out: Path, cache: Path) -> tuple[float, dict]:
    """One build: its seconds and its report."""
    report = out.with_suffix(".json")
    command = [DOCMILL, "build", source, "--out", out, "--model", "none", "--report", report]
    start = time.perf_counter()
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    subprocess.run([str(c) for c in command], check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - start, json.loads(report.read_bytes())


def files(site: Path) -> dict[str, bytes]:
    """Every file of a site by its path."""
    return {str(p.relative_to(site)): p.read_bytes() for p in site.rglob("*") if p.is_file()}


def main() -> int:
    package = sys.argv[1] if len(sys.argv) > 1 else "click"
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    differing = 0
    with tempfile.TemporaryDirectory() as work:
        source, out = Path(work, package), Path(work, "site")
        for version in versions(package, count):
            sources(package, version, source)
            seconds, report = build(source, out, Path(work, "cache"))
            clean_seconds, _ = build(source, Path(work, "clean"), Path(work, f"cache-{version}"))
            incremental, clean = files(out), files(Path(work, "clean"))
            names = incremental.keys() | clean.keys()
            different = sorted(name for name in names if incremental.get(name) != clean.get(name))
            differing += bool(different)
            pages = report["pages"]
            print(
                f"{package} {version:<10} {pages['written']:4} of {pages['total']:4} pages written, "
                f"{seconds:.2f} s, clean {clean_seconds:.2f} s, "
                f"{f'DIFFERENT: {different}' if different else 'identical'}"
            )
    print(f"{differing} differ")
    return differing > 0


if __name__ == "__main__":
    sys.exit(main())
