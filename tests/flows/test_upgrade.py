"""After an upgrade, `docmill plan` says what docmill itself makes anew, and does not blame the source."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra.imports import PACKAGES

ROOT = Path(__file__).parent.parent.parent


class Installation:
    """A docmill of its own, which can be upgraded, and a source that it builds."""

    def __init__(self, folder: Path) -> None:
        self.home, self.source, self.out = folder / "docmill", folder / "source", folder / "site"
        ignored = shutil.ignore_patterns("__pycache__", "bundled", "training")
        for name in PACKAGES:
            shutil.copytree(ROOT / name, self.home / name, ignore=ignored)
        self.source.mkdir()
        (self.source / "README.md").write_text("# Title\n")
        for name in ("a", "b"):
            text = f'def of_{name}(x):\n    """Text.\n\n    :param x: X.\n    """\n'
            (self.source / f"{name}.py").write_text(text)

    def change(self, file: str, old: str, new: str) -> None:
        """What an upgrade changes."""
        text = (self.home / file).read_text()
        assert old in text
        (self.home / file).write_text(text.replace(old, new))

    def __call__(self, command: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-m", "infra.cli", command, str(self.source), "--out", str(self.out)],
            cwd=self.home,  # so that its packages are those that are imported
            env=os.environ,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def planned(self) -> set[tuple[str, str]]:
        """By what is made anew, why."""
        found = [re.fullmatch(r"  (?:page|text) +(\w+) +(\S+)", line) for line in self("plan")]
        return {(match[2], match[1]) for match in found if match}


@pytest.fixture
def installation(tmp_path) -> Installation:
    found = Installation(tmp_path)
    found("build")
    assert found.planned() == set()
    return found


def test_pages_that_look_otherwise(installation):
    installation.change("tasks/templates/module.html", "{% block main %}", "{% block main %}<!-- new -->")
    assert installation.planned() == {("a.py::", "docmill"), ("b.py::", "docmill"), ("README.md", "docmill")}
    with (installation.source / "b.py").open("a") as file:
        file.write("\n\ndef more():\n    pass\n")
    assert installation.planned() == {
        *(("a.py::", "docmill"), ("b.py::", "code"), ("b.py::more", "missing"), ("README.md", "docmill"))
    }
    installation("build")
    assert installation.planned() == set()


def test_code_that_is_read_otherwise(installation):
    installation.change("tasks/chunk/__init__.py", "CHUNK_VERSION = ", "CHUNK_VERSION = 1000 + ")
    assert installation.planned() == set()  # parsed again, and the same comes of it
    installation.change("tasks/chunk/__init__.py", "1000 + ", "2000 + ")
    installation.change("tasks/chunk/slots.py", 'Slot(text, "human")', 'Slot(text + "!", "human")')
    planned = installation.planned()
    assert {reason for _, reason in planned} == {"docmill"}
    assert {("a.py::", "docmill"), ("a.py::of_a", "docmill")} <= planned


def test_what_changes_nothing_is_not_listed(installation):
    installation.change("tasks/plan.py", '"""Why', '"""So why')
    assert installation.planned() == set()
