"""The flow on a real Prefect server: the same site as in place, stages cached, an artifact."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from flows.settings import operator_file
from infra.cli import main
from tests.conftest import tree_bytes


def run_flow(repository: Path, out: Path):
    """One flow run: its report, and the states of its tasks by name."""
    from prefect.client.orchestration import get_client
    from prefect.states import State

    from flows.build_docs import build_docs

    state: State = build_docs(source=str(repository), out=str(out), model="none", return_state=True)
    run_id = state.state_details.flow_run_id
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(run_id)
    return state, run, tasks_of(run_id)


def tasks_of(run_id) -> dict[str, str]:
    """The states of a run's tasks by name; the server learns of them late, and is asked until it knows."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
    found: dict[str, str] = {}
    with get_client(sync_client=True) as client:
        for _ in range(100):
            tasks = client.read_task_runs(flow_run_filter=of_run)
            before, found = found, {task.name: str(task.state_name) for task in tasks}
            if found == before and not set(found.values()) & {"None", "Pending", "Running"}:
                break
            time.sleep(0.3)
    return found


def test_the_flow_builds_what_the_command_line_builds(server, repository, tmp_path, monkeypatch):
    assert main(["build", str(repository), "--out", str(tmp_path / "plain"), "--model", "none"]) == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other-cache"))
    state, run, tasks = run_flow(repository, tmp_path / "flow")
    assert state.is_completed()
    assert run.name == "click"
    assert tasks == dict.fromkeys(("ingest", "chunk", "generate", "render", "gate", "publish"), "Completed")
    assert tree_bytes(tmp_path / "flow") == tree_bytes(tmp_path / "plain")


def test_a_second_run_shows_unchanged_stages_as_cached(server, repository, tmp_path):
    from prefect.client.orchestration import get_client

    run_flow(repository, tmp_path / "site")
    _, run, tasks = run_flow(repository, tmp_path / "site")
    assert tasks == {
        "ingest": "Completed",
        "chunk": "Cached",
        "generate": "Cached",
        "render": "Cached",
        "gate": "Cached",
        "publish": "Completed",
    }
    with get_client(sync_client=True) as client:
        artifacts = client.request(
            "POST", "/artifacts/filter", json={"artifacts": {"flow_run_id": {"any_": [str(run.id)]}}}
        )
    texts = [a["data"] for a in artifacts.json() if a["type"] == "markdown"]
    assert len(texts) == 1
    assert "Nothing changed" in texts[0]


def test_an_edit_is_explained_and_a_deleted_site_comes_back(server, repository, tmp_path):
    from prefect.client.orchestration import get_client

    run_flow(repository, tmp_path / "site")
    file = repository / "globals.py"
    file.write_text(file.read_text().replace("def push_context(ctx:", "def push_context(other:"))
    _, run, tasks = run_flow(repository, tmp_path / "site")
    assert tasks["render"] == "Completed"
    with get_client(sync_client=True) as client:
        artifacts = client.request(
            "POST", "/artifacts/filter", json={"artifacts": {"flow_run_id": {"any_": [str(run.id)]}}}
        )
    text = next(a["data"] for a in artifacts.json() if a["type"] == "markdown")
    assert "page, code: `globals.py::push_context`" in text
    head, _, row = (line.strip("| ").split(" | ") for line in text[text.index("| texts") :].splitlines()[:3])
    assert head == ["texts", "human", "derived", "model", "empty", "too unsure to show", "sentences dropped"]
    told = tmp_path / "report.json"
    assert (
        main(
            [
                "build",
                str(repository),
                "--out",
                str(tmp_path / "plain"),
                "--model",
                "none",
                "--report",
                str(told),
            ]
        )
        == 0
    )
    slots = json.loads(told.read_bytes())["slots"]
    assert slots["human"] > 0 < slots["empty"]
    assert row == [f"{slots[n]:,}" for n in ("human", "derived", "model", "empty", "unsure", "dropped")]

    before = tree_bytes(tmp_path / "site")
    (tmp_path / "site").unlink()
    shutil.rmtree(tmp_path / ".site.docmill")
    _, _, tasks = run_flow(repository, tmp_path / "site")
    assert tasks["render"] == "Cached"
    assert tree_bytes(tmp_path / "site") == before


def test_the_gate_looks_again_at_what_is_no_part_of_a_snapshot(server, repository, tmp_path):
    (repository / "README.md").write_text("# Title\n\n[free](LICENSE)\n")
    (repository / "docmill.toml").write_text("strict_human = true\n")
    (repository / "docmill.overrides.toml").write_text("# none\n")
    state, _, _ = run_flow(repository, tmp_path / "site")
    assert state.is_failed() and "README.md:3" in state.message
    (repository / "LICENSE").write_text("free\n")
    state, _, tasks = run_flow(repository, tmp_path / "site")
    assert state.is_completed()
    assert (tasks["render"], tasks["gate"]) == ("Cached", "Completed")
    (repository / "docmill.overrides.toml").write_text("# none\n# yet\n")
    _, _, tasks = run_flow(repository, tmp_path / "site")
    assert (tasks["render"], tasks["gate"]) == ("Cached", "Completed")


def test_an_unusable_source_fails_the_run_and_leaves_the_site(server, repository, tmp_path):
    run_flow(repository, tmp_path / "site")
    before = tree_bytes(tmp_path / "site")
    shutil.rmtree(repository)
    repository.mkdir()
    state, _, _ = run_flow(repository, tmp_path / "site")
    assert state.is_failed()
    assert tree_bytes(tmp_path / "site") == before


def test_a_worker_does_not_build_where_nothing_stays(server, repository, monkeypatch):
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "a deployment")
    state, _, tasks = run_flow(repository, Path("site"))
    assert state.is_failed()
    assert state.message.startswith("out 'site': give an absolute path")  # a line, without Prefect's words
    assert tasks == {}


@pytest.mark.parametrize("out", ["site", "site/", "site/inner", "", "all"])
def test_what_a_form_asks_for_replaces_no_site_of_the_operators_file(
    server, repository, tmp_path, monkeypatch, out
):
    operator_file().parent.mkdir(parents=True)
    operator_file().write_text(
        f'index = "{tmp_path}/all"\n[[repositories]]\nname = "kept"\nsource = "https://example.org/kept"\n'
        f'out = "{tmp_path}/site"\n'
    )
    from flows.build_docs import build_docs

    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "a deployment")
    given = {"model": "none", "return_state": True}
    state = build_docs(str(repository), out=f"{tmp_path}/{out}", **given)
    assert (
        state.is_failed()
        and "of the operator's file has its place there; choose one beside it" in state.message
    )
    assert not (tmp_path / "site").exists()
    assert build_docs(str(repository), out=f"{tmp_path}/site2", **given).is_completed()
