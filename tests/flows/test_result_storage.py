"""What stages hand on lies where the settings say; a store that does not answer is no empty one."""

from __future__ import annotations

import pytest
import s3fs

from infra.cli import main
from tests.conftest import tree_bytes
from tests.flows.test_build_docs import run_flow

CACHED = {"chunk", "generate", "render", "gate"}


@pytest.fixture
def store(s3_proxy, tmp_path, monkeypatch):
    """A real store, behind a proxy, as the place of results."""
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 2)
    monkeypatch.setenv("DOCMILL_S3_ENDPOINT", s3_proxy.address)
    monkeypatch.setenv("DOCMILL_S3_REGION", "us-east-1")
    monkeypatch.setenv("DOCMILL_RESULT_STORAGE", f"s3://docs/{tmp_path.name}")
    return s3_proxy


def cached(tasks: dict[str, str]) -> set[str]:
    return {name for name, state in tasks.items() if state == "Cached"}


def test_results_lie_in_a_store(server, store, repository, tmp_path):
    _, _, tasks = run_flow(repository, tmp_path / "site")
    assert cached(tasks) == set()
    assert store.count("put") >= len(CACHED)
    _, _, tasks = run_flow(repository, tmp_path / "site")
    assert cached(tasks) == CACHED


def test_a_store_takes_no_right_but_those_on_its_prefix(server, store, repository, tmp_path, monkeypatch):
    """As the policy of docs/s3.md grants them."""
    monkeypatch.setenv("DOCMILL_S3_ENCRYPTION", "AES256")
    store.policy_for = tmp_path.name
    _, _, tasks = run_flow(repository, tmp_path / "site")
    assert set(tasks.values()) == {"Completed"}
    _, _, tasks = run_flow(repository, tmp_path / "site")
    assert cached(tasks) == CACHED
    written = [request for request in store.requests if request.what == "put"]
    assert len(written) > len(CACHED)
    assert {request.headers["x-amz-server-side-encryption"] for request in written} == {"AES256"}


def test_a_bucket_that_is_not_there_is_not_made(server, store, repository, tmp_path, monkeypatch):
    monkeypatch.setenv("DOCMILL_RESULT_STORAGE", "s3://not-there/results")
    state, _, _ = run_flow(repository, tmp_path / "site")
    assert state.is_failed()
    assert "result storage 's3://not-there/results': The specified bucket does not exist" in state.message


def test_results_lie_in_a_folder(server, repository, tmp_path, monkeypatch):
    monkeypatch.setenv("DOCMILL_RESULT_STORAGE", str(tmp_path / "results"))
    run_flow(repository, tmp_path / "site")
    kept = tree_bytes(tmp_path / "results")
    assert len(kept) > len(CACHED)
    _, _, tasks = run_flow(repository, tmp_path / "site")
    assert cached(tasks) == CACHED
    assert tree_bytes(tmp_path / "results").keys() == kept.keys()


@pytest.mark.parametrize("answered", [0, 6])
def test_a_store_that_does_not_answer_is_no_empty_one(server, store, repository, tmp_path, answered):
    """From the first request on, or from a later one: nothing is computed again unsaid."""
    run_flow(repository, tmp_path / "site")
    before = tree_bytes(tmp_path / "site")
    seen: list[object] = []

    def fail(request) -> None:
        seen.append(request)
        if len(seen) > answered:
            raise ConnectionError

    store.before = fail
    state, _, tasks = run_flow(repository, tmp_path / "site")
    assert state.is_failed()
    if not answered:
        assert "result storage 's3://docs/" in state.message
        assert "nothing is computed again for want of it" in state.message
    assert "publish" not in tasks
    assert tree_bytes(tmp_path / "site") == before
    store.before = lambda request: None
    _, _, tasks = run_flow(repository, tmp_path / "site")
    assert cached(tasks) == CACHED


def test_a_result_that_was_not_kept_fails_the_run(server, store, repository, tmp_path):
    def fail(request) -> None:
        if request.what == "put" and "probe" not in request.key:
            raise ConnectionError

    store.before = fail
    state, _, _ = run_flow(repository, tmp_path / "site")
    assert state.is_failed()
    assert "result storage: did not keep what chunk handed on" in state.message
    assert not (tmp_path / "site").exists()


def test_a_folder_that_cannot_be_written_is_told_of(server, repository, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DOCMILL_RESULT_STORAGE", str(tmp_path / "file" / "results"))
    state, _, tasks = run_flow(repository, tmp_path / "site")
    assert state.is_failed()
    assert f"result storage '{tmp_path}/file/results': " in state.message
    assert tasks == {}


def test_the_setting_is_the_operators(tmp_path, capsys):
    (tmp_path / "docmill.toml").write_text('result_storage = "/tmp/mine"\n')
    assert main(["build", str(tmp_path)]) == 2
    assert "is the operator's to set" in capsys.readouterr().err
