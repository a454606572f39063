"""`docmill up`: one command, and pushes and nights are published; one interrupt, and nothing is left."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import httpx
import psutil
import pytest

from infra.cli import main
from tests.infra.test_deploy import listener  # noqa: F401 - a fixture
from tests.infra.test_interrupt import heed_interrupts

SECRET = "a secret of some length"


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def signed_push(hooks: str, repository: str, secret: str) -> httpx.Response:
    """Push to a repository's main branch, as GitHub tells of it."""
    body = json.dumps({"ref": "refs/heads/main", "after": "a" * 40}).encode()
    headers = {
        "content-type": "application/json",
        "x-github-event": "push",
        "x-github-delivery": str(uuid.uuid4()),
        "x-hub-signature-256": f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}",
    }
    client = httpx.Client(transport=httpx.HTTPTransport(retries=10))  # until the receiver listens
    return client.post(f"{hooks}/push/{repository}", content=body, headers=headers)


@pytest.fixture
def operators_file(git_repository, tmp_path) -> Path:
    file = tmp_path / "operator.toml"
    file.write_text(
        f'log_format = "json"\nindex = "{tmp_path}/index"\n'
        f'[[repositories]]\nname = "workshop"\nsource = "{git_repository.url}"\nout = "{tmp_path}/site"\n'
        f'[[repositories]]\nname = "gone"\nsource = "file://{tmp_path}/gone.git"\nout = "{tmp_path}/gone"\n'
    )
    return file


class Service:
    """A running `docmill up`, and what it printed."""

    def __init__(self, config: Path, home: Path, failures: str) -> None:
        server, webhook = free_ports(2)
        self.api, self.hooks = f"http://127.0.0.1:{server}/api", f"http://127.0.0.1:{webhook}"
        environment = os.environ | {"PREFECT_HOME": str(home), "DOCMILL_WEBHOOK_SECRET": SECRET}
        environment |= {"PREFECT_WORKER_QUERY_SECONDS": "1", "DOCMILL_FAILURE_URL": failures}
        environment.pop("PREFECT_API_URL", None)
        ports = ["--port", str(server), "--webhook-port", str(webhook)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "infra.cli", "up", "--config", str(config), *ports],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=heed_interrupts,
        )
        self.printed = ""
        self._read_until("nightly  ")
        threading.Thread(target=self._read_until, args=(None,), daemon=True).start()

    def _read_until(self, text: str | None) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.printed += line
            if text and text in line:
                break

    def push(self, secret: str = SECRET) -> httpx.Response:
        """Deliver a push, again while the server is too busy to have a run for it."""
        for _ in range(60):
            answer = signed_push(self.hooks, "workshop", secret)
            if answer.json()["outcome"] != "kept":
                break
            threading.Event().wait(0.5)
        return answer

    def asked(self, path: str, given: dict | None = None):
        """What the Prefect server answers; a busy one, on SQLite, has to be asked again."""
        for _ in range(60):
            with contextlib.suppress(httpx.HTTPError):
                url = f"{self.api}/{path}"
                answer = httpx.get(url) if given is None else httpx.post(url, json=given)
                return answer.raise_for_status().json()
            threading.Event().wait(0.5)
        raise AssertionError(self.printed)

    def ended(self, run: str) -> dict:
        """A run, when it has ended."""
        for _ in range(600):
            found = self.asked(f"flow_runs/{run}")
            if found["state_type"] in {"COMPLETED", "FAILED", "CRASHED"}:
                return found
            threading.Event().wait(0.1)
        raise AssertionError(self.printed)

    def comes(self, deployment: str) -> bool:
        """Whether the server has put runs of a deployment on its schedule."""
        wanted = {"deployments": {"id": {"any_": [deployment]}}}
        scheduled = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
        for _ in range(300):
            if self.asked("flow_runs/count", {**wanted, **scheduled}):
                return True
            threading.Event().wait(0.1)
        return False

    def interrupt(self) -> list[psutil.Process]:
        """End it as Ctrl-C does; what is left of its processes."""
        processes = psutil.Process(self.process.pid).children(recursive=True)
        assert len(processes) >= 3
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
        return psutil.wait_procs(processes, 1)[1]


def test_pushes_and_nights_are_published_until_an_interrupt(
    git_repository,
    operators_file,
    tmp_path,
    listener,  # noqa: F811
):
    revision = git_repository.push("first")
    failures, told_of = listener
    service = Service(operators_file, tmp_path / "prefect", failures)
    try:
        nightly = service.asked("deployments/name/nightly/nightly")
        assert service.push(secret="another secret").status_code == 401
        pushed = service.push()
        assert pushed.json()["outcome"] in {"queued", "waiting"}
        night = service.asked(f"deployments/{nightly['id']}/create_flow_run", {})
        # Either of them builds, the other finds it published or builds it again.
        assert service.ended(pushed.json()["detail"])["state_name"] in {"Published", "Unchanged"}
        assert "first" in (tmp_path / "site" / "symbols.json").read_text()
        state = service.ended(night["id"])["state"]
        assert (state["type"], state["name"]) == ("COMPLETED", "Partial")
        assert state["message"] == "1 of 2 sites failed: gone main"
        assert service.comes(nightly["id"])
        failed = {"flow_runs": {"state": {"type": {"any_": ["FAILED"]}}}}
        (gone,) = service.asked("flow_runs/filter", failed)
        assert told_of(gone["id"])["repository"] == "gone"
        metrics = httpx.get(f"{service.hooks}/metrics", timeout=30).text
        assert 'docmill_runs_total{branch="main",repository="gone",state="failed"} 1.0' in metrics
        assert 'docmill_site_pages{branch="main",repository="workshop"} 4.0' in metrics
        index = (tmp_path / "index" / "index.html").read_text()
        assert revision[:12] in index and index.count("never published") == 1
    finally:
        left = service.interrupt()
    assert service.process.returncode == 0, service.printed
    assert left == []
    assert service.printed.splitlines()[-1] == "docmill: stopped"
    assert SECRET not in service.printed
    assert failures not in service.printed
    assert "the next run makes it" not in service.printed  # the index was
    assert "FailedRun" not in service.printed  # a run says in a line why it failed, and no traceback follows
    lines = [json.loads(line) for line in service.printed.splitlines() if line.startswith("{")]
    of_builds = [line for line in lines if line["revision"] and line["logger"].startswith("prefect")]
    built = {(line["repository"], line["revision"]) for line in of_builds}
    assert built == {("workshop", revision)}


def test_what_ran_when_all_was_killed_is_run_again_after_the_next_start(
    git_repository, operators_file, tmp_path, monkeypatch
):
    monkeypatch.setenv("PREFECT_WORKER_QUERY_SECONDS", "1")
    revision = git_repository.push("first")
    service = Service(operators_file, tmp_path / "prefect", "http://127.0.0.1:9/")
    try:
        on_push = service.asked("deployments/name/on-push/on-push")
        # In the middle of a build, by all that the server knows.
        given = {"parameters": {"repository": "workshop", "branch": "main"}}
        later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2100-01-01T00:00:00Z"}}
        run = service.asked(f"deployments/{on_push['id']}/create_flow_run", {**given, "state": later})
        building = {"state": {"type": "RUNNING", "name": "Building"}, "force": True}
        service.asked(f"flow_runs/{run['id']}/set_state", building)
    finally:
        tree = [psutil.Process(service.process.pid), *psutil.Process(service.process.pid).children(True)]
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        service.process.wait(60)
        psutil.wait_procs(tree, 60)
    service = Service(operators_file, tmp_path / "prefect", "http://127.0.0.1:9/")
    try:
        assert service.ended(run["id"])["state_name"] == "Crashed"
        for _ in range(600):
            others = [one for one in service.asked("flow_runs/filter", {}) if one["id"] != run["id"]]
            if found := [one for one in others if one["parameters"].get("repository") == "workshop"]:
                break
            threading.Event().wait(0.2)
        (successor,) = found
        assert successor["parameters"]["attempt"] == 2
        assert service.ended(successor["id"])["state_name"] == "Published"
        assert revision in service.ended(successor["id"])["state"]["message"]
    finally:
        service.interrupt()


def test_a_stop_in_the_middle_of_a_build_starts_no_other(git_repository, operators_file, tmp_path):
    git_repository.push("first")
    service = Service(operators_file, tmp_path / "prefect", "http://127.0.0.1:9/")
    try:
        run = service.push().json()["detail"]
        for _ in range(600):
            if "submitted to infrastructure" in service.printed:
                break
            threading.Event().wait(0.1)
    finally:
        left = service.interrupt()
    assert left == [] and service.process.returncode == 0, service.printed
    with contextlib.closing(sqlite3.connect(tmp_path / "prefect" / "prefect.db")) as database:
        query = "SELECT id, state_type, start_time FROM flow_run WHERE parameters LIKE '%workshop%'"
        others = [row for row in database.execute(query) if uuid.UUID(row[0]) != uuid.UUID(run)]
    assert {row[1:] for row in others} <= {("SCHEDULED", None)}
    service = Service(operators_file, tmp_path / "prefect", "http://127.0.0.1:9/")
    try:
        for _ in range(600):
            if (tmp_path / "site" / "symbols.json").exists():
                break
            threading.Event().wait(0.2)
        assert "first" in (tmp_path / "site" / "symbols.json").read_text()
    finally:
        service.interrupt()


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "webhook: set DOCMILL_WEBHOOK_SECRET"),
        ({"DOCMILL_WEBHOOK_SECRET": SECRET}, "127.0.0.1 port PORT: Address already in use"),
        ({"DOCMILL_WEBHOOK_SECRET": "hunter2"}, "environment: webhook_secret: "),
    ],
)
def test_what_cannot_run_says_why_in_a_line(environment, said, monkeypatch, capsys):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["up", "--webhook-port", port]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said.replace("PORT", port) in line
    assert "hunter2" not in line


def test_one_port_for_two_is_refused(monkeypatch, capsys):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setenv("DOCMILL_WEBHOOK_SECRET", SECRET)
    (port,) = map(str, free_ports(1))
    with temporary_settings({PREFECT_API_URL: None}):  # another test may have a server
        assert main(["up", "--port", port, "--webhook-port", port]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"port {port}: give the Prefect server and the receiver one each" in line


def test_state_that_cannot_be_kept_is_told_with_its_place(tmp_path, monkeypatch, capsys):
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    file = tmp_path / "file"
    file.touch()
    said = f"PREFECT_HOME {file}/prefect: Not a directory; the Prefect server keeps its state there"
    monkeypatch.setenv("DOCMILL_WEBHOOK_SECRET", SECRET)
    server, webhook = map(str, free_ports(2))
    with temporary_settings({PREFECT_HOME: file / "prefect", PREFECT_API_URL: None}):
        assert main(["doctor"]) == 1
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("wrong")]
        assert said in line
        assert main(["up", "--port", server, "--webhook-port", webhook]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line


# As a worker that gets a run for each that ends, and a build that tells of its end.
_WORKER = """
import signal, subprocess, sys
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
while True:
    with open(sys.argv[1], "a") as file:
        print("started", file=file)
    subprocess.run([sys.executable, "-m", "building", sys.argv[1]])
"""
_BUILD = """
import signal, sys, time
def end(*_):
    with open(sys.argv[1], "a") as file:
        print("told", file=file)
    sys.exit()
signal.signal(signal.SIGTERM, end)
with open(sys.argv[1], "a") as file:
    print("builds", file=file)
time.sleep(60)
"""
_STOP = """
import os, pathlib, signal, sys, time
from infra.up import Part, _LIBC, _PR_SET_CHILD_SUBREAPER, _stop
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a script
_LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)
told = pathlib.Path(sys.argv[1])
parts = [Part("worker", ["respawning", str(told)], dict(os.environ), ended_by=signal.SIGKILL)]
while "builds" not in told.read_text():
    time.sleep(0.1)
_stop(parts)
"""


def test_a_worker_that_stops_begins_no_build_and_the_one_that_runs_tells_of_its_end(tmp_path):
    (tmp_path / "respawning.py").write_text(_WORKER)
    (tmp_path / "building.py").write_text(_BUILD)
    told = tmp_path / "told"
    told.touch()
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    subprocess.run([sys.executable, "-c", _STOP, str(told)], env=environment, check=True, timeout=60)
    assert told.read_text().split() == ["started", "builds", "told"]


def test_who_comes_before_another_has_ended_waits_and_says_so(home):
    from infra.up import _tells_of_another
    from tasks.files import locked

    told: list[str] = []
    waiting = threading.Event()

    def tell(line: str) -> None:
        told.append(line)
        waiting.set()

    def come_second() -> None:
        with locked(home / "up.lock", _tells_of_another(tell)):
            told.append("starts")

    with locked(home / "up.lock"):
        second = threading.Thread(target=come_second)
        second.start()
        assert waiting.wait(60)
        assert len(told) == 1 and "waiting for its end" in told[0]
    second.join(60)
    assert told[1:] == ["starts"]


def test_beyond_loopback_the_auth_string_is_made_once_and_private(home):
    from infra.up import _kept_auth

    auth = _kept_auth()
    assert auth == _kept_auth()
    file = home / "cache" / "docmill" / "server-auth"
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(auth) > 40
    file.write_text("")  # as by a kill
    assert len(_kept_auth()) > 40
