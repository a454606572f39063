"""The pipeline on one screen, free of Prefect: ingest → chunk → generate → render → gate → publish.

How a stage is run is the caller's choice: in place, or as a task of a flow. Between
stages go manifests (keys and digests), never the content, which lies in the result cache.
What a stage needs is imported when it runs, so that a build that finds nothing to do
loads next to nothing.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from flows.code import code_digest
from flows.settings import Settings, cache_home
from models.config import OutOfMemoryError
from models.machine import machine_digest
from tasks.budget import Budget, Spending, parse_budget
from tasks.documents import (
    Checked,
    Contradiction,
    DocmillError,
    Doubt,
    Generated,
    PageEntry,
    Published,
    Rendered,
    SkippedFile,
    Snapshot,
    SourceError,
)
from tasks.files import read_committed, write_whole
from tasks.ingest import OpenedSource, ingest
from tasks.ingest.tree import Selection
from tasks.keys import digest, key
from tasks.publish import Storage, Target, open_target

if TYPE_CHECKING:
    from flows.shards import Shards
    from flows.workers import Workers
    from tasks.chunk import Chunk
    from tasks.generate.answers import Answers
    from tasks.generate.cost import Cost
    from tasks.generate.writer import Writer
    from tasks.overrides import Override
    from tasks.plan import Change, Ledger
    from tasks.render import Drawing
    from tasks.render.pages import Site
    from tasks.result_cache import ResultCache
    from tasks.waivers import Judgement, Waiver


STAGES = ("ingest", "chunk", "generate", "render", "gate", "publish")


class Parsed(Struct, frozen=True):
    """What the chunk stage hands on: parsed files, the keys of their Links, the unparsable, what docstrings
    say against their signatures, and overrides in doubt.
    """

    chunks: list[Chunk]
    links: dict[str, str]
    skipped: list[SkippedFile]
    contradictions: list[Contradiction]
    doubts: list[Doubt]


class Built(Struct, frozen=True):
    """What a build made; nothing is published if the gate blocks it.

    `linked` tells of files that Markdown links to whether they were there.
    """

    snapshot: Snapshot
    parsed: Parsed
    generated: Generated
    rendered: Rendered
    judgement: Judgement
    published: Published | None
    linked: dict[str, bool]

    @property
    def slots(self) -> dict[str, int]:
        """How many texts are whose, how many are missing, and what of the model's is not shown."""
        not_shown = {"dropped": self.generated.dropped, "unsure": self.generated.unsure}
        return msgspec.structs.asdict(self.rendered.slots) | not_shown


class Run(Protocol):
    """Runs one stage; where `key` is given, an earlier result of that key may stand for it."""

    def __call__(self, name: str, key: str | None, function: Callable[..., Any], *inputs: Any) -> Any: ...


def target_of(settings: Settings) -> Target:
    """Where the settings say that the site goes.

    Raises:
        SourceError: No site can go there.
    """
    storage = Storage(settings.s3_endpoint, settings.s3_region, settings.s3_encryption)
    return open_target(settings.out, settings.releases_kept, storage)


class Pipeline:
    """The six stages of one source's build, and the tools that they share.

    What only looks at the source does not care for where a site would go: nothing need be free there.
    """

    def __init__(
        self,
        source: OpenedSource,
        settings: Settings,
        tell: Callable[[int, int], None] = lambda done, total: None,
        open_shards: Callable[[Callable[[], ResultCache]], Shards] | None = None,
        publishes: bool = True,
    ) -> None:
        self.source, self.settings, self.tell = source, settings, tell
        self._open_shards = open_shards
        self._publishes = publishes
        if publishes:
            self.target  # noqa: B018 - refused before anything is read
        self.today = datetime.datetime.now(datetime.UTC).date()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if "workers" in vars(self):
            self.workers.close()
        if "cache" in vars(self):
            self.cache.close()

    @cached_property
    def target(self) -> Target:
        """Where the site goes."""
        return target_of(self.settings)

    @cached_property
    def cache(self) -> ResultCache:
        """The result cache, opened when a stage first asks."""
        from tasks.result_cache import ResultCache

        return ResultCache(self.settings.result_cache)

    @cached_property
    def workers(self) -> Workers | Shards:
        """Processes, or tasks of Prefect, started when a stage first has enough for them to do."""
        if self._open_shards is not None:
            return self._open_shards(lambda: self.cache)
        from flows.workers import Workers

        return Workers(lambda: self.cache, self.settings.processes)

    @cached_property
    def waivers(self) -> tuple[Waiver, ...]:
        """What the source waives."""
        from tasks.waivers import read_waivers

        return read_waivers(self.source.root)

    @cached_property
    def overrides(self) -> tuple[Override, ...]:
        """The texts that the source decides on outside of its code."""
        from tasks.overrides import read_overrides

        return read_overrides(self.source.root)

    @cached_property
    def overrides_text(self) -> str:
        """The file of those texts as it is; where each stands in it counts for what is reported."""
        from tasks.overrides import OVERRIDES_FILE

        return read_committed(self.source.root, OVERRIDES_FILE)

    def linked_files(self, snapshot: Snapshot) -> dict[str, bool]:
        """Whether what Markdown files link to is there, of which a snapshot's digest need not tell."""
        from tasks.gate import linked_files

        return {path: self.source.has(path) for path in linked_files(snapshot, self.cache)}

    # --- the pipeline

    def build(self, snapshot: Snapshot, run: Run) -> Built:
        """From a snapshot to a published site, unless the gate blocks it."""
        if self.target.standing() is None:  # all is to be made
            self.workers.start_ahead(len(snapshot.code))
        keys = self._stage_keys(snapshot)
        parsed = run("chunk", keys.chunk, self.chunk, snapshot)
        self.fail_if_strict(snapshot, parsed)
        generated = run("generate", keys.generate, self.generate, snapshot, parsed)
        rendered = run("render", keys.render(generated), self.render, snapshot, parsed, generated)
        linked = self.linked_files(snapshot)
        checked = run("gate", keys.gate(rendered, linked, self.overrides_text), self.gate, snapshot, rendered)
        judgement = self._judge(parsed, checked)
        published = None if judgement.blocking else run("publish", None, self.publish, rendered)
        return Built(snapshot, parsed, generated, rendered, judgement, published, linked)

    def fail_if_strict(self, snapshot: Snapshot, parsed: Parsed) -> None:
        """Under `strict`, a skipped file is a failure, and nothing is published.

        Raises:
            DocmillError: Under `strict`, a file was skipped.
        """
        skipped = (*snapshot.skipped, *parsed.skipped)
        if self.settings.strict and skipped:
            first = min(skipped, key=lambda file: file.path)
            raise DocmillError(
                f"strict: {len(skipped)} skipped, the first {first.path}: {first.detail}", skipped
            )

    def _judge(self, parsed: Parsed, checked: Checked) -> Judgement:
        """What was found, and what it means today."""
        from tasks.overrides import stale_overrides
        from tasks.waivers import finding_of, judge

        of_docstrings = map(finding_of, parsed.contradictions)
        of_overrides = stale_overrides(self.source.root, parsed.doubts)
        found = Checked(checked.pages, (*checked.findings, *of_docstrings, *of_overrides))
        return judge(found, self.waivers, self.settings.strict_human, self.today)

    def ingest(self) -> Snapshot:
        """Source → Snapshot."""
        settings = self.settings
        selection = Selection(settings.include, settings.exclude, settings.max_file_size)
        return ingest(self.source, selection, cache_home(), self.target.hidden if self._publishes else ())

    def chunk(self, snapshot: Snapshot) -> Parsed:
        """Files → Symbols, and what their names refer to."""
        from flows.workers import import_ahead
        from tasks.chunk import chunk, load_outlines
        from tasks.resolve import resolve

        is_first = self._publishes and self.target.standing() is None
        if is_first and self.settings.model != "none":  # there will be texts to write
            import_ahead("tasks.generate.writer")
        chunks = chunk(snapshot, self.cache, self.workers, self.overrides)
        outlines = load_outlines(self.cache, chunks)
        skipped = [outline.skipped for outline in outlines.values() if outline.skipped is not None]
        if len(skipped) == len(chunks):
            first = f"{skipped[0].path}: {skipped[0].reason}, {skipped[0].detail}"
            raise SourceError(
                f"source {snapshot.name!r}: holds no Python file that can be parsed (the first: {first})",
                (*snapshot.skipped, *skipped),
            )
        links = resolve(chunks, outlines, self.settings.private, self.cache, self.workers)
        parsed = {path: outline for path, outline in sorted(outlines.items()) if outline.skipped is None}
        contradictions = [c for outline in parsed.values() for c in outline.contradictions]
        doubts = [doubt for outline in parsed.values() for doubt in outline.doubts]
        doubts += [
            Doubt(one.symbol, one.slot, "there is no such file that could be read")
            for one in self.overrides
            if one.path not in parsed
        ]
        return Parsed(chunks, links, skipped, contradictions, doubts)

    def generate(self, snapshot: Snapshot, parsed: Parsed) -> Generated:
        """Symbols → Docs, as far as a model writes them."""
        settings = self.settings
        if settings.model == "none":
            return Generated()
        from tasks.generate import generate
        from tasks.generate.writer import engine_held

        budget = parse_budget(settings.budget) if settings.budget is not None else Budget()
        given_up: list[int] = []
        rows: int | None = None  # at a time, in place of what is tuned
        while True:
            answers, writer = self._asking(snapshot, parsed, rows)
            held = engine_held(settings.device, cache_home()) if answers.missing else nullcontext()
            try:
                with held:
                    answers.look_again()  # another build may have had the engine until now
                    spending = Spending(budget)  # neither for a model that is loaded nor for a wait
                    generated = generate(answers, writer, settings.model, spending, self.cache, self.tell)
            except OutOfMemoryError as error:
                # All over again with half the rows: texts of two profiles are not mixed in one site.
                rows = writer.fewer_rows
                if rows is None:
                    raise DocmillError(f"model: {error}, even with the fewest rows at a time") from error
                given_up.append(writer.engine.decode_rows)
                del answers, writer
            else:
                if rows is not None:
                    writer.remember_rows()
                return replace(generated, engine={**(generated.engine or {}), "rows_given_up": given_up})

    def _asking(self, snapshot: Snapshot, parsed: Parsed, rows: int | None = None) -> tuple[Answers, Writer]:
        from tasks.chunk import load_outlines
        from tasks.generate.questions import plan_asking
        from tasks.generate.writer import Writer

        settings = self.settings
        writer = Writer(settings.model, settings.quantize, settings.device, cache_home(), rows)
        outlines = load_outlines(self.cache, parsed.chunks)
        chunks, links = parsed.chunks, parsed.links
        return plan_asking(snapshot, chunks, links, outlines, writer, self.cache, self.workers), writer

    def render(self, snapshot: Snapshot, parsed: Parsed, generated: Generated) -> Rendered:
        """Docs → Pages."""
        from tasks.render import render

        drawing = self._drawing(snapshot, parsed, generated)
        return render(drawing, snapshot, self._site(), self.cache, self.workers)

    def _drawing(self, snapshot: Snapshot, parsed: Parsed, generated: Generated) -> Drawing:
        from tasks.render import plan_drawing

        return plan_drawing(
            parsed.chunks,
            parsed.links,
            [file.path for file in snapshot.prose],
            self.settings.private,
            generated.completions,
            self._site(),
            self.cache,
        )

    def gate(self, snapshot: Snapshot, rendered: Rendered) -> Checked:
        """Pages → what is wrong with them."""
        from tasks.gate import check_site
        from tasks.overrides import OVERRIDES_FILE

        added = {OVERRIDES_FILE: self.overrides_text} if self.overrides else {}
        return check_site(rendered.files, snapshot, self.source.has, self.cache, self.workers, added)

    def publish(self, rendered: Rendered) -> Published:
        """Site → target."""
        return self.target.publish(rendered.files, self.cache)

    def plan(self, snapshot: Snapshot, run: Run) -> Plan:
        """What the next build makes anew, and why; parses, but writes and draws nothing."""
        from tasks.plan import Unwritten, changes

        parsed = run("chunk", None, self.chunk, snapshot)
        generated, unwritten, cost = Generated(), Unwritten(), None
        if self.settings.model != "none":
            from tasks.generate.cost import cost_of

            answers, writer = self._asking(snapshot, parsed)
            cost = cost_of(answers, writer)
            generated = Generated(answers.completions, texts=answers.texts(), origin=writer.origin)
            unwritten = Unwritten(answers.unwritten, answers.waiting)
        ledger = self._ledger(
            snapshot, parsed, generated, self._drawing(snapshot, parsed, generated).entries, ""
        )
        return Plan(changes(self.standing_ledger(), ledger, unwritten, self.cache), cost)

    # --- what a build was made from

    def ledger(self, built: Built) -> Ledger:
        """The ledger of a build."""
        pages, release = built.rendered.pages, built.published.release if built.published else ""
        ledger = self._ledger(built.snapshot, built.parsed, built.generated, pages, release)
        revision = built.snapshot.revision if self.source.fetched else None
        return replace(ledger, slots=built.slots, revision=revision)

    def _ledger(
        self,
        snapshot: Snapshot,
        parsed: Parsed,
        generated: Generated,
        pages: dict[str, PageEntry],
        release: str,
    ) -> Ledger:
        from tasks.plan import Ledger
        from tasks.render.pages import drawing_digest

        parameters = digest([self._site(), self.settings.private])
        chunks = {chunk.path: chunk for chunk in parsed.chunks}
        return Ledger(
            release,
            parameters,
            chunks,
            {file.path: file.digest for file in (*snapshot.prose, *snapshot.images)},
            pages,
            generated.origin,
            generated.texts,
            made_by=code_digest(),
            drawn_by=drawing_digest(),
        )

    def explain(self, old: Ledger | None, built: Built) -> list[Change]:
        """What a build made anew, and why, given the ledger of the site that stood before."""
        from tasks.plan import Unwritten, changes

        return changes(old, self.ledger(built), Unwritten(built.generated.written), self.cache)

    def standing_ledger(self) -> Ledger | None:
        """The ledger of the standing site, if there is one and it was built from here."""
        from tasks.plan import Ledger

        standing = self.target.standing()
        try:
            ledger = msgspec.json.decode(_ledger_file(self.target).read_bytes(), type=Ledger)
        except (OSError, msgspec.DecodeError):
            return None
        return ledger if standing is not None and ledger.release == standing.release else None

    def standing_slots(self) -> dict[str, int] | None:
        """How many texts of the standing site are whose, if there is one and it was built from here."""
        found = _told_of(self.target)
        return found.slots if found and found.slots else None

    def remember(self, ledger: Ledger) -> None:
        """Keep a ledger for the next build's explanation."""
        write_whole(_ledger_file(self.target), msgspec.json.encode(ledger))

    def _site(self) -> Site:
        from tasks.render.pages import Site

        return Site(self.settings.title or self.source.name, self.settings.source_url)

    def _stage_keys(self, snapshot: Snapshot) -> StageKeys:
        """Keys of the stages' manifests.

        They begin with the code that makes manifests, and hold as long as the result
        cache keeps its content.
        """
        made_by = key("stages", 1, code_digest(), self.cache.identity())
        chunk = key("chunk", 1, made_by, snapshot.digest, self.overrides, self.settings.private)
        return StageKeys(chunk, self._generate_key(chunk), self._site())

    def _generate_key(self, chunk: str) -> str | None:
        """The generate stage's key, unless its result hangs on what cannot be known beforehand.

        A budget leaves texts for the next build to write; a hub id may come to mean another
        model. The stage then runs, and finds in the result cache what is there.
        """
        settings = self.settings
        if settings.model == "none":
            return key("generate", 0, chunk)
        machine = machine_digest(settings.model, cache_home())
        if settings.budget is not None or machine is None:
            return None
        return key("generate", 1, chunk, machine, settings.quantize, settings.device)


class Plan(Struct, frozen=True):
    """What the next build makes anew, and what the model's part of it costs; None without a model."""

    changes: list[Change]
    cost: Cost | None


def standing_revision(target: Target) -> str | None:
    """The revision that the site at a target was built from, if it stands and was built from here."""
    found = _told_of(target)
    return found.revision if found else None


class _Told(Struct):
    """What of a Ledger is of use without the rest, which is not decoded."""

    release: str
    slots: dict[str, int] = {}
    revision: str | None = None


def _told_of(target: Target) -> _Told | None:
    """What the ledger tells of the site that stands at a target."""
    try:
        found = msgspec.json.decode(_ledger_file(target).read_bytes(), type=_Told)
    except (OSError, msgspec.DecodeError):
        return None
    standing = target.standing()
    return found if standing and found.release == standing.release else None


def _ledger_file(target: Target) -> Path:
    return cache_home() / "ledgers" / f"{digest(target.location)}.json"


class StageKeys(Struct, frozen=True):
    """Keys of the stages' manifests; None where a stage always runs."""

    chunk: str
    generate: str | None
    site: Site

    def render(self, generated: Generated) -> str:
        """The key of the render stage, which depends on what the model wrote."""
        return key("render", 1, self.chunk, generated.completions, self.site)

    def gate(self, rendered: Rendered, linked: dict[str, bool], overrides: str) -> str:
        """The key of the gate's findings: the pages, the source behind them, and what is read beside both."""
        pages = {name: file.digest for name, file in rendered.files.items()}
        return key("gate", 2, self.chunk, pages, linked, overrides)
