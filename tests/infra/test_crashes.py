"""Runs that died: a crash that the Prefect server has forgotten is told to it again."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from uuid import UUID

import pytest

from flows.settings import Repository, Service

SERVICE = Service(
    webhook_secret="a secret of some length",
    repositories=(Repository(name="known", source="https://example.org/a", out="/srv/a"),),
)


def site(repository: str) -> dict[str, str]:
    return {"repository": repository, "branch": "main"}


@pytest.fixture(scope="module")
def deployed(server):
    """A server that knows the deployments, and forgets crashes."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    from infra.deploy import AUTOMATIONS, deploy

    with (
        get_client(sync_client=True) as client,
        suppress(ObjectAlreadyExists),
    ):  # a busy server is asked twice
        client.create_work_pool(WorkPoolCreate(name="crashes", type="process"))
    deploy(Service(work_pool="crashes"))
    with get_client(sync_client=True) as client:
        for name in AUTOMATIONS:
            (automation,) = client.read_automations_by_name(name)
            client.delete_automation(automation.id)


@pytest.fixture
def create(deployed):
    """Create runs of on-push, each with its parameters and the type of the state that it ends in."""
    from prefect.client.orchestration import get_client
    from prefect.states import State, StateType

    def create(*ends: tuple[dict, str | None]) -> list[UUID]:
        with get_client(sync_client=True) as client:
            on_push = client.read_deployment_by_name("on-push/on-push")
            runs = []
            for parameters, end in ends:
                given = {"parameters": parameters, "enforce_parameter_schema": False}
                url = f"/deployments/{on_push.id}/create_flow_run"
                run = UUID(client._client.post(url, json=given).raise_for_status().json()["id"])
                if end is not None:
                    client.set_flow_run_state(run, State(type=StateType(end)), force=True)
                runs.append(run)
            return runs

    return create


@pytest.fixture
def look(deployed, monkeypatch):
    """Have the reminder look at runs; of which the server is told again."""
    from prefect.client.orchestration import get_client

    from infra import crashes

    monkeypatch.setattr(crashes, "_FORGOTTEN_AFTER_S", (0.0, 0.0))
    reminder = None

    async def remind(runs: list[UUID]) -> list[bool]:
        nonlocal reminder
        async with get_client() as client:
            before = [(await client.read_flow_run(run)).state_id for run in runs]
            reminder = reminder or crashes.Reminder(client, SERVICE)
            reminder._client = client
            await reminder.look()
            after = [(await client.read_flow_run(run)).state_id for run in runs]
            return [one != other for one, other in zip(before, after, strict=True)]

    return lambda runs: asyncio.run(remind(runs))


def test_the_last_run_of_a_site_that_crashed_is_told_of_again(create, look):
    runs = create(
        (site("died"), "COMPLETED"),
        (site("died"), "CRASHED"),
        (site("built"), "CRASHED"),
        (site("built"), "COMPLETED"),
        (site("queued"), "CRASHED"),
        (site("queued"), None),
        (site("failed"), "FAILED"),
        ({"repository": ["no name"]}, "CRASHED"),
    )
    assert look(runs) == [False, True, *[False] * 5, True]


def test_a_branch_that_is_not_named_is_the_first(create, look):
    runs = create(({"repository": "known"}, "CRASHED"), ({"repository": "known", "branch": ""}, "CRASHED"))
    assert look(runs) == [False, True]
    assert look([*runs, *create((site("known"), "COMPLETED"))]) == [False] * 3


def test_a_server_that_does_not_run_it_again_is_told_twice(create, look):
    runs = create((site("stubborn"), "CRASHED"))
    assert [look(runs) for _ in range(4)] == [[True], [True], [False], [False]]


def test_a_server_is_given_time_to_run_it_again(create, look, monkeypatch):
    from infra import crashes

    monkeypatch.setattr(crashes, "_FORGOTTEN_AFTER_S", (60.0, 60.0))
    assert look(create((site("fresh"), "CRASHED"))) == [False]


def test_what_is_told_again_is_an_event_that_the_server_acts_on(create, look):
    from prefect.client.orchestration import get_client

    (run,) = runs = create((site("again"), "CRASHED"))
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


def test_the_receiver_reminds_whatever_the_server_answers_at_first(create, monkeypatch, home):
    from prefect.client.orchestration import PrefectClient, get_client

    from infra import crashes
    from infra.webhook import application

    (run,) = create((site("received"), "CRASHED"))
    monkeypatch.setattr(crashes, "_FORGOTTEN_AFTER_S", (0.0,))
    monkeypatch.setattr(crashes, "_LOOK_EVERY_S", 0.1)
    answers = iter([ValueError("no JSON")])
    read = PrefectClient.read_deployment_by_name

    async def read_later(self, name):
        if (error := next(answers, None)) is not None:
            raise error
        return await read(self, name)

    monkeypatch.setattr(PrefectClient, "read_deployment_by_name", read_later)

    async def receive() -> bool:
        app = application(SERVICE)
        async with get_client() as client, app.router.lifespan_context(app):
            before = (await client.read_flow_run(run)).state_id
            for _ in range(300):
                if (await client.read_flow_run(run)).state_id != before:
                    return True
                await asyncio.sleep(0.1)
        return False

    assert asyncio.run(receive())
