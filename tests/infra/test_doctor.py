"""`docmill doctor`: every part is looked at, each by itself, and what is wrong says what to do."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.settings import operator_file
from infra.cli import main
from models.config import BUNDLED

ALL = {
    *("settings", "versions", "imports", "git", "Prefect server"),
    *("result cache", "result storage", "model", "device", "disk"),
}


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A machine that runs tests may be busy; that nothing is waited for has a test of its own."""
    monkeypatch.setattr("infra.doctor._ANSWER_S", 60.0)
    monkeypatch.setattr("infra.doctor._CHECK_S", 120.0)


@pytest.fixture
def examined(capsys):
    """Run the doctor; its status, and by part what it said, each with its level."""

    def run(*arguments: str):
        status = main(["doctor", *arguments])
        found = defaultdict(list)
        for line in capsys.readouterr().out.splitlines():
            found[line[9:24].strip()].append((line[:8].strip(), line[25:]))
        return status, found

    return run


@pytest.fixture
def without_server():
    with temporary_settings({PREFECT_API_URL: None}):
        yield


def configured(text: str) -> None:
    operator_file().parent.mkdir(parents=True, exist_ok=True)
    operator_file().write_text(text)


def repository(name: str, out: object) -> str:
    return f'[[repositories]]\nname = "{name}"\nsource = "https://example.org/a"\nout = "{out}"\n'


def wrong(found, part: str) -> str:
    """What is said of the one thing that is wrong with a part."""
    (said,) = [said for level, said in found[part] if level == "wrong"]
    return said


def test_with_nothing_set_up_nothing_is_wrong(examined, without_server):
    status, found = examined()
    assert (status, found.keys()) == (0, ALL)
    assert found["Prefect server"] == [("ok", "none is named by PREFECT_API_URL; docmill up starts one")]
    assert found["result cache"] == [("ok", "sqlite, 0.0 MB: can be read and written")]
    assert found["result storage"] == [("ok", "is looked at where PREFECT_API_URL names a server")]
    assert found["model"] == [("ok", "none is asked for texts")]
    assert found["settings"][0][0] == "warning"


def test_models_are_looked_at_that_repositories_are_built_with(
    examined, without_server, tmp_path, monkeypatch
):
    monkeypatch.setenv("DOCMILL_MODEL", "bundled")
    plain = repository("a", tmp_path / "a")
    without = repository("b", tmp_path / "b") + 'model = "none"\n'
    for repositories, models in ((plain, 1), (plain + without, 2), (without, 0)):
        configured(repositories)
        found = examined()[1]
        assert sum(said.startswith("bundled: ") for _, said in found["model"]) == (models > 0)
        assert sum("none is asked" in said for _, said in found["model"]) == (models != 1)
        assert any("docmill model tune" in said for _, said in found["device"]) == (models > 0)


def test_settings_that_cannot_be_used_keep_nothing_from_its_turn(examined, without_server):
    configured("nonsense = 1\n")
    status, found = examined()
    assert (status, found.keys()) == (1, ALL)
    assert "docmill.toml:1: 'nonsense' is not a setting of docmill" in wrong(found, "settings")


def test_a_server_is_asked_for_all_that_builds_need(server, examined, tmp_path, monkeypatch):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    configured(f'work_pool = "examined"\n{repository("examined", tmp_path / "site")}')
    status, found = examined()
    said = dict.fromkeys(said for level, said in found["Prefect server"] if level == "wrong")
    lacking, leases, pool = sorted(said, key=lambda line: ["does", "keep", "has "].index(line[:4]))
    assert status == 1
    assert "limit docmill-examined" in lacking and lacking.endswith("run docmill deploy")
    assert "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=" in leases
    assert pool == "has no work pool examined; prefect work-pool create --type process examined"

    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="examined", type="process"))
    assert main(["deploy"]) == 0
    lines = examined()[1]["Prefect server"]
    assert ("ok", "knows 3 deployments, their limits and automations") in lines
    assert [said for level, said in lines if level == "wrong" and "no worker is online" in said]

    with get_client(sync_client=True) as client:
        client.send_worker_heartbeat("examined", "a worker", 30)
    monkeypatch.setenv("DOCMILL_NIGHTLY", "5 5 * * *")
    lines = examined()[1]["Prefect server"]
    assert ("ok", "work pool examined: 1 workers online") in lines
    assert ("warning", "deployment nightly has another schedule than is set; run docmill deploy") in lines


def test_a_repository_whose_builds_cannot_take_turns_is_told(server, examined, tmp_path):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate, WorkPoolCreate
    from prefect.states import Completed, Running

    from flows.on_push import BUILDING

    configured(f'work_pool = "turns"\n{repository("turns", tmp_path / "site")}')
    limit = "limit docmill-turns "

    def said() -> list[tuple[str, str]]:
        lines = examined()[1]["Prefect server"]
        return [(level, line.removeprefix(limit)) for level, line in lines if line.startswith(limit)]

    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="turns", type="process"))
        assert main(["deploy"]) == 0
        assert said() == []
        held = {"names": ["docmill-turns"], "slots": 1, "mode": "concurrency"}
        client.request("POST", "/v2/concurrency_limits/increment", json=held)
        ((level, line),) = said()
        assert (level, line.startswith("is held, and no run builds turns; ")) == ("warning", True)
        assert line.endswith("prefect gcl update docmill-turns --active-slots 0")
        on_push = client.read_deployment_by_name("on-push/on-push")
        run = client.create_flow_run_from_deployment(on_push.id, parameters={"repository": "turns"})
        client.set_flow_run_state(run.id, Running(name=BUILDING), force=True)
        assert said() == []
        client.set_flow_run_state(run.id, Completed(), force=True)
        for changes, how in (({"limit": 2}, "lets 2 builds run at a time"), ({"active": False}, "is off")):
            client.update_global_concurrency_limit("docmill-turns", GlobalConcurrencyLimitUpdate(**changes))
            ((level, line),) = said()
            assert (level, line.startswith(f"{how}, and builds of turns have to ")) == ("wrong", True)


def test_the_result_storage_is_written_and_read(server, examined, s3_server, tmp_path, monkeypatch):
    import s3fs

    def said(place: object) -> tuple[str, str]:
        monkeypatch.setenv("DOCMILL_RESULT_STORAGE", str(place))
        (line,) = examined()[1]["result storage"]
        return line

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("DOCMILL_S3_REGION", "us-east-1")
    monkeypatch.setenv("DOCMILL_S3_ENDPOINT", f"http://127.0.0.1:{s3_server}")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 2)
    (tmp_path / "file").touch()
    for place in (tmp_path / "results", "s3://docs/doctor-results"):
        assert said(place) == ("ok", f"{place}: can be read and written")
    assert said(tmp_path / "file" / "results")[0] == "wrong"
    monkeypatch.setenv("DOCMILL_S3_ENDPOINT", "http://127.0.0.1:9")
    level, line = said("s3://docs/doctor-results")
    assert (level, line.startswith("result storage 's3://docs/doctor-results': ")) == ("wrong", True)
    assert "hunter2" not in line


@pytest.mark.parametrize("listens", [True, False])
def test_a_server_that_does_not_answer_is_not_waited_for(examined, listens, monkeypatch):
    monkeypatch.setattr("infra.doctor._ANSWER_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1] if listens else 9
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
            status, found = examined()
    assert (status, found.keys()) == (1, ALL)
    assert wrong(found, "Prefect server").endswith("see that it runs, and that PREFECT_API_URL names it")


def test_a_cache_that_cannot_be_opened_is_named_without_its_password(examined, without_server, monkeypatch):
    monkeypatch.setenv("DOCMILL_RESULT_CACHE", "postgresql+psycopg://docmill:hunter2@127.0.0.1:9/x")
    status, found = examined()
    assert (status, found.keys()) == (1, ALL)
    assert "connection" in wrong(found, "result cache")
    assert "hunter2" not in str(found)


def test_places_of_sites_are_looked_at_and_left_alone(
    examined, without_server, s3_server, tmp_path, monkeypatch
):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "file").touch()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    endpoint = f's3_endpoint = "http://127.0.0.1:{s3_server}"\ns3_region = "eu-west-1"\n'
    configured(endpoint + repository("a", tmp_path / "deep" / "site") + repository("b", "s3://docs/doctor"))
    status, found = examined()
    assert [level for level, _ in found["sites"]] == ["ok", "ok"]
    assert (status, list(tmp_path.iterdir())) == (0, [tmp_path / "foreign"])
    configured(endpoint + repository("a", tmp_path / "foreign") + repository("b", "s3://absent/doctor"))
    status, found = examined()
    foreign, absent = (said for level, said in found["sites"] if level == "wrong")
    assert foreign.startswith("a main: out ") and "docmill did not make it" in foreign
    assert absent.startswith("b main: ")
    assert (status, "hunter2" in str(found)) == (1, False)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (None, None),
        (
            lambda folder: (folder / "docmill.json").write_text("{}"),
            "docmill.json is not what its manifest says",
        ),
        (lambda folder: (folder / "config.json").unlink(), "cannot be read"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 20), "cannot be read"),
    ],
)
def test_a_damaged_model_is_noticed(examined, without_server, tmp_path, monkeypatch, damage, said):
    folder = tmp_path / "model"
    shutil.copytree(BUNDLED, folder)
    if damage is not None:
        damage(folder)
    monkeypatch.setenv("DOCMILL_MODEL", str(folder))
    status, found = examined()
    assert status == (said is not None)
    if said is not None:
        assert said in wrong(found, "model")


def test_the_bundled_model_is_whole(examined, without_server, monkeypatch):
    monkeypatch.setenv("DOCMILL_MODEL", "bundled")
    ((level, said),) = examined()[1]["model"]
    assert (level, "files as its manifest says" in said) == ("ok", True)


def test_a_version_that_breaks_something_is_told(examined, without_server, tmp_path, monkeypatch):
    installed = tmp_path / "sqlalchemy-2.1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: SQLAlchemy\nVersion: 2.1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    said = wrong(examined()[1], "versions")
    assert said.startswith("sqlalchemy 2.1.0 is not ") and "no night ever comes" in said


def test_a_folder_that_would_be_imported_in_docmills_place_is_told(
    examined, without_server, tmp_path, monkeypatch
):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    ((level, said),) = examined()[1]["imports"]
    assert (level, said.startswith(f"{tmp_path}/tasks would be imported")) == ("warning", True)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert wrong(examined()[1], "imports").startswith(f"tasks is imported from {tmp_path}/tasks; ")


def test_where_docmill_is_not_what_is_imported_it_says_so_in_a_line(tmp_path: Path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "__init__.py").touch()
    done = subprocess.run(
        [sys.executable, "-m", "infra.cli", "doctor"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"docmill: tasks is imported from {tmp_path}/tasks; ")
    assert len(done.stderr.splitlines()) == 1
