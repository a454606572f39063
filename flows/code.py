"""Which code, and which libraries, a result was made by."""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from tasks.keys import digest, digest_bytes

_PACKAGES = ("flows", "tasks", "models")
_SUFFIXES = (".py", ".cpp", ".html", ".css", ".js")
_LIBRARIES = (
    "detect-secrets",
    "griffelib",
    "jinja2",
    "markdown-it-py",
    "mdit-py-plugins",
    "msgspec",
    "nh3",
    "pygments",
    "tree-sitter-python",
)


@lru_cache(maxsize=1)
def code_digest() -> str:
    """A digest of docmill's own code, of the libraries that shape its output, and of Python's version."""
    root = Path(__file__).resolve().parent.parent
    files = sorted(
        path for part in _PACKAGES for path in (root / part).rglob("*") if path.suffix in _SUFFIXES
    )
    code = [(str(path.relative_to(root)), digest_bytes(path.read_bytes())) for path in files]
    return digest([code, [(name, version(name)) for name in _LIBRARIES], sys.version_info[:2]])
