"""Runs that died, as far as the Prefect server does not see to them itself.

It runs again what crashed when it is told of the crash (infra.deploy). What it was told as it died itself it
has forgotten when it is there again; and of what died together with it nobody tells it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

from httpx import HTTPError
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.states import Crashed, State

from flows.nightly import ON_PUSH
from infra.deploy import as_deploy_error
from tasks.documents import first_line
from tasks.ingest.tree import printable

_log = logging.getLogger("docmill.crashes")

_OF_DOCMILL = (ON_PUSH, "nightly/nightly")
_LOOK_EVERY_S = 15.0
_LOOK_S = 15.0
_FORGOTTEN_AFTER = timedelta(seconds=60)  # a server that knows of a crash has acted on it by then
_NO_LONGER = timedelta(days=1)
_REMINDERS = 3
_AT_ONCE = 200  # what the server lists in one answer


def crash_what_died() -> None:
    """Have a server whose runs were all of this machine know that they ended with it, and run them again.

    Raises:
        DeployError: It does not answer.
    """
    with as_deploy_error(), get_client(sync_client=True) as client:
        ids = [client.read_deployment_by_name(name).id for name in _OF_DOCMILL]
        while found := client.read_flow_runs(
            deployment_filter=_of(ids), flow_run_filter=_in(StateType.PENDING, StateType.RUNNING)
        ):
            for run in found:
                ended: State[Any] = Crashed(message="its process ended with docmill up")
                client.set_flow_run_state(run.id, ended, force=True)


async def remind_of_crashes(client: PrefectClient) -> None:
    """Tell the server once more of each crash that nothing came after, until cancelled."""
    reminded: Counter[UUID] = Counter()
    while True:
        try:
            async with asyncio.timeout(_LOOK_S):
                await _remind(client, reminded)
        except (HTTPError, PrefectException, TimeoutError) as error:  # it is asked again
            _log.warning("Prefect server, about crashes: %s", printable(first_line(error)))
        await asyncio.sleep(_LOOK_EVERY_S)


async def _remind(client: PrefectClient, reminded: Counter[UUID]) -> None:
    now = datetime.now(UTC)
    try:
        ids = [(await client.read_deployment_by_name(name)).id for name in _OF_DOCMILL]
    except ObjectNotFound:  # there are no runs either
        return
    since = now - _NO_LONGER
    crashed = await _runs(client, ids, since, StateType.CRASHED)
    if not crashed:
        return
    last = {_what(run): run for run in await _runs(client, ids, since)}  # of each, the one that came last
    for run in last.values():
        state = run.state
        if state is None or not state.is_crashed() or now - state.timestamp < _FORGOTTEN_AFTER:
            continue
        if reminded[run.id] < _REMINDERS:
            reminded[run.id] += 1
            _log.warning("%s crashed, and nothing came after; the Prefect server is told again", run.name)
            await client.set_flow_run_state(run.id, Crashed(message=state.message), force=True)


async def _runs(client: PrefectClient, ids: list[UUID], since: datetime, *states: StateType) -> list[FlowRun]:
    """All runs of these deployments that were to start since then, in that order."""
    found: list[FlowRun] = []
    due = FlowRunFilterExpectedStartTime.model_validate({"after_": since, "before_": datetime.now(UTC)})
    wanted = FlowRunFilter(expected_start_time=due, state=_in(*states).state if states else None)
    for offset in count(0, _AT_ONCE):
        piece = await client.read_flow_runs(
            deployment_filter=_of(ids),
            flow_run_filter=wanted,
            sort=FlowRunSort.EXPECTED_START_TIME_ASC,
            limit=_AT_ONCE,
            offset=offset,
        )
        found += piece
        if len(piece) < _AT_ONCE:
            break
    return found


def _what(run: FlowRun) -> tuple[Any, ...]:
    """What a run is to build: a site, or all of them."""
    return run.deployment_id, run.parameters.get("repository"), run.parameters.get("branch")


def _of(ids: list[UUID]) -> DeploymentFilter:
    return DeploymentFilter(id=DeploymentFilterId(any_=ids))


def _in(*states: StateType) -> FlowRunFilter:
    return FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[*states])))
