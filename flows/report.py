"""What a build did, as `--report` writes it and people read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from tasks.documents import DocmillError, SkippedFile
from tasks.files import write_whole
from tasks.ingest.tree import printable


class Report(Struct):
    """The outcome of one build; the field names are a contract with whoever reads the JSON."""

    source: dict[str, str | None]
    degraded: bool = False
    error: str | None = None
    symbols: int = 0
    slots: dict[str, int] = field(
        default_factory=lambda: {"human": 0, "derived": 0, "model": 0, "empty": 0, "dropped": 0}
    )
    generated: int = 0
    reused: int = 0
    unwritten: int = 0
    pages: dict[str, int] = field(default_factory=lambda: {"total": 0, "written": 0, "removed": 0})
    skipped_files: list[SkippedFile] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    engine: dict[str, Any] | None = None
    published: dict[str, str] | None = None

    def fail(self, error: BaseException) -> None:
        """Note why a build failed, and which files it had left out by then."""
        known = isinstance(error, DocmillError)
        self.error = printable(str(error) if known else f"{type(error).__name__}: {error}")
        if isinstance(error, DocmillError) and error.skipped:
            self.skipped_files = sorted(error.skipped, key=lambda file: file.path)

    def write(self, file: Path) -> None:
        """Write the report as JSON, whole or not at all."""
        write_whole(file, msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")
