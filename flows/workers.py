"""Several processes for the stages that parse and draw.

A small piece of work runs where it is: starting processes costs more than it saves.
Workers are started clean (no fork of a process that holds threads) and ask the same
result cache.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from typing import Any

from tasks.documents import DocmillError
from tasks.result_cache import ResultCache

# Below this many files one process is done before a second has started.
_WORTH_SPREADING = 48
# More parts than processes, so that one that is slow does not hold up the stage.
_PARTS_A_PROCESS = 6


class Workers:
    """A pool of processes that is started when there is enough to do; a Spread."""

    def __init__(self, cache: ResultCache, processes: int | None = None) -> None:
        self.cache = cache
        self.processes = processes or len(os.sched_getaffinity(0))
        self._pool: ProcessPoolExecutor | None = None

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __call__(self, function: Callable[..., None], items: Sequence[Any], *common: Any) -> None:
        """Call `function` on parts of `items` until all are done.

        Raises:
            DocmillError: A worker died.
        """
        if len(items) < _WORTH_SPREADING or self.processes == 1:
            if items:
                function(items, self.cache, *common)
            return
        parts = _parts(items, self.processes * _PARTS_A_PROCESS)
        try:
            futures = [
                self._started().submit(_work, function, part, self.cache.url, common) for part in parts
            ]
            for future in futures:
                future.result()
        except BrokenProcessPool as error:
            raise DocmillError(
                f"{function.__name__}: a worker process died (out of memory?); run again"
            ) from error

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("forkserver")
            self._pool = ProcessPoolExecutor(self.processes, context, initializer=_end_with_parent)
        return self._pool


def _parts(items: Sequence[Any], count: int) -> Iterator[list[Any]]:
    """Every count-th item: neighbours in a tree are alike in size."""
    for start in range(min(count, len(items))):
        yield list(items[start::count])


def _end_with_parent() -> None:
    """Keep a worker whose build was killed from waiting for work for ever.

    An interrupt from the terminal reaches all processes; the build's own tells of it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@lru_cache(maxsize=1)
def _cache(url: str) -> ResultCache:
    return ResultCache(url)


def _work(function: Callable[..., None], part: list[Any], url: str, common: tuple[Any, ...]) -> None:
    function(part, _cache(url), *common)
