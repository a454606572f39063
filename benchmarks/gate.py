"""Right pages that the gate blocks: clean builds of packages as their authors published them.

    python benchmarks/gate.py [--model none|bundled] [NAME …]

Wheels are fetched from PyPI at the versions below, unpacked and built, each by a process of its own with
empty caches. What docmill wrote must not be found wrong anywhere; what humans wrote is counted beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from build import DOCMILL, HERE, machine

PACKAGES = {
    "attrs": "26.1.0",
    "click": "8.5.1",
    "flask": "3.1.3",
    "fsspec": "2026.9.0",
    "httpx": "0.28.1",
    "jinja2": "3.1.6",
    "networkx": "3.6.1",
    "numpy": "2.4.6",
    "pydantic": "2.14.3",
    "redis": "8.1.0",
    "requests": "2.34.2",
    "rich": "15.0.0",
    "sqlalchemy": "2.0.58",
    "starlette": "1.10.0",
    "sympy": "1.14.0",
    "werkzeug": "3.1.9",
}


def fetched(name: str, version: str, into: Path) -> Path:
    """The sources in a package's wheel, without what describes the wheel."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*command, "--dest", into, f"{name}=={version}"], check=True, stderr=subprocess.DEVNULL)
    source = into / name
    with zipfile.ZipFile(next(into.glob("*.whl"))) as wheel:
        wheel.extractall(source)
    for described in (*source.glob("*.dist-info"), *source.glob("*.data"), *source.glob("*.libs")):
        shutil.rmtree(described)
    return source


def checked(source: Path, model: str, work: Path) -> dict[str, Any]:
    """What the gate says of a clean build."""
    report = work / "report.json"
    command = [DOCMILL, "build", source, "--model", model, "--out", work / "site", "--report", report]
    environment = os.environ | {"XDG_CACHE_HOME": str(work / "cache")}
    done = subprocess.run(
        list(map(str, command)), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    found = json.loads(report.read_bytes())
    if found["gate"] is None:
        raise SystemExit(f"{source.name}: {done.stderr.strip()}")
    by_author: dict[str, Counter[str]] = {"docmill": Counter(), "model": Counter(), "human": Counter()}
    for finding in found["findings"]:
        by_author[finding["author"]][finding["rule"]] += 1
    return {
        "status": done.returncode,
        "pages": found["gate"]["pages"],
        "symbols": found["symbols"],
        "texts of a model": found["slots"]["model"],
        "blocking": found["gate"]["blocking"],
        "findings": {author: dict(rules) for author, rules in by_author.items()},
    }


def totals(packages: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Sums over all packages."""
    counted = ("pages", "symbols", "blocking")
    return {what: sum(found[what] for found in packages.values()) for what in counted}


def main() -> int:
    """Build, print a table, and keep the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PACKAGES)}; default: all")
    parser.add_argument("--model", default="none", help="as of docmill build (default: none)")
    arguments = parser.parse_args()
    packages: dict[str, dict[str, Any]] = {}
    for name in arguments.names or PACKAGES:
        with tempfile.TemporaryDirectory() as work:
            source = fetched(name, PACKAGES[name], Path(work))
            found = {"version": PACKAGES[name]} | checked(source, arguments.model, Path(work))
        packages[name] = found
        humans = sum(found["findings"]["human"].values())
        print(
            f"{name:<12}{found['pages']:>7,} pages{found['symbols']:>9,} symbols"
            f"{found['blocking']:>4} blocking{humans:>6,} of humans",
            flush=True,
        )
    total = totals(packages)
    print(total)
    figures = {"machine": machine(), "model": arguments.model, "total": total, "packages": packages}
    if not arguments.names:
        file = HERE / "results" / f"gate-{datetime.now(UTC):%Y-%m-%d}.json"
        file.write_text(json.dumps(figures, indent=1) + "\n")
    return int(total["blocking"] > 0)


if __name__ == "__main__":
    sys.exit(main())
