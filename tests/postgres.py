"""A real PostgreSQL server, as another user where the tests run as root: it refuses to run as that."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def programs() -> Path:
    """The folder with PostgreSQL's own programs; without one, the test is skipped."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not found:
        pytest.skip("PostgreSQL is not installed")
    return found[-1].parent


@contextmanager
def postgresql(folder: Path, listening: str, *made_with: str) -> Iterator[None]:
    """A server whose superuser is docmill.

    Args:
        folder: An empty folder, for its data and its log.
        listening: Options of the server that say where.
        made_with: Options of initdb that say who may connect.
    """
    found = programs()
    owner = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
    if owner:
        for place in (folder, *list(folder.parents)[:-2]):
            place.chmod(0o755)
        shutil.chown(folder, "postgres", "postgres")

    def run(*command: str | Path) -> None:
        subprocess.run(list(map(str, command)), check=True, cwd=folder, stdout=subprocess.DEVNULL, **owner)

    data = folder / "data"
    run(found / "initdb", "--username=docmill", "--no-sync", *made_with, data)
    start = ["--wait", "--log", folder / "log", "--options", listening, "start"]
    run(found / "pg_ctl", "--pgdata", data, *start)
    try:
        yield
    finally:
        run(found / "pg_ctl", "--pgdata", data, "--mode", "immediate", "stop")
