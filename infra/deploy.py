"""What a Prefect server has to know of docmill: deployments, limits, automations. Twice is like once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
from httpx import HTTPError
from msgspec import Struct
from prefect.automations import Automation
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.deployments.runner import DeploymentApplyError, RunnerDeployment
from prefect.events.actions import ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.schedules import Cron
from prefect.settings import PREFECT_API_URL
from prefect.types.entrypoint import EntrypointType

from flows.on_push import limit_of
from flows.settings import Service
from tasks.documents import DocmillError, SourceError

FILE = Path(__file__).with_name("prefect.yaml")

_RUNS = ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]})
_SILENCE = timedelta(seconds=90)
_ALIVE = {"prefect.flow-run.heartbeat", "prefect.flow-run.Pending"}
# Events are named after states, not after their types: docmill has names of its own for ends.
_OF_DOCMILL = ("Published", "Degraded", "Unchanged", "Partial")
_ENDED = {
    f"prefect.flow-run.{name}" for name in ("Completed", "Failed", "Cancelled", "Crashed", *_OF_DOCMILL)
}
_WAITS_AGAIN = {f"prefect.flow-run.{name}" for name in ("Scheduled", "AwaitingRetry", "Late")}


class DeployError(DocmillError):
    """The Prefect server does not answer, or lacks what deployments need."""


class Schedule(Struct, frozen=True, forbid_unknown_fields=True):
    """When a deployment runs by itself."""

    cron: str
    timezone: str


class WorkPool(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a deployment's runs go, and what they find in their environment."""

    name: str
    job_variables: dict[str, Any]


class Deployment(Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of prefect.yaml."""

    name: str
    entrypoint: str
    description: str
    work_pool: WorkPool
    schedules: list[Schedule] = []


class _File(Struct):
    deployments: list[Deployment]


def deployments_of(service: Service) -> list[Deployment]:
    """The entries of prefect.yaml, as the operator's settings complete them."""

    def setting(found: re.Match[str]) -> str:
        return str(getattr(service, found[1].lower()))

    text = re.sub(r"\{\{ \$DOCMILL_(\w+) \}\}", setting, FILE.read_text())
    return msgspec.yaml.decode(text, type=_File).deployments


def deploy(service: Service) -> None:
    """Tell the Prefect server of all deployments, limits and automations.

    Raises:
        SourceError: PREFECT_API_URL names none.
        DeployError: It does not answer, refuses, or has no such work pool.
    """
    named_server()
    with as_deploy_error(), get_client(sync_client=True) as client:
        try:
            client.read_work_pool(service.work_pool)
        except ObjectNotFound as error:
            raise DeployError(
                f"work pool {service.work_pool!r}: not at {client.api_url}; "
                f"create it (prefect work-pool create --type process {service.work_pool}) or set work_pool"
            ) from error
        for repository in service.repositories:
            client.upsert_global_concurrency_limit_by_name(limit_of(repository.name), 1)
        ids = {one.name: _apply(one) for one in deployments_of(service)}
        for automation in (_crash_zombies([*ids.values()]), _run_again(ids["on-push"])):
            _upsert(client, automation)


def named_server() -> str:
    """The address of the Prefect server's API.

    Raises:
        SourceError: None is named; Prefect would start one for the moment.
    """
    if not PREFECT_API_URL.value():
        raise SourceError("Prefect server: set PREFECT_API_URL to its address, which ends in /api")
    return str(PREFECT_API_URL.value())


def _apply(one: Deployment) -> UUID:
    flow: Flow[..., Any] = load_flow_from_entrypoint(one.entrypoint)
    deployment = RunnerDeployment.from_flow(
        flow,
        one.name,
        description=one.description,
        schedules=[Cron(s.cron, timezone=s.timezone) for s in one.schedules],
        work_pool_name=one.work_pool.name,
        job_variables=one.work_pool.job_variables,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return UUID(str(deployment.apply()))


def _crash_zombies(deployments: list[UUID]) -> Automation:
    """Runs whose process died say nothing of it: what is silent for too long has crashed."""
    return Automation(
        name="docmill: crash zombie flows",
        description="A run that gives no sign of life for 90 seconds has crashed.",
        trigger=EventTrigger(
            after=_ALIVE,
            expect=_ALIVE | _ENDED | _WAITS_AGAIN,
            match=_RUNS,
            match_related=_of(deployments),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=_SILENCE,
        ),
        actions=[
            ChangeFlowRunState(
                name=None, state=StateType.CRASHED, message="no sign of life for 90 seconds", force=False
            )
        ],
    )


def _run_again(on_push: UUID) -> Automation:
    """What a run that died had yet to do is done by another: pushes may have been left to it."""
    parameters = {
        "repository": "{{ flow_run.parameters['repository'] }}",
        "branch": "{{ flow_run.parameters['branch'] | default('') }}",
        "rebuild": _json("{{ flow_run.parameters['rebuild'] | default(false) | string | lower }}"),
        "attempt": _json("{{ (flow_run.parameters['attempt'] | default(1) | int) + 1 }}"),
    }
    return Automation(
        name="docmill: run again what crashed",
        description="A push whose run crashed is built by another run; three times at most.",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Crashed"},
            match=_RUNS,
            match_related=_of([on_push]),
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[
            RunDeployment(source="selected", deployment_id=on_push, parameters=parameters, job_variables=None)
        ],
    )


def _of(deployments: list[UUID]) -> ResourceSpecification:
    """Events of these deployments' runs: a server may have others."""
    ids = [f"prefect.deployment.{one}" for one in deployments]
    return ResourceSpecification({"prefect.resource.role": "deployment", "prefect.resource.id": ids})


def _json(template: str) -> dict[str, Any]:
    """A parameter that is no string, for Prefect to work out."""
    return {"__prefect_kind": "json", "value": {"__prefect_kind": "jinja", "template": template}}


def _upsert(client: SyncPrefectClient, automation: Automation) -> None:
    """Create an automation, or bring the one of that name up to date."""
    standing = client.read_automations_by_name(automation.name)
    if standing:
        automation.id = standing[0].id
        automation.update()
    else:
        automation.create()


@contextmanager
def as_deploy_error() -> Iterator[None]:
    """Say in one line what a Prefect server refuses."""
    try:
        yield
    except (HTTPError, DeploymentApplyError) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise DeployError(
            f"Prefect server: {first}; see that it runs and PREFECT_API_URL names it"
        ) from error
