"""Runs that died: a crash that the Prefect server has forgotten is told to it again."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import timedelta
from uuid import UUID

import pytest

from flows.settings import Service


@pytest.fixture(scope="module")
def deployed(server):
    """A server that knows the deployments, and forgets crashes."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    from infra.deploy import AUTOMATIONS, deploy

    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="crashes", type="process"))
    deploy(Service(work_pool="crashes"))
    with get_client(sync_client=True) as client:
        for name in AUTOMATIONS:
            (automation,) = client.read_automations_by_name(name)
            client.delete_automation(automation.id)


@pytest.fixture
def reminded(deployed, monkeypatch):
    """Create runs of on-push, and tell for which the server is told of a crash again."""
    from prefect.client.orchestration import get_client
    from prefect.states import State, StateType

    from infra import crashes

    monkeypatch.setattr(crashes, "_FORGOTTEN_AFTER", timedelta(0))
    reminders: Counter[UUID] = Counter()

    def create(*ends: tuple[str, str | None]) -> list[UUID]:
        with get_client(sync_client=True) as client:
            on_push = client.read_deployment_by_name("on-push/on-push")
            runs = []
            for repository, end in ends:
                run = client.create_flow_run_from_deployment(
                    on_push.id, parameters={"repository": repository, "branch": "main"}
                )
                if end is not None:
                    client.set_flow_run_state(run.id, State(type=StateType(end)), force=True)
                runs.append(run.id)
            return runs

    def look(runs: list[UUID]) -> list[bool]:
        async def remind() -> list[bool]:
            async with get_client() as client:
                before = [(await client.read_flow_run(run)).state_id for run in runs]
                await crashes._remind(client, reminders)
                return [
                    (await client.read_flow_run(run)).state_id != state
                    for run, state in zip(runs, before, strict=True)
                ]

        return asyncio.run(remind())

    return create, look


def test_the_last_run_of_a_site_that_crashed_is_told_of_again(reminded):
    create, look = reminded
    runs = create(
        ("died", "COMPLETED"),
        ("died", "CRASHED"),
        ("built", "CRASHED"),
        ("built", "COMPLETED"),
        ("queued", "CRASHED"),
        ("queued", None),
        ("failed", "FAILED"),
    )
    assert look(runs) == [False, True, *[False] * 5]


def test_a_server_that_does_not_run_it_again_is_told_three_times(reminded):
    create, look = reminded
    runs = create(("stubborn", "CRASHED"))
    assert [look(runs) for _ in range(4)] == [[True], [True], [True], [False]]


def test_a_server_is_given_time_to_run_it_again(reminded, monkeypatch):
    from infra import crashes

    create, look = reminded
    monkeypatch.setattr(crashes, "_FORGOTTEN_AFTER", timedelta(seconds=60))
    assert look(create(("fresh", "CRASHED"))) == [False]


def test_what_is_told_again_is_an_event_that_the_server_acts_on(reminded):
    from prefect.client.orchestration import get_client

    create, look = reminded
    (run,) = runs = create(("again", "CRASHED"))
    assert look(runs) == [True]
    wanted = {
        "event": {"name": ["prefect.flow-run.Crashed"]},
        "resource": {"id": [f"prefect.flow-run.{run}"]},
    }
    with get_client(sync_client=True) as client:
        for _ in range(300):
            found = client.request("POST", "/events/filter", json={"filter": wanted}).json()["events"]
            if len(found) == 2:
                return
            time.sleep(0.1)
    raise AssertionError(found)
