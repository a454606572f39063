"""The flow of one push, which the last one wins.

A run does not build the revision that a push named, but the one that the branch names
when the run's turn comes, and leaves if that is published. So it does not matter how many
pushes there were, in which order they were told of, or how often; a run that has not
looked yet stands for all pushes before it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from typing import Any

from httpx import HTTPError, HTTPStatusError, TransportError
from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.runtime import flow_run
from prefect.states import Completed, Failed, Running, State

from flows.build_docs import TaskRun, build_as_tasks
from flows.figures import SiteName
from flows.logs import tell_failures_once
from flows.pipeline import standing_revision, target_of
from flows.report import Report
from flows.result_storage import ResultStorage, ResultStorageError
from flows.settings import Repository, cache_home, resolve_settings
from flows.site_index import publish_index
from tasks.documents import DocmillError, SourceError, first_line
from tasks.ingest import open_source
from tasks.ingest.git import shown, tip_of
from tasks.ingest.tree import printable
from tasks.publish import PublishError

# A run in another state has yet to look at its branch.
BUILDING = "Building"
WAITING = "Waiting"
# How a run ends that has done what it is for.
PUBLISHED, DEGRADED, UNCHANGED = "Published", "Degraded", "Unchanged"
# A run that waits says so this often, so that one that died is told from it.
SECONDS_BETWEEN_SIGNS = 20

# The least that Prefect grants: how long a repository is held for a run that died.
_LEASE_S = 60
_POLL_S = 2
_BUILDS_A_RUN = 2
# Runs that died are run again; what kills every one of them (memory) must not do so for ever.
ATTEMPTS = 3
# A forge, a store or a Prefect server that did not answer is asked again; this run stands for pushes.
_AGAIN_AFTER_S = (5, 30)
# By which a server puts off who asks, beside what goes wrong in the server itself.
_LATER = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}


class _MovedError(Exception):
    """The branch names another revision than the one that was built."""


class _NewestOnly(TaskRun):
    """Runs stages as tasks; looks again before publishing."""

    def __init__(self, report: Report, results: ResultStorage, is_newest: Callable[[], bool]) -> None:
        super().__init__(report, results)
        self.is_newest = is_newest

    def __call__(self, name: str, key: str | None, function: Callable[..., Any], *inputs: Any) -> Any:
        if name == "publish" and not self.is_newest():
            raise _MovedError
        return super().__call__(name, key, function, *inputs)


def limit_of(repository: str) -> str:
    """The concurrency limit that a repository's builds take turns by."""
    return f"docmill-{repository}"


def _run_name() -> str:
    parameters = flow_run.parameters
    return f"{parameters.get('repository')} {parameters.get('branch') or ''}".strip()


@flow(name="on-push", flow_run_name=_run_name)
def on_push(repository: str, branch: str = "", rebuild: bool = False, attempt: int = 1) -> State[Any]:
    """Publish the newest revision of a repository's branch.

    Args:
        repository: its name in the operator's file
        branch: one of its branches there; empty: the first
        rebuild: build also what is published already
        attempt: counts the runs for this that died
    """
    tell_failures_once()
    try:
        found = resolve_settings(None, {}).service.repository(repository)
        branch = _configured(found, branch)
        if attempt > ATTEMPTS:
            raise DocmillError(f"{repository}: {ATTEMPTS} runs died one after the other (out of memory?)")
        for wait in (*_AGAIN_AFTER_S, None):
            try:
                with _turn(repository):
                    state = _publish_newest(found, branch, rebuild)
                if state.name != UNCHANGED:
                    publish_index()
                return state
            except (SourceError, PublishError, ResultStorageError, HTTPError) as error:
                if wait is None:
                    raise
                get_run_logger().warning("%s; again in %s s", _line(error), wait)
                time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")
    except (DocmillError, HTTPError) as error:
        line = _line(error)
        get_run_logger().error(line)
        return Failed(message=line)


def _configured(repository: Repository, branch: str) -> str:
    if branch and branch not in repository.branches:
        raise SourceError(f"repository {repository.name!r}: branch {branch!r} is not in the operator's file")
    return branch or repository.branches[0]


@contextmanager
def _turn(repository: str) -> Iterator[None]:
    """Wait until no other run builds the repository, on whatever machine.

    A server that is away for a while ends no run that waits: pushes are left to it. Until the server
    knows that this one builds, it would leave further ones to it; so that has to be told.

    Raises:
        DocmillError: The turn will never come.
    """
    with ExitStack() as stack:
        said = -float(SECONDS_BETWEEN_SIGNS)
        while (why := _hindrance(stack, limit_of(repository))) is not None:
            if time.monotonic() - said >= SECONDS_BETWEEN_SIGNS:
                said = time.monotonic()
                _announced(WAITING, why)
            time.sleep(_POLL_S)
        while not _announced(BUILDING):
            time.sleep(_POLL_S)
        yield


def _hindrance(stack: ExitStack, limit: str) -> str | None:
    """Hold a limit for as long as the stack lives; what is in the way, if that cannot be yet."""
    try:
        stack.enter_context(_held(limit))
    except ConcurrencySlotAcquisitionError as error:
        cause = error.__cause__
        if cause is None:
            raise DocmillError(f"the Prefect server has no limit {limit!r}: run docmill deploy") from error
        if isinstance(cause, HTTPStatusError) and cause.response.status_code == HTTPStatus.LOCKED:
            return "another run builds the repository"
        if _may_pass(cause):
            return _line(cause)
        raise DocmillError(f"Prefect server: {first_line(error)}; docmill doctor looks at limits") from error
    return None


@contextmanager
def _held(limit: str) -> Iterator[None]:
    """Hold a limit. That the server cannot be told of the end fails nothing: its lease ends by itself."""
    is_over = False
    try:
        with concurrency(limit, max_retries=0, lease_duration=_LEASE_S, strict=True):
            yield
            is_over = True
    except HTTPError as error:
        if not is_over:
            raise
        get_run_logger().warning("%s; %s is free in a minute", _line(error), limit)


def _announced(name: str, why: str | None = None) -> bool:
    """Tell the server what this run does; whether it could be told."""
    try:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(flow_run.id, Running(name=name, message=why))
    except HTTPError as error:
        if not _may_pass(error):
            raise
        get_run_logger().warning(_line(error))
        return False
    return True


def _may_pass(error: BaseException) -> bool:
    """Whether the Prefect server may do later what it did not do now."""
    if isinstance(error, HTTPStatusError):
        return error.response.is_server_error or error.response.status_code in _LATER
    return isinstance(error, TransportError)


def _line(error: BaseException) -> str:
    """What an error says, as a line; what is none of docmill's own is of the Prefect server."""
    of_docmill = isinstance(error, DocmillError)
    return printable(str(error) if of_docmill else shown(f"Prefect server: {first_line(error)}"))


def _publish_newest(repository: Repository, branch: str, rebuild: bool) -> State[Any]:
    target = target_of(resolve_settings(None, repository.flags(branch)).settings)
    for builds_left in reversed(range(_BUILDS_A_RUN)):
        tip = tip_of(repository.source, branch)
        if not rebuild and standing_revision(target) == tip:
            return Completed(name=UNCHANGED, message=f"{tip} is published")
        try:
            return _build(repository, branch, may_be_late=not builds_left)
        except _MovedError:
            get_run_logger().info("%s %s moved meanwhile; building anew", repository.name, branch)
    raise AssertionError("the last build publishes, or fails")


def _build(repository: Repository, branch: str, may_be_late: bool) -> State[Any]:
    """Build and publish what the branch names now.

    Raises:
        _MovedError: It names something else when all is built, and `may_be_late` is not set. Under steady
            pushes that must end: what is published then is newer than what stood, if not the newest.
    """
    source = open_source(repository.source, f"refs/heads/{branch}", cache_home())
    settings = resolve_settings(source.root, repository.flags(branch)).settings
    report = Report(source={"location": shown(repository.source), "revision": source.revision})

    def is_newest() -> bool:
        return may_be_late or tip_of(repository.source, branch) == source.revision

    url = repository.url_of(branch)
    run = _NewestOnly(report, ResultStorage(settings), is_newest)
    build_as_tasks(source, settings, run, SiteName(repository.name, branch), url)
    name = DEGRADED if report.degraded else PUBLISHED
    return Completed(name=name, message=f"{source.revision} is published in {url or settings.out}")
