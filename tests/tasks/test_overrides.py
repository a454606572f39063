"""`docmill.overrides.toml`: a human's word stands, through rebuilds and models, and says when it is old."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from infra.cli import main

CODE = '''\
class Pool:
    def close(self, wait, timeout=3):
        for connection in self.connections:
            connection.close(wait)

    def grow(self, by):
        """Add connections.

        Args:
            by: How many.
        """
        if by < 0:
            raise ValueError("by is negative")
        return self.connections
'''
CLOSE = "m.py::Pool.close"


@pytest.fixture
def source(tmp_path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "m.py").write_text(CODE)
    return folder


def override(source: Path, *entries: str) -> None:
    text = "".join(f"[[override]]\n{entry}\n\n" for entry in entries)
    (source / "docmill.overrides.toml").write_text(f"# decided by the team\n{text}")


def says(slot: str, text: str, symbol: str = CLOSE) -> str:
    return f'symbol = "{symbol}"\nslot = "{slot}"\ntext = {json.dumps(text)}'


def suppresses(slot: str, symbol: str = CLOSE) -> str:
    return f'symbol = "{symbol}"\nslot = "{slot}"\nsuppress = true'


def accept(source: Path) -> None:
    assert main(["overrides", str(source), "--accept"]) == 0


def build(source: Path, tmp_path: Path, *flags: str, status: int = 0) -> dict:
    report = tmp_path / "report.json"
    command = ["build", str(source), "--out", str(tmp_path / "site"), "--report", str(report)]
    assert main([*command, *(flags or ("--model", "none"))]) == status
    return json.loads(report.read_text())


def slots(tmp_path: Path, symbol: str = CLOSE) -> dict:
    symbols = json.loads((tmp_path / "site" / "symbols.json").read_text())
    return next(s["slots"] for s in symbols if s["id"] == symbol)


def stale(report: dict) -> list[str]:
    return [f["message"] for f in report["findings"] if f["rule"] == "stale-override"]


def page(tmp_path: Path) -> str:
    return (tmp_path / "site" / "api" / "m.html").read_text()


def test_a_text_replaces_what_nobody_wrote_and_is_a_humans(source, tmp_path):
    before = build(source, tmp_path)
    override(source, says("summary", "Close all\n of them."), says("param.wait", "Whether to wait."))
    accept(source)
    report = build(source, tmp_path)
    assert slots(tmp_path)["summary"] == {"text": "Close all of them.", "origin": "human"}
    assert slots(tmp_path)["param.wait"] == {"text": "Whether to wait.", "origin": "human"}
    assert "Whether to wait." in page(tmp_path) and 'class="mark model"' not in page(tmp_path)
    assert report["slots"]["human"] == before["slots"]["human"] + 2
    assert report["slots"]["empty"] == before["slots"]["empty"] - 2
    assert report["findings"] == []
    assert build(source, tmp_path)["pages"]["written"] == 0
    (source / "docmill.overrides.toml").unlink()
    build(source, tmp_path)
    assert "summary" not in slots(tmp_path)


def test_a_derived_text_can_be_replaced_and_suppressed(source, tmp_path):
    build(source, tmp_path)
    assert slots(tmp_path, "m.py::Pool.grow")["raises.ValueError"]["origin"] == "derived"
    override(source, says("raises.ValueError", "If there would be fewer.", "m.py::Pool.grow"))
    build(source, tmp_path)
    found = slots(tmp_path, "m.py::Pool.grow")["raises.ValueError"]
    assert found == {"text": "If there would be fewer.", "origin": "human"}
    override(source, suppresses("raises.ValueError", "m.py::Pool.grow"))
    build(source, tmp_path)
    assert "raises.ValueError" not in slots(tmp_path, "m.py::Pool.grow")


def test_a_model_is_not_asked_for_what_a_human_decided(source, tmp_path, asked_for_all):
    every = build(source, tmp_path, "--model", str(asked_for_all))
    assert every["generated"] == 3  # the module, the class, and close
    suppressed = suppresses("summary"), suppresses("summary", "m.py::")
    override(source, *suppressed, says("summary", "Connections.", "m.py::Pool"))
    report = build(source, tmp_path, "--model", str(asked_for_all))
    assert report["generated"] + report["reused"] == 0
    assert "summary" not in slots(tmp_path)
    assert slots(tmp_path, "m.py::Pool")["summary"]["origin"] == "human"


def test_a_class_is_described_from_the_overrides_of_its_members(source, tmp_path, asked_for_all):
    build(source, tmp_path, "--model", str(asked_for_all))
    override(source, says("summary", "Close them, and all that waits."))
    report = build(source, tmp_path, "--model", str(asked_for_all))
    assert report["generated"] >= 1  # the class, whose outline says something else now


def test_an_override_of_a_base_classes_method_is_inherited(source, tmp_path):
    (source / "m.py").write_text(
        CODE + "\n\nclass Small(Pool):\n    def close(self, wait, timeout=1):\n        pass\n"
    )
    override(source, says("summary", "Close them."))
    build(source, tmp_path)
    assert slots(tmp_path, "m.py::Small.close")["summary"]["text"] == "Close them."


def test_the_list_of_a_package_shows_the_override_of_a_module(source, tmp_path):
    package = source / "p"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "part.py").write_text("x = 1\n")
    override(source, says("summary", "The part that matters.", "p/part.py::"))
    build(source, tmp_path)
    assert "The part that matters." in (tmp_path / "site" / "api" / "p.html").read_text()


def test_changed_code_makes_it_stale_and_a_reformat_does_not(source, tmp_path):
    override(source, says("summary", "Close all."))
    accept(source)
    (source / "m.py").write_text(CODE.replace("for connection", "# all\n        for  connection"))
    assert stale(build(source, tmp_path)) == []
    (source / "m.py").write_text(CODE.replace("close(wait)", "close(not wait)"))
    report = build(source, tmp_path)
    (finding,) = report["findings"]
    assert finding["where"] == "docmill.overrides.toml:2"
    assert finding["message"] == (
        "the override of summary of m.py::Pool.close: the code has changed since it was written"
    )
    assert slots(tmp_path)["summary"]["text"] == "Close all."
    accept(source)
    assert stale(build(source, tmp_path)) == []


@pytest.mark.parametrize(
    ("symbol", "before", "after"),
    [
        ("f", "def f():\n    def inner(): return {}\n    return inner\n", ("1", "2")),
        ("f", "def f():\n    from {} import x\n    return x\n", ("a", "b")),
        (
            "C.p",
            "class C:\n    @property\n    def p(self): return 1\n"
            "    @p.setter\n    def p(self, v): self.v = {}\n",
            ("v", "-v"),
        ),
        ("x", "x = '" + "a" * 250 + "{}'\n", ("a", "b")),
    ],
)
def test_no_part_of_the_code_changes_unseen(source, tmp_path, symbol, before, after):
    (source / "m.py").write_text(before.format(after[0]))
    override(source, says("summary", "It is so.", f"m.py::{symbol}"))
    accept(source)
    assert stale(build(source, tmp_path)) == []
    (source / "m.py").write_text(before.format(after[1]))
    assert len(stale(build(source, tmp_path))) == 1


def test_an_exception_that_the_docstring_tells_of_is_the_docstrings_however_it_is_written(source, tmp_path):
    code = (
        'def f(x):\n    """Do.\n\n    Raises:\n        Gone: If it is.\n    """\n    raise errors.Gone(x)\n'
    )
    (source / "m.py").write_text(code)
    override(source, says("raises.errors.Gone", "Mine.", "m.py::f"))
    assert "the docstring has a text of its own" in stale(build(source, tmp_path))[0]
    assert "Mine." not in page(tmp_path)


def test_a_decorator_more_makes_the_text_of_a_class_stale(source, capsys):
    override(source, says("summary", "A pool.", "m.py::Pool"))
    accept(source)
    (source / "m.py").write_text(f"@dataclass(frozen=True)\n{CODE}")
    assert main(["overrides", str(source)]) == 1


def test_a_member_more_makes_the_text_of_a_class_stale(source, tmp_path, capsys):
    override(source, says("summary", "A pool.", "m.py::Pool"))
    accept(source)
    (source / "m.py").write_text(CODE.replace("connection.close(wait)", "connection.close()"))
    assert main(["overrides", str(source)]) == 0
    (source / "m.py").write_text(f"{CODE}\n    def shrink(self):\n        pass\n")
    capsys.readouterr()
    assert main(["overrides", str(source)]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("docmill.overrides.toml:2: stale-override: ") and "has changed" in first
    assert last == "1 override, 1 in doubt"


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (says("summary", "Gone.", "m.py::Rack"), "there is no such symbol"),
        (says("summary", "Gone.", "m.py::Pool.clos"), "there is no such symbol; did you mean Pool.close"),
        (says("param.*wait", "Gone."), "the method has no param.*wait; did you mean param.wait"),
        (says("summary", "Gone.", "gone.py::f"), "there is no such file that could be read"),
        (says("param.force", "Made up."), "the method has no param.force"),
        (says("returns", "Made up."), "the method has no returns"),
        (says("summary", "Ours.", "m.py::Pool.grow"), "the docstring has a text of its own, which is shown"),
        (
            says("summary", "New."),
            "it does not say for which code it was written: docmill overrides SOURCE --accept",
        ),
    ],
)
def test_what_does_not_fit_is_reported(source, tmp_path, entry, why):
    override(source, entry)
    report = build(source, tmp_path)
    assert [message.partition(": ")[2] for message in stale(report)] == [why]
    assert not {"Gone.", "Made up.", "Ours."} & set(page(tmp_path).replace("<", ">").split(">"))
    (source / "docmill.toml").write_text("strict_human = true\n")
    assert "stale-override" in build(source, tmp_path, status=1)["error"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[[override]]\nsymbol = 1", "override 1: symbol: give text, in quotes"),
        ("[[override]]\nsuppress = true", "override 1: symbol is missing"),
        (f"[[override]]\n{says('summary', 'a')}\nsuppress = 1", "override 1: suppress: give true or false"),
        ("[[overrides]]", "'overrides' is unknown; entries begin with [[override]]"),
        ("[[override]", "Expected"),
        ('[[override]]\nsymbol = "m.py"\nslot = "summary"\ntext = "x"', "'m.py' is no id of a symbol"),
        ('[[override]]\nsymbol = "m.py::"\nslot = "param"\ntext = "x"', "no slot 'param'"),
        ('[[override]]\nsymbol = "m.py::"\nslot = "summary"', "give either a text, or suppress = true"),
        ('[[override]]\nsymbol = "m.py::"\nslot = "summary"\ntext = " "', "the text is empty"),
        (f"[[override]]\n{says('summary', 'a')}\n" * 2, "override 2: a second one for summary of"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(source, tmp_path, capsys, text, why):
    (source / "docmill.overrides.toml").write_text(text)
    build(source, tmp_path, status=2)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("docmill: docmill.overrides.toml: ") and why in line
    assert not (tmp_path / "site").exists()


def test_text_of_an_override_is_not_trusted(source, tmp_path):
    hostile = "Close. <script>alert(1)</script> <img src=x onerror=alert(1)> [go](javascript:alert(1))"
    override(source, says("description", hostile), says("summary", hostile))
    build(source, tmp_path)
    assert "<script>alert" not in page(tmp_path)
    assert "<img" not in page(tmp_path) and 'href="javascript' not in page(tmp_path)


@pytest.mark.parametrize("text", ["See [the pool](missing.html).", "See [`Pool`](missing.html)."])
def test_a_dead_link_in_an_override_is_a_humans(source, tmp_path, text):
    override(source, says("description", text))
    (source / "m.py").write_text(CODE)
    accept(source)
    (finding,) = build(source, tmp_path)["findings"]
    assert (finding["rule"], finding["where"]) == ("dead-link", "docmill.overrides.toml:5")


def test_a_dead_link_in_an_override_can_be_waived_by_the_file_that_it_is_in(source, tmp_path):
    override(source, says("description", "See [`Pool`](missing.html)."))
    accept(source)
    (source / "docmill.waivers.toml").write_text(
        '[[waiver]]\nrule = "dead-link"\nsymbol = "docmill.overrides.toml"\n'
        'reason = "the page is being written"\nexpires = 2999-01-01\n'
    )
    report = build(source, tmp_path)
    assert report["gate"] == report["gate"] | {"warnings": 0, "waived": 1}


def test_a_line_more_in_the_file_moves_what_is_reported_of_it(source, tmp_path):
    override(source, says("description", "See [the pool](missing.html)."))
    accept(source)
    assert [f["where"] for f in build(source, tmp_path)["findings"]] == ["docmill.overrides.toml:5"]
    file = source / "docmill.overrides.toml"
    file.write_text(f"# in June\n{file.read_text()}")
    assert [f["where"] for f in build(source, tmp_path)["findings"]] == ["docmill.overrides.toml:6"]


def test_a_link_in_the_place_of_the_file_is_refused(source, tmp_path, capsys):
    (tmp_path / "elsewhere.toml").write_text("")
    (source / "docmill.overrides.toml").symlink_to(tmp_path / "elsewhere.toml")
    for command in (["overrides", str(source)], ["overrides", str(source), "--accept"]):
        assert main(command) == 2
        assert "docmill.overrides.toml: is a link" in capsys.readouterr().err
    assert (source / "docmill.overrides.toml").is_symlink()


def test_a_folder_in_the_place_of_the_file_is_refused(source, capsys):
    (source / "docmill.overrides.toml").mkdir()
    assert main(["overrides", str(source)]) == 2
    assert "docmill.overrides.toml: is no regular file" in capsys.readouterr().err


def test_accepting_nothing_writes_nothing(source):
    accept(source)
    assert not (source / "docmill.overrides.toml").exists()


def test_accepting_keeps_all_else_as_it_is(source):
    override(source, f"{says('summary', 'Close all.')}  # by Ann")
    accept(source)
    text = (source / "docmill.overrides.toml").read_text()
    assert text.startswith("# decided by the team\n[[override]]\n") and "# by Ann\n" in text
    (line,) = (line for line in text.splitlines() if line.startswith("code = "))
    before = text
    accept(source)
    assert (source / "docmill.overrides.toml").read_text() == before
    assert len(line) == len('code = ""') + 16


def test_overrides_are_those_of_the_revision(source, tmp_path, capsys):
    override(source, says("summary", "As committed."))
    accept(source)
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run(["git", *identity, *command], cwd=source, check=True)
    override(source, says("summary", "Not committed."))
    build(source, tmp_path, "--model", "none", "--revision", "HEAD")
    assert slots(tmp_path)["summary"]["text"] == "As committed."
    capsys.readouterr()
    assert main(["overrides", str(source), "--revision", "HEAD", "--accept"]) == 2
    assert "--accept writes into the source: give a folder, and no revision" in capsys.readouterr().err
