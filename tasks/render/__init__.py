"""Docs → Pages: the files of a site, drawn again only where something they show changed.

What is drawn goes into the result cache under the page's key; what is handed on says
which file has which content. Where the site goes is the next stage's business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TypeVar

import msgspec
from msgspec import Struct

from tasks.chunk import Chunk, load_modules, load_outlines, surfaces
from tasks.documents import (
    Completions,
    Links,
    Module,
    Outline,
    PageEntry,
    Rendered,
    Slot,
    Snapshot,
    SourceError,
)
from tasks.files import read_text
from tasks.generate.docs import docs_of
from tasks.keys import digest, key
from tasks.render.diagram import Uses
from tasks.render.fragments import Fragment, fragment_of
from tasks.render.inputs import InputsBuilder, headlines_of
from tasks.render.links import FileLinks, article_pages
from tasks.render.pages import (
    PageInputs,
    Reference,
    Site,
    drawing_digest,
    module_page,
    relative,
    source_page,
)
from tasks.render.site_files import SiteFiles
from tasks.resolve import Index, distinct_names, split_id
from tasks.result_cache import ResultCache
from tasks.spread import Spread

_BATCH = 100

T = TypeVar("T")


class PageJob(Struct, frozen=True):
    """One page to draw: its inputs and where the parts lie in the cache."""

    key: str
    inputs: PageInputs
    chunk: Chunk
    links_key: str
    overridden: dict[str, Chunk]


class SourceJob(Struct, frozen=True):
    """One source page to draw."""

    key: str
    path: str
    page: str
    digest: str
    module_page: Reference | None


class DrawnFile(Struct, frozen=True):
    """Digest and size of a drawn file, kept beside it."""

    digest: str
    size: int


def sha256(data: bytes) -> str:
    """The digest that a manifest shows."""
    return hashlib.sha256(data).hexdigest()


class Drawing(Struct, frozen=True):
    """All pages of a site with their keys: what is to be drawn, if the cache does not hold it."""

    pages: list[PageJob]
    sources: list[SourceJob]
    headlines: dict[str, Slot]
    uses: dict[str, Uses]
    documented: frozenset[str]

    @property
    def entries(self) -> dict[str, PageEntry]:
        """By path, what the page of each module is made from that has one."""
        return {
            job.inputs.path: PageEntry(
                job.key, job.inputs.module_digest, digest([job.inputs.links_digest, job.inputs.files])
            )
            for job in self.pages
            if job.inputs.path in self.documented
        }


def plan_drawing(
    chunks: list[Chunk],
    links: Mapping[str, str],
    articles: Iterable[str],
    private: tuple[str, ...],
    completions: Completions,
    site: Site,
    cache: ResultCache,
) -> Drawing:
    """Work out every page's inputs, and from them its key.

    Args:
        chunks: The parsed files.
        links: By path, the key of each module's Links.
        articles: The paths of the source's Markdown files.
        private: Globs of dotted module names that are not public.
        completions: By path, symbol and slot, what a model wrote.
        site: What all pages share.
        cache: Where outlines and Links are found.

    Raises:
        SourceError: Nothing is public.
    """
    outlines = load_outlines(cache, chunks)
    index = Index(surfaces(outlines), private)
    sources = {} if site.source_url else _source_pages(chunks)
    builder = _inputs(index, outlines, links, cache)
    if not builder.documented:
        raise SourceError(
            f"source {site.title!r}: holds nothing public; every module is private by name or by setting"
        )
    documented = {path: index.page_hrefs[path] for path in builder.documented}
    headlines = headlines_of(outlines, completions)
    file_links = FileLinks(article_pages(articles), sources)
    return Drawing(
        _page_jobs(builder.build(sources, file_links, headlines, completions), chunks, links, site),
        _source_jobs(chunks, sources, documented, site),
        headlines,
        {package: builder.uses(package) for package in ("", *index.by_name) if "." not in package},
        builder.documented,
    )


def render(drawing: Drawing, snapshot: Snapshot, site: Site, cache: ResultCache, spread: Spread) -> Rendered:
    """Draw what the cache does not hold, and put the site's files together."""
    keys = [job.key for job in drawing.pages] + [job.key for job in drawing.sources]
    missing = cache.missing(_drawn(key) for key in keys)
    spread(draw_pages, [job for job in drawing.pages if _drawn(job.key) in missing], site)
    spread(draw_sources, [job for job in drawing.sources if _drawn(job.key) in missing], site, snapshot.root)

    files = SiteFiles(site, snapshot, cache, drawing.uses)
    for job, fragment in _fragments(cache, drawing.pages):
        files.add_module(job.inputs, job.key, fragment, drawing.headlines.get(job.inputs.path))
    for source, drawn in _drawn_sources(cache, drawing.sources):
        files.add_source(source.path, source.page, source.key, drawn.digest, drawn.size)
    return Rendered(files.finish(), drawing.entries, files.symbols, files.slots)


def _drawn(page_key: str) -> str:
    return f"{page_key}/drawn"


def _inputs(
    index: Index, outlines: Mapping[str, Outline], links: Mapping[str, str], cache: ResultCache
) -> InputsBuilder:
    builder = InputsBuilder(index, outlines)
    for batch in _batches(sorted(links.items())):
        found = cache.get_many(links_key for _, links_key in batch)
        for path, links_key in batch:
            builder.add(path, found[links_key])
    return builder


def _page_jobs(
    inputs: list[PageInputs], chunks: list[Chunk], links: Mapping[str, str], site: Site
) -> list[PageJob]:
    by_path = {chunk.path: chunk for chunk in chunks}
    jobs = []
    for page in inputs:
        overridden = {path: by_path[path] for path in {split_id(i)[0] for i, _ in page.inherited.values()}}
        page_key = key("page", 1, drawing_digest(), site, page)
        jobs.append(PageJob(page_key, page, by_path[page.path], links[page.path], overridden))
    return jobs


def _source_pages(chunks: list[Chunk]) -> dict[str, str]:
    names = distinct_names(chunk.path for chunk in chunks)
    return {path: f"src/{name}.html" for path, name in names.items()}


def _source_jobs(
    chunks: list[Chunk], sources: Mapping[str, str], pages: Mapping[str, str], site: Site
) -> list[SourceJob]:
    jobs = []
    for chunk in chunks if sources else ():
        page, module = sources[chunk.path], pages.get(chunk.path)
        back = Reference(chunk.name, relative(page, module)) if module else None
        source_key = key("source", 1, drawing_digest(), site, page, chunk.digest, back)
        jobs.append(SourceJob(source_key, chunk.path, page, chunk.digest, back))
    return jobs


def draw_pages(jobs: Iterable[PageJob], cache: ResultCache, site: Site) -> None:
    """Draw modules' pages and store them, each with its share of the site-wide files."""
    for batch in _batches(jobs):
        modules = load_modules(
            cache, [job.chunk for job in batch] + [c for j in batch for c in j.overridden.values()]
        )
        links = cache.get_many(job.links_key for job in batch)
        drawn: dict[str, bytes] = {}
        for job in batch:
            module = modules[job.inputs.path]
            found = msgspec.json.decode(links[job.links_key], type=Links)
            inherited = {name: _slots(modules, i) for name, (i, _) in job.inputs.inherited.items()}
            docs = docs_of(module, inherited, job.inputs.completions)
            html = module_page(site, job.inputs, module, found, docs).encode() if found.public else b""
            fragment = fragment_of((sha256(html), len(html)), job.inputs, module, found, docs)
            drawn |= {job.key: html, _drawn(job.key): msgspec.json.encode(fragment)}
        cache.put_many(drawn)


def _slots(modules: Mapping[str, Module], symbol_id: str) -> Mapping[str, Slot]:
    path, name = split_id(symbol_id)
    return next(symbol.slots for symbol in modules[path].symbols if symbol.name == name)


def draw_sources(jobs: Iterable[SourceJob], cache: ResultCache, site: Site, root: str) -> None:
    """Draw source pages and store them."""
    for batch in _batches(jobs):
        drawn: dict[str, bytes] = {}
        for job in batch:
            text = read_text(root, job.path, job.digest)
            html = source_page(site, job.page, job.path, text, job.module_page).encode()
            drawn |= {job.key: html, _drawn(job.key): msgspec.json.encode(DrawnFile(sha256(html), len(html)))}
        cache.put_many(drawn)


def _fragments(cache: ResultCache, jobs: list[PageJob]) -> Iterator[tuple[PageJob, Fragment]]:
    for batch in _batches(jobs):
        found = cache.get_many(_drawn(job.key) for job in batch)
        for job in batch:
            yield job, msgspec.json.decode(found[_drawn(job.key)], type=Fragment)


def _drawn_sources(cache: ResultCache, jobs: list[SourceJob]) -> Iterator[tuple[SourceJob, DrawnFile]]:
    found = cache.get_many(_drawn(job.key) for job in jobs)
    for job in jobs:
        yield job, msgspec.json.decode(found[_drawn(job.key)], type=DrawnFile)


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, _BATCH)):
        yield batch
