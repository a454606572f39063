"""The distributed set-up of infra/compose.yaml: real PostgreSQL and Redis, the server in two, two workers.

Builds are held in the middle by git itself, by a hook of the user that serves what is fetched.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import networkx
import psutil
import pytest

from tests.conftest import GitRepository
from tests.infra.test_up import signed_push
from tests.tasks.test_private import HELPER, TOKEN, private
from tests.topology import Instance, Topology, services, stays

pytestmark = pytest.mark.timeout(900)

SECRETS = {
    "POSTGRES_PASSWORD": "p@ss:w/rd %41#",
    "PREFECT_SERVER_API_AUTH_STRING": "docmill:a secret of the server",
    "DOCMILL_WEBHOOK_SECRET": "a secret of some length",
}
NAMES = ("workshop", "burst", "left", "right", "large", "private")
HELD = '#!/bin/sh\nwhile [ -e held ]; do sleep 0.1; done\nexec "$@"\n'


class Service(NamedTuple):
    """The topology, the repositories that it builds, and how a forge and an operator see it."""

    topology: Topology
    repositories: dict[str, GitRepository]
    client: httpx.Client
    well_before: list[Instance]

    def push(self, name: str) -> str:
        """Have a forge tell of a push, again if the server is busy; gives the run that stands for it."""
        answers: list[httpx.Response] = []

        def taken() -> bool:
            answers.append(signed_push(self.topology.hooks, name, SECRETS["DOCMILL_WEBHOOK_SECRET"]))
            return answers[-1].is_success

        assert self.topology.comes_true(taken), answers[-1].text
        return answers[-1].json()["detail"]

    def published(self, name: str) -> str:
        """What a repository's site documents."""
        return (self.topology.folder / "docs" / name / "symbols.json").read_text()

    def found(self, what: str, **wanted: Any) -> list[dict[str, Any]]:
        """What the server has of a kind."""
        answer = self.client.post(f"/{what}/filter", json=wanted)
        answer.raise_for_status()
        return answer.json()

    def runs(self, name: str) -> list[dict[str, Any]]:
        """All runs for a repository."""
        return [run for run in self.found("flow_runs") if run["parameters"].get("repository") == name]

    def run(self, run: str) -> dict[str, Any]:
        """A run as it is now."""
        return self.client.get(f"/flow_runs/{run}").json()

    def is_named(self, run: str, *states: str) -> bool:
        """Whether a run is in a state of one of these names."""
        return self.run(run)["state_name"] in states

    def last_sign(self, run: str, until: datetime) -> datetime:
        """When a run last gave a sign of life."""
        wanted = {
            "occurred": {"since": (until - timedelta(hours=1)).isoformat(), "until": until.isoformat()},
            "event": {"name": ["prefect.flow-run.heartbeat"]},
            "resource": {"id": [f"prefect.flow-run.{run}"]},
            "order": "DESC",
        }
        answer = self.client.post("/events/filter", json={"filter": wanted, "limit": 1})
        answer.raise_for_status()
        return datetime.fromisoformat(answer.json()["events"][0]["occurred"])

    def builds(self, run: str) -> list[dict[str, Any]]:
        """What the server knows of how far each build of a run has come, in percent."""
        wanted = {"flow_run_id": {"any_": [run]}, "type": {"any_": ["progress"]}}
        return self.found("artifacts", artifacts=wanted)

    def building(self, run: str) -> tuple[datetime, datetime]:
        """Since when and until when a run had its repository to itself, as the server remembers it."""
        states = self.client.get("/flow_run_states/", params={"flow_run_id": run}).json()
        times = sorted((datetime.fromisoformat(one["timestamp"]), one["name"]) for one in states)
        return next(time for time, name in times if name == "Building"), times[-1][0]

    def worker_of(self, run: str) -> Instance:
        """The worker whose process executes a run."""
        for instance in self.topology.instances("worker"):
            process = psutil.Process(self.topology.processes[instance].pid)
            for child in process.children(recursive=True):
                if child.environ().get("PREFECT__FLOW_RUN_ID") == run:
                    return instance
        raise AssertionError(f"no worker executes {run}")

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Let builds of a repository come no further than to the fetching of it."""
        file = self.repositories[name].bare / "held"
        file.touch()
        try:
            yield
        finally:
            file.unlink()


@pytest.fixture(scope="module")
def repositories(tmp_path_factory) -> dict[str, GitRepository]:
    sources = tmp_path_factory.mktemp("sources")
    return {name: GitRepository(sources / name) for name in NAMES}


@pytest.fixture(scope="module")
def forge(repositories) -> Iterator[str]:
    with private(repositories["private"]) as address:
        yield address


@pytest.fixture(scope="module")
def service(tmp_path_factory, repositories, forge) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("topology")
    topology = Topology(folder, SECRETS)
    addresses = {name: one.url for name, one in repositories.items()} | {"private": forge}
    (folder / "etc" / "docmill.toml").write_text(
        "".join(
            f'[[repositories]]\nname = "{name}"\nsource = "{address}"\nout = "{folder}/docs/{name}"\n'
            'model = "none"\n'
            for name, address in addresses.items()
        )
    )
    (folder / "etc" / "git").mkdir()
    of_git = ["git", "config", "--file", folder / "etc" / "git" / "config"]
    subprocess.run([*of_git, f"credential.{forge}.helper", HELPER], check=True)
    (folder / "worker.env").write_text(f"DOCS_TOKEN={TOKEN}\n")
    hook = folder / "home" / "hook"
    hook.write_text(HELD)
    hook.chmod(0o755)
    (folder / "home" / ".gitconfig").write_text(f"[uploadpack]\n\tpackObjectsHook = {hook}\n")
    staying = [one for name in services() if stays(services()[name]) for one in topology.instances(name)]
    well_before = [one for one in staying if topology.is_healthy(one)]
    user, password = SECRETS["PREFECT_SERVER_API_AUTH_STRING"].split(":")
    try:
        topology.up()
        with httpx.Client(base_url=topology.api, auth=(user, password), timeout=60) as client:
            yield Service(topology, repositories, client, well_before)
    finally:
        topology.close()


@pytest.fixture(scope="module")
def killed(service) -> str:
    """A run that dies with its worker when half is done; other tests need not wait for what comes of it."""
    repository = service.repositories["large"]
    ignored = shutil.ignore_patterns("tests", "__pycache__")
    shutil.copytree(Path(networkx.__file__).parent, repository.clone / "networkx", ignore=ignored)
    repository.push("before_the_kill")
    run = service.push("large")
    assert service.topology.comes_true(lambda: any(build["data"] > 30 for build in service.builds(run)))
    worker = service.worker_of(run)
    service.topology.kill(worker)
    service.topology.start(worker)
    return run


def test_each_container_tells_whether_it_is_well(service):
    assert service.well_before == []  # before anything ran
    staying = [name for name in services() if stays(services()[name])]
    assert staying == ["postgres", "redis", "api", "services", "worker", "webhook"]
    assert all(
        service.topology.is_healthy(one) for name in staying for one in service.topology.instances(name)
    )


@pytest.fixture(scope="module")
def published(service) -> str:
    """The run of a push that was published."""
    service.repositories["workshop"].push("first")
    run = service.push("workshop")
    assert service.topology.comes_true(lambda: service.is_named(run, "Published")), service.run(run)
    return run


def test_a_signed_push_becomes_a_published_page(service, published):
    assert signed_push(service.topology.hooks, "workshop", "another secret").status_code == 401
    assert httpx.post(f"{service.topology.api}/flow_runs/filter", json={}).status_code == 401
    assert "first" in service.published("workshop")


def test_a_private_repository_is_built_with_what_the_operator_gave_the_workers(service):
    service.repositories["private"].push("hidden")
    run = service.push("private")
    assert service.topology.comes_true(lambda: service.is_named(run, "Published")), service.run(run)
    assert "hidden" in service.published("private")
    assert not [one for one in service.topology.processes if TOKEN in service.topology.told(one)]


def test_a_burst_ends_with_the_newest_in_two_builds_at_most(service, killed):
    repository = service.repositories["burst"]
    repository.push("first")
    with service.held("burst"):
        first = service.push("burst")
        assert service.topology.comes_true(lambda: service.is_named(first, "Building"))
        for number in range(50):
            repository.push(f"push_{number}")
            service.push("burst")
    assert service.topology.comes_true(
        lambda: {run["state_type"] for run in service.runs("burst")} == {"COMPLETED"}
    ), service.runs("burst")
    assert "push_49" in service.published("burst")
    runs = [run["id"] for run in service.runs("burst")]
    assert 2 <= len(runs) <= 4  # a busy machine may think that one has died
    builds = [build for run in runs for build in service.builds(run)]
    assert len(builds) <= 2
    times = sorted([datetime.fromisoformat(build[end]) for end in ("created", "updated")] for build in builds)
    assert all(end <= start for (_, end), (start, _) in pairwise(times))


def test_two_repositories_are_built_at_once(service, killed):
    for name in ("left", "right"):
        service.repositories[name].push("first")
    with service.held("left"), service.held("right"):
        runs = [service.push(name) for name in ("left", "right")]
        for run in runs:
            assert service.topology.comes_true(lambda run=run: service.is_named(run, "Building"))
    for run in runs:
        assert service.topology.comes_true(lambda run=run: service.is_named(run, "Published"))
    (left, left_end), (right, right_end) = map(service.building, runs)
    assert max(left, right) < min(left_end, right_end)


def test_what_a_killed_worker_built_is_built_by_another_run(service, killed):
    def again() -> list[dict[str, Any]]:
        return [run for run in service.runs("large") if run["id"] != killed]

    assert service.topology.comes_true(lambda: service.is_named(killed, "Crashed"))
    assert service.topology.comes_true(lambda: [run["state_name"] for run in again()] == ["Published"])
    (other,) = again()
    assert other["parameters"]["attempt"] == 2
    # Two minutes in all, where nothing else keeps the processor busy: 90 seconds of silence, and some.
    crashed = datetime.fromisoformat(service.run(killed)["state"]["timestamp"])
    assert crashed - service.last_sign(killed, crashed) < timedelta(seconds=150)
    assert datetime.fromisoformat(other["created"]) - crashed < timedelta(seconds=60)
    assert "before_the_kill" in service.published("large")

    def chunk() -> list[str]:
        stages = service.found("task_runs", flow_runs={"id": {"any_": [other["id"]]}})
        return [stage["state_name"] for stage in stages if stage["name"] == "chunk"]

    assert service.topology.comes_true(lambda: chunk() == ["Cached"]), chunk()


def test_a_run_that_ended_stays_as_it_ended(service, published, killed):
    """However silent it is."""
    silent_long_enough = datetime.fromisoformat(service.run(published)["end_time"]) + timedelta(seconds=110)
    assert service.topology.comes_true(lambda: datetime.now(UTC) > silent_long_enough)
    assert service.is_named(published, "Published")


def test_the_api_answers_without_the_services(service, published):
    (background,) = service.topology.instances("services")
    (api,) = service.topology.instances("api")
    service.topology.kill(background)
    assert service.topology.comes_true(lambda: not service.topology.is_healthy(background))
    assert service.topology.is_healthy(api)
    assert service.runs("workshop")
    service.topology.start(background)
    assert service.topology.comes_true(lambda: service.topology.is_healthy(background))
