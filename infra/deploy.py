"""What a Prefect server has to know of docmill: deployments, limits, automations. Twice is like once.

Who is to be told of failures is told by the server: a run whose process died tells nobody.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
from httpx import HTTPError
from msgspec import Struct
from prefect.automations import Automation
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import DeploymentApplyError, RunnerDeployment
from prefect.events.actions import CallWebhook, ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.schedules import Cron
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL
from prefect.types import SecretDict
from prefect.types.entrypoint import EntrypointType
from pydantic import SecretStr

from flows import logs
from flows.nightly import PARTIAL
from flows.on_push import DEGRADED, PUBLISHED, UNCHANGED, limit_of
from flows.settings import Service
from tasks.documents import DocmillError, SourceError, first_line

FILE = Path(__file__).with_name("prefect.yaml")

_CRASH_ZOMBIES = "docmill: crash zombie flows"
_RUN_AGAIN = "docmill: run again what crashed"
_NIGHT_AGAIN = "docmill: run a night again that crashed"
_TELL = "docmill: tell of failures"
# Without which builds are not what they should be.
AUTOMATIONS = (_CRASH_ZOMBIES, _RUN_AGAIN, _NIGHT_AGAIN)

_RUNS = ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]})
_SETTING = re.compile(r"\{\{ \$DOCMILL_(\w+) \}\}")
_SILENCE = timedelta(seconds=90)
_ALIVE = {"prefect.flow-run.heartbeat", "prefect.flow-run.Pending"}
# Events are named after states, not after their types: docmill has names of its own for ends.
_OF_DOCMILL = (PUBLISHED, DEGRADED, UNCHANGED, PARTIAL)
_ENDED = {
    f"prefect.flow-run.{name}" for name in ("Completed", "Failed", "Cancelled", "Crashed", *_OF_DOCMILL)
}
_WAITS_AGAIN = {f"prefect.flow-run.{name}" for name in ("Scheduled", "AwaitingRetry", "Late")}
_BLOCK = "docmill-failures"
_LONGEST_MESSAGE = 1_000


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
    """The entries of prefect.yaml, as the operator's settings complete them.

    Raises:
        SourceError: A schedule is none that Prefect can keep.
    """
    entries = msgspec.convert(_completed(msgspec.yaml.decode(FILE.read_text()), service), _File).deployments
    for schedule in (schedule for entry in entries for schedule in entry.schedules):
        try:
            CronSchedule(cron=schedule.cron, timezone=schedule.timezone)
        except ValueError as error:
            raise SourceError(
                f"nightly {schedule.cron!r}: is no cron line; give minute, hour, day, month, day of the week"
            ) from error
    return entries


def _completed(value: Any, service: Service) -> Any:
    """What YAML holds, with the operator's settings in the places of their names."""
    match value:
        case dict():
            return {name: _completed(inner, service) for name, inner in value.items()}
        case list():
            return [_completed(inner, service) for inner in value]
        case str():
            return _SETTING.sub(lambda found: str(getattr(service, found[1].lower())), value)
    return value


def deploy(service: Service) -> None:
    """Tell the Prefect server of all deployments, limits and automations.

    Raises:
        SourceError: PREFECT_API_URL names none, or `nightly` is no cron line.
        DeployError: It does not answer, refuses, or has no such work pool.
    """
    named_server()
    deployments = deployments_of(service)
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
        variables = logs.ENVIRONMENT if service.log_format == "json" else {}
        ids = {one.name: _apply(one, variables) for one in deployments}
        automations = (
            _crash_zombies([*ids.values()]),
            _run_again(_RUN_AGAIN, ids["on-push"], _same_push()),
            _run_again(_NIGHT_AGAIN, ids["nightly"], _same_night()),
        )
        for automation in automations:
            _upsert(client, automation)
        if service.failure_url is not None:
            _upsert(client, _tell_of_failures([*ids.values()], service.failure_url))
        else:
            _forget_failures(client)


def named_server() -> str:
    """The address of the Prefect server's API.

    Raises:
        SourceError: None is named; Prefect would start one for the moment.
    """
    if not PREFECT_API_URL.value():
        raise SourceError("Prefect server: set PREFECT_API_URL to its address, which ends in /api")
    return str(PREFECT_API_URL.value())


def _apply(one: Deployment, variables: Mapping[str, str]) -> UUID:
    """Tell of a deployment, whose runs find these variables in their environment, too."""
    flow: Flow[..., Any] = load_flow_from_entrypoint(one.entrypoint)
    given = one.work_pool.job_variables
    deployment = RunnerDeployment.from_flow(
        flow,
        one.name,
        description=one.description,
        schedules=[Cron(s.cron, timezone=s.timezone) for s in one.schedules],
        work_pool_name=one.work_pool.name,
        job_variables={**given, "env": {**given.get("env", {}), **variables}},
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return UUID(str(deployment.apply()))


def _crash_zombies(deployments: list[UUID]) -> Automation:
    """Runs whose process died say nothing of it: what is silent for too long has crashed."""
    return Automation(
        name=_CRASH_ZOMBIES,
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


def _run_again(name: str, deployment: UUID, parameters: Mapping[str, Any]) -> Automation:
    """What a run that died had yet to do is done by another; the flows give up after some."""
    counted = {"attempt": _json("{{ (flow_run.parameters['attempt'] | default(1) | int) + 1 }}")}
    return Automation(
        name=name,
        description="What a run that crashed had yet to do is done by another one; three times at most.",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Crashed"},
            match=_RUNS,
            match_related=_of([deployment]),
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[
            RunDeployment(
                source="selected",
                deployment_id=deployment,
                parameters={**parameters, **counted},
                job_variables=None,
            )
        ],
    )


def _same_push() -> dict[str, Any]:
    """The parameters of a run of on-push: further pushes may have been left to it."""
    return {
        "repository": "{{ flow_run.parameters['repository'] }}",
        "branch": "{{ flow_run.parameters['branch'] | default('') }}",
        "rebuild": _json("{{ flow_run.parameters['rebuild'] | default(false) | string | lower }}"),
    }


def _same_night() -> dict[str, Any]:
    """The night of a run: what was built in it is not built again."""
    return {"night": "{{ flow_run.parameters['night'] | default(flow_run.id, true) | string }}"}


def _tell_of_failures(deployments: list[UUID], url: SecretStr) -> Automation:
    """Have somebody called when a run fails or crashes, at an address that the server keeps secret."""
    block = Webhook(method="POST", url=url, headers=SecretDict({"content-type": "application/json"}))
    return Automation(
        name=_TELL,
        description="A run that failed or crashed is told of to the address in DOCMILL_FAILURE_URL.",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
            match=_RUNS,
            match_related=_of(deployments),
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[
            CallWebhook(block_document_id=UUID(str(block.save(_BLOCK, overwrite=True))), payload=_failure())
        ],
    )


def _failure() -> str:
    """What is told of a run, as a template that the server fills; all of it is text, whatever is in it."""
    place = PREFECT_UI_URL.value() or named_server().removesuffix("/api")
    ui = json.dumps(f"{place.rstrip('/')}/runs/flow-run/")
    told = {
        "repository": "flow_run.parameters['repository'] | default(none)",
        "branch": "flow_run.parameters['branch'] | default(none)",
        "deployment": "deployment.name",
        "state": "flow_run.state.name",
        "message": f"(flow_run.state.message or '') | truncate({_LONGEST_MESSAGE})",
        "run": f"{ui} ~ flow_run.id",
    }
    return "{" + ", ".join(f'"{name}": {{{{ ({what}) | tojson }}}}' for name, what in told.items()) + "}"


def _of(deployments: list[UUID]) -> ResourceSpecification:
    """Events of these deployments' runs: a server may have others."""
    ids = [f"prefect.deployment.{one}" for one in deployments]
    return ResourceSpecification({"prefect.resource.role": "deployment", "prefect.resource.id": ids})


def _json(template: str) -> dict[str, Any]:
    """A parameter that is no string, for Prefect to work out."""
    return {"__prefect_kind": "json", "value": {"__prefect_kind": "jinja", "template": template}}


def _upsert(client: SyncPrefectClient, automation: Automation) -> None:
    """Create an automation, or bring the one of that name up to date.

    One that is as it should be stays: with an update it would forget which runs it watches, and never crash
    those that died.
    """
    standing = client.read_automations_by_name(automation.name)
    if not standing:
        automation.create()
    elif _content(standing[0]) != _content(automation):
        automation.id = standing[0].id
        automation.update()


def _content(automation: AutomationCore) -> Any:
    """What an automation does, without what a server numbers."""
    return _without_ids(automation.model_dump(mode="json", include=set(AutomationCore.model_fields)))


def _without_ids(value: Any) -> Any:
    match value:
        case dict():
            return {name: _without_ids(inner) for name, inner in value.items() if name != "id"}
        case list():
            return sorted((_without_ids(inner) for inner in value), key=repr)  # most of them are sets
    return value


def _forget_failures(client: SyncPrefectClient) -> None:
    """Tell nobody any more, and keep no secret address."""
    for standing in client.read_automations_by_name(_TELL):
        client.delete_automation(standing.id)
    with suppress(ObjectNotFound):
        block = client.read_block_document_by_name(_BLOCK, Webhook.get_block_type_slug())
        client.delete_block_document(block.id)


@contextmanager
def as_deploy_error() -> Iterator[None]:
    """Say in one line what a Prefect server refuses."""
    try:
        yield
    except (HTTPError, DeploymentApplyError) as error:
        raise DeployError(
            f"Prefect server: {first_line(error)}; see that it runs and PREFECT_API_URL names it"
        ) from error
