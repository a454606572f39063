"""The flow of the night: each branch of each repository in the operator's file, in a run of its own."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from httpx import HTTPError
from prefect import flow, get_run_logger
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import arun_deployment
from prefect.runtime import flow_run
from prefect.states import Completed, Failed, State

from flows.logs import tell_failures_once
from flows.on_push import ATTEMPTS
from flows.settings import resolve_settings
from flows.site_index import publish_index

ON_PUSH = "on-push/on-push"
# How a night ends in which some sites failed, and some did not.
PARTIAL = "Partial"

_AT_ONCE = 2
_POLL_S = 2
_PATIENCE_S = 600  # with a server that answers nothing but errors


@flow(name="nightly")
async def nightly(night: str = "", attempt: int = 1) -> State[Any]:
    """Build all repositories, also those that did not change: docmill itself, or its settings, may have.

    Args:
        night: the first run of a night that died, which goes on with what that had yet to begin; empty: none
        attempt: counts the runs for this that died
    """
    tell_failures_once()
    if attempt > ATTEMPTS:
        return Failed(message=f"nightly: {ATTEMPTS} runs died one after the other (out of memory?)")
    service = resolve_settings(None, {}).service
    turns = asyncio.Semaphore(_AT_ONCE)
    sites = [(one.name, branch) for one in service.repositories for branch in one.branches]
    night = night or str(flow_run.id)
    ended = await asyncio.gather(*(_built(name, branch, night, turns) for name, branch in sites))
    outcomes = dict(zip(sites, ended, strict=True))
    await acreate_markdown_artifact(_table(outcomes), key="nightly", description="how each site fared")
    await asyncio.to_thread(publish_index)
    failed = [f"{name} {branch}" for (name, branch), state in outcomes.items() if not state.is_completed()]
    if not failed:
        return Completed(message=f"{len(sites)} sites")
    message = f"{len(failed)} of {len(sites)} sites failed: {', '.join(failed)}"
    if len(failed) == len(sites):
        return Failed(message=message)
    return Completed(name=PARTIAL, message=message)


async def _built(name: str, branch: str, night: str, turns: asyncio.Semaphore) -> State[Any]:
    """The state that a site's own run ends in; where there could be none, that of a failure.

    There is one run of a site each night, whichever run of the night asks for it.
    """
    async with turns:
        try:
            run = await arun_deployment(
                ON_PUSH,
                parameters={"repository": name, "branch": branch, "rebuild": True},
                timeout=0,  # it is waited for below
                idempotency_key=f"{night}:{name}:{branch}",
            )
            return await _ended(run)
        except Exception as error:  # noqa: BLE001 - whatever it is, the others are built
            get_run_logger().error("%s %s: %s", name, branch, error)
            return Failed(message=str(error))


async def _ended(run: FlowRun) -> State[Any]:
    """The state that a run ends in. Raises what the server last answered if it fails for long."""
    async with get_client() as client:
        answered = time.monotonic()
        while run.state is None or not run.state.is_final():
            await asyncio.sleep(_POLL_S)
            try:
                run = await client.read_flow_run(run.id)
                answered = time.monotonic()
            except HTTPError:  # the run goes on without the server's word
                if time.monotonic() - answered > _PATIENCE_S:
                    raise
    return run.state


def _table(outcomes: dict[tuple[str, str], State[Any]]) -> str:
    lines = [
        f"| {name} | {branch} | {state.name} | {_cell(state.message or '')} |"
        for (name, branch), state in outcomes.items()
    ]
    return "\n".join(["| repository | branch | state | |", "|---|---|---|---|", *lines])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
