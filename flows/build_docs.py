"""The same pipeline as a Prefect flow: five stages as tasks, their results cached by our keys.

A stage that was answered from the cache is shown as such; ingest and publish always run,
so that a deleted site is noticed. Through the tasks go manifests only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
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
from prefect.runtime import flow_run
from pydantic import Field

from flows.build import fail_if_strict, report_built
from flows.explanation import explanation
from flows.pipeline import STAGES, Pipeline
from flows.report import Report
from flows.settings import cache_home, resolve_settings
from tasks.ingest import open_source, project_name


class Device(StrEnum):
    """Where the model runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class TaskRun:
    """Runs stages as Prefect tasks, and remembers which of them the cache answered."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.cached: set[str] = set()
        self._progress: Any = create_progress_artifact(0.0, description="stages done")

    def __call__(self, name: str, key: str | None, function: Callable[..., Any], *inputs: Any) -> Any:
        # Closed over, not passed: Prefect would look through every manifest for futures.
        def stage() -> Any:
            return function(*inputs)

        start = time.perf_counter()
        state = self._task(stage, name, key)(return_state=True)
        self.report.stages.append({"name": name, "seconds": round(time.perf_counter() - start, 3)})
        if state.name == "Cached":
            self.cached.add(name)
        result = state.result()
        update_progress_artifact(self._progress, 100 * (STAGES.index(name) + 1) / len(STAGES))
        return result

    @staticmethod
    def _task(stage: Callable[[], Any], name: str, key: str | None) -> Task[[], Any]:
        if key is None:
            return Task(stage, name=name, task_run_name=name, cache_policy=NO_CACHE, persist_result=False)
        return Task(
            stage,
            name=name,
            task_run_name=name,
            cache_key_fn=lambda _context, _parameters: key,
            persist_result=True,
            cache_result_in_memory=False,
        )


def _run_name() -> str:
    parameters = flow_run.parameters
    revision = parameters.get("revision")
    return project_name(str(parameters.get("source"))) + (f" at {revision}" if revision else "")


def _position(number: int) -> dict[str, Any]:
    return {"position": number}


@flow(name="build-docs", flow_run_name=_run_name)
def build_docs(
    source: Annotated[
        str, Field(description="a folder, or a git address", json_schema_extra=_position(0))
    ] = ".",
    revision: Annotated[
        str, Field(description="branch, tag or full SHA; empty: as it is", json_schema_extra=_position(1))
    ] = "",
    out: Annotated[str, Field(description="where the site goes", json_schema_extra=_position(2))] = "site",
    model: Annotated[
        str,
        Field(
            description="bundled, none, a folder or a hub id; empty: as set", json_schema_extra=_position(3)
        ),
    ] = "",
    quantize: Annotated[
        str, Field(description="auto, none or a method", json_schema_extra=_position(4))
    ] = "auto",
    device: Annotated[
        Device, Field(description="where the model runs", json_schema_extra=_position(5))
    ] = Device.auto,
    budget: Annotated[
        int,
        Field(
            ge=0, description="at most so many symbols to the model; 0: all", json_schema_extra=_position(6)
        ),
    ] = 0,
    strict: Annotated[
        bool, Field(description="a skipped file fails the build", json_schema_extra=_position(7))
    ] = False,
    config: Annotated[
        str,
        Field(description="the operator's settings; empty: the usual file", json_schema_extra=_position(8)),
    ] = "",
) -> dict[str, Any]:
    """Build the documentation site of a repository and publish it."""
    report = Report(source={"location": source, "revision": None})
    opened = open_source(source, revision or None, cache_home())
    flags = {
        "out": out,
        "model": model or None,
        "quantize": quantize,
        "device": device.value,
        "budget": budget or None,
        "strict": strict or None,
    }
    settings = resolve_settings(opened.root, flags, Path(config) if config else None).settings
    run = TaskRun(report)
    with Pipeline(opened, settings) as pipeline:
        before = pipeline.standing_ledger()
        snapshot = run("ingest", None, pipeline.ingest)
        built = pipeline.build(snapshot, run)
        if "generate" in run.cached:
            built = replace(built, generated=built.generated.as_reused())
        report_built(report, snapshot, built)
        changes = pipeline.explain(before, built)
        pipeline.remember(pipeline.ledger(built))
    create_markdown_artifact(
        explanation(report, changes), key="build", description="what was made anew, and why"
    )
    get_run_logger().info(
        "%s pages, %s written: %s", report.pages["total"], report.pages["written"], built.published.target
    )
    fail_if_strict(report, settings)
    return msgspec.to_builtins(report)
