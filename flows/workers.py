"""Several processes for the stages that parse and draw.

A small piece of work runs where it is: starting processes costs more than it saves.
Workers are forked from a server (not from a process that holds threads), which has
imported what draws pages once for all, and ask the same result cache.
"""

from __future__ import annotations

import gc
import importlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing import forkserver, resource_tracker
from typing import TYPE_CHECKING, Any

from tasks.documents import DocmillError

if TYPE_CHECKING:
    from tasks.result_cache import ResultCache

_log = logging.getLogger(__name__)

# Below this many files one process is done before a second has started.
WORTH_SPREADING = 48
# More parts than processes, so that one that is slow does not hold up the stage.
_PARTS_A_PROCESS = 6
# Syntax trees and pages are many objects and no cycles: looking for some is a fifth of the work.
_ALLOCATIONS_A_COLLECTION = 100_000

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tasks.render"])


class Workers:
    """A pool of processes that is started when there is enough to do; a Spread."""

    def __init__(self, open_cache: Callable[[], ResultCache], processes: int | None = None) -> None:
        """Start nothing yet.

        Args:
            open_cache: Gives this process's result cache.
            processes: How many processes at most; default: one a core.
        """
        self.open_cache = open_cache
        self.processes = processes or len(os.sched_getaffinity(0))
        self._pool: ProcessPoolExecutor | None = None

    def start_ahead(self, items: int) -> None:
        """Let the workers' server import beside this process, if so many items will be spread."""
        if self._spreads(items):
            _start_server()

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __call__(self, function: Callable[..., None], items: Sequence[Any], *common: Any) -> None:
        """Call `function` on parts of `items` until all are done.

        Raises:
            DocmillError: A worker died.
        """
        if not self._spreads(len(items)):
            if items:
                function(items, self.open_cache(), *common)
            return
        shares = parts(items, self.processes * _PARTS_A_PROCESS)
        url = self.open_cache().url
        try:
            with _interrupts_held():  # or else a worker that is being started is left to itself
                futures = [self._started().submit(work, function, part, url, common) for part in shares]
            for future in futures:
                future.result()
        except BrokenProcessPool as error:
            raise DocmillError(
                f"{function.__name__}: a worker process died (out of memory?); run again"
            ) from error

    def _spreads(self, items: int) -> bool:
        return items >= WORTH_SPREADING and self.processes > 1

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            _start_server()
            self._pool = ProcessPoolExecutor(self.processes, _CONTEXT, initializer=_set_up_worker)
        return self._pool


def import_ahead(module: str) -> None:
    """Import a module beside what this process does; who needs it waits, and is told if it fails."""
    with _interrupts_held():
        threading.Thread(target=_import_quietly, args=(module,)).start()


def _import_quietly(module: str) -> None:
    try:
        importlib.import_module(module)
    except Exception:  # noqa: BLE001 - whatever it is, it comes again where the module is needed
        _log.debug("importing %s ahead failed", module, exc_info=True)


def parts(items: Sequence[Any], count: int) -> Iterator[list[Any]]:
    """Items in so many parts at most, each of every count-th: neighbours in a tree are alike in size."""
    for start in range(min(count, len(items))):
        yield list(items[start::count])


def _start_server() -> None:
    """Start the workers' server unless it runs.

    What it preloads must not be found in the current folder, which may be the repository
    that is being read.
    """
    resource_tracker.ensure_running()  # or else the server starts it, and unblocks interrupts
    safe_path = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        with _interrupts_held():  # of one while it preloads, this process is to tell
            forkserver.ensure_running()
    finally:
        if safe_path is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = safe_path


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let an interrupt wait; threads and processes that are started meanwhile never get one."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _set_up_worker() -> None:
    """Make garbage collection rare, and keep a worker from waiting for a build that was killed.

    An interrupt from the terminal reaches all processes; the build's own tells of it.
    """
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS_A_COLLECTION)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@lru_cache(maxsize=1)
def _cache(url: str) -> ResultCache:
    from tasks.result_cache import ResultCache

    return ResultCache(url)


def work(function: Callable[..., None], part: list[Any], url: str, common: tuple[Any, ...]) -> None:
    """Call `function` on a part of the items, wherever this runs, with the result cache that `url` names."""
    function(part, _cache(url), *common)
