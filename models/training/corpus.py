"""The sources the bundled model learns from: pinned packages, fetched as wheels, read but never run.

In scope: the list with its licences and its split, downloading, the Python files of a wheel.
Not in scope: what is taken from a file (pairs), which pairs are kept (pairs).
"""

import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["train", "validation", "test"]

_LIST = Path(__file__).with_name("corpus.toml")
_WHEELS_FOR = "3.13"  # the Python whose wheels are fetched; only their source files are read
_LARGEST_FILE = 2_000_000  # bytes; what is larger is generated data

# Copies of other projects may carry another licence, or be a package that is held out.
_NOT_THE_PACKAGE_ITSELF = {
    "vendor",
    "vendored",
    "_vendor",
    "_vendored",
    "vendors",
    "extern",
    "externals",
    "_extern",
}
_NOT_THE_PRODUCT = {"test", "tests", "testing", "_tests", "_testing", "conftest.py", "migrations", "locale"}


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    licence: str
    split: Split

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"


def packages() -> list[Package]:
    """Return the packages of corpus.toml in its order."""
    table = tomllib.loads(_LIST.read_text(encoding="utf-8"))
    return [
        Package(name, entry["version"], entry["licence"], split)
        for split in ("train", "validation", "test")
        for name, entry in table[split].items()
    ]


def download(wanted: list[Package], folder: Path) -> None:
    """Fetch the wheel of each package into `folder`; what is there already is not fetched again."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [package for package in wanted if _find_wheel(package, folder) is None]
    for package in missing:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        target = ["--python-version", _WHEELS_FOR, "--dest", str(folder), package.requirement]
        subprocess.run(command + target, check=True)


def sources(package: Package, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the package's own Python files, in the order of their names: path in the wheel, and text."""
    wheel = _find_wheel(package, folder)
    if wheel is None:
        raise FileNotFoundError(f"no wheel of {package.requirement} in {folder}: run the download step first")
    with zipfile.ZipFile(wheel) as archive:
        for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
            if _is_own_source(entry):
                yield entry.filename, archive.read(entry).decode("utf-8", errors="replace")


def _is_own_source(entry: zipfile.ZipInfo) -> bool:
    parts = set(entry.filename.split("/"))
    return (
        entry.filename.endswith(".py")
        and entry.file_size <= _LARGEST_FILE
        and not parts & (_NOT_THE_PACKAGE_ITSELF | _NOT_THE_PRODUCT)
    )


def _find_wheel(package: Package, folder: Path) -> Path | None:
    name = package.name.replace("-", "_")
    found = [
        path
        for path in sorted(folder.glob("*.whl"))
        if path.name.lower().startswith(f"{name}-{package.version}".lower())
        and path.name[len(name) + 1 + len(package.version)] in "-+"
    ]
    return found[0] if found else None
