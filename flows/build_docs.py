"""The same pipeline as a Prefect flow: six stages as tasks, their results cached by our keys.

A stage that was answered from the cache is shown as such; ingest and publish always run,
so that a deleted site is noticed. Through the tasks go manifests only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

# Before Prefect is imported: unless told not to, its server reports home.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")

import msgspec
from msgspec.structs import replace
from prefect import Task, flow, get_run_logger
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import deployment, flow_run
from prefect.states import Failed, State
from pydantic import Field
from pydantic.config import JsonDict

from flows.build import report_built, report_ingested
from flows.explanation import explanation, failure
from flows.figures import SiteName, keep_report
from flows.logs import builds, tell_failures_once
from flows.pipeline import STAGES, Pipeline
from flows.report import Report
from flows.result_storage import ResultStorage, ResultStorageError
from flows.settings import Settings, cache_home, resolve_settings
from flows.shards import shards_of
from tasks.documents import DocmillError, SourceError
from tasks.ingest import OpenedSource, open_source, project_name
from tasks.ingest.git import WITH_SECRET, shown
from tasks.ingest.tree import printable
from tasks.waivers import GateError

_SECONDS_BETWEEN_LINES = 10
# Checked by a Prefect server before it writes the parameters of a run down, not by the command line, which
# may leave `out` to settings.
_SOURCE: JsonDict = {"minLength": 1, "not": {"pattern": WITH_SECRET}}
_OUT: JsonDict = {"pattern": "^(/|~|s3://)"}  # a worker builds in a folder of its own
_AS_SET = "as set"
_QUANTIZE: JsonDict = {"enum": [_AS_SET, "auto", "none", "int8", "int4", "gptq-int8", "gptq-int4"]}


class Device(StrEnum):
    """Where the model runs; `as set` leaves it to the settings."""

    as_set = _AS_SET
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class TaskRun:
    """Runs stages as Prefect tasks, and remembers which of them the cache answered."""

    def __init__(self, report: Report, results: ResultStorage) -> None:
        self.report = report
        self._results = results
        self.cached: set[str] = set()
        self._progress: Any = create_progress_artifact(0.0, description="stages done")

    def __call__(self, name: str, key: str | None, function: Callable[..., Any], *inputs: Any) -> Any:
        # Closed over, not passed: Prefect would look through every manifest for futures.
        def stage() -> Any:
            return function(*inputs)

        start = time.perf_counter()
        path = key and key.replace(":", "-")  # to a store, what stands before a colon is a protocol
        known = path is not None and self._results.holds(path)
        state = self._task(stage, name, path)(return_state=True)
        self.report.stages.append({"name": name, "seconds": round(time.perf_counter() - start, 3)})
        if state.name == "Cached":
            self.cached.add(name)
        result = state.result()
        if known and name not in self.cached:
            get_run_logger().warning("what %s handed on was stored, and could not be used", name)
        if path is not None and not self._results.holds(path):
            raise ResultStorageError(f"result storage: did not keep what {name} handed on")
        update_progress_artifact(self._progress, 100 * (STAGES.index(name) + 1) / len(STAGES))
        return result

    def _task(self, stage: Callable[[], Any], name: str, key: str | None) -> Task[[], Any]:
        if key is None:
            return Task(stage, name=name, task_run_name=name, cache_policy=NO_CACHE, persist_result=False)
        return Task(
            stage,
            name=name,
            task_run_name=name,
            cache_key_fn=lambda _context, _parameters: key,
            persist_result=True,
            result_storage=self._results.block,
            cache_result_in_memory=False,
        )


class _TextsWritten:
    """Logs how many texts are written, now and then."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN_LINES or (done == total and done):
            self._last = now
            get_run_logger().info("%s of %s texts written", done, total)


def _run_name() -> str:
    parameters = flow_run.parameters
    revision = parameters.get("revision")
    return project_name(str(parameters.get("source"))) + (f" at {revision}" if revision else "")


@flow(name="build-docs", flow_run_name=_run_name)
def build_docs(
    source: Annotated[str, Field(json_schema_extra=_SOURCE)],
    out: Annotated[str, Field(json_schema_extra=_OUT)],
    revision: str = "",
    model: str = "",
    quantize: Annotated[str, Field(json_schema_extra=_QUANTIZE)] = _AS_SET,
    device: Device = Device.as_set,
    budget: str = "",
    strict: bool = False,
    config: str = "",
    report_file: str = "",
) -> dict[str, Any] | State[Any]:
    """Build the documentation site of a repository and publish it.

    Args:
        source: a git address, as https://github.com/pallets/click.git, or a folder of the worker's machine
        out: where the site goes: an absolute path on the worker's machine, or s3://bucket/prefix
        revision: branch, tag or full SHA; empty: the default branch, or a folder as it is
        model: who writes what is missing: bundled, none, a folder or a hub id; empty: as workers are set
        quantize: how the model's numbers are stored; as set: as workers are
        device: where the model runs; as set: as workers are
        budget: the most to ask a model: 500 symbols, 200000 tokens or 10 minutes; empty: as workers are set
        strict: a skipped file fails the build
        config: the operator's file on the worker's machine; empty: the usual one
        report_file: where a JSON report goes on the worker's machine, also on failure; empty: nowhere
    """
    report = Report(source={"location": shown(source), "revision": None})
    flags = {
        "out": out or None,
        "model": model or None,
        "quantize": None if quantize == _AS_SET else quantize,
        "device": None if device is Device.as_set else device.value,
        "budget": budget or None,
        "strict": strict or None,
    }
    try:
        opened = open_source(source, revision or None, cache_home())
        settings = resolve_settings(opened.root, flags, Path(config) if config else None).settings
        if deployment.id:
            _refuse_lost(settings.out)
            resolve_settings(None, {}).service.refuse_taken(settings.out)
        build_as_tasks(opened, settings, TaskRun(report, ResultStorage(settings)))
    except BaseException as error:
        report.fail(error)
        if not (deployment.id and isinstance(error, DocmillError)):
            raise
        tell_failures_once()
        line = printable(str(error))
        get_run_logger().error(line)
        return Failed(message=line)
    finally:
        if report_file:
            report.write(Path(report_file))
    return msgspec.to_builtins(report)


def _refuse_lost(out: str) -> None:
    """A worker runs a deployment in a folder that it removes afterwards.

    Raises:
        SourceError: The site would go into that folder.
    """
    if "://" not in out and not Path(out).expanduser().is_absolute():
        raise SourceError(f"out {out!r}: give an absolute path; a worker builds in a folder of its own")


def build_as_tasks(
    source: OpenedSource,
    settings: Settings,
    run: TaskRun,
    site: SiteName | None = None,
    url: str | None = None,
) -> None:
    """Build and publish a site within the flow that runs now, and tell of it in an artifact.

    Of a site of the operator's file, that is the last word on it, and holds its figures.
    `url` is where readers find it.

    Raises:
        DocmillError: The build failed; the standing site is as it was.
    """
    with builds(source.revision), _failure_told(run.report):
        _build_and_tell(source, settings, run, site, url)


@contextmanager
def _failure_told(report: Report) -> Iterator[None]:
    """Tell in an artifact of a build that fails, and what it had found by then."""
    try:
        yield
    except DocmillError as error:
        report.fail(error)
        create_markdown_artifact(failure(report), key="failed", description="why nothing was published")
        raise


def _build_and_tell(
    source: OpenedSource, settings: Settings, run: TaskRun, site: SiteName | None, url: str | None
) -> None:
    report = run.report
    spread = None if settings.task_runner == "processes" else shards_of(settings.task_runner)
    with Pipeline(source, settings, _TextsWritten(), spread) as pipeline:
        before = pipeline.standing_ledger()
        report.slots_before = pipeline.standing_slots()
        snapshot = run("ingest", None, pipeline.ingest)
        report_ingested(report, snapshot)
        built = pipeline.build(snapshot, run)
        if "generate" in run.cached:
            built = replace(built, generated=built.generated.as_reused())
        report_built(report, snapshot, built)
        if built.published is None:
            raise GateError(built.judgement)
        text = explanation(report, pipeline.explain(before, built), url)
        if site is None:
            create_markdown_artifact(text, key="build", description="what was made anew, and why")
        else:
            keep_report(site, text, report)
        # Last: a site that is remembered is not built again, and what is above would never be made up for.
        pipeline.remember(pipeline.ledger(built))
        told = built.published
        get_run_logger().info("%s pages, %s written: %s", told.pages, told.written, url or told.target)
