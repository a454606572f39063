"""The page that lists all sites of the operator's file: what stands where, of which revision, since when.

It is a site of one page, published as any other. Two runs may make it at once, and either
may know of a build that the other has not heard of; so whoever published it looks again,
and the last one has seen all.
"""

from __future__ import annotations

from prefect import get_run_logger

from flows.figures import SiteName, Told, last_told, sites_of
from flows.pipeline import target_of
from flows.settings import Repository, resolve_settings
from tasks.documents import first_line
from tasks.ingest.tree import printable
from tasks.render.site_index import Listed, index_files
from tasks.result_cache import ResultCache

_LOOKS = 5


def publish_index() -> None:
    """Publish the index, if the operator's file names a place for one.

    A run that published its site has done what it is for: where no index can be made, it says so and goes on.
    """
    try:
        _publish_index()
    except Exception as error:  # noqa: BLE001 - whatever it is, the sites are published
        get_run_logger().warning("index: %s; the next run makes it", printable(first_line(error)))


def _publish_index() -> None:
    resolved = resolve_settings(None, {})
    service = resolved.service
    if service.index is None:
        return
    settings = resolved.settings.model_copy(update={"out": service.index})
    sites = sites_of(service)
    shown: dict[SiteName, Told] | None = None
    cache = ResultCache(settings.result_cache)
    try:
        for _ in range(_LOOKS):
            told = last_told(sites)
            if told == shown:
                return
            listed = [
                _listed(repository, branch, told.get(SiteName(repository.name, branch)))
                for repository in service.repositories
                for branch in repository.branches
            ]
            target_of(settings).publish(index_files(listed, cache), cache)
            shown = told
    finally:
        cache.close()


def _listed(repository: Repository, branch: str, told: Told | None) -> Listed:
    entry = Listed(repository.name, branch, repository.url_of(branch), str(repository.flags(branch)["out"]))
    if told is None:
        return entry
    figures = told.figures
    return Listed(
        *(entry.repository, entry.branch, entry.url, entry.place),
        revision=figures.revision,
        published=told.when,
        pages=figures.pages,
        share_with_text=figures.share_with_text,
    )
