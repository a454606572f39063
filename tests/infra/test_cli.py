"""The command line: statuses, one line an error, and no more imported than is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flows.report import Report
from infra.cli import main

HEAVY = {
    *(
        "torch",
        "transformers",
        "prefect",
        "fastapi",
        "sqlalchemy",
        "jinja2",
        "griffe",
        "pydantic",
        "pygments",
        "s3fs",
    ),
    *("markdown_it", "nh3", "pathspec", "msgspec", "zstandard", "tree_sitter", "flows", "tasks", "models"),
}


@pytest.fixture
def source(tmp_path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "a.py").write_text("def f(x):\n    '''Text.'''\n")
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--help"], ["build", "--help"], ["plan", "--help"], ["config", "show", "--help"]),
        *(["up", "--help"], ["deploy", "--help"], ["webhook", "--help"], ["releases", "--help"]),
    ],
)
def test_help_imports_nothing_heavy(arguments):
    program = (
        "import sys; from infra.cli import main\n"
        f"try: main({arguments!r})\n"
        f"except SystemExit as end: print(end.code, sorted({HEAVY!r} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.splitlines()[-1] == "0 []"
    assert done.stderr == ""


@pytest.mark.parametrize(
    "arguments",
    [["build"], ["bulid", "."], ["build", ".", "--nonsense"], ["build", ".", "--device", "tpu"], ["config"]],
)
def test_arguments_that_cannot_be_used(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("docmill: ") and "--help" in line


def test_no_command_shows_the_help(capsys):
    assert main([]) == 2
    assert "exit status: 0 built; 1 failed; 2 unusable" in capsys.readouterr().out


def test_what_a_build_prints_and_reports(source, docmill, tmp_path):
    (source / "broken.py").write_text("def (:\n")
    status, report, printed = docmill(source)
    assert (status, printed.err) == (0, "")  # quiet in a log
    first, *skipped, site = printed.out.splitlines()
    assert first == "2 symbols; texts: 1 human, 0 derived, 0 model, 2 empty; pages: 5, 5 written, 0 removed"
    assert [line.partition(":")[0] for line in skipped] == ["  skipped broken.py"]
    assert site == f"{tmp_path}/site/index.html"
    assert report.keys() == {
        *("source", "degraded", "error", "symbols", "slots", "generated", "reused", "pages", "skipped_files"),
        *("stages", "engine", "published", "unwritten", "gate", "findings", "slots_before"),
        *("drift", "got_worse"),
    }
    assert report["source"] == {"location": str(source), "revision": None}
    assert [stage["name"] for stage in report["stages"]] == [
        "ingest",
        "chunk",
        "generate",
        "render",
        "gate",
        "publish",
    ]
    assert report["skipped_files"] == [
        {"path": "broken.py", "reason": "syntax", "detail": "line 1: invalid syntax"}
    ]
    assert report["published"]["target"] == f"{tmp_path}/site"
    again = docmill(source)[1]
    assert again["pages"] == {"total": 5, "written": 0, "removed": 0}
    for same in ("source", "symbols", "slots", "skipped_files", "published", "degraded", "error"):
        assert again[same] == report[same]


def test_a_report_where_none_can_be(source, tmp_path, capsys):
    status = main(
        ["build", str(source), "--out", str(tmp_path / "site"), "--report", str(tmp_path / "no" / "r.json")]
    )
    assert status == 2
    assert capsys.readouterr().err.startswith("docmill: report ")
    assert not (tmp_path / "site").exists()


def test_interrupted_builds_say_so(source, tmp_path, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.build.build", interrupt)
    report = tmp_path / "report.json"
    assert main(["build", str(source), "--out", str(tmp_path / "site"), "--report", str(report)]) == 130
    assert capsys.readouterr().err == "docmill: interrupted; the standing site is as it was\n"
    assert json.loads(report.read_bytes())["error"].startswith("KeyboardInterrupt")


@pytest.mark.parametrize("where", ["before", "after"])
def test_debug_shows_where_an_error_comes_from(where, tmp_path):
    arguments = ["build", str(tmp_path / "absent"), "--out", str(tmp_path / "site")]
    from tasks.documents import SourceError

    with pytest.raises(SourceError):
        main(["--debug", *arguments] if where == "before" else [*arguments, "--debug"])


def test_config_show_prints_each_value_with_its_origin(source, capsys, monkeypatch):
    monkeypatch.setenv("DOCMILL_RESULT_CACHE", "postgresql://user:hunter2@host/x")
    (source / "docmill.toml").write_text('title = "Mine"\n')
    assert main(["config", "show", str(source), "--model", "none"]) == 0
    printed = capsys.readouterr().out
    assert "title = 'Mine'  (docmill.toml:1)\n    the site's title; default: the project's name\n" in printed
    assert "model = 'none'  (flag)\n" in printed
    assert "max_file_size = 2000000  (built-in)\n" in printed
    assert "(environment)" in printed and "hunter2" not in printed


def test_config_show_lists_repositories_one_below_the_other(source, tmp_path, capsys):
    file = tmp_path / "operator.toml"
    file.write_text(
        '[[repositories]]\nname = "a"\nsource = "https://example.org/a"\nout = "/srv/a"\nmodel = "none"\n'
        '[[repositories]]\nname = "b"\nsource = "https://example.org/b"\nout = "/srv/b"\n'
    )
    assert main(["config", "show", str(source), "--config", str(file)]) == 0
    printed = capsys.readouterr().out
    assert f"repositories = 2, listed below  ({file}:1)\n" in printed
    assert printed.endswith(
        "\n[[repositories]]  b\n    source = 'https://example.org/b'\n    branches = ('main',)\n"
        "    out = '/srv/b'\n"
    )
    assert "\n[[repositories]]  a\n    source = 'https://example.org/a'" in printed


def test_plan_writes_nothing(source, tmp_path, capsys):
    assert main(["plan", str(source), "--out", str(tmp_path / "site")]) == 0
    assert "page  missing     a.py::\n" in capsys.readouterr().out
    assert not (tmp_path / "site").exists()
    assert not (tmp_path / ".site.docmill").exists()


def test_a_model_is_tuned_on_a_folder_with_functions(tmp_path, capsys):
    (tmp_path / "code.py").write_text("".join(f"def f{n}(x):\n    return x + {n}\n\n" for n in range(30)))
    assert main(["model", "tune", "bundled", "--source", str(tmp_path), "--seconds", "0.001"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 4 and table[-1].startswith("kept:")
    assert table[-2].startswith("the time was over before compiling was tried")
    (tmp_path / "code.py").write_text("")
    assert main(["model", "tune", "bundled", "--source", str(tmp_path)]) == 2
    assert "too few to measure with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tune", "none"], "no model is set"),
        (["tune", "bundled", "--source", "/no/such/folder"], "/no/such/folder: no such folder"),
        (["prepare", "none"], "no model is named"),
        (["prepare", "bundled"], "quantized already, as int8"),
        (["prepare", "/no/such/folder"], "neither a folder nor an id"),
    ],
)
def test_what_cannot_be_tuned_or_prepared_is_said_in_one_line(arguments, said, capsys):
    assert main(["model", *arguments]) == 2
    printed = capsys.readouterr().err
    assert said in printed and printed.count("\n") == 1


def test_a_budget_is_for_what_spends_it(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["plan", str(tmp_path), "--budget", "5"])
    assert ended.value.code == 2 and "unrecognized arguments: --budget" in capsys.readouterr().err
    assert main(["config", "show", str(tmp_path), "--budget", "5"]) == 0
    assert "budget = '5'  (flag)\n" in capsys.readouterr().out


@pytest.mark.parametrize("seconds", ["0", "-5", "nan", "inf", "soon"])
def test_what_is_no_length_of_time_is_refused(capsys, seconds):
    with pytest.raises(SystemExit) as ended:
        main(["model", "tune", f"--seconds={seconds}"])
    assert ended.value.code == 2
    assert f"--seconds: {seconds} is no length of time" in capsys.readouterr().err


def test_what_the_last_site_did_not_count_yet_is_no_difference():
    of_old = {"human": 2, "derived": 0, "model": 0, "empty": 0, "dropped": 3}
    now = {"human": 1, "derived": 0, "model": 0, "empty": 1, "dropped": 1, "unsure": 5}
    report = Report({}, slots=now, slots_before=of_old)
    assert report.drift == {"human": -1, "empty": 1, "dropped": -2}


def test_a_build_tells_how_its_texts_differ_from_the_last_sites(source, docmill):
    assert docmill(source)[1]["slots_before"] is None
    (source / "more.py").write_text("def undocumented(): ...\n")
    _, report, printed = docmill(source)
    assert report["slots"]["empty"] - report["slots_before"]["empty"] == 2  # the module's and the function's
    assert (report["drift"], report["got_worse"]) == ({"empty": 2}, True)
    assert "warning: texts since the last site: empty +2; a smaller share" in printed.out
    (source / "more.py").write_text('"""More."""\n\n\ndef documented():\n    """It is."""\n')
    _, report, printed = docmill(source)
    assert "  texts since the last site: human +2, empty -2\n" in printed.out
    assert "since the last site" not in docmill(source)[2].out


@pytest.mark.parametrize("flags", [[], ["--prefect"]])
@pytest.mark.parametrize("user", ["user:hunter2", "hunter2", "user:hunter2 hunter2"])
def test_a_secret_in_an_address_reaches_neither_git_nor_prefect(
    server, user, flags, tmp_path, monkeypatch, capsys
):
    from prefect.client.orchestration import get_client

    git = tmp_path / "git"
    git.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/arguments\nexit 1\n')
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert main(["build", f"https://{user}@127.0.0.1:9/a", "--out", str(tmp_path / "site"), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("docmill: source 'https://127.0.0.1:9/a': its address holds a secret; ")
    assert not (tmp_path / "arguments").exists()
    with get_client(sync_client=True) as client:
        assert "hunter2" not in client.request("POST", "/flow_runs/filter", json={}).text
