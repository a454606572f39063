"""Runs that died, as far as the Prefect server does not see to them itself.

It runs again what crashed when it is told of the crash (infra.deploy). What it was told as it died itself it
has forgotten when it is there again; and of what died together with it nobody tells it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

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
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed, State

from flows.nightly import ON_PUSH
from flows.settings import Service
from infra.deploy import as_deploy_error
from tasks.documents import first_line
from tasks.ingest.tree import printable

_log = logging.getLogger("docmill.crashes")

_OF_DOCMILL = (ON_PUSH, "nightly/nightly")
_LOOK_EVERY_S = 15.0
_LOOK_S = 15.0
# When nothing came after a crash for so long it is told again, and once more: the server of docmill up has
# acted on what it knows within half a minute; others hold an event back for 15, if they lost the one before.
_FORGOTTEN_AFTER_S = (60.0, 20 * 60.0)
_NO_LONGER = timedelta(days=1)
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


class Reminder:
    """Tells a server again of crashes that nothing came after."""

    def __init__(self, client: PrefectClient, service: Service) -> None:
        self._client = client
        self._first_branch = {one.name: one.branches[0] for one in service.repositories}
        self._seen: dict[UUID, float] = {}  # when, by this machine's own clock
        self._told: Counter[UUID] = Counter()
        self._settled: set[UUID] = set()

    async def remind(self) -> None:
        """Look at what crashed now and then, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self.look()
            except Exception as error:  # noqa: BLE001 - whatever it is, the server is asked again
                _log.warning("Prefect server, about crashes: %s", printable(first_line(error)))
            await asyncio.sleep(_LOOK_EVERY_S * random.uniform(0.8, 1.2))  # there may be other receivers

    async def look(self) -> None:
        """Tell the server of each crash whose time has come."""
        try:
            ids = [(await self._client.read_deployment_by_name(name)).id for name in _OF_DOCMILL]
        except ObjectNotFound:  # there are no runs either
            return
        since = datetime.now(UTC) - _NO_LONGER
        crashed = {run.id for run in await _runs(self._client, ids, since, StateType.CRASHED)}
        self._settled &= crashed
        if crashed == self._settled:
            return
        last = {self._what(run): run for run in await _runs(self._client, ids, since)}  # of each, the latest
        forgotten = [run for run in last.values() if run.id in crashed]
        self._settled = crashed - {run.id for run in forgotten}
        for run in forgotten:
            await self._tell(run)

    async def _tell(self, run: FlowRun) -> None:
        now, told = time.monotonic(), self._told[run.id]
        if told == len(_FORGOTTEN_AFTER_S):
            self._settled.add(run.id)
        elif now - self._seen.setdefault(run.id, now) >= _FORGOTTEN_AFTER_S[told]:
            self._told[run.id] += 1
            _log.warning("%s crashed, and nothing came after; the Prefect server is told again", run.name)
            message = run.state.message if run.state else None
            ended: State[Any] = Crashed(message=message)
            await self._client.set_flow_run_state(run.id, ended, force=True)

    def _what(self, run: FlowRun) -> tuple[str, str, str]:
        """What a run is to build: a site, or all of them."""
        repository = str(run.parameters.get("repository"))
        branch = run.parameters.get("branch") or self._first_branch.get(repository)
        return str(run.deployment_id), repository, str(branch)


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


def _of(ids: list[UUID]) -> DeploymentFilter:
    return DeploymentFilter(id=DeploymentFilterId(any_=ids))


def _in(*states: StateType) -> FlowRunFilter:
    return FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[*states])))
