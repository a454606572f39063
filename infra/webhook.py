"""The receiver of pushes: a signed delivery of GitHub, GitLab or Gitea becomes a run of the flow on-push.

Nothing of a request is trusted before its signature is checked, and little after: which
repository it is for stands in the path, and of the payload only the branch counts. Before the
forge is answered the push is on the disk, until the Prefect server has a run for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import random
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from http import HTTPStatus
from typing import NamedTuple
from uuid import UUID

import msgspec
import uvicorn
from msgspec import Struct
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from flows.figures import sites_of
from flows.logs import write_logs
from flows.nightly import ON_PUSH
from flows.on_push import ATTEMPTS, BUILDING, SECONDS_BETWEEN_SIGNS
from flows.settings import Service, cache_home
from infra.crashes import Reminder
from infra.deploy import named_server
from infra.metrics import Builds, Deliveries
from infra.spool import Push, Spool
from tasks.documents import SourceError, first_line
from tasks.ingest.git import validated_revision
from tasks.ingest.tree import printable

_log = logging.getLogger("docmill.webhook")

_LONGEST_BODY = 5_000_000  # bytes; forges list at most some thousand commits
_LONGEST_READ = 25_000_000  # bytes; forges send no more. Who is read to the end sees the answer
_BODY_S = 5.0
_ANSWER_S = 0.8  # forges are told within a second what became of a push, or that it is kept
_QUESTION_S = 15.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 10.0  # before a server that did not answer is asked again
_AT_ONCE = 100  # connections
_CONNECTED_S = 30.0  # who sends nothing, or a byte now and then, does not keep a place for good
_SOON = timedelta(seconds=5)  # what someone put off to tomorrow does not stand for a push
_SIGN_OF_LIFE = timedelta(seconds=3 * SECONDS_BETWEEN_SIGNS)
_DELIVERY = re.compile(r"[A-Za-z0-9_-]{1,128}")
_SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class RefusedError(Exception):
    """A request that is not heeded: the status and the line that the forge gets."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class Forge(NamedTuple):
    """How a forge tells what happened, proves that it is one, and numbers its deliveries."""

    name: str
    event: str
    proof: str
    deliveries: tuple[str, ...]
    proves: Callable[[bytes, bytes, bytes], bool]
    pushes: frozenset[str]


class Payload(Struct, frozen=True):
    """What is read of a push; every forge names it so."""

    ref: str
    after: str


class Answer(NamedTuple):
    """What a forge is told: the run that was made or stands for the push, or why there is none."""

    status: HTTPStatus
    outcome: str
    detail: str


_KEPT = Answer(HTTPStatus.ACCEPTED, "kept", "the Prefect server is told as soon as it answers")


class _Delivery(Struct):
    """What is known of a delivery, as far as it was looked into."""

    forge: str = "none"
    repository: str | None = None
    branch: str | None = None
    revision: str | None = None


def _hmac(secret: bytes, body: bytes, proof: bytes) -> bool:
    return hmac.compare_digest(hmac.new(secret, body, hashlib.sha256).hexdigest().encode(), proof)


def _prefixed_hmac(secret: bytes, body: bytes, proof: bytes) -> bool:
    return proof.startswith(b"sha256=") and _hmac(secret, body, proof.removeprefix(b"sha256="))


def _token(secret: bytes, _body: bytes, proof: bytes) -> bool:
    return hmac.compare_digest(secret, proof)


# Gitea sends GitHub's headers as well, so that it comes first.
_FORGES = (
    Forge("gitea", "x-gitea-event", "x-gitea-signature", ("x-gitea-delivery",), _hmac, frozenset({"push"})),
    Forge(
        "github",
        "x-github-event",
        "x-hub-signature-256",
        ("x-github-delivery",),
        _prefixed_hmac,
        frozenset({"push"}),
    ),
    Forge(
        "gitlab",
        "x-gitlab-event",
        "x-gitlab-token",
        ("idempotency-key", "x-gitlab-event-uuid"),
        _token,
        frozenset({"Push Hook", "Tag Push Hook"}),
    ),
)
_NAMES = (*(forge.name for forge in _FORGES), _Delivery().forge)


class _Question:
    """What the Prefect server is to be asked about a site, and for which pushes."""

    def __init__(self) -> None:
        self.pushes: list[Push] = []
        self.was_kept = False  # and somebody told so, before it was answered
        self.answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()


class Runs:
    """The runs of on-push at a Prefect server, which is asked one thing after another.

    On SQLite it refuses most of what it is asked at the same time.
    """

    def __init__(self, client: PrefectClient, spool: Spool) -> None:
        self._client, self._spool = client, spool
        self._deployment: UUID | None = None
        self._due: dict[tuple[str, str], _Question] = {}
        self._some_are_due = asyncio.Event()
        self._asked: set[tuple[str, str]] = set()

    @property
    def waiting(self) -> int:
        """How many sites the server has yet to answer about."""
        return len(self._due.keys() | self._asked)

    async def ask(self, repository: str, branch: str, key: str) -> Answer:
        """See to it that a run looks at a branch after now.

        Who asks before the server was asked about the branch shares that question.

        Args:
            repository: Its name in the operator's file.
            branch: One of its branches.
            key: Of a delivery; what is delivered again while its run has yet to look makes no second one.

        Raises:
            RefusedError: The push cannot be kept.
        """
        push = Push(repository, branch, key, time.time_ns())
        question = self._due.get(push.site)
        if question is None:  # else what is kept stands for this one as well
            try:
                await asyncio.to_thread(self._spool.keep, push)
            except OSError as error:
                _log.error("a push cannot be kept: %s", error)
                raise RefusedError(
                    HTTPStatus.SERVICE_UNAVAILABLE, "the push cannot be kept; deliver again later"
                ) from error
            question = self._add(push)
        await asyncio.wait([question.answered], timeout=_ANSWER_S)
        if question.answered.done():
            return question.answered.result()
        question.was_kept = True
        return _KEPT

    async def pass_on(self, sites: Collection[tuple[str, str]]) -> None:
        """Ask the server about all pushes that are kept, for as long as it takes.

        Args:
            sites: Those of the operator's file. A push to another one stays where it is.
        """
        for push in self._spool.kept():
            if push.site in sites:
                self._add(push).was_kept = True
            else:
                _log.warning("%s, branch %s: a push waits for it to be in the operator's file", *push.site)
        pause = _FIRST_PAUSE_S
        while True:
            await self._some_are_due.wait()
            site = next(iter(self._due))
            question = self._due.pop(site)
            if not self._due:
                self._some_are_due.clear()
            self._asked = {site}
            try:
                async with asyncio.timeout(_QUESTION_S):
                    answer = await self._run_for(question.pushes[0])
            except Exception as error:  # noqa: BLE001 - whatever it is, pushes are kept until it is over
                self._deployment = None  # another may have taken its place
                _log.warning("Prefect server, about %s, branch %s: %s", *site, _why(error))
                question.answered.set_result(_KEPT)
                for push in question.pushes:
                    self._add(push).was_kept = True
                await asyncio.sleep(pause * random.uniform(0.5, 1))
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            else:
                pause = _FIRST_PAUSE_S
                await asyncio.to_thread(self._drop, question.pushes)
                question.answered.set_result(answer)
                if question.was_kept:
                    about = dict(zip(("repository", "branch"), site, strict=True), flow_run_id=answer.detail)
                    _log.info("%s, branch %s: what was kept is %s", *site, answer.outcome, extra=about)
            self._asked = set()

    def _add(self, push: Push) -> _Question:
        """The question that a push, which is kept, is now part of."""
        question = self._due.setdefault(push.site, _Question())
        question.pushes.append(push)
        self._some_are_due.set()
        return question

    def _drop(self, pushes: list[Push]) -> None:
        try:
            for push in pushes:
                self._spool.drop(push)
        except OSError as error:  # after the next start it is asked about once more
            _log.error("a push that was passed on cannot be removed: %s", error)

    async def _run_for(self, push: Push) -> Answer:
        if self._deployment is None:
            self._deployment = (await self._client.read_deployment_by_name(ON_PUSH)).id
        for run in await self._unfinished(self._deployment):
            of_site = (run.parameters.get("repository"), run.parameters.get("branch")) == push.site
            if of_site and _has_yet_to_look(run):
                return Answer(HTTPStatus.OK, "waiting", str(run.id))
        create = partial(
            self._client.create_flow_run_from_deployment,
            self._deployment,
            parameters={"repository": push.repository, "branch": push.branch},
        )
        # Delivered before, or asked before by one whom the answer did not reach. Others may share this
        # question, and that run may have failed; if all is published, a new one leaves at once.
        for key in (push.key, f"{push.key}:{push.taken}", None):
            run = await create(idempotency_key=key)
            if _has_yet_to_look(run):
                break
        return Answer(HTTPStatus.ACCEPTED, "queued", str(run.id))

    async def _unfinished(self, deployment: UUID) -> list[FlowRun]:
        return await self._client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment])),
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(
                    type=FlowRunFilterStateType(
                        any_=[StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]
                    )
                )
            ),
        )


def _has_yet_to_look(run: FlowRun) -> bool:
    """Whether a run will look at its branch after now; one that begins and gives no sign may have died."""
    state = run.state
    if state is None or state.is_final() or state.name == BUILDING:
        return False
    if run.parameters.get("attempt", 1) > ATTEMPTS:  # it gives up
        return False
    now = datetime.now(UTC)
    if state.is_scheduled():
        return (state.state_details.scheduled_time or now) - now < _SOON
    return now - state.timestamp < _SIGN_OF_LIFE


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {_QUESTION_S:.0f} s"
    return printable(first_line(error))


class Receiver:
    """Takes deliveries for the repositories of the operator's file."""

    def __init__(self, service: Service, deliveries: Deliveries) -> None:
        self._service = service
        self._secrets = [
            secret.get_secret_value().encode()
            for secret in (service.webhook_secret, service.webhook_secret_before)
            if secret is not None
        ]
        if not self._secrets:
            raise SourceError("webhook: set DOCMILL_WEBHOOK_SECRET to what the forges sign with")
        self._deliveries = deliveries
        self._requests: Counter[tuple[str, str]] = Counter()
        self._minute = 0
        self.runs: Runs | None = None

    async def __call__(self, request: Request) -> Response:
        """Answer a delivery."""
        start, delivery = time.perf_counter(), _Delivery()
        try:
            answer = await self._answer(request, delivery)
        except RefusedError as error:
            answer = Answer(error.status, "refused", str(error))
        except ClientDisconnect:
            answer = Answer(HTTPStatus.BAD_REQUEST, "refused", "the request broke off")
        path, detail = printable(request.url.path[:200]), printable(answer.detail)
        made = answer.detail if answer.outcome in {"queued", "waiting"} else None
        about = {name: getattr(delivery, name) for name in ("repository", "branch", "revision")}
        extra = {**about, "flow_run_id": made}
        _log.info("%s %s: %s %s", path, answer.status.value, answer.outcome, detail, extra=extra)
        seconds = time.perf_counter() - start
        self._deliveries.count(delivery.forge, answer.outcome, answer.status.value, seconds)
        return JSONResponse({"outcome": answer.outcome, "detail": answer.detail}, answer.status)

    async def _answer(self, request: Request, delivery: _Delivery) -> Answer:
        try:
            forge, body = await self._signed(request, delivery)
        except RefusedError:
            self.refuse_floods(request, "unsigned")
            raise
        self.refuse_floods(request, "signed")
        name = request.path_params["repository"]
        if all(one.name != name for one in self._service.repositories):
            raise RefusedError(HTTPStatus.NOT_FOUND, "the operator's file has no such repository")
        delivery.repository = name
        event = request.headers[forge.event]
        if event not in forge.pushes:
            return Answer(HTTPStatus.OK, "ignored", f"{event[:60]} is no push")
        push = _push_in(body, request)
        branch = _branch_of(push)
        if branch is None:
            return Answer(HTTPStatus.OK, "ignored", "a tag, or a branch that was deleted")
        delivery.branch, delivery.revision = branch, push.after
        if branch not in self._service.repository(name).branches:
            return Answer(HTTPStatus.OK, "ignored", f"branch {branch} is not in the operator's file")
        assert self.runs is not None  # as long as the application lives
        return await self.runs.ask(
            name, branch, f"{forge.name}:{name}:{branch}:{_delivery_of(forge, request)}"
        )

    def refuse_floods(self, request: Request, kind: str) -> None:
        """Refuse whoever has sent too many requests of a kind within this minute.

        A stranger may share an address with a forge, that of a proxy: kinds are what each of them sends.

        Raises:
            RefusedError: That is so.
        """
        address = request.client.host if request.client else ""
        minute = int(time.monotonic() / 60)
        if minute != self._minute:
            self._minute = minute
            self._requests.clear()
        self._requests[kind, address] += 1
        if self._requests[kind, address] > self._service.webhook_rate:
            raise RefusedError(HTTPStatus.TOO_MANY_REQUESTS, "too many requests; deliver again in a minute")

    async def _signed(self, request: Request, delivery: _Delivery) -> tuple[Forge, bytes]:
        """The forge and the body of a request that proves the secret.

        Raises:
            RefusedError: It does not.
        """
        forge = next((one for one in _FORGES if one.event in request.headers), None)
        if forge is None:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "is of no forge that docmill knows: no event is named")
        delivery.forge = forge.name
        body = await _body_of(request)
        proof = request.headers.get(forge.proof, "").encode("latin-1")
        # All secrets are tried, so that time does not tell which one it was.
        proved = [forge.proves(secret, body, proof) for secret in self._secrets]
        if not any(proved):
            raise RefusedError(HTTPStatus.UNAUTHORIZED, f"{forge.proof} does not prove the secret")
        return forge, body


async def _body_of(request: Request) -> bytes:
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > _LONGEST_READ:
        raise _too_large()
    body, read = bytearray(), 0
    try:
        async with asyncio.timeout(_BODY_S):
            async for piece in request.stream():
                read += len(piece)
                if read > _LONGEST_READ:
                    raise _too_large()
                if read <= _LONGEST_BODY:
                    body += piece
    except TimeoutError as error:
        raise RefusedError(HTTPStatus.REQUEST_TIMEOUT, f"the body took over {_BODY_S:.0f} s") from error
    if read > _LONGEST_BODY:
        raise _too_large()
    return bytes(body)


def _too_large() -> RefusedError:
    return RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"over {_LONGEST_BODY:,} bytes")


def _push_in(body: bytes, request: Request) -> Payload:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "have the forge send application/json")
    try:
        return msgspec.json.decode(body, type=Payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"is no push: {error}") from error


def _branch_of(push: Payload) -> str | None:
    """The branch that was pushed to; None for a tag, and for a branch that is gone.

    Raises:
        RefusedError: The payload's names are none that git would make.
    """
    kind, _, name = push.ref.removeprefix("refs/").partition("/")
    if not push.ref.startswith("refs/") or not _SHA.fullmatch(push.after):
        raise RefusedError(HTTPStatus.BAD_REQUEST, "ref or after is malformed")
    try:
        validated_revision(name)
    except SourceError as error:
        raise RefusedError(HTTPStatus.BAD_REQUEST, "ref is malformed") from error
    return name if kind == "heads" and push.after.strip("0") else None


def _delivery_of(forge: Forge, request: Request) -> str:
    given = next((request.headers[name] for name in forge.deliveries if name in request.headers), "")
    if not _DELIVERY.fullmatch(given):
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"{forge.deliveries[-1]} is missing or malformed")
    return given


def application(
    service: Service, connect: Callable[[], AbstractAsyncContextManager[PrefectClient]] = get_client
) -> Starlette:
    """The receiver as an ASGI application.

    Raises:
        SourceError: There is no secret to hold signatures against, or no place to keep pushes.
    """
    registry, spool = CollectorRegistry(), Spool(cache_home() / "pushes")
    deliveries, builds = Deliveries(registry, _NAMES), Builds(service)
    receive = Receiver(service, deliveries)
    registry.register(builds)
    deliveries.kept.set_function(lambda: receive.runs.waiting if receive.runs else 0)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with connect() as client:
            builds.client = client
            receive.runs = Runs(client, spool)
            duties = [
                asyncio.create_task(receive.runs.pass_on(sites_of(service))),
                asyncio.create_task(Reminder(client, service).remind()),
            ]
            for duty in duties:
                duty.add_done_callback(_end_with)
            yield
            for duty in duties:
                duty.cancel()
            await asyncio.gather(*duties, return_exceptions=True)

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def metrics(request: Request) -> Response:
        try:
            receive.refuse_floods(request, "metrics")
        except RefusedError as error:
            return JSONResponse({"outcome": "refused", "detail": str(error)}, error.status)
        await builds.look()
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    app = Starlette(
        routes=[
            Route("/push/{repository}", receive.__call__, methods=["POST"]),
            Route("/health", health),
            Route("/metrics", metrics),
        ],
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a path that is none is not found
    return app


def _end_with(duty: asyncio.Task[None]) -> None:
    """End the receiver, which is started again, rather than keep pushes that nobody passes on."""
    if not duty.cancelled():
        _log.critical("the receiver cannot go on", exc_info=duty.exception())
        signal.raise_signal(signal.SIGTERM)


class _Connection(H11Protocol):
    """A connection that ends when it is old, unless a request is being answered."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._end = self.loop.call_later(_CONNECTED_S, self._grow_old)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end.cancel()
        super().connection_lost(exc)

    def _grow_old(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        else:
            self._end = self.loop.call_later(_BODY_S, self._grow_old)


def serve(service: Service, host: str, port: int) -> None:
    """Receive pushes until interrupted.

    Raises:
        SourceError: There is no secret, no Prefect server is named, or there is no place to keep pushes.
    """
    named_server()
    write_logs(service.log_format)
    uvicorn.run(
        application(service),
        host=host,
        port=port,
        access_log=False,
        server_header=False,
        log_level="warning",
        http=_Connection,
        forwarded_allow_ips=list(service.webhook_proxies),
        log_config=None,
        limit_concurrency=_AT_ONCE,
    )
