"""The law: an incremental build equals a clean one, byte for byte, and does no more than it must."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from infra.cli import main
from tests.conftest import tree_bytes

EDITS = 20


@pytest.fixture
def repository(tmp_path) -> Path:
    """A real package to edit."""
    folder = tmp_path / "click"
    shutil.copytree(Path(click.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "README.md").write_text("# Click\n\nSee [core](core.py) and [more](docs/more.md).\n")
    (folder / "docs").mkdir()
    (folder / "docs" / "more.md").write_text("# More\n\nBack to the [start](../README.md).\n")
    return folder


def build(source: Path, out: Path) -> None:
    assert main(["build", str(source), "--out", str(out), "--model", "none"]) == 0


def clean_build(source: Path, out: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    with monkeypatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home))
        build(source, out)
    return tree_bytes(out)


def python_files(folder: Path, chance: random.Random) -> list[Path]:
    files = sorted(folder.glob("*.py"))
    chance.shuffle(files)
    return files


def edit_line(pattern: str, replacement: str) -> Callable[[Path, random.Random], str]:
    def edit(folder: Path, chance: random.Random) -> str:
        for file in python_files(folder, chance):
            text = file.read_text()
            places = list(re.finditer(pattern, text, re.MULTILINE))
            if places:
                place = chance.choice(places)
                new = place.expand(replacement).replace("NUMBER", str(chance.randrange(10**6)))
                file.write_text(text[: place.start()] + new + text[place.end() :])
                return f"{file.name}: {new!r}"
        raise AssertionError(f"nothing matches {pattern}")

    return edit


def rename_file(folder: Path, chance: random.Random) -> str:
    file = next(f for f in python_files(folder, chance) if f.stem not in ("__init__", "core"))
    file.rename(file.with_name(f"renamed{chance.randrange(10**6)}.py"))
    return f"rename {file.name}"


def move_file(folder: Path, chance: random.Random) -> str:
    file = next(f for f in python_files(folder, chance) if f.stem not in ("__init__", "core"))
    (folder / "inner").mkdir(exist_ok=True)
    (folder / "inner" / "__init__.py").touch()
    file.rename(folder / "inner" / file.name)
    return f"move {file.name}"


def new_file(folder: Path, chance: random.Random) -> str:
    name = f"fresh{chance.randrange(10**6)}"
    (folder / f"{name}.py").write_text(
        '"""Fresh."""\nfrom .core import Command\n\n'
        f"class {name.title()}(Command):\n    def invoke(self, ctx): ...\n"
    )
    return f"new {name}"


def delete_file(folder: Path, chance: random.Random) -> str:
    file = next(f for f in python_files(folder, chance) if f.stem not in ("__init__", "core"))
    file.unlink()
    return f"delete {file.name}"


EDIT_KINDS = {
    "body": edit_line(r"^(    +)return (\w+)$", r"\1marker = NUMBER\n\1return \2"),
    "signature": edit_line(r"^(    def \w+\(self)([,)])", r"\1, added_NUMBER=None\2"),
    "docstring": edit_line(r'^(    +""")([A-Z])', r"\1Edited NUMBER. \2"),
    "comment": edit_line(r"^(    +)return ", r"\1# comment NUMBER\n\1return "),
    "rename": edit_line(r"^def ([a-z]\w+)\(", r"def \1_NUMBER("),
    "base": edit_line(r"^class (\w+)\((\w+)\):", r"class \1_NUMBER(\2):"),
    "rename file": rename_file,
    "move": move_file,
    "new file": new_file,
    "deleted file": delete_file,
}


def test_incremental_builds_equal_clean_ones_after_random_edits(repository, tmp_path, monkeypatch):
    chance = random.Random(7)
    out = tmp_path / "site"
    build(repository, out)
    kinds = [*EDIT_KINDS, *chance.choices(list(EDIT_KINDS), k=EDITS - len(EDIT_KINDS))]
    chance.shuffle(kinds)
    for number, kind in enumerate(kinds):
        what = EDIT_KINDS[kind](repository, chance)
        build(repository, out)
        clean = clean_build(repository, tmp_path / "clean", tmp_path / f"home-{number}", monkeypatch)
        incremental = tree_bytes(out)
        assert incremental.keys() == clean.keys(), (number, what)
        differing = [name for name in clean if clean[name] != incremental[name]]
        assert not differing, (number, what, differing)


def test_unchanged_source_writes_nothing(repository, docmill):
    docmill(repository)
    status, report, _ = docmill(repository)
    assert status == 0
    assert report["pages"]["written"] == report["pages"]["removed"] == 0
    assert [stage["name"] for stage in report["stages"]] == ["ingest"]


def test_nothing_to_do_imports_neither_torch_nor_prefect(repository, tmp_path):
    program = (
        "import sys; from infra.cli import main\n"
        f"status = main(['build', {str(repository)!r}, '--out', {str(tmp_path / 'site')!r}])\n"
        "heavy = {'torch', 'prefect', 'transformers', 'sqlalchemy', 'jinja2', 'griffe', 's3fs', 'botocore'}\n"
        "heavy &= sys.modules.keys()\n"
        "print(status, sorted(heavy))"
    )
    build(repository, tmp_path / "site")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_a_comment_rewrites_only_the_page_of_its_source(repository, docmill):
    docmill(repository)
    with (repository / "utils.py").open("a") as file:
        file.write("# the end\n")
    _, report, _ = docmill(repository)
    assert report["pages"]["written"] == 1  # src/utils.py.html; no symbol's text or place changed


def test_a_changed_function_rewrites_its_page_and_its_source(repository, docmill, tmp_path):
    docmill(repository)
    before = tree_bytes(tmp_path / "site")
    file = repository / "globals.py"
    file.write_text(file.read_text().replace("def push_context(ctx:", "def push_context(ctx_renamed:"))
    docmill(repository)
    after = tree_bytes(tmp_path / "site")
    pages = {name for name in after if name.endswith(".html") and after[name] != before.get(name)}
    assert pages == {"api/click.globals.html", "src/globals.py.html"}


def test_a_damaged_site_is_mended(repository, docmill, tmp_path):
    docmill(repository)
    before = tree_bytes(tmp_path / "site")
    (tmp_path / "site" / "index.html").unlink()
    (tmp_path / "site" / "api" / "click.core.html").write_text("tampered with")
    docmill(repository)
    assert tree_bytes(tmp_path / "site") == before


def test_a_deleted_site_is_published_again(repository, docmill, tmp_path):
    docmill(repository)
    before = tree_bytes(tmp_path / "site")
    (tmp_path / "site").unlink()
    shutil.rmtree(tmp_path / ".site.docmill")
    docmill(repository)
    assert tree_bytes(tmp_path / "site") == before


def test_plan_names_what_an_edit_rebuilds(repository, docmill, tmp_path, capsys):
    docmill(repository)
    main(["plan", str(repository), "--out", str(tmp_path / "site")])
    assert capsys.readouterr().out.startswith("certain: 0\n")
    file = repository / "globals.py"
    file.write_text(file.read_text().replace("def push_context(ctx:", "def push_context(other:"))
    main(["plan", str(repository), "--out", str(tmp_path / "site")])
    planned = capsys.readouterr().out
    assert re.search(r"page +code +globals\.py::push_context$", planned, re.MULTILINE)
    assert "core.py" not in planned


def test_plan_names_the_repositorys_own_pages_and_no_private_module(repository, docmill, tmp_path, capsys):
    (repository / "_private.py").write_text("def f(): ...\n")
    docmill(repository)
    (repository / "README.md").write_text("# Click\n\nEdited.\n")
    (repository / "docs" / "new.md").write_text("# New\n")
    (repository / "docs" / "more.md").unlink()
    (repository / "_private.py").write_text("def f(a): ...\n")
    main(["plan", str(repository), "--out", str(tmp_path / "site")])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["certain:", "3"],
        ["page", "code", "README.md"],
        ["page", "removed", "docs/more.md"],
        ["page", "missing", "docs/new.md"],
        ["possible:", "0"],
    ]


def test_plan_goes_by_the_site_that_stands(repository, docmill, tmp_path, capsys, monkeypatch):
    docmill(repository)
    with monkeypatch.context() as patch:  # another installation publishes to the same place
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
        (repository / "README.md").write_text("# Click\n\nEdited.\n")
        docmill(repository)
    main(["plan", str(repository), "--out", str(tmp_path / "site")])
    assert re.search(r"page +missing +core\.py::$", capsys.readouterr().out, re.MULTILINE)


def test_the_inventory_lists_what_a_package_offers(repository, docmill, tmp_path):
    docmill(repository)
    lines = zlib.decompress((tmp_path / "site" / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    for name in ("click.core.Command", "click.Command"):
        assert f"{name} py:class 1 api/click.core.html#Command -\n" in lines
    assert "click.echo py:function 1 api/click.utils.html#echo -\n" in lines


def test_a_site_below_a_linked_folder_keeps_the_release_it_replaces(
    repository, docmill, tmp_path, monkeypatch
):
    monkeypatch.setenv("DOCMILL_RELEASES_KEPT", "1")
    (tmp_path / "real").mkdir()
    (tmp_path / "linked").symlink_to("real")
    releases = tmp_path / "real" / ".site.docmill" / "releases"
    for number in range(3):
        with (repository / "utils.py").open("a") as file:
            file.write(f"VALUE_{number} = {number}\n")
        before = (tmp_path / "linked" / "site").resolve()
        docmill(repository, out=tmp_path / "linked" / "site")
        assert number == 0 or (before / "index.html").is_file()
        assert (tmp_path / "linked" / "site" / "index.html").is_file()
    assert len(list(releases.iterdir())) == 2


def test_cyclic_bases_resolve_the_same_whatever_was_edited(tmp_path, docmill, home, monkeypatch):
    source = tmp_path / "cycle"
    source.mkdir()
    for name, base in (("a", "b"), ("b", "c"), ("c", "a")):
        head = f"from {base} import {base.upper()}\nclass {name.upper()}({base.upper()}):\n"
        text = f"{head}    def {name}(self): ...\n"
        (source / f"{name}.py").write_text(text)
    docmill(source)
    for name in "abc":
        with (source / f"{name}.py").open("a") as file:
            file.write("\n    def more(self): ...\n")
        docmill(source)
        clean = clean_build(source, tmp_path / "clean", tmp_path / f"home-{name}", monkeypatch)
        assert tree_bytes(tmp_path / "site") == clean
