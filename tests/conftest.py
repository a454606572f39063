"""What all tests share: a home of their own, and docmill as a user calls it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.cli import main
from models.config import BUNDLED


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch) -> Path:
    """Caches and settings of this test alone."""
    folder = tmp_path_factory.mktemp("home")
    for name in [name for name in os.environ if name.startswith("DOCMILL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    monkeypatch.setenv("DOCMILL_MODEL", "none")  # a test that wants a model names one
    return folder


@pytest.fixture(scope="session")
def asked_for_all(tmp_path_factory) -> Path:
    """The bundled model, asked for the summary of everything, however unsure it is, in whatever words."""
    folder = tmp_path_factory.mktemp("model") / "asked-for-all"
    shutil.copytree(BUNDLED, folder)
    manifest, described = (json.loads((folder / n).read_text()) for n in ("manifest.json", "docmill.json"))
    del described["plain_words"]
    kinds = ("function", "method", "property", "class", "module", "package")
    described["asks"] = {kind: {"summary": None} for kind in kinds}
    text = json.dumps(described)
    (folder / "docmill.json").write_text(text)
    manifest["files"]["docmill.json"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="session")
def s3_server() -> Iterator[int]:
    """The port of a real S3 server on this machine."""
    from tests.s3 import moto  # s3fs takes a while to import

    with moto() as port:
        yield port


@pytest.fixture
def s3_proxy(s3_server, monkeypatch) -> Iterator[Any]:
    """A way to that server on which requests are counted and can fail, and credentials for it."""
    from tests.s3 import Proxy

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-operator")
    proxy = Proxy(s3_server)
    yield proxy
    proxy.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A Prefect server of this test session's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        patch.setenv("PREFECT_LOCAL_STORAGE_PATH", str(tmp_path_factory.mktemp("results")))
        from prefect.testing.utilities import prefect_test_harness

        with prefect_test_harness(server_startup_timeout=120):
            yield


class GitRepository:
    """A bare repository of a package with one module, and a clone that pushes to it."""

    def __init__(self, folder: Path) -> None:
        self.bare, self.clone = folder / "bare.git", folder / "clone"
        folder.mkdir()
        self._git(folder, "init", "--quiet", "--bare", "--initial-branch=main", str(self.bare))
        self._git(folder, "clone", "--quiet", str(self.bare), str(self.clone))
        self.url = self.bare.as_uri()

    def push(self, name: str, branch: str = "main") -> str:
        """Push a revision whose module defines one function of that name; returns its SHA."""
        self._git(self.clone, "checkout", "--quiet", "-B", branch)
        (self.clone / "a.py").write_text(f'def {name}(x):\n    """Text."""\n')
        self._git(self.clone, "add", ".")
        self._git(self.clone, "commit", "--quiet", "--message", name)
        self._git(self.clone, "push", "--quiet", "origin", branch)
        return self._git(self.clone, "rev-parse", "HEAD")

    @staticmethod
    def _git(folder: Path, *arguments: str) -> str:
        who = ["-c", "user.name=Tester", "-c", "user.email=tester@example.org"]
        done = subprocess.run(
            ["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()


@pytest.fixture
def git_repository(tmp_path) -> GitRepository:
    return GitRepository(tmp_path / "repository")


@pytest.fixture
def docmill(tmp_path, capsys):
    """Run `docmill build` and give its status, report and what it printed."""

    def run(source, *flags: str, out: Path | None = None):
        report = tmp_path / "report.json"
        status = main(
            ["build", str(source), "--out", str(out or tmp_path / "site"), "--report", str(report), *flags]
        )
        printed = capsys.readouterr()
        if status:
            print(printed.err)  # noqa: T201 - shown where a test fails
        return status, json.loads(report.read_bytes()), printed

    return run


def tree_bytes(site: Path) -> dict[str, bytes]:
    """Every file of a site by its path."""
    return {str(p.relative_to(site)): p.read_bytes() for p in sorted(site.rglob("*")) if p.is_file()}
