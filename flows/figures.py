"""Figures of each site's last build, which its report carries at the Prefect server.

Builds run in processes that end, on any machine; what they all share is that server. So the
artifact that people read of a build holds in its metadata what programs ask for: the
metrics, and the index of all sites.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.runtime import flow_run

from flows.report import NOT_SHOWN, Report
from flows.settings import Service
from tasks.keys import digest

# What the server lists in one answer.
_AT_ONCE = 200
LATEST: Literal["/artifacts/latest/filter"] = "/artifacts/latest/filter"


class SiteName(NamedTuple):
    """A site of the operator's file."""

    repository: str
    branch: str

    @property
    def key(self) -> str:
        """The key of its reports: small letters, digits and dashes, and no other site's."""
        readable = re.sub(r"[^a-z0-9]+", "-", f"{self.repository}-{self.branch}".lower())
        return f"site-{readable[:60].strip('-')}-{digest([*self])[:8]}"


class Figures(Struct, frozen=True):
    """What a build that was published told: texts by whose they are, pages, seconds by stage."""

    revision: str | None
    symbols: int
    pages: int
    slots: dict[str, int]
    stages: dict[str, float]

    @property
    def share_with_text(self) -> float:
        """Of all places that can hold a text, the share that does."""
        texts = sum(self.slots.get(origin, 0) for origin in ("human", "derived", "model"))
        return texts / max(1, texts + self.slots.get("empty", 0))


class Told(Struct, frozen=True):
    """What the last published build of a site told, and when."""

    when: datetime
    figures: Figures


def figures_of(report: Report) -> Figures:
    """What of a report is kept."""
    seconds: dict[str, float] = {}
    for stage in report.stages:  # of two builds in a run, if the branch moved, all the time it took
        seconds[stage["name"]] = round(seconds.get(stage["name"], 0.0) + stage["seconds"], 3)
    slots = {name: n for name, n in report.slots.items() if name not in NOT_SHOWN}
    return Figures(report.source["revision"], report.symbols, report.pages["total"], slots, seconds)


def keep_report(site: SiteName, text: str, report: Report) -> None:
    """Put a build's report at the server, with its figures, as the last of that site."""
    values = msgspec.to_builtins(figures_of(report))
    artifact = ArtifactCreate(
        type="markdown",
        key=site.key,
        description=f"{site.repository} {site.branch}: what was made anew, and why",
        data=text,
        flow_run_id=flow_run.id,
        metadata_={name: msgspec.json.encode(value).decode() for name, value in values.items()},
    )
    with get_client(sync_client=True) as client:
        client.create_artifact(artifact)


def sites_of(service: Service) -> list[SiteName]:
    """All sites of the operator's file, in its order."""
    return [SiteName(one.name, branch) for one in service.repositories for branch in one.branches]


def queries(sites: Iterable[SiteName]) -> Iterator[dict[str, Any]]:
    """What to ask the server at `LATEST` for the last reports of these sites."""
    left = iter(sites)
    while piece := list(islice(left, _AT_ONCE)):
        yield {"artifacts": {"key": {"any_": [site.key for site in piece]}}, "limit": _AT_ONCE}


class _Answer(Struct):
    key: str
    updated: datetime
    metadata_: dict[str, str] | None = None


def told_in(answer: bytes, sites: Iterable[SiteName]) -> dict[SiteName, Told]:
    """What the server answered of these sites; a report without figures is passed over."""
    by_key = {site.key: site for site in sites}
    found = {}
    for one in msgspec.json.decode(answer, type=list[_Answer]):
        if (figures := _decoded(one.metadata_ or {})) is not None and one.key in by_key:
            found[by_key[one.key]] = Told(one.updated, figures)
    return found


def _decoded(metadata: Mapping[str, str]) -> Figures | None:
    try:
        values = {name: msgspec.json.decode(value) for name, value in metadata.items()}
        return msgspec.convert(values, Figures)
    except msgspec.MsgspecError:
        return None


def last_told(sites: list[SiteName]) -> dict[SiteName, Told]:
    """What the last published build of each site told; sites of which nothing is known are absent."""
    found: dict[SiteName, Told] = {}
    with get_client(sync_client=True) as client:
        for query in queries(sites):
            found |= told_in(client.request("POST", LATEST, json=query).content, sites)
    return found
