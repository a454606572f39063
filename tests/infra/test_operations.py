"""The runbook is run: every command of docs/operations.md that can be, as it stands there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from flows.settings import Service, resolve_settings
from tests.tasks.test_result_cache import postgres  # noqa: F401 - a fixture

RUNBOOK = Path(__file__).parent.parent.parent / "docs" / "operations.md"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", RUNBOOK.read_text(), re.MULTILINE | re.DOTALL)

# What is not run here, and why. What is no longer in the runbook has to go from here, too.
NOT_HERE = {
    "python3 -m venv /opt/docmill": "it makes the environment that tests run in",
    "/opt/docmill/bin/pip install -c constraints.txt .": "it needs the network, and minutes",
    "docmill up": "it does not end by itself; tests/infra/test_up.py runs it",
    "prefect worker start --pool docmill --type process --limit 8": "as part of that",
    "docmill webhook --host 0.0.0.0": "it does not end by itself; tests/flows/test_logs.py runs it",
}


def commands(block: str) -> list[str]:
    """The commands of a block, without comments; one may take several lines."""
    lines = re.sub(r" +# .*$", "", block, flags=re.MULTILINE).replace("\\\n", "\\\0").splitlines()
    return [line.replace("\\\0", "\\\n") for line in lines]


# What takes a container engine is not run here: test_topology.py starts what infra/compose.yaml says.
SHELL = [commands(text) for language, text in BLOCKS if not language and "docker compose" not in text]


def block_with(start: str) -> list[str]:
    """The one block that has a command that begins so, less what is not run here."""
    (found,) = [block for block in SHELL if any(command.startswith(start) for command in block)]
    return [command for command in found if command not in NOT_HERE]


RUN: set[str] = set()


@pytest.fixture(scope="module", autouse=True)
def every_command_is_run(request) -> Iterator[None]:
    """So that a new one cannot be added without being run by a test here, or said not to be."""
    yield
    tests = {name for name in globals() if name.startswith("test_")}
    has_all = all(shutil.which(program) for program in ("sqlite3", "pg_dump"))
    if has_all and tests <= {item.name for item in request.session.items if item.path == request.path}:
        assert {command for block in SHELL for command in block} - NOT_HERE.keys() <= RUN


class Shell:
    """A machine that is set up as the runbook says, but that its folders are in one of the test's."""

    def __init__(self, folder: Path, api: str, source: str, database: str) -> None:
        self.home = folder / "home"
        self.places = {
            "/opt/docmill/bin/": f"{Path(sys.executable).parent}/",
            "/srv/docs": f"{folder}/srv",
            "/var/backups/docmill": f"{folder}/backups",
            "https://prefect.example.org/api": api,
            "https://github.com/pallets/click.git": source,
            "postgresql://docmill@db.example.org/": database,
        }
        kept = {name: os.environ[name] for name in ("PATH", "DOCMILL_MODEL") if name in os.environ}
        bin_folder = folder / "bin"  # `docmill` and `prefect` are found, whether installed as scripts or not
        bin_folder.mkdir()
        for name, module in (("docmill", "infra.cli"), ("prefect", "prefect")):
            script = bin_folder / name
            script.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m {module} "$@"\n')
            script.chmod(0o755)
        self.environment = {**kept, "PATH": f"{bin_folder}:{kept['PATH']}", "PREFECT_API_URL": api}

    def run(self, block: list[str], home: Path | None = None, status: tuple[int, ...] = (0,)) -> str:
        """Run the commands of a block in one shell; what they printed."""
        text = "\n".join(block)
        for place, here in self.places.items():
            text = text.replace(place, here)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            env={**self.environment, "HOME": str(home or self.home)},
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode in status, f"{text}\n{done.stdout}\n{done.stderr}"
        RUN.update(block)
        return done.stdout


@pytest.fixture
def shell(server, tmp_path, git_repository, monkeypatch) -> Shell:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.settings import PREFECT_API_URL

    git_repository.push("first")
    found = Shell(tmp_path, str(PREFECT_API_URL.value()), git_repository.url, "")
    (found.home / ".config" / "docmill").mkdir(parents=True)
    (found.home / ".config" / "docmill" / "docmill.toml").write_text(
        f'[[repositories]]\nname = "click"\nsource = "{git_repository.url}"\n'
        f'out = "{tmp_path}/srv/click/{{branch}}"\nmodel = "none"\n'
    )
    with get_client(sync_client=True) as client, contextlib.suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name="docmill", type="process"))
    return found


def build(shell: Shell) -> None:
    source = "https://github.com/pallets/click.git"
    shell.run([f"docmill build {source} --revision main --model none --out /srv/docs/click/main"])


def test_what_is_not_run_is_in_the_runbook():
    written = {command for block in SHELL for command in block}
    assert NOT_HERE.keys() <= written


def test_settings_in_the_runbook_are_settings(tmp_path):
    for language, text in BLOCKS:
        if language == "toml":
            tomllib.loads(text)
            file = tmp_path / "operator.toml"
            file.write_text(text)
            assert resolve_settings(None, {}, file).service.repositories


def test_what_failures_are_told_as_is_what_the_runbook_says():
    (shown,) = [json.loads(text) for language, text in BLOCKS if language == "json"]
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from infra.deploy import _failure

    with temporary_settings({PREFECT_API_URL: "https://prefect.example.org/api"}):
        assert re.findall(r'"(\w+)": \{\{', _failure()) == list(shown)


def test_the_metrics_and_alerts_of_the_runbook_are_those_that_there_are(monkeypatch):
    from prometheus_client import CollectorRegistry

    from infra.metrics import Builds, Deliveries

    registry, builds = CollectorRegistry(), Builds(Service())
    Deliveries(registry, ("github",))
    monkeypatch.setattr(builds, "_answered", True)
    registry.register(builds)
    there = {metric.name + ("_total" if metric.type == "counter" else "") for metric in registry.collect()}
    listed = re.findall(r"^\| `(docmill_\w+)` \|", RUNBOOK.read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(there)
    (rules,) = [msgspec.yaml.decode(text) for language, text in BLOCKS if language == "yaml"]
    for rule in rules["groups"][0]["rules"]:
        assert set(re.findall(r"docmill_\w+", rule["expr"])) <= there


def test_the_credential_helper_is_what_git_asks(shell):
    shell.run(block_with("git config"))
    asked = "printf 'protocol=https\\nhost=git.example.org\\n\\n' | DOCS_TOKEN=hunter2 git credential fill"
    assert "username=docmill\npassword=hunter2\n" in shell.run([asked])


def test_several_machines(shell):
    printed = shell.run(block_with("prefect worker start"))
    assert re.findall(r"^(\S+) ", printed, re.MULTILINE) == ["nightly", "on-push", "on-demand", "failures"]


def test_one_machine(shell):
    (secret,) = block_with("export DOCMILL_WEBHOOK_SECRET")
    assert re.fullmatch(r"[0-9a-f]{64}\n", shell.run([secret, "echo $DOCMILL_WEBHOOK_SECRET"]))


def test_logs_of_a_worker(shell):
    block = block_with("export PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER")
    program = "import prefect.main, logging; logging.getLogger('a').warning('b')"
    line = shell.run([*block, f'{sys.executable} -P -c "{program}" 2>&1'])
    assert json.loads(line)["message"] == "b"


def test_the_doctor(shell):
    (doctor,) = next(block for block in SHELL if block == ["docmill doctor"])
    printed = shell.run([doctor], status=(0, 1))  # of this server leases are in memory
    assert re.search(r"^ok +git ", printed, re.MULTILINE)


def test_a_repository_that_is_held_for_no_run_is_freed(shell):
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name("docmill-click", 1)
        held = {"names": ["docmill-click"], "slots": 1, "mode": "concurrency"}
        client.request("POST", "/v2/concurrency_limits/increment", json=held)
        shell.run(block_with("prefect gcl update"))
        assert client.read_global_concurrency_limit_by_name("docmill-click").active_slots == 0


def test_an_upgrade(shell):
    build(shell)
    block = block_with("docmill plan")
    assert block[0] == "docmill doctor"
    printed = shell.run(block[1:])
    assert printed.startswith("certain: 0\npossible: 0\n")
    assert "on-push" in printed


def test_a_bad_release_is_taken_back(shell, git_repository):
    build(shell)
    git_repository.push("second")
    build(shell)
    printed = shell.run(block_with("docmill rollback"))
    assert "first" in (Path(shell.places["/srv/docs"]) / "click/main/symbols.json").read_text()
    assert re.search(r"^\w+ stands, 4 pages;", printed, re.MULTILINE)


@pytest.mark.skipif(not shutil.which("sqlite3"), reason="sqlite3 is not installed")
def test_back_up_and_restore_with_sqlite(shell, tmp_path):
    build(shell)
    live = sqlite3.connect(shell.home / ".cache/docmill/results.sqlite")
    held = live.execute("SELECT key, value FROM results ORDER BY key").fetchall()
    (shell.home / ".prefect").mkdir()
    runs = sqlite3.connect(shell.home / ".prefect/prefect.db")
    runs.execute("PRAGMA journal_mode=WAL")
    runs.execute("CREATE TABLE flow_run (id)")
    runs.execute("INSERT INTO flow_run VALUES (1)")
    runs.commit()  # and stays open: the copy is of a database in use
    shell.run(block_with("sqlite3"))
    copies = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "backups").iterdir()}
    assert copies.keys() == {"docmill.toml", "prefect.db", "results.sqlite"}
    assert {mode & 0o077 for mode in copies.values()} == {0}

    other = tmp_path / "other"
    (other / ".prefect").mkdir(parents=True)
    (other / ".prefect" / "prefect.db-wal").write_text("of the one that is gone")
    shell.run(block_with("cp /var/backups/docmill/docmill.toml"), home=other)
    restored = sqlite3.connect(other / ".cache/docmill/results.sqlite")
    assert restored.execute("SELECT key, value FROM results ORDER BY key").fetchall() == held
    found = sqlite3.connect(other / ".prefect/prefect.db").execute("SELECT id FROM flow_run").fetchall()
    assert found == [(1,)]
    assert (other / ".config/docmill/docmill.toml").read_text() == (
        shell.home / ".config/docmill/docmill.toml"
    ).read_text()


@pytest.mark.skipif(not shutil.which("pg_dump"), reason="pg_dump is not installed")
def test_back_up_and_restore_with_postgresql(shell, postgres, tmp_path):  # noqa: F811
    from sqlalchemy import create_engine, text

    from tasks.result_cache import ResultCache

    socket = postgres.partition("host=")[2]
    shell.places["postgresql://docmill@db.example.org/prefect"] = (
        f"'postgresql://docmill@/prefect?host={socket}'"
    )
    shell.places["postgresql://docmill@db.example.org/results"] = (
        f"'postgresql://docmill@/results?host={socket}'"
    )
    del shell.places["postgresql://docmill@db.example.org/"]
    engine = create_engine(postgres.format("postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("CREATE DATABASE prefect"))
        connection.execute(text("CREATE DATABASE results"))
    engine.dispose()
    cache = ResultCache(postgres.format("results"))
    cache.put_many({"kept": b"value"})
    (tmp_path / "backups").mkdir()
    shell.run(block_with("pg_dump"))
    cache.discard(["kept"])
    cache.put_many({"later": b"value"})
    cache.close()
    shell.run(block_with("pg_restore"))
    cache = ResultCache(postgres.format("results"))
    assert cache.get_many(["kept", "later"]) == {"kept": b"value"}
    cache.close()
