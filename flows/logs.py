"""Logs as JSON lines, for machines that gather them: what happened, and in which run, of which revision.

Prefect makes the formatter from a setting of its own (`ENVIRONMENT`) while it is imported, so
that nothing of it is imported with this module.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

from pythonjsonlogger.json import JsonFormatter

# What has Prefect's processes write their logs so: server, workers, and the runs that these start.
ENVIRONMENT = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER": "json",
    "PREFECT_LOGGING_FORMATTERS_JSON_CLASS": f"{__name__}.JsonLines",
    "PREFECT_LOGGING_COLORS": "false",
}

_OF_A_SITE = ("repository", "branch", "revision")
_TEXT = "%(asctime)s %(name)s %(message)s"

_revision: ContextVar[str | None] = ContextVar("revision", default=None)
# What the runs of this process build: of their ends Prefect tells when they are over.
_built: dict[str, dict[str, Any]] = {}


@contextmanager
def builds(revision: str | None) -> Iterator[None]:
    """Have lines name the revision that is built meanwhile."""
    token = _revision.set(revision)
    try:
        yield
    finally:
        _revision.reset(token)


class JsonLines(JsonFormatter):
    """A line for each record, of the same fields always; what would steer a terminal is escaped."""

    def __init__(self, *_given: Any) -> None:
        """Take what a configuration gives to a formatter, and leave it: there is one form."""
        super().__init__()

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        """Fill in the fields; None where there is nothing to say."""
        here = _of_run()
        run = getattr(record, "flow_run_id", None) or here.get("run")
        site = {name: value for name in _OF_A_SITE if (value := here.get(name))}
        if here:
            site = _built[here["run"]] = _built.get(here["run"], {}) | site
        elif run is not None:
            site = _built.get(run, {})
        log_data["time"] = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        log_data["level"] = record.levelname.lower()
        log_data["logger"] = record.name
        log_data["message"] = record.message
        log_data["run"] = run
        for name in _OF_A_SITE:
            log_data[name] = getattr(record, name, None) or site.get(name)
        log_data["task"] = getattr(record, "task_run_name", None)
        if "exc_info" in message_dict:
            log_data["error"] = message_dict["exc_info"]


def _of_run() -> dict[str, Any]:
    """What is known of the flow run that this happens in, if it happens in one."""
    context = getattr(sys.modules.get("prefect.context"), "FlowRunContext", None)
    found = context.get() if context is not None else None
    if found is None or found.flow_run is None:
        return {}
    given = found.flow_run.parameters or {}
    of_site = {name: given.get(name) for name in ("repository", "branch")}
    return {"run": str(found.flow_run.id), "revision": _revision.get(), **of_site}


def tell_failures_once() -> None:
    """Have Prefect log no traceback of its own code behind a run that told in a line why it failed."""
    logging.getLogger("prefect.flow_runs").addFilter(_is_no_told_failure)


def _is_no_told_failure(record: logging.LogRecord) -> bool:
    from prefect.exceptions import FailedRun  # of a run that returned a state instead of raising

    return not (record.exc_info and isinstance(record.exc_info[1], FailedRun))


def write_logs(how: Literal["text", "json"]) -> None:
    """Write all that this process logs to standard error, whatever libraries have set up."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if how == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    uvicorn = logging.getLogger("uvicorn")
    uvicorn.handlers.clear()
    uvicorn.propagate = True
