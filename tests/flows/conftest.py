"""What the flows are run on."""

from __future__ import annotations

import shutil
from pathlib import Path

import click
import pytest


@pytest.fixture
def repository(tmp_path) -> Path:
    """A copy of click, to be edited."""
    folder = tmp_path / "click"
    shutil.copytree(Path(click.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder
