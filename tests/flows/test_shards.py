"""Shards on a task runner of Prefect: the same bytes as from processes, each shard a task."""

from __future__ import annotations

import pytest

from infra.cli import main
from tests.conftest import tree_bytes
from tests.flows.test_build_docs import run_flow


@pytest.fixture(autouse=True)
def little_is_enough(monkeypatch):
    """Have a package be a large tree."""
    monkeypatch.setattr("flows.shards.WORTH_SPREADING", 4)


@pytest.mark.parametrize("task_runner", ["threads", "dask", "ray"])
def test_shards_make_the_same_bytes(server, repository, tmp_path, monkeypatch, task_runner):
    if task_runner != "threads":
        pytest.importorskip(f"prefect_{task_runner}", reason=f"such shards take docmill[{task_runner}]")
    assert main(["build", str(repository), "--out", str(tmp_path / "plain"), "--model", "none"]) == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other-cache"))
    monkeypatch.setenv("DOCMILL_TASK_RUNNER", task_runner)
    state, _, tasks = run_flow(repository, tmp_path / "flow")
    assert state.is_completed()
    assert {"chunk_files", "resolve_files", "draw_pages", "check_pages"} <= tasks.keys()
    assert tree_bytes(tmp_path / "flow") == tree_bytes(tmp_path / "plain")


def test_a_cluster_that_does_not_answer_fails_the_run_in_a_line(server, repository, tmp_path, monkeypatch):
    pytest.importorskip("prefect_dask", reason="shards on Dask take docmill[dask]")
    monkeypatch.setattr("flows.shards._ANSWERS_S", 1)
    monkeypatch.setenv("DOCMILL_TASK_RUNNER", "dask tcp://127.0.0.1:9")
    state, _, _ = run_flow(repository, tmp_path / "site")
    assert state.is_failed()
    assert "task_runner 'dask tcp://127.0.0.1:9': " in state.message
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("value", ["", "dask ", "spark", "dask tcp://a b", "processes 4"])
def test_an_unknown_task_runner_is_refused(value, monkeypatch, capsys):
    monkeypatch.setenv("DOCMILL_TASK_RUNNER", value)
    assert main(["config", "show"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "environment: task_runner: " in line
