"""Classes, modules and packages are described from the docs of their parts, and only when those change."""

from __future__ import annotations

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from infra.cli import main
from models.config import BUNDLED, ModelConfig
from models.load import META_FILE, TOKENIZER_FILES, load
from tests.conftest import tree_bytes

CLIENT = """
class Client:
    def open(self, host, port):
        'Open the connection.'
        self.socket.connect((host, port))

    def close(self):
        self.connection.close()

    def _hidden(self):
        return None

class Empty:
    _private = 1

def read_lines(path):
    with open(path) as file:
        return file.readlines()
"""

CHAIN = [
    "pkg/connections.py::Client.close",
    "pkg/connections.py::Client",
    "pkg/connections.py::",
    "pkg/__init__.py::",
]


@pytest.fixture(scope="module")
def talkative(tmp_path_factory) -> Path:
    """The bundled model in float32, whose texts these tests know: asked for everything, never silent."""
    folder = tmp_path_factory.mktemp("model") / "talkative"
    load(ModelConfig(dtype="float32", device="cpu")).model.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (BUNDLED / name).exists():
            shutil.copy(BUNDLED / name, folder)
    meta = json.loads((BUNDLED / META_FILE).read_bytes())
    kinds = ("function", "method", "property", "class", "module", "package")
    meta |= {"asks": {kind: {"summary": None} for kind in kinds}, "plain_words": None}
    (folder / META_FILE).write_text(json.dumps(meta))
    return folder


@pytest.fixture
def repository(tmp_path) -> Path:
    folder = tmp_path / "project"
    (folder / "pkg").mkdir(parents=True)
    (folder / "pkg" / "__init__.py").write_text("")
    (folder / "pkg" / "connections.py").write_text(CLIENT)
    (folder / "pkg" / "named.py").write_text('"""Names of things."""\n')
    return folder


def summaries(site: Path) -> dict[str, str]:
    symbols = json.loads((site / "symbols.json").read_bytes())
    return {s["id"]: s["slots"]["summary"]["text"] for s in symbols if "summary" in s["slots"]}


def edit(repository: Path, old: str, new: str) -> None:
    file = repository / "pkg" / "connections.py"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_what_has_parts_is_described(repository, talkative, docmill, tmp_path):
    _, report, _ = docmill(repository, "--model", str(talkative))
    # close, read_lines, Client, the module, the package; Empty has no part to be described from
    assert report["generated"] == 5
    written = summaries(tmp_path / "site")
    assert written["pkg/named.py::"] == "Names of things."
    assert {
        "pkg/connections.py::",
        "pkg/__init__.py::",
    } <= written.keys()  # checks drop what it says of Client
    for page in ("index.html", "modules.html", "api/pkg.html"):
        html = (tmp_path / "site" / page).read_text()
        assert re.search(r'connections</code>.*<span class="mark model">model</span>', html), page
    assert "(model)" in (tmp_path / "site" / "llms.txt").read_text()


# Bodies for Client.close, some of which say the same.
BODIES = [
    "self.connection.close()",
    "self.connection.close()\n        self.connection = None",
    "return len(self.items)",
    "return sorted(self.items)",
    "self.items = []",
    "if self.items:\n            raise ValueError(self.name)",
]


def test_an_edit_is_passed_on_only_as_far_as_texts_change(
    repository, talkative, docmill, tmp_path, monkeypatch, capsys
):
    docmill(repository, "--model", str(talkative))
    reached = set()
    for old, new in pairwise(BODIES):
        before = summaries(tmp_path / "site")
        edit(repository, old, new)
        main(["plan", str(repository), "--out", str(tmp_path / "site"), "--model", str(talkative)])
        certain, possible = capsys.readouterr().out.split("possible:")
        _, report, _ = docmill(repository, "--model", str(talkative))
        after = summaries(tmp_path / "site")
        changed = {s for s in before.keys() | after.keys() if before.get(s) != after.get(s)}
        unchanged = next((n for n, symbol in enumerate(CHAIN) if symbol not in changed), len(CHAIN) - 1)
        assert 1 <= report["generated"] <= unchanged + 1  # fewer, if an earlier edit led to the same texts
        assert changed <= set(CHAIN[: unchanged + 1])
        assert re.findall(r"text +(\w+) +(\S+)$", certain, re.MULTILINE) == [("code", CHAIN[0])]
        assert "page  dependency" not in certain  # the pages above may come out as they were
        planned = re.findall(r"text +(\w+) +(\S+)$", possible, re.MULTILINE)
        assert planned == sorted(("dependency", symbol) for symbol in CHAIN[1:])
        reached.add(report["generated"])
    assert len(reached) > 1  # some edits were passed on, and not all equally far
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    docmill(repository, "--model", str(talkative), out=tmp_path / "clean")
    assert tree_bytes(tmp_path / "site") == tree_bytes(tmp_path / "clean")


def test_a_human_text_of_a_part_is_passed_on(repository, talkative, docmill, tmp_path, capsys):
    docmill(repository, "--model", str(talkative))
    edit(repository, "def close(self):\n", 'def close(self):\n        """Slam the door."""\n')
    _, report, _ = docmill(repository, "--model", str(talkative))
    assert 1 <= report["generated"] <= 3  # the class, and from there as far as texts change
    (repository / "pkg" / "named.py").write_text('"""Other names."""\n')
    main(["plan", str(repository), "--out", str(tmp_path / "site"), "--model", str(talkative)])
    assert re.search(r"text +dependency +pkg/__init__\.py::$", capsys.readouterr().out, re.MULTILINE)
    _, report, _ = docmill(repository, "--model", str(talkative))
    assert report["generated"] == 1  # the package


def test_what_waits_beyond_the_budget_is_written_by_the_next_build(repository, talkative, docmill, tmp_path):
    status, report, _ = docmill(repository, "--model", str(talkative), "--budget", "2")
    assert (status, report["generated"], report["degraded"]) == (3, 2, True)
    status, report, _ = docmill(repository, "--model", str(talkative), "--budget", "0")
    assert (status, report["generated"], report["reused"]) == (3, 0, 2)
    status, report, _ = docmill(repository, "--model", str(talkative))
    assert (status, report["generated"], report["reused"]) == (0, 3, 2)
    site = tree_bytes(tmp_path / "site")
    docmill(repository, "--model", str(talkative), out=tmp_path / "again")
    assert tree_bytes(tmp_path / "again") == site
