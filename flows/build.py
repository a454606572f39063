"""One build in this process: a source and settings in, a published site and a Report out.

An unchanged source is noticed before anything heavy is imported: a stamp beside the
caches remembers what the standing site was made from, and by which code.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from flows.code import code_digest
from flows.pipeline import Built, Pipeline, Plan
from flows.report import Report
from flows.settings import Settings, cache_home
from models.machine import machine_digest
from tasks.documents import Contradiction, Finding, SkippedFile, Snapshot, SourceError
from tasks.files import write_whole
from tasks.ingest import OpenedSource
from tasks.keys import digest
from tasks.waivers import GateError, still_valid


class Progress(Protocol):
    """Who is told how a build goes on."""

    def stage(self, name: str, seconds: float | None) -> None:
        """A stage begins, or ended after so many seconds."""

    def written(self, done: int, total: int) -> None:
        """The model has written so many texts."""


class Stamp(Struct):
    """What a standing site was made from, and what was reported of it.

    `linked` tells of files that Markdown links to whether they were there.
    """

    inputs: str
    release: str
    report: Report
    linked: dict[str, bool]

    def is_of(self, inputs: str, release: str, has: Callable[[str], bool]) -> bool:
        """Whether a standing release was made from these inputs, and its links still lead where they led."""
        is_same = (self.inputs, self.release) == (inputs, release)
        return is_same and all(has(path) == was_there for path, was_there in self.linked.items())


class TimedRun:
    """Runs stages in place, one after the other, and notes how long each took."""

    def __init__(self, report: Report, progress: Progress) -> None:
        self.report, self.progress = report, progress

    def __call__(self, name: str, key: str | None, function: Callable[..., Any], *inputs: Any) -> Any:
        self.progress.stage(name, None)
        start = time.perf_counter()
        try:
            return function(*inputs)
        finally:
            seconds = time.perf_counter() - start
            self.report.stages.append({"name": name, "seconds": round(seconds, 3)})
            self.progress.stage(name, seconds)


def build(source: OpenedSource, settings: Settings, report: Report, progress: Progress) -> None:
    """Build and publish a site, unless the standing one is of just this source.

    Args:
        source: The source, opened.
        settings: All settings.
        report: Filled as far as the build comes, also when it fails.
        progress: Told of each stage when it begins, and with its seconds when it ends.

    Raises:
        DocmillError: The build failed; the standing site is as it was.
    """
    run = TimedRun(report, progress)
    with Pipeline(source, settings, progress.written) as pipeline:
        snapshot = run("ingest", None, pipeline.ingest)
        report_ingested(report, snapshot)
        machine = machine_digest(settings.model, cache_home()) if settings.model != "none" else ""
        made_by = [settings.model_dump(mode="json"), code_digest(), machine]
        waivers = pipeline.waivers, still_valid(pipeline.waivers, pipeline.today)
        inputs = digest([snapshot.digest, *made_by, waivers, pipeline.overrides_text])
        stamp_file = cache_home() / "stamps" / f"{digest(pipeline.target.location)}.json"
        standing = pipeline.target.standing()
        stamp = _stamp(stamp_file)
        is_same = stamp and standing and stamp.is_of(inputs, standing.release, source.has)
        if machine is not None and stamp and is_same:
            report_unchanged(report, stamp.report)
        else:
            report.slots_before = pipeline.standing_slots()
            built = pipeline.build(snapshot, run)
            report_built(report, snapshot, built)
            if built.published is None:
                raise GateError(built.judgement)
            pipeline.remember(pipeline.ledger(built))
            if not report.degraded:  # what a budget left unwritten is the next build's to write
                stamp = Stamp(inputs, built.published.release, report, built.linked)
                write_whole(stamp_file, msgspec.json.encode(stamp))


def plan(source: OpenedSource, settings: Settings, progress: Progress) -> Plan:
    """What `build` would make anew, why, and at what cost."""
    run = TimedRun(Report(source={}), progress)
    with Pipeline(source, settings) as pipeline:
        return pipeline.plan(run("ingest", None, pipeline.ingest), run)


def lint(
    source: OpenedSource, settings: Settings, since: OpenedSource | None, progress: Progress
) -> tuple[list[Contradiction], list[SkippedFile]]:
    """Docstrings that contradict their signature, less what is waived and what was there at `since`; and what
    could not be read.

    Raises:
        DocmillError: Something could not be read, and `strict` is set.
    """
    from tasks.lint import new_since
    from tasks.waivers import unwaived

    run = TimedRun(Report(source={}), progress)
    with Pipeline(source, settings, publishes=False) as pipeline:
        snapshot = run("ingest", None, pipeline.ingest)
        parsed = run("chunk", None, pipeline.chunk, snapshot)
        pipeline.fail_if_strict(snapshot, parsed)
        standing = unwaived(parsed.contradictions, pipeline.waivers, pipeline.today)
    found = sorted(standing, key=lambda one: (one.path, one.line))
    kept = found if since is None else list(new_since(found, source.root, since.root))
    return kept, [*snapshot.skipped, *parsed.skipped]


def doubtful_overrides(
    source: OpenedSource, settings: Settings, accept: bool, progress: Progress
) -> tuple[int, list[Finding]]:
    """How many overrides a source has, and those that a human should look at again.

    With `accept`, each is first said to be of the code as it is now.

    Raises:
        SourceError: What is to be accepted is in a revision, which cannot be written to.
    """
    from tasks.overrides import OVERRIDES_FILE, accepted, read_overrides, stale_overrides

    if accept and source.fetched:
        raise SourceError("--accept writes into the source: give a folder, and no revision")
    if accept and read_overrides(source.root):
        codes = _codes_of_overridden(source, settings, progress)
        write_whole(source.root / OVERRIDES_FILE, accepted(source.root, codes).encode())
    run = TimedRun(Report(source={}), progress)
    with Pipeline(source, settings, publishes=False) as pipeline:
        parsed = run("chunk", None, pipeline.chunk, run("ingest", None, pipeline.ingest))
        return len(pipeline.overrides), stale_overrides(source.root, parsed.doubts)


def _codes_of_overridden(source: OpenedSource, settings: Settings, progress: Progress) -> dict[str, str]:
    """By id, digests of the symbols' code in all files that have overrides."""
    from tasks.chunk import load_modules
    from tasks.chunk.overridden import code_of

    run = TimedRun(Report(source={}), progress)
    with Pipeline(source, settings, publishes=False) as pipeline:
        parsed = run("chunk", None, pipeline.chunk, run("ingest", None, pipeline.ingest))
        modules = load_modules(pipeline.cache, [chunk for chunk in parsed.chunks if chunk.overrides])
    return {
        f"{path}::{symbol.name}": code_of(symbol, module.symbols)
        for path, module in modules.items()
        for symbol in module.symbols
    }


def report_ingested(report: Report, snapshot: Snapshot) -> None:
    """Fill in what is known of the source, should the build come no further."""
    report.source["revision"] = snapshot.revision
    report.skipped_files = list(snapshot.skipped)


def report_built(report: Report, snapshot: Snapshot, built: Built) -> None:
    """Fill in what a build did, also one that the gate blocks."""
    published, generated = built.published, built.generated
    report.symbols, report.slots = built.rendered.symbols, built.slots
    report.generated, report.reused = generated.generated, generated.reused
    report.degraded, report.unwritten = generated.unwritten > 0, generated.unwritten
    report.engine = generated.engine
    report.skipped_files = sorted([*snapshot.skipped, *built.parsed.skipped], key=lambda file: file.path)
    report.take_judgement(built.judgement)
    if published is None:
        report.pages["total"] = built.judgement.pages
    else:
        report.pages = {"total": published.pages, "written": published.written, "removed": published.removed}
        report.published = {"target": published.target, "release": published.release}


def report_unchanged(report: Report, before: Report) -> None:
    """Fill in what the standing site's own build reported; this one wrote nothing."""
    report.symbols, report.slots, report.skipped_files = before.symbols, before.slots, before.skipped_files
    report.reused = before.generated + before.reused
    report.degraded, report.unwritten = before.degraded, before.unwritten
    report.pages = {"total": before.pages["total"], "written": 0, "removed": 0}
    report.gate, report.findings = before.gate, before.findings
    report.slots_before = before.slots
    report.published = before.published


def _stamp(file: Path) -> Stamp | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Stamp)
    except (OSError, msgspec.DecodeError):
        return None
