"""Builds that are killed: readers always see a whole site, and the next build completes.

`DOCMILL_TEST_KILLS` says how many builds are killed, at random moments.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import networkx
import pytest

from tests.conftest import tree_bytes

KILLS = int(os.environ.get("DOCMILL_TEST_KILLS", "4"))

pytestmark = pytest.mark.timeout(120 + 30 * KILLS)


def damage(site: Path) -> list[str]:
    """What a reader who opens the site now finds missing or changed, of all that its manifest lists."""
    release = site.resolve(strict=True)  # a reader opens the folder once, and reads on from there
    files = json.loads((release / "manifest.json").read_bytes())["files"]
    return [name for name, file in files.items() if _sha256(release / name) != file["digest"]]


def _sha256(file: Path) -> str | None:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None


class Reader(threading.Thread):
    """Reads the whole published site over and over, until it is told to stop."""

    def __init__(self, site: Path) -> None:
        super().__init__(daemon=True)
        self.site = site
        self.reads = 0
        self.found: list[object] = []
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(0.05):
            try:
                self.found += damage(self.site)
            except (OSError, ValueError) as error:
                self.found.append(error)
            self.reads += 1

    def stop(self) -> None:
        self._stopped.set()
        self.join()


def start_build(source: Path, out: Path, cache: Path) -> subprocess.Popen[bytes]:
    """A build as a user starts it, in a session of its own."""
    command = [sys.executable, "-m", "infra.cli", "build", str(source), "--out", str(out), "--model", "none"]
    own = {name: value for name, value in os.environ.items() if not name.startswith("DOCMILL_")}
    environment = own | {"XDG_CACHE_HOME": str(cache), "XDG_CONFIG_HOME": str(cache)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def processes_of(session: int) -> list[int]:
    """The processes that a build has left."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getsid(int(entry.name)) == session:
                    found.append(int(entry.name))
            except ProcessLookupError:
                continue
    return found


def edit(source: Path, number: int) -> None:
    """Change what every page shows, and one module's code."""
    (source / "docmill.toml").write_text(f'title = "networkx {number}"\n')
    with (source / "relabel.py").open("a") as file:
        file.write(
            f'\n\ndef added_{number}(graph):\n    """Number {number}."""\n    relabel_nodes(graph, {{}})\n'
        )


@pytest.fixture
def source(tmp_path) -> Path:
    """A real package, large enough for several processes."""
    folder = tmp_path / "networkx"
    ignored = shutil.ignore_patterns("tests", "__pycache__", "generators", "drawing", "linalg")
    shutil.copytree(Path(networkx.__file__).parent, folder, ignore=ignored)
    return folder


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
def test_readers_see_a_whole_site_whenever_a_build_is_killed(source, tmp_path):
    out, cache = tmp_path / "site", tmp_path / "cache"
    chance = random.Random(KILLS)
    start = time.monotonic()
    assert start_build(source, out, cache).wait() == 0
    whole = time.monotonic() - start
    reader = Reader(out)
    reader.start()
    killed = 0
    for number in range(KILLS):
        edit(source, number)
        build = start_build(source, out, cache)
        time.sleep(chance.uniform(0.1, 1.0) * whole)
        build.send_signal(signal.SIGKILL)
        killed += build.wait() == -signal.SIGKILL
        assert damage(out) == []
        deadline = time.monotonic() + 20
        while left := processes_of(build.pid):
            assert time.monotonic() < deadline, f"processes {left} outlived their build"
            time.sleep(0.05)
    assert start_build(source, out, cache).wait() == 0
    reader.stop()
    assert reader.found == []
    assert reader.reads > KILLS
    assert killed
    assert start_build(source, tmp_path / "clean", tmp_path / "another-cache").wait() == 0
    assert tree_bytes(out) == tree_bytes(tmp_path / "clean")
    assert not list((tmp_path / ".site.docmill").glob("staging-*"))
