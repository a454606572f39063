"""The pipeline on one screen, free of Prefect: ingest → chunk → generate → render → publish.

How a stage is run is the caller's choice: in place, or as a task of a flow. Between
stages go manifests (keys and digests), never the content, which lies in the result cache.
What a stage needs is imported when it runs, so that a build that finds nothing to do
loads next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from msgspec import Struct

from flows.settings import Settings, cache_home
from tasks.documents import Generated, Published, Rendered, SkippedFile, Snapshot
from tasks.ingest import OpenedSource, ingest
from tasks.ingest.tree import Selection
from tasks.publish import LocalTarget

if TYPE_CHECKING:
    from flows.workers import Workers
    from tasks.chunk import Chunk
    from tasks.render.pages import Site
    from tasks.result_cache import ResultCache


class Parsed(Struct, frozen=True):
    """What the chunk stage hands on: parsed files, the keys of their Links, and the unparsable."""

    chunks: list[Chunk]
    links: dict[str, str]
    skipped: list[SkippedFile]


class Built(Struct, frozen=True):
    """What a build made."""

    parsed: Parsed
    generated: Generated
    rendered: Rendered
    published: Published


class Run(Protocol):
    """Runs one stage; where `key` is given, an earlier result of that key may stand for it."""

    def __call__(self, name: str, key: str | None, function: Callable[..., Any], *inputs: Any) -> Any: ...


class Pipeline:
    """The five stages of one source's build, and the tools that they share."""

    def __init__(self, source: OpenedSource, settings: Settings) -> None:
        self.source, self.settings = source, settings
        self.target = LocalTarget(settings.out)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if "workers" in vars(self):
            self.workers.close()

    @cached_property
    def cache(self) -> ResultCache:
        """The result cache, opened when a stage first asks."""
        from tasks.result_cache import ResultCache

        return ResultCache(self.settings.result_cache)

    @cached_property
    def workers(self) -> Workers:
        """Processes, started when a stage first has enough for them to do."""
        from flows.workers import Workers

        return Workers(self.cache, self.settings.processes)

    # --- the pipeline

    def build(self, snapshot: Snapshot, run: Run) -> Built:
        """From a snapshot to a published site."""
        keys = self._stage_keys(snapshot)
        parsed = run("chunk", keys.chunk, self.chunk, snapshot)
        generated = run("generate", keys.generate, self.generate, snapshot, parsed)
        rendered = run("render", keys.render(generated), self.render, snapshot, parsed, generated)
        published = run("publish", None, self.publish, rendered)
        return Built(parsed, generated, rendered, published)

    def ingest(self) -> Snapshot:
        """Source → Snapshot."""
        settings = self.settings
        selection = Selection(settings.include, settings.exclude, settings.max_file_size)
        return ingest(self.source, selection, cache_home(), self.target.hidden)

    def chunk(self, snapshot: Snapshot) -> Parsed:
        """Files → Symbols, and what their names refer to."""
        from tasks.chunk import chunk, load_outlines
        from tasks.resolve import resolve

        chunks = chunk(snapshot, self.cache, self.workers)
        outlines = load_outlines(self.cache, chunks)
        links = resolve(chunks, outlines, self.settings.private, self.cache, self.workers)
        return Parsed(chunks, links, [o.skipped for o in outlines.values() if o.skipped is not None])

    def generate(self, snapshot: Snapshot, parsed: Parsed) -> Generated:
        """Symbols → Docs, as far as a model writes them."""
        settings = self.settings
        if settings.model == "none":
            return Generated()
        from tasks.chunk import load_outlines
        from tasks.generate import generate
        from tasks.generate.writer import Writer

        writer = Writer(settings.model, settings.quantize, settings.device)
        outlines = load_outlines(self.cache, parsed.chunks)
        return generate(
            snapshot,
            parsed.chunks,
            parsed.links,
            outlines,
            writer,
            settings.model,
            settings.budget,
            self.cache,
        )

    def render(self, snapshot: Snapshot, parsed: Parsed, generated: Generated) -> Rendered:
        """Docs → Pages."""
        from tasks.render import render

        return render(
            snapshot,
            parsed.chunks,
            parsed.links,
            self.settings.private,
            generated.completions,
            self._site(),
            self.cache,
            self.workers,
        )

    def publish(self, rendered: Rendered) -> Published:
        """Site → target."""
        return self.target.publish(rendered.files, self.cache)

    # --- what the stages' results depend on

    def _site(self) -> Site:
        from tasks.render.pages import Site

        return Site(self.settings.title or self.source.name, self.settings.source_url)

    def _stage_keys(self, snapshot: Snapshot) -> StageKeys:
        from tasks.chunk import CHUNK_VERSION, PARSER
        from tasks.keys import key
        from tasks.resolve import RESOLVE_VERSION

        store = self.cache.identity()
        chunk = key(
            "chunk", CHUNK_VERSION, RESOLVE_VERSION, PARSER, store, snapshot.digest, self.settings.private
        )
        return StageKeys(chunk, key("generate", 1, chunk), self._site())


class StageKeys(Struct, frozen=True):
    """Keys of the stages' manifests; they hold as long as the result cache keeps its content."""

    chunk: str
    generate: str
    site: Any

    def render(self, generated: Generated) -> str:
        """The key of the render stage, which depends on what the model wrote."""
        from tasks.keys import key
        from tasks.render import RENDER_VERSION
        from tasks.render.pages import templates_digest

        return key("render", RENDER_VERSION, templates_digest(), self.chunk, generated.completions, self.site)
