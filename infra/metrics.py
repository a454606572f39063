"""What Prometheus is told: of deliveries, and of the builds that follow from them.

Builds run in processes that end, on any machine, so the Prefect server is asked about them when
Prometheus asks: which runs ended since, which have not, and, where a site was published, the
figures of its report. These are three small questions every few seconds at most, however often
somebody asks, and pushes never wait for them.
Labels are sites of the operator's file, and states that are known here; nothing else makes a series.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter as Counted
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from httpx import HTTPError
from msgspec import Struct
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import PrefectException
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from flows.figures import LATEST, SiteName, Told, queries, sites_of, told_in
from flows.on_push import BUILDING, DEGRADED, PUBLISHED, UNCHANGED, WAITING
from flows.settings import Service
from tasks.documents import first_line
from tasks.ingest.tree import printable

_log = logging.getLogger("docmill.metrics")

_LOOK_EVERY_S = 10.0
_LOOK_S = 3.0
_REMEMBERED = timedelta(days=3)
_OVERLAP = timedelta(minutes=10)  # by which clocks may differ, and answers be late
_AT_ONCE = 200  # what the server lists in one answer
_PIECES = 5
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0)

_SUCCEEDED = frozenset({PUBLISHED, DEGRADED, UNCHANGED})
_ENDED = (PUBLISHED, DEGRADED, UNCHANGED, "Failed", "Crashed", "Cancelled")
_UNFINISHED = ("Scheduled", "Late", "Pending", "Running", WAITING, BUILDING)
_OTHER = "other"
_OF_SITE = ("repository", "branch")


class Deliveries:
    """Counts what the receiver answers, and how fast."""

    def __init__(self, registry: CollectorRegistry, forges: tuple[str, ...]) -> None:
        self._deliveries = Counter(
            "docmill_webhook_deliveries",
            "Deliveries by forge and by what became of them.",
            ("forge", "outcome"),
            registry=registry,
        )
        self._refused = Counter(
            "docmill_webhook_refused", "Deliveries refused, by HTTP status.", ("status",), registry=registry
        )
        self.kept = Gauge(
            "docmill_webhook_kept",
            "Sites with pushes that the Prefect server has yet to be told of.",
            registry=registry,
        )
        self._seconds = Histogram(
            "docmill_webhook_answer_seconds",
            "Time from a delivery to its answer.",
            buckets=_BUCKETS,
            registry=registry,
        )
        for forge in forges:
            for outcome in ("queued", "waiting", "kept", "ignored", "refused"):
                self._deliveries.labels(forge, outcome)

    def count(self, forge: str, outcome: str, status: int, seconds: float) -> None:
        """Take note of an answer."""
        self._deliveries.labels(forge, outcome).inc()
        self._seconds.observe(seconds)
        if outcome == "refused":
            self._refused.labels(str(status)).inc()


class _State(Struct):
    name: str | None
    type: str


class _Run(Struct):
    id: UUID
    parameters: dict[str, Any]
    state: _State | None
    end_time: datetime | None


class Builds(Collector):
    """The runs of on-push and what they published, as the Prefect server knows them."""

    def __init__(self, service: Service) -> None:
        self.client: PrefectClient | None = None
        self._sites = dict.fromkeys(sites_of(service))
        self._first_branch = {one.name: one.branches[0] for one in service.repositories}
        self._turn = asyncio.Lock()
        self._looked = float("-inf")
        self._answered = False
        self._since = datetime.now(UTC)
        self._asked = self._since - _REMEMBERED  # so that a new receiver knows when all was well
        self._known: dict[tuple[UUID, datetime], None] = {}
        self._ended: Counted[tuple[SiteName, str]] = Counted()
        self._unfinished: Counted[tuple[SiteName, str]] = Counted()
        self._succeeded: dict[SiteName, datetime] = {}
        self._told: dict[SiteName, Told] = {}
        self._to_ask = set(self._sites)

    async def look(self) -> None:
        """Ask the server, unless that was done a moment ago; that it does not answer is told, too."""
        async with self._turn:
            if time.monotonic() - self._looked < _LOOK_EVERY_S:
                return
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._look()
                self._answered = True
            except (HTTPError, PrefectException, msgspec.MsgspecError, TimeoutError) as error:
                self._answered = False
                _log.warning("Prefect server: %s", printable(first_line(error)))
            self._looked = time.monotonic()

    async def _look(self) -> None:
        asked = datetime.now(UTC)
        ended = {"end_time": {"after_": (self._asked - _OVERLAP).isoformat()}}
        for run in await self._runs(ended, "END_TIME_DESC"):
            self._count(run)
        self._asked = asked
        self._known = {key: None for key in self._known if key[1] > asked - 3 * _OVERLAP}
        unfinished = {"state": {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING", "CANCELLING"]}}}
        found = [(self._site(run), run.state) for run in await self._runs(unfinished, "ID_DESC")]
        self._unfinished = Counted(
            (site, _label(state, _UNFINISHED)) for site, state in found if site and state
        )
        for query in queries(sorted(self._to_ask)):
            assert self.client is not None  # as long as the application lives
            answer = await self.client.request("POST", LATEST, json=query)
            self._told |= told_in(answer.content, self._to_ask)
        self._to_ask = set()

    async def _runs(self, wanted: Mapping[str, Any], sort: str) -> list[_Run]:
        assert self.client is not None  # as long as the application lives
        found: list[_Run] = []
        query = {
            "flows": {"name": {"any_": ["on-push"]}},
            "deployments": {"name": {"any_": ["on-push"]}},
            "flow_runs": wanted,
            "sort": sort,
            "limit": _AT_ONCE,
        }
        for _ in range(_PIECES):
            answer = await self.client.request(
                "POST", "/flow_runs/filter", json={**query, "offset": len(found)}
            )
            piece = msgspec.json.decode(answer.content, type=list[_Run])
            found += piece
            if len(piece) < _AT_ONCE:
                break
        return found

    def _count(self, run: _Run) -> None:
        """Note when a run succeeded, and count it, once, if it ended since this receiver started."""
        site = self._site(run)
        if site is None or run.state is None or run.end_time is None:
            return
        if run.state.name in _SUCCEEDED:
            self._succeeded[site] = max(run.end_time, self._succeeded.get(site, run.end_time))
        if run.end_time < self._since or (run.id, run.end_time) in self._known:
            return
        self._known[run.id, run.end_time] = None
        self._ended[site, _label(run.state, _ENDED)] += 1
        if run.state.name in {PUBLISHED, DEGRADED}:
            self._to_ask.add(site)

    def _site(self, run: _Run) -> SiteName | None:
        repository = run.parameters.get("repository")
        branch = run.parameters.get("branch") or self._first_branch.get(str(repository))
        site = SiteName(str(repository), str(branch))
        return site if site in self._sites else None

    def collect(self) -> Iterator[Metric]:
        """What was found when the server was last asked."""
        up = GaugeMetricFamily("docmill_prefect_up", "Whether the Prefect server answered when last asked.")
        up.add_metric((), self._answered)
        yield up
        if self._answered:
            yield from self._of_runs()
            yield from self._of_sites()

    def _of_runs(self) -> Iterator[Metric]:
        ended = CounterMetricFamily(
            "docmill_runs",
            "Runs that ended since the receiver started, by state.",
            labels=(*_OF_SITE, "state"),
        )
        unfinished = GaugeMetricFamily(
            "docmill_unfinished_runs", "Runs that have not ended, by state.", labels=(*_OF_SITE, "state")
        )
        success = GaugeMetricFamily(
            "docmill_last_success_timestamp_seconds",
            "When a run last ended with the site as its branch is; 0 if none ever did.",
            labels=_OF_SITE,
        )
        for site in self._sites:
            for family, counts, states in (
                (ended, self._ended, _ENDED),
                (unfinished, self._unfinished, _UNFINISHED),
            ):
                for state in (*states, _OTHER):
                    family.add_metric([*site, state.lower()], counts[site, state])
            told, succeeded = self._told.get(site), self._succeeded.get(site)
            last = max((when for when in (told and told.when, succeeded) if when), default=None)
            success.add_metric([*site], last.timestamp() if last else 0.0)  # which is old to an alert
        yield from (ended, unfinished, success)

    def _of_sites(self) -> Iterator[Metric]:
        texts = GaugeMetricFamily(
            "docmill_site_texts",
            "Places for a text on the site, by who filled them; empty ones, too.",
            labels=(*_OF_SITE, "origin"),
        )
        pages = GaugeMetricFamily("docmill_site_pages", "Pages of the site.", labels=_OF_SITE)
        duration = GaugeMetricFamily(
            "docmill_last_build_duration_seconds",
            "How long the stages of the last build took.",
            labels=_OF_SITE,
        )
        stages = GaugeMetricFamily(
            "docmill_last_build_stage_seconds", "How long each of them took.", labels=(*_OF_SITE, "stage")
        )
        for site, told in sorted(self._told.items()):
            figures = told.figures
            pages.add_metric([*site], figures.pages)
            duration.add_metric([*site], sum(figures.stages.values()))
            for origin, count in sorted(figures.slots.items()):
                texts.add_metric([*site, origin], count)
            for stage, seconds in figures.stages.items():
                stages.add_metric([*site, stage], seconds)
        yield from (texts, pages, duration, stages)


def _label(state: _State, known: tuple[str, ...]) -> str:
    return state.name if state.name in known else _OTHER
