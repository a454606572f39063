"""`GET /metrics`: what was delivered, and what the Prefect server knows of the builds."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import uuid
from datetime import UTC, datetime

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flows.settings import Service, operator_file, resolve_settings
from tests.infra.test_webhook import SECRET, push, receiver, service, signed


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A machine that runs tests may be busy, and every look is one at the server."""
    monkeypatch.setattr("infra.webhook._ANSWER_S", 60.0)
    monkeypatch.setattr("infra.metrics._LOOK_S", 60.0)
    monkeypatch.setattr("infra.metrics._LOOK_EVERY_S", 0.0)


@pytest.fixture
def site(home, git_repository, tmp_path, server, monkeypatch) -> Service:
    """A repository in the operator's file that was built once, and deployments at the server."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    from flows.on_push import on_push
    from infra.deploy import deploy

    name = f"m{uuid.uuid4().hex[:12]}"
    operator_file().parent.mkdir(parents=True)
    operator_file().write_text(
        f'work_pool = "metrics"\n[[repositories]]\nname = "{name}"\nsource = "{git_repository.url}"\n'
        f'branches = ["main", "never"]\nout = "{tmp_path}/site-{{branch}}"\nmodel = "none"\n'
    )
    monkeypatch.setenv("DOCMILL_WEBHOOK_SECRET", SECRET)
    found = resolve_settings(None, {}).service
    with get_client(sync_client=True) as client, contextlib.suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name="metrics", type="process"))
    deploy(found)
    git_repository.push("first")
    assert on_push(name, return_state=True).name == "Published"
    return found


class Scrape:
    """What was told, by metric and labels."""

    def __init__(self, text: str) -> None:
        self.samples = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        self.names = {name for name, *_ in self.samples}

    def __call__(self, name: str, **labels: str) -> float | None:
        return self.samples.get((name, *sorted(labels.items())))


async def scraped(client) -> Scrape:
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return Scrape(answer.text)


def test_deliveries_are_counted_by_forge_and_outcome(server):
    async def deliver() -> Scrape:
        async with receiver(service("counted")) as client:
            for path, headers in (
                ("/push/counted", signed(push(), "gitlab", event="Note Hook")),
                ("/push/counted", signed(push(), secret="another secret of some length")),
                ("/push/absent", signed(push())),
                ("/push/counted", {}),
            ):
                await client.post(path, content=push(), headers=headers)
            return await scraped(client)

    told = asyncio.run(deliver())
    deliveries = "docmill_webhook_deliveries_total"
    assert told(deliveries, forge="gitlab", outcome="ignored") == 1
    assert told(deliveries, forge="github", outcome="refused") == 2
    assert told(deliveries, forge="none", outcome="refused") == 1
    assert told(deliveries, forge="gitea", outcome="queued") == 0
    assert [told("docmill_webhook_refused_total", status=one) for one in ("400", "401", "404")] == [1, 1, 1]
    assert told("docmill_webhook_answer_seconds_count") == 4


def test_builds_are_told_as_the_server_knows_them(site):
    from prefect.client.orchestration import get_client
    from prefect.states import Completed, Failed, Running

    name = site.repositories[0].name
    main, never = ({"repository": name, "branch": branch} for branch in ("main", "never"))

    def end(state, **parameters) -> None:
        with get_client(sync_client=True) as client:
            on_push = client.read_deployment_by_name("on-push/on-push")
            run = client.create_flow_run_from_deployment(on_push.id, parameters=parameters)
            client.set_flow_run_state(run.id, state, force=True)

    async def scrapes() -> list[Scrape]:
        async with receiver(site) as client:
            before = await scraped(client)
            for state in (Failed(), Completed(name="Unchanged"), Completed(name="Whatever")):
                await asyncio.to_thread(end, state, repository=name)
            await asyncio.to_thread(end, Running(name="Building"), **never)
            await asyncio.to_thread(end, Failed(), repository="unknown", branch="<main>")
            return [before, await scraped(client), await scraped(client)]

    looked = datetime.now(UTC).timestamp()
    end(Completed(name="Unchanged"), repository=name)  # before the receiver starts
    before, after, again = asyncio.run(scrapes())
    assert before("docmill_runs_total", **main, state="unchanged") == 0
    assert before("docmill_last_success_timestamp_seconds", **main) >= looked
    assert before("docmill_prefect_up") == 1
    assert before("docmill_runs_total", **main, state="failed") == 0
    assert before("docmill_site_pages", **main) == 4
    texts = {origin: before("docmill_site_texts", **main, origin=origin) for origin in ("human", "empty")}
    assert texts["human"] == 1 and texts["empty"] >= 1
    assert before("docmill_last_build_stage_seconds", **main, stage="publish") > 0
    assert before("docmill_last_build_duration_seconds", **main) > 0
    assert before("docmill_site_pages", **never) is None
    assert before("docmill_last_success_timestamp_seconds", **never) == 0
    published = before("docmill_last_success_timestamp_seconds", **main)
    assert 0 < published <= datetime.now(UTC).timestamp()

    for told in (after, again):
        counts = [
            told("docmill_runs_total", **main, state=s) for s in ("failed", "unchanged", "other", "crashed")
        ]
        assert counts == [1, 1, 1, 0]
        assert told("docmill_unfinished_runs", **never, state="building") == 1
        assert told("docmill_last_success_timestamp_seconds", **main) > published
    assert not [key for key in again.samples if "unknown" in str(key) or "<main>" in str(key)]


def test_by_a_server_that_keeps_silent_nobody_is_kept_waiting(monkeypatch):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    async def ask() -> Scrape:
        async with receiver(service("waiting")) as client:
            asked = asyncio.create_task(scraped(client))
            assert (await client.post("/push/waiting")).status_code == 400
            assert not asked.done()
            asked.cancel()
            monkeypatch.setattr("infra.metrics._LOOK_S", 0.5)
            return await scraped(client)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        with temporary_settings({PREFECT_API_URL: url}):
            told = asyncio.run(ask())
    assert told("docmill_prefect_up") == 0
    assert "docmill_runs_total" not in told.names


def test_whoever_asks_too_often_is_refused(server):
    async def flood() -> list[int]:
        async with receiver(service("flooded", webhook_rate=3)) as client:
            return [(await client.get("/metrics")).status_code for _ in range(7)]

    assert 1 <= asyncio.run(flood()).count(429) <= 4  # a new minute may begin in between
