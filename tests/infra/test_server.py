"""The Prefect server of `docmill up`: on SQLite, what is written at the same moment is written."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest

from tests.infra.test_up import free_ports


@pytest.fixture(scope="module")
def api(tmp_path_factory) -> Iterator[str]:
    """A server of its own, whose log tells of no lock in the end."""
    folder = tmp_path_factory.mktemp("server")
    (port,) = free_ports(1)
    environment = os.environ | {"PREFECT_HOME": str(folder / "prefect")}
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


def test_who_leaves_before_the_answer_holds_up_nobody(api):
    """A write that is broken off gives its turn back."""

    async def burst() -> int:
        async with httpx.AsyncClient(base_url=api, timeout=60) as client:
            flow = (await client.post("/flows/", json={"name": "f"})).json()["id"]

            async def leave(after: float) -> None:
                with suppress(httpx.TimeoutException):
                    await client.post("/flow_runs/", json={"flow_id": flow}, timeout=after)

            await asyncio.gather(*(leave(0.01 * number) for number in range(1, 40)))
            return (await client.post("/flow_runs/", json={"flow_id": flow}, timeout=30)).status_code

    assert asyncio.run(burst()) == 201
