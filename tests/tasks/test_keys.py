"""Keys and sites: the same bytes whatever the hash seed, the process and the folder."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.documents import Slot, SourceFile
from tasks.keys import digest, digest_bytes, key
from tests.conftest import tree_bytes

PROGRAM = """
from tasks.keys import digest
print(digest([{"b", "a", "ü", "c"}, frozenset("xyz"), {"k2": {3, 1, 2}, "k1": ()}, b"\\xff", None, 1.5]))
"""


def run(code: list[str], seed: str, folder: Path) -> str:
    environment = os.environ | {"PYTHONHASHSEED": seed, "XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, *code], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def test_digests_do_not_hang_on_the_hash_seed(tmp_path):
    assert len({run(["-c", PROGRAM], seed, tmp_path) for seed in ("0", "1", "2")}) == 1


def test_sites_and_keys_do_not_hang_on_the_hash_seed_or_the_folder(tmp_path):
    found = []
    for seed in ("1", "2"):
        source = tmp_path / seed / "project"
        source.mkdir(parents=True)
        for number in range(12):
            (source / f"m{number}.py").write_text(
                f"from m{(number + 5) % 12} import *\nfrom m{(number + 1) % 12} import f as g, A as B\n"
                "class A(B):\n    '''A.'''\n    def f(self): return g(self.f(), A, B)\n"
                "def f(a): return g(A, B)\n"
            )
        (source / "README.md").write_text("# Project\n\n[m1](m1.py)\n")
        site = tmp_path / seed / "site"
        run(["-m", "infra.cli", "build", str(source), "--out", str(site)], seed, tmp_path / seed)
        with sqlite3.connect(tmp_path / seed / "cache" / "docmill" / "results.sqlite") as connection:
            keys = {row[0] for row in connection.execute("SELECT key FROM results")}
        found.append((tree_bytes(site), keys))
    assert found[0] == found[1]
    assert len(found[0][1]) > 50


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({3, 1, 2}, {2, 3, 1}),
        ((1, 2), [1, 2]),
        (Slot("x", "human"), Slot("x", "human")),
    ],
)
def test_equal_values_have_one_digest(one, other):
    assert digest(one) == digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["a", "b"], ["ab"]),
        (["a", ["b"]], [["a"], "b"]),
        (1, "1"),
        (None, "null"),
        ([1, 2], [2, 1]),
        (SourceFile("a", 1, "x"), SourceFile("a", 2, "x")),
    ],
)
def test_other_values_have_other_digests(one, other):
    assert digest(one) != digest(other)


def test_a_key_depends_on_stage_version_and_inputs():
    keys = {key("a", 1, "x"), key("b", 1, "x"), key("a", 2, "x"), key("a", 1, "y"), key("a", 1, "x", None)}
    assert len(keys) == 5
    assert key("a", 1, "x").startswith("a:")


def test_what_has_no_canonical_encoding_is_refused():
    with pytest.raises(TypeError):
        digest(object())


def test_digests_are_of_bytes():
    assert digest_bytes(b"") == "cae66941d9efbd404e4d88758ea67670"  # BLAKE2b with 16 bytes, of nothing
