"""The sources the bundled model learns from: pinned packages, fetched as wheels, read but never run.

In scope: the list with its licences and its split, downloading, the Python files of a wheel.
Not in scope: what is taken from a file (pairs), which pairs are kept (pairs).
"""

import re
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
    "_external",
    "third_party",
    "thirdparty",
    "thirdparty_files",
    "bigframes_vendored",
}
# What packages that are held out are imported as, where that is not their name.
_IMPORTED_AS = {"attrs": ("attr", "attrs")}
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
        target = ["--python-version", _WHEELS_FOR, "--ignore-requires-python", "--dest", str(folder)]
        subprocess.run([*command, *target, package.requirement], check=True)


def sources(package: Package, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the package's own Python files, in the order of their names: path in the wheel, and text."""
    wheel = _find_wheel(package, folder)
    if wheel is None:
        raise FileNotFoundError(f"no wheel of {package.requirement} in {folder}: run the download step first")
    foreign = _NOT_THE_PACKAGE_ITSELF | (_held_out() if package.split == "train" else set())
    with zipfile.ZipFile(wheel) as archive:
        for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
            if _is_own_source(entry, foreign):
                yield entry.filename, archive.read(entry).decode("utf-8", errors="replace")


def _held_out() -> set[str]:
    """Names under which copies of held-out packages may lie, as folders or as files."""
    names = (_IMPORTED_AS.get(p.name, (p.name,)) for p in packages() if p.split != "train")
    return {
        f"{before}{name}{after}"
        for found in names
        for name in found
        for before in ("", "_")
        for after in ("", ".py")
    }


def _is_own_source(entry: zipfile.ZipInfo, foreign: set[str]) -> bool:
    parts = set(entry.filename.split("/"))
    return (
        entry.filename.endswith(".py")
        and entry.file_size <= _LARGEST_FILE
        and not parts & (foreign | _NOT_THE_PRODUCT)
    )


def _find_wheel(package: Package, folder: Path) -> Path | None:
    wanted = _normalized(package.name), package.version
    found = [
        path
        for path in sorted(folder.glob("*.whl"))
        if (parts := path.name.split("-")) and (_normalized(parts[0]), parts[1].partition("+")[0]) == wanted
    ]
    return found[0] if found else None


def _normalized(name: str) -> str:
    """A name as pip compares it; in a wheel's own name some tools keep dots."""
    return re.sub(r"[-_.]+", "-", name).lower()
