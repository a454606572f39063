"""The Prefect server of `docmill up`: on SQLite, what is written at the same moment is written."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from infra.up import SERVER_DEFAULTS
from tests.infra.test_up import free_ports

_BUSY_S = 5.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def api(folder) -> Iterator[str]:
    """A server of its own, whose log tells of no lock in the end."""
    (port,) = free_ports(1)
    often = {"PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS": "1"}
    environment = os.environ | SERVER_DEFAULTS | often | {"PREFECT_HOME": str(folder / "prefect")}
    command = ["-m", "infra.server", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, *command], env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}/api"
    try:
        with httpx.Client(transport=httpx.HTTPTransport(retries=10)) as client:
            assert client.get(f"{url}/ready", timeout=60).is_success, (folder / "log").read_text()
        yield url
    finally:
        process.terminate()
        process.wait(60)
    assert "database is locked" not in (folder / "log").read_text()


def test_what_is_written_at_the_same_moment_is_written(api):
    async def burst() -> Counter[int]:
        async with httpx.AsyncClient(base_url=api, timeout=60) as client:
            flow = (await client.post("/flows/", json={"name": "f"})).json()["id"]
            runs = (client.post("/flow_runs/", json={"flow_id": flow, "name": str(n)}) for n in range(60))
            return Counter(answer.status_code for answer in await asyncio.gather(*runs))

    assert asyncio.run(burst()) == {201: 60}


def test_what_reads_within_a_transaction_is_not_locked_out_by_it(api):
    """A work queue that is paused tells of it from within."""
    with httpx.Client(base_url=api, timeout=60) as client:
        client.post("/work_pools/", json={"name": "p", "type": "process"}).raise_for_status()
        client.post("/work_pools/p/queues", json={"name": "q"}).raise_for_status()
        assert client.patch("/work_pools/p/queues/q", json={"is_paused": True}).status_code == 204


def test_what_ended_long_ago_is_forgotten(api, folder):
    """A night with a run of its own, its report and logs; what is younger than 90 days stays."""
    with httpx.Client(base_url=api, timeout=60) as client:

        def post(path: str, **content) -> dict:
            return client.post(path, json=content).raise_for_status().json()

        def ended(days: int, **content) -> str:
            run = post("/flow_runs/", flow_id=flow, **content)["id"]
            post(f"/flow_runs/{run}/set_state", state={"type": "COMPLETED"}, force=True)
            ends[run] = datetime.now(UTC) - timedelta(days=days)
            return run

        ends: dict[str, datetime] = {}
        flow = post("/flows/", name="nights")["id"]
        old, young = ended(91), ended(89)
        post("/artifacts/", key="report", flow_run_id=old, data="a")
        post("/artifacts/", key="report", flow_run_id=young, data="b")
        task = post("/task_runs/", flow_run_id=old, task_key="t", dynamic_key="0")["id"]
        ended(91, parent_task_run_id=task)
        with closing(sqlite3.connect(folder / "prefect" / "prefect.db", timeout=_BUSY_S)) as database:
            when = [(f"{end:%Y-%m-%d %H:%M:%S.%f}", run) for run, end in ends.items()]
            database.executemany("UPDATE flow_run SET end_time = ? WHERE id = ?", when)
            database.commit()
        deadline = time.monotonic() + 30
        while len(post("/flow_runs/filter", flows={"id": {"any_": [flow]}})) > 1:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        assert client.get(f"/flow_runs/{young}").is_success
        assert [one["data"] for one in post("/artifacts/filter")] == ["b"]


def test_whoever_is_cancelled_locks_nobody_out(tmp_path):
    """While it waits for the turn, while its transaction begins, and while it reads or writes."""
    from infra.server import Sqlite

    async def write(database: Sqlite) -> None:
        session = await database.session(await database.engine())
        async with session, database.begin_transaction(session):
            await session.execute(text("SELECT count(*) FROM t"))
            await session.execute(text("INSERT INTO t VALUES (1)"))

    async def cancel_many() -> None:
        database = Sqlite(f"sqlite+aiosqlite:///{tmp_path}/a.db")
        async with (await database.engine()).connect() as connection:
            await connection.execute(text("CREATE TABLE t (a INTEGER)"))
        for number in range(100):
            tasks = [asyncio.create_task(write(database)) for _ in range(2)]
            await asyncio.sleep(0.00004 * number)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            del tasks, task
            await write(database)  # who finds the lock held fails

    asyncio.run(cancel_many())


def test_a_transaction_within_another_waits_for_no_turn(tmp_path):
    from infra.server import Sqlite

    async def nest() -> int:
        database = Sqlite(f"sqlite+aiosqlite:///{tmp_path}/a.db")
        outer, inner = [await database.session(await database.engine()) for _ in range(2)]
        async with outer, inner, database.begin_transaction(outer), database.begin_transaction(inner):
            return int((await inner.execute(text("SELECT 1"))).scalar_one())

    assert asyncio.run(asyncio.wait_for(nest(), _BUSY_S)) == 1
