"""Shards of a stage as tasks of Prefect: in threads, or on a cluster of Dask or Ray.

A build of one machine has no need of it: `flows.workers` starts its processes in a
hundredth of the time. Where it pays is a repository that takes a cluster, whose machines
see the source's folder and the result cache that this process does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.workers import WORTH_SPREADING, parts, work
from tasks.documents import DocmillError, SourceError, first_line

if TYPE_CHECKING:
    from tasks.result_cache import ResultCache

# A server on SQLite is at its limit after some 200 tasks of a run, and a build has seven such calls.
_SHARDS = 16
_ANSWERS_S = 10


class Shards:
    """A Spread over the task runner that is set."""

    def __init__(self, task_runner: str, of_flow: Context, open_cache: Callable[[], ResultCache]) -> None:
        """Start nothing yet.

        Args:
            task_runner: `threads`, `dask` or `ray`, the last two with the address of a cluster or without.
            of_flow: What Prefect knows in the flow, and outside of a stage: a task is sent to a cluster with
                all that it is called in, and a stage holds what cannot be sent.
            open_cache: Gives this process's result cache.
        """
        self.open_cache = open_cache
        self._setting, self._of_flow = task_runner, of_flow
        self._runner: TaskRunner[Any] | None = None

    def start_ahead(self, items: int) -> None:
        """Start nothing: what there is to do will tell."""

    def close(self) -> None:
        """End the cluster, if it is this build's own."""
        if self._runner is not None:
            self._runner.__exit__(None, None, None)

    def __call__(self, function: Callable[..., None], items: Sequence[Any], *common: Any) -> None:
        """Call `function` on parts of `items` until all are done.

        Raises:
            DocmillError: The cluster does not answer, or lost a shard.
        """
        if len(items) < WORTH_SPREADING:
            if items:
                function(items, self.open_cache(), *common)
            return
        url = self.open_cache().url
        shards = [_shard(function, part, url, common) for part in parts(items, _SHARDS)]
        try:
            runner = self._started()
            # The first of all connects.
            futures = [self._of_flow.run(runner.submit, shard, {}) for shard in shards]
        except OSError as error:
            raise DocmillError(f"task_runner {self._setting!r}: {first_line(error)}") from error
        for future in futures:
            try:
                future.result()
            except DocmillError:
                raise
            except Exception as error:
                raise DocmillError(f"{function.__name__}: a shard failed: {first_line(error)}") from error

    def _started(self) -> TaskRunner[Any]:
        if self._runner is None:
            self._runner = _runner_of(self._setting).__enter__()
        return self._runner


def _shard(
    function: Callable[..., None], part: list[Any], url: str, common: tuple[Any, ...]
) -> Task[[], None]:
    # Closed over, not passed: Prefect would look through every part for futures.
    def shard() -> None:
        work(function, part, url, common)

    name = function.__name__
    return Task(shard, name=name, task_run_name=name, cache_policy=NO_CACHE, persist_result=False)


def _runner_of(setting: str) -> TaskRunner[Any]:
    kind, _, address = setting.partition(" ")
    try:
        match kind:
            case "dask":
                from prefect_dask import DaskTaskRunner

                if address:
                    return DaskTaskRunner(address=address, client_kwargs={"timeout": _ANSWERS_S})
                return DaskTaskRunner(cluster_kwargs={"threads_per_worker": 1, "dashboard_address": None})
            case "ray":
                from prefect_ray import RayTaskRunner

                return RayTaskRunner(address=address or None)
    except ImportError as error:
        raise SourceError(f"task_runner {setting!r}: takes docmill[{kind}] ({error})") from error
    # Parsing takes the interpreter for itself, and Python 3.11 may fail where two threads do
    # (https://github.com/python/cpython/issues/106905).
    return ThreadPoolTaskRunner(max_workers=1)


def shards_of(task_runner: str) -> Callable[[Callable[[], ResultCache]], Shards]:
    """What opens Shards for a build; to be called in its flow."""
    return partial(Shards, task_runner, copy_context())
