"""Logs as JSON: a line for a record, always of the same fields, whatever a repository wrote into it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time

import httpx
import pytest

from flows.logs import ENVIRONMENT, JsonLines
from flows.settings import operator_file
from tests.infra.test_up import SECRET, free_ports

FIELDS = ["time", "level", "logger", "message", "run", "repository", "branch", "revision", "task"]


def test_a_record_is_a_line_of_ascii():
    record = logging.LogRecord("a", logging.WARNING, "f", 1, "%s", ("\x1b[31m\n\u202e{\x00}\x85",), None)
    record.repository = "b\nc"
    line = JsonLines().format(record)
    assert line.isascii() and line.isprintable()
    found = json.loads(line)
    assert list(found) == FIELDS
    assert (found["level"], found["message"]) == ("warning", "\x1b[31m\n\u202e{\x00}\x85")
    assert (found["repository"], found["run"]) == ("b\nc", None)


def test_an_exception_is_told_in_its_line():
    try:
        raise ValueError("why\nso")
    except ValueError:
        record = logging.LogRecord("a", logging.ERROR, "f", 1, "failed", (), sys.exc_info())
    line = JsonLines().format(record)
    assert "\n" not in line
    assert json.loads(line)["error"].endswith("ValueError: why\nso")


@pytest.fixture
def configured(home, git_repository, tmp_path) -> str:
    """A repository in the operator's file; gives its newest revision."""
    operator_file().parent.mkdir(parents=True)
    operator_file().write_text(
        f'log_format = "json"\n[[repositories]]\nname = "workshop"\nsource = "{git_repository.url}"\n'
        f'out = "{tmp_path}/site"\nmodel = "none"\n'
    )
    return git_repository.push("first")


def api() -> dict[str, str]:
    from prefect.settings import PREFECT_API_URL

    return {"PREFECT_API_URL": str(PREFECT_API_URL.value())}


def test_the_lines_of_a_run_name_it_and_its_revision(server, configured):
    from prefect.client.orchestration import get_client

    from flows.on_push import limit_of

    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(limit_of("workshop"), 1)
    done = subprocess.run(
        [sys.executable, "-c", "from flows.on_push import on_push\non_push('workshop', 'main')"],
        env={**os.environ, **ENVIRONMENT, **api()},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert {tuple(line)[:9] for line in lines} == {tuple(FIELDS)}
    of_run = [line for line in lines if line["run"]]
    of_site = [line for line in of_run if line["repository"]]  # Prefect says before and after that it runs
    assert {(line["repository"], line["branch"]) for line in of_site} == {("workshop", "main")}
    assert {"prefect.flow_runs", "prefect.task_runs"} <= {line["logger"] for line in of_site}
    assert len({line["run"] for line in of_run}) == 1
    (told,) = [line for line in of_site if "pages" in line["message"]]
    assert (told["revision"], told["level"]) == (configured, "info")
    ends = [line for line in of_run if line["message"].startswith("Finished in state")]
    assert {line["task"] for line in ends} >= {None, "ingest", "publish"}
    (end,) = [line for line in ends if line["task"] is None]
    assert (end["repository"], end["branch"], end["revision"]) == ("workshop", "main", configured)


def test_the_lines_of_the_receiver_name_what_a_delivery_is_about(server, configured):
    from tests.infra.test_webhook import push, signed

    (port,) = free_ports(1)
    receiver = subprocess.Popen(
        [sys.executable, "-m", "infra.cli", "webhook", "--port", str(port)],
        env={**os.environ, **api(), "DOCMILL_WEBHOOK_SECRET": SECRET},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(600):
            try:
                httpx.get(f"http://127.0.0.1:{port}/health", timeout=10)
                break
            except httpx.HTTPError:
                assert receiver.poll() is None
                time.sleep(0.1)
        body = push(ref="refs/heads/other")
        address = f"http://127.0.0.1:{port}/push/workshop"
        assert httpx.post(address, content=body, headers=signed(body), timeout=10).status_code == 200
        assert httpx.post(f"{address}%1B", content=body, headers=signed(body), timeout=10).status_code == 404
    finally:
        receiver.terminate()
        printed = receiver.communicate(timeout=60)[1]
    lines = [json.loads(line) for line in printed.splitlines()]
    ignored, absent = [line for line in lines if line["logger"] == "docmill.webhook"]
    assert (ignored["repository"], ignored["branch"]) == ("workshop", "other")
    assert ignored["revision"] == "0123456789abcdef0123456789abcdef01234567"
    assert ignored["message"].startswith("/push/workshop 200: ignored branch other")
    assert (absent["repository"], absent["message"][:23]) == (None, "/push/workshop\\x1b 404:")
    assert SECRET not in printed
