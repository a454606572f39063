"""Rendered → Checked: pages held against the code, before readers see them.

Nothing here imports the code that parses, resolves or draws; pages and sources are read
anew, by other means. A verdict on a page is cached under the digests of all that it
depends on, so that a build checks what it changed.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from importlib.resources import files as package_files
from itertools import islice
from types import MappingProxyType
from typing import TypeVar

import msgspec
from lxml import etree
from msgspec import Struct

from tasks.documents import Checked, DocmillError, Finding, SiteFile, Snapshot
from tasks.files import read_text
from tasks.fresh_stack import on_fresh_stack
from tasks.gate.code import Code
from tasks.gate.compare import Comparison
from tasks.gate.links import LISTINGS, Anchors, Text, dead_links, listed_links
from tasks.gate.listing import LISTING, Listed, listed_files, wrongly_listed
from tasks.gate.page import Link, Page, read_page
from tasks.gate.prose import links_to_files
from tasks.gate.written import links_in_code, links_in_toml
from tasks.keys import digest, digest_bytes, key
from tasks.result_cache import ResultCache
from tasks.spread import Spread

_BATCH = 100
_CODE_SUFFIXES = (".py", ".pyi")

T = TypeVar("T")


class PageJob(Struct, frozen=True):
    """A page to check, where its content lies in the cache, and what is listed of its file, if unchecked."""

    name: str
    content: str
    digest: str
    listed: Listed | None = None


class Facts(Struct, frozen=True, array_like=True):
    """What other checks need of a page, small enough to be read in every build.

    `path` is the file that the page documents or shows; `source` the page that its source links lead to.
    `anchors` digests what links can lead to in it, `targets` are the pages that its own links lead to.
    `summary` is what a model says of the module, `others` are further files whose texts the page shows.
    """

    path: str
    source: str
    anchors: str
    targets: tuple[str, ...]
    summary: str
    others: tuple[str, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """The files in which humans wrote what the page shows."""
        return self.path, *self.others


class Leads(Struct, frozen=True, array_like=True):
    """Where one can come to in a page, where its links lead, and what it says of pages that it lists."""

    ids: tuple[str, ...]
    lines: int
    links: tuple[Link, ...]
    listed: tuple[tuple[str, str], ...]


def check_site(
    files: Mapping[str, SiteFile],
    snapshot: Snapshot,
    exists: Callable[[str], bool],
    cache: ResultCache,
    spread: Spread,
    added: Mapping[str, str] = MappingProxyType({}),
) -> Checked:
    """Hold every page of a site against the source that it was made from.

    Args:
        files: The site's files.
        snapshot: The source at the revision that is built.
        exists: Whether a link to a path from the source's root leads to something, read by docmill or not.
        cache: Where the files' content lies.
        spread: How work goes to several processes.
        added: By path, files in which humans wrote texts of symbols, beside the symbols' own.
    """
    sources = {file.path: file.digest for file in (*snapshot.code, *snapshot.prose)}
    listing = files[LISTING].key
    listed = {_listed_key(one, sources): one for one in listed_files(cache.get_many([listing])[listing])}
    unchecked = cache.missing(listed)
    of_page = {one.page: one for key, one in listed.items() if key in unchecked}
    jobs = {
        name: PageJob(name, file.key, file.digest, of_page.get(name))
        for name, file in sorted(files.items())
        if name.endswith(".html")
    }
    unread = cache.missing(_facts_key(job) for job in jobs.values())
    common = (snapshot.root, sources)
    spread(check_pages, [job for job in jobs.values() if _facts_key(job) in unread], *common)
    facts = _facts(jobs.values(), cache)
    verdicts = {_verdict_key(job, facts[name].path, sources): job for name, job in jobs.items()}
    unjudged = cache.missing(verdicts)
    spread(check_pages, [job for key, job in verdicts.items() if key in unjudged], *common)
    left = cache.missing(unchecked)  # of files without a page
    spread(check_listed, [one for key, one in listed.items() if key in left], *common)
    judged = *verdicts, *listed
    found = cache.get_many(judged)
    findings = [f for key in judged for f in msgspec.json.decode(found[key], type=list[Finding])]
    findings += _links(jobs, files, facts, snapshot, added, cache)
    findings += _prose(snapshot, exists, cache)
    return Checked(len(jobs), tuple(sorted(findings, key=lambda f: (f.page, f.page_line, f.rule, f.message))))


@lru_cache(maxsize=1)
def gate_digest() -> str:
    """A digest of the code that judges; a verdict stands only as long as it does."""
    code = sorted(
        (f.name, digest_bytes(f.read_bytes())) for f in package_files("tasks.gate").iterdir() if f.is_file()
    )
    libraries = [version("lxml"), etree.LIBXML_VERSION, version("markdown-it-py")]
    return digest([code, libraries, sys.version_info[:2]])


def _facts_key(job: PageJob) -> str:
    return key("gate-facts", 1, gate_digest(), job.name, job.digest)


def _leads_key(job: PageJob) -> str:
    return f"{_facts_key(job)}/leads"


def _verdict_key(job: PageJob, path: str, sources: Mapping[str, str]) -> str:
    return key("gate-verdict", 1, gate_digest(), job.name, job.digest, path, sources.get(path))


def _listed_key(listed: Listed, sources: Mapping[str, str]) -> str:
    said = digest_bytes(listed.data)
    return key("gate-listed", 1, gate_digest(), listed.path, said, sources.get(listed.path))


def _facts(jobs: Iterable[PageJob], cache: ResultCache) -> dict[str, Facts]:
    keys = {_facts_key(job): job.name for job in jobs}
    decoder = msgspec.json.Decoder(Facts)
    return {keys[k]: decoder.decode(value) for k, value in cache.get_many(keys).items()}


# --- one page


def check_pages(jobs: Iterable[PageJob], cache: ResultCache, root: str, sources: Mapping[str, str]) -> None:
    """Read pages, hold each against its own source, and store what other checks need of it."""

    def checked(batch: list[PageJob]) -> dict[str, bytes]:
        contents = cache.get_many(job.content for job in batch)
        results: dict[str, bytes] = {}
        for job in batch:
            page = read_page(job.name, contents[job.content])
            facts, leads = _facts_of(page)
            verdict = list(_against_source(job.name, page, root, sources))
            results[_facts_key(job)] = msgspec.json.encode(facts)
            results[_leads_key(job)] = msgspec.json.encode(leads)
            results[_verdict_key(job, page.path, sources)] = msgspec.json.encode(verdict)
            if job.listed is not None:  # here, for the file has just been parsed
                results[_listed_key(job.listed, sources)] = _listing_verdict(job.listed, root, sources)
        return results

    for results in on_fresh_stack(checked, _batches(jobs)):
        cache.put_many(results)


def check_listed(files: Iterable[Listed], cache: ResultCache, root: str, sources: Mapping[str, str]) -> None:
    """Hold what is listed of files that have no page against them, and store the verdicts."""

    def checked(batch: list[Listed]) -> dict[str, bytes]:
        return {_listed_key(one, sources): _listing_verdict(one, root, sources) for one in batch}

    for results in on_fresh_stack(checked, _batches(files)):
        cache.put_many(results)


def _listing_verdict(listed: Listed, root: str, sources: Mapping[str, str]) -> bytes:
    return msgspec.json.encode(list(_listed_against_source(listed, root, sources)))


def _facts_of(page: Page) -> tuple[Facts, Leads]:
    targets = tuple(sorted({link.target for link in page.links}))
    ids = tuple(sorted(set(page.ids)))
    summary = next((t.text for s in page.symbols[:1] for t in s.model_texts[:1]), "")
    facts = Facts(page.path, page.source, digest([ids, page.lines]), targets, summary, page.others)
    return facts, Leads(ids, page.lines, tuple(page.links), tuple(page.listed))


def _against_source(name: str, page: Page, root: str, sources: Mapping[str, str]) -> Iterator[Finding]:
    if not page.symbols and page.code is None:
        return
    if page.path not in sources:
        message = f"{page.path} is no file of the source"
        yield Finding("unknown-symbol", "docmill", page.path, message, name, 1)
        return
    if page.code is not None:
        if line := _first_difference(page.code, read_text(root, page.path, sources[page.path])):
            message = f"line {line} is not that of {page.path}"
            yield Finding("stale-source", "docmill", page.path, message, name, 1, page.path, line)
        return
    try:
        with warnings.catch_warnings(action="ignore"):  # a source's invalid escapes are its own affair
            yield from Comparison(name, page, _code(root, page.path, sources[page.path])).run()
    except (SyntaxError, ValueError, RecursionError):
        message = f"{page.path} cannot be parsed, so that nothing can be said of it"
        yield Finding("unknown-symbol", "docmill", page.path, message, name, 1, page.path)


def _listed_against_source(listed: Listed, root: str, sources: Mapping[str, str]) -> Iterator[Finding]:
    path = listed.path
    if path not in sources:
        yield Finding("unknown-symbol", "docmill", path, f"{path} is no file of the source", LISTING)
        return
    try:
        with warnings.catch_warnings(action="ignore"):
            yield from wrongly_listed(listed, _code(root, path, sources[path]))
    except (SyntaxError, ValueError, RecursionError):
        message = f"{path} cannot be parsed, so that nothing can be said of it"
        yield Finding("unknown-symbol", "docmill", path, message, LISTING, path=path)


@lru_cache(maxsize=1)  # a page, and then what is listed of the same file
def _code(root: str, path: str, digest: str) -> Code:
    # As deep on the stack as where symbols are parsed, or less: what was parsed there can be here.
    try:
        (code,) = on_fresh_stack(Code, [read_text(root, path, digest)])
    except MemoryError as error:  # says nothing of the file, and is no verdict to be kept
        message = f"gate: memory is out while reading {path}; run again with fewer processes"
        raise DocmillError(message) from error
    return code


def _first_difference(shown: str, text: str) -> int:
    """The first line in which a source page is not its file, however lines end; 0 if there is none."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")
    if shown == "\n".join(lines):
        return 0
    shown_lines = shown.split("\n")
    pairs = enumerate(zip(shown_lines, lines, strict=False), 1)
    return next((number for number, (a, b) in pairs if a != b), min(len(shown_lines), len(lines)) + 1)


# --- the whole site


def _links(
    jobs: Mapping[str, PageJob],
    files: Mapping[str, SiteFile],
    facts: Mapping[str, Facts],
    snapshot: Snapshot,
    added: Mapping[str, str],
    cache: ResultCache,
) -> list[Finding]:
    """Dead links of pages, and of the files that describe the site."""
    findings = list(_source_links(facts))
    sources = {file.path: file.digest for file in (*snapshot.code, *snapshot.prose)}
    texts = digest(dict(added))
    keys = {name: _links_key(job, files, facts, sources, texts) for name, job in jobs.items()}
    listings = {name: files[name] for name in LISTINGS}
    all_anchors = digest(sorted((name, fact.anchors) for name, fact in facts.items()))
    listed = key("gate-listings", 1, gate_digest(), {n: f.digest for n, f in listings.items()}, all_anchors)
    known = cache.get_many([*keys.values(), listed])
    unjudged = [job for name, job in jobs.items() if keys[name] not in known]
    if unjudged or listed not in known:
        names = set(jobs) if listed not in known else {t for j in unjudged for t in facts[j.name].targets}
        anchors = _anchors(names, jobs, files, cache)
        for job, found in _dead(unjudged, anchors, facts, snapshot.root, sources, added, cache):
            known[keys[job.name]] = msgspec.json.encode(found)
        if listed not in known:
            known[listed] = msgspec.json.encode(_dead_listings(listings, anchors, cache))
        cache.put_many({k: known[k] for k in (*(keys[job.name] for job in unjudged), listed)})
    for verdict in known.values():
        findings += msgspec.json.decode(verdict, type=list[Finding])
    return findings


def _links_key(
    job: PageJob,
    files: Mapping[str, SiteFile],
    facts: Mapping[str, Facts],
    sources: Mapping[str, str],
    added: str,
) -> str:
    targets = [
        (facts[t].anchors, facts[t].summary) if t in facts else t in files for t in facts[job.name].targets
    ]
    texts = [sources.get(path) for path in facts[job.name].texts]  # where a human's link stands
    return key("gate-links", 1, gate_digest(), job.name, job.digest, targets, texts, added)


def _source_links(facts: Mapping[str, Facts]) -> Iterator[Finding]:
    """Source links of a page have to lead to the page of its own file."""
    for name, fact in facts.items():
        shown = facts[fact.source].path if fact.source in facts else fact.path
        if fact.source and shown != fact.path:
            message = f"its source links lead to {fact.source}, which does not show {fact.path}"
            yield Finding("stale-line", "docmill", fact.path, message, name, 1, fact.path)


def _anchors(
    names: Iterable[str], jobs: Mapping[str, PageJob], files: Mapping[str, SiteFile], cache: ResultCache
) -> dict[str, Anchors | None]:
    """What links can lead to in some files of the site; in one that is no page, nothing but itself."""
    found: dict[str, Anchors | None] = dict.fromkeys(n for n in files if n not in jobs)
    pages = [jobs[name] for name in sorted(names) if name in jobs]
    for job, leads in _all_leads(pages, cache):
        found[job.name] = Anchors(set(leads.ids), leads.lines)
    return found


def _dead(
    jobs: Iterable[PageJob],
    anchors: Mapping[str, Anchors | None],
    facts: Mapping[str, Facts],
    root: str,
    sources: Mapping[str, str],
    added: Mapping[str, str],
    cache: ResultCache,
) -> Iterator[tuple[PageJob, list[Finding]]]:
    for job, leads in _all_leads(jobs, cache):
        path = facts[job.name].path
        found = list(dead_links(job.name, path, leads.links, anchors, {}))
        if found and path in sources:  # whose are they
            texts = {p: _text(root, p, sources[p]) for p in facts[job.name].texts if p in sources}
            texts |= {p: Text(text, links_in_toml(text)) for p, text in added.items()}
            found = list(dead_links(job.name, path, leads.links, anchors, texts))
        for target, summary in leads.listed:
            if target in facts and facts[target].summary != summary:
                message = f"what it says of {facts[target].path} is not what {target} says"
                found.append(Finding("stale-summary", "docmill", path or job.name, message, job.name))
        yield job, found


def _text(root: str, path: str, digest: str) -> Text:
    """A file in which humans write: code, in whose strings they do, or Markdown."""
    if path.endswith(_CODE_SUFFIXES):
        with suppress(SyntaxError, ValueError, RecursionError), warnings.catch_warnings(action="ignore"):
            code = _code(root, path, digest)  # if it can be parsed; where not, that is a finding of its own
            return Text(code.source, links_in_code(code))
    return Text(read_text(root, path, digest))


def _all_leads(jobs: Iterable[PageJob], cache: ResultCache) -> Iterator[tuple[PageJob, Leads]]:
    decoder = msgspec.json.Decoder(Leads)
    for batch in _batches(jobs):
        found = cache.get_many(map(_leads_key, batch))
        for job in batch:
            yield job, decoder.decode(found[_leads_key(job)])


def _dead_listings(
    listings: Mapping[str, SiteFile], anchors: Mapping[str, Anchors | None], cache: ResultCache
) -> list[Finding]:
    contents = cache.get_many(file.key for file in listings.values())
    files = {name: contents[file.key] for name, file in listings.items()}
    return [
        finding for name, link in listed_links(files) for finding in dead_links(name, "", [link], anchors, {})
    ]


def _prose(snapshot: Snapshot, exists: Callable[[str], bool], cache: ResultCache) -> Iterator[Finding]:
    """What the repository's own pages link to, and is not there."""
    for path, line, target in _links_of_prose(snapshot, cache):
        if not exists(target):
            message = f"a link leads to {target}, and there is no such file in the repository"
            yield Finding("dead-link", "human", path, message, path=path, line=line)


def linked_files(snapshot: Snapshot, cache: ResultCache) -> list[str]:
    """What the repository's own pages link to, there or not, whose files no snapshot may hold."""
    return sorted({target for _, _, target in _links_of_prose(snapshot, cache)})


def _links_of_prose(snapshot: Snapshot, cache: ResultCache) -> Iterator[tuple[str, int, str]]:
    keys = {key("gate-prose", 1, gate_digest(), file.path, file.digest): file for file in snapshot.prose}
    known = cache.get_many(keys)
    made = {}
    for name, file in keys.items():
        if name not in known:
            text = read_text(snapshot.root, file.path, file.digest)
            made[name] = msgspec.json.encode(links_to_files(text, file.path))
    cache.put_many(made)
    for name, file in keys.items():
        for line, target in msgspec.json.decode((known | made)[name], type=list[tuple[int, str]]):
            yield file.path, line, target


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, _BATCH)):
        yield batch
