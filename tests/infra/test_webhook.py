"""The receiver: what forges sign becomes a run, once; nothing else does, and nothing makes it fail."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import socket
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flows.settings import Repository, Service, cache_home
from tasks.documents import SourceError

SECRET, OLD_SECRET = "a secret of some length", "the secret before that one"
SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def usual_answer_s(monkeypatch):
    """A machine that runs tests may be busy; that a forge is not kept waiting has a test of its own."""
    from infra import webhook

    usual = webhook._ANSWER_S
    monkeypatch.setattr(webhook, "_ANSWER_S", 60.0)
    return usual


@pytest.fixture(scope="module")
def deployed(server):
    """A server that knows the deployments; gives how many runs it has."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    from infra.deploy import deploy

    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="webhooks", type="process"))
    deploy(Service(work_pool="webhooks"))

    def runs() -> int:
        with get_client(sync_client=True) as client:
            return client.request("POST", "/flow_runs/count", json={}).json()

    return runs


def service(repository: str, **given) -> Service:
    entry = {"name": repository, "source": "https://example.org/a", "branches": ["main"], "out": "/srv/a"}
    secrets = {"webhook_secret": SECRET, "webhook_secret_before": OLD_SECRET}
    return Service.model_validate(
        {"repositories": [Repository.model_validate(entry)], "webhook_rate": 10**6, **secrets, **given}
    )


@asynccontextmanager
async def receiver(of: Service):
    """The application as an ASGI server runs it, and a client that reaches it."""
    from infra.webhook import application

    app = application(of)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://docmill") as client:
            yield client


def sent(of: Service, path: str, content: bytes, headers: dict[str, str]) -> httpx.Response:
    async def send() -> httpx.Response:
        async with receiver(of) as client:
            return await client.post(path, content=content, headers=headers)

    return asyncio.run(send())


def push(**changes) -> bytes:
    return json.dumps({"ref": "refs/heads/main", "after": SHA, "commits": [], **changes}).encode()


def signed(body: bytes, forge: str = "github", secret: str = SECRET, event: str = "push", **headers: str):
    """The headers that a forge sends with a body."""
    proof = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    delivery = str(uuid.uuid4())
    github = {
        "x-github-event": event,
        "x-github-delivery": delivery,
        "x-hub-signature-256": f"sha256={proof}",
    }
    given = {
        "github": github,
        "gitea": {
            **github,
            "x-gitea-event": event,
            "x-gitea-delivery": delivery,
            "x-gitea-signature": proof,
        },
        "gitlab": {
            "x-gitlab-event": "Push Hook" if event == "push" else event,
            "x-gitlab-event-uuid": delivery,
            "x-gitlab-token": secret,
        },
    }[forge]
    return {"content-type": "application/json", **given, **headers}


@pytest.fixture
def name() -> str:
    """A repository of this test's own: the server is shared."""
    return f"r{uuid.uuid4().hex[:12]}"


@pytest.mark.parametrize("forge", ["github", "gitlab", "gitea"])
def test_a_signed_push_becomes_a_run(deployed, name, forge):
    before = deployed()
    answer = sent(service(name), f"/push/{name}", push(), signed(push(), forge))
    assert (answer.status_code, answer.json()["outcome"]) == (202, "queued")
    assert deployed() == before + 1


def test_the_secret_before_is_good_while_it_is_set(deployed, name):
    headers = signed(push(), secret=OLD_SECRET)
    assert sent(service(name), f"/push/{name}", push(), headers).status_code == 202
    refused = sent(service(name, webhook_secret_before=None), f"/push/{name}", push(), headers)
    assert refused.status_code == 401


def test_a_redelivery_is_the_same_run_until_that_has_ended(deployed, name):
    from prefect.client.orchestration import get_client
    from prefect.states import Completed, Failed

    headers = signed(push())
    first = sent(service(name), f"/push/{name}", push(), headers).json()
    before = deployed()
    assert sent(service(name), f"/push/{name}", push(), headers).json()["detail"] == first["detail"]
    assert deployed() == before
    for ended in (Failed(), Completed()):
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(uuid.UUID(first["detail"]), ended, force=True)
        again = sent(service(name), f"/push/{name}", push(), headers).json()
        assert (again["outcome"], again["detail"] != first["detail"]) == ("queued", True)
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(uuid.UUID(again["detail"]), Completed(), force=True)


def test_a_run_that_gives_up_does_not_stand_for_a_push(deployed, name):
    from prefect.client.orchestration import get_client

    from flows.on_push import ATTEMPTS

    with get_client(sync_client=True) as client:
        on_push = client.read_deployment_by_name("on-push/on-push")
        given = {"repository": name, "branch": "main", "attempt": ATTEMPTS + 1}
        client.create_flow_run_from_deployment(on_push.id, parameters=given)
    assert sent(service(name), f"/push/{name}", push(), signed(push())).json()["outcome"] == "queued"


def test_a_burst_is_one_run_until_that_looks(deployed, name):
    from prefect.client.orchestration import get_client
    from prefect.states import Running

    from flows.on_push import BUILDING, WAITING

    async def burst() -> Counter[str]:
        async with receiver(service(name)) as client:
            answers = await asyncio.gather(
                *(client.post(f"/push/{name}", content=push(), headers=signed(push())) for _ in range(50))
            )
        assert {answer.status_code for answer in answers} <= {200, 202}
        (run,) = {answer.json()["detail"] for answer in answers}
        return Counter({run: len(answers)})

    ((run, count),) = asyncio.run(burst()).items()
    assert count == 50
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(uuid.UUID(run), Running(name=WAITING), force=True)
        assert set(asyncio.run(burst())) == {run}
        client.set_flow_run_state(uuid.UUID(run), Running(name=BUILDING), force=True)
        assert run not in asyncio.run(burst())


def test_a_run_that_is_put_off_does_not_stand_for_a_push(deployed, name):
    from prefect.client.orchestration import get_client
    from prefect.states import Scheduled

    tomorrow = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(days=1))
    with get_client(sync_client=True) as client:
        on_push = client.read_deployment_by_name("on-push/on-push")
        given = {"repository": name, "branch": "main"}
        client.create_flow_run_from_deployment(on_push.id, parameters=given, state=tomorrow)
    assert sent(service(name), f"/push/{name}", push(), signed(push())).json()["outcome"] == "queued"


@pytest.mark.parametrize(
    ("body", "headers", "status", "said"),
    [
        (push(), {"x-github-event": "ping"}, 200, "ping is no push"),
        (push(), {"x-github-event": "create"}, 200, "create is no push"),
        (push(ref="refs/tags/v1"), {}, 200, "a tag, or a branch that was deleted"),
        (push(after="0" * 40, deleted=True), {}, 200, "a tag, or a branch that was deleted"),
        (push(ref="refs/heads/other"), {}, 200, "branch other is not in the operator's file"),
        (push(ref="refs/heads/--upload-pack=x"), {}, 400, "ref is malformed"),
        (push(ref="refs/heads/a..b"), {}, 400, "ref is malformed"),
        (push(ref="main"), {}, 400, "ref or after is malformed"),
        (push(after="HEAD"), {}, 400, "ref or after is malformed"),
        (push(after=None), {}, 400, "is no push"),
        (b"[" * 100_000, {}, 400, "is no push"),
        (b"\xff", {}, 400, "is no push"),
        (push(), {"x-github-delivery": "a b"}, 400, "x-github-delivery is missing or malformed"),
        (push(), {"content-type": "application/x-www-form-urlencoded"}, 415, "application/json"),
        (push(), {"x-hub-signature-256": "sha256=" + "0" * 64}, 401, "does not prove"),
        (push(), {"x-hub-signature-256": ""}, 401, "does not prove"),
        (b"x" * 5_000_001, {}, 413, "over 5,000,000 bytes"),
    ],
)
def test_what_is_no_push_to_build_makes_no_run(deployed, name, body, headers, status, said):
    before = deployed()
    answer = sent(service(name), f"/push/{name}", body, {**signed(body), **headers})
    assert (answer.status_code, said in answer.json()["detail"]) == (status, True), answer.text
    assert deployed() == before


def test_requests_for_nothing(deployed, name):
    headers = signed(push())
    assert sent(service(name), "/push/other", push(), headers).status_code == 404
    assert sent(service(name), "/elsewhere", push(), headers).status_code == 404
    bare = {"content-type": "application/json"}
    assert sent(service(name), f"/push/{name}", push(), bare).status_code == 400


def test_floods_are_refused(deployed, name):
    async def flood() -> list[int]:
        async with receiver(service(name, webhook_rate=3)) as client:
            return [(await client.post(f"/push/{name}")).status_code for _ in range(7)]

    answers = asyncio.run(flood())  # a new minute may begin in between
    assert answers[:1] == [400]
    assert 1 <= answers.count(429) <= 4


def test_floods_of_strangers_use_up_nothing_of_a_forge(deployed, name):
    """They may come from the same address, that of a proxy."""

    async def flood() -> tuple[list[int], list[int]]:
        async with receiver(service(name, webhook_rate=3)) as client:

            async def answered(secret: str) -> int:
                headers = signed(push(), secret=secret)
                return (await client.post(f"/push/{name}", content=push(), headers=headers)).status_code

            strangers = [await answered("another secret") for _ in range(7)]
            assert (await client.get("/metrics")).status_code == 200
            return strangers, [await answered(SECRET) for _ in range(7)]

    strangers, forge = asyncio.run(flood())
    assert 1 <= strangers.count(429) <= 4
    assert forge[:1] == [202]
    assert 1 <= forge.count(429) <= 4  # who has the secret is not heeded for ever, either


def test_a_proxy_tells_who_asks_where_it_is_trusted():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    given = {
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
        "DOCMILL_WEBHOOK_SECRET": SECRET,
        "DOCMILL_WEBHOOK_RATE": "1",
        "DOCMILL_WEBHOOK_PROXIES": '["127.0.0.2"]',
    }
    command = [sys.executable, "-m", "infra.cli", "webhook", "--port", str(port)]
    receiver = subprocess.Popen(command, env=os.environ | given)

    def answered(proxy: str) -> list[int]:
        """The answers to three who come through a proxy."""
        way = httpx.HTTPTransport(local_address=proxy, retries=10)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=way) as client:
            headers = [{"x-forwarded-for": f"192.0.2.{number}"} for number in range(3)]
            return [client.post("/push/a", headers=one).status_code for one in headers]

    try:
        assert answered("127.0.0.2") == [400, 400, 400]
        assert 429 in answered("127.0.0.3")
    finally:
        receiver.terminate()
        receiver.wait(60)


@contextmanager
def server_at(url: str) -> Iterator[None]:
    """Have the receiver believe that the Prefect server is there."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: url}):
        yield


def kept() -> list[Path]:
    """What the receiver keeps until the server has it."""
    return list((cache_home() / "pushes").iterdir())


def runs_of(name: str) -> list[str]:
    """The runs that the server has for a repository."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return [str(run.id) for run in client.read_flow_runs() if run.parameters.get("repository") == name]


def until(condition: Callable[[], bool]) -> bool:
    """Whether something comes true within a minute."""
    return any(condition() or threading.Event().wait(0.2) for _ in range(300))


def test_what_is_pushed_without_a_server_is_kept_and_passed_on_by_a_later_receiver(deployed, name):
    async def none_is_kept() -> bool:
        async with receiver(service(name)):
            for _ in range(600):
                if not kept():
                    return True
                await asyncio.sleep(0.1)
        return False

    with server_at("http://127.0.0.1:9/api"):
        answer = sent(service(name), f"/push/{name}", push(), signed(push()))
    assert (answer.status_code, answer.json()["outcome"]) == (202, "kept")
    assert len(kept()) == 1
    assert asyncio.run(none_is_kept())
    assert len(runs_of(name)) == 1


def test_by_a_server_that_keeps_silent_no_forge_is_kept_waiting(name, monkeypatch, usual_answer_s):
    monkeypatch.setattr("infra.webhook._ANSWER_S", usual_answer_s)
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        stack.enter_context(server_at(f"http://127.0.0.1:{silent.getsockname()[1]}/api"))
        answer = sent(service(name), f"/push/{name}", push(), signed(push()))
    assert (answer.status_code, answer.json()["outcome"]) == (202, "kept")
    assert len(kept()) == 1
    assert usual_answer_s < 1  # which was waited; what a busy machine adds is not to be measured


def test_first_pushes_to_many_repositories_at_once_are_a_run_each(deployed, name):
    names = [f"{name}-{number}" for number in range(20)]
    sites = [
        Repository.model_validate({"name": one, "source": "https://example.org/a", "out": f"/srv/{one}"})
        for one in names
    ]

    async def burst() -> list[httpx.Response]:
        async with receiver(service(name, repositories=sites)) as client:
            pushes = (client.post(f"/push/{one}", content=push(), headers=signed(push())) for one in names)
            return await asyncio.gather(*pushes)

    answers = asyncio.run(burst())
    assert {(answer.status_code, answer.json()["outcome"]) for answer in answers} == {(202, "queued")}
    assert {answer.json()["detail"] for answer in answers} == {run for one in names for run in runs_of(one)}
    assert not kept()


def test_what_was_kept_for_a_repository_that_is_gone_stays_where_it_is(deployed, name, caplog):
    from infra.spool import Push, Spool

    spool = Spool(cache_home() / "pushes")
    spool.keep(Push("gone", "main", "key", 1))
    (cache_home() / "pushes" / "other.json").write_text("{}")
    sent(service(name), f"/push/{name}", push(), signed(push()))
    assert len(kept()) == 2
    assert "gone, branch main: a push waits for it to be in the operator's file" in caplog.text
    assert "other.json is no push" in caplog.text


def test_a_run_whose_making_was_not_heard_of_stands_for_no_later_push(deployed, name):
    """A delivery that came again, a run that ended since, and a receiver that died between run and answer."""
    from prefect.client.orchestration import get_client
    from prefect.states import Completed

    from infra.spool import Push, Spool

    with get_client(sync_client=True) as client:
        on_push = client.read_deployment_by_name("on-push/on-push")
        for key in ("key", "key:1"):
            given = {"repository": name, "branch": "main"}
            run = client.create_flow_run_from_deployment(on_push.id, parameters=given, idempotency_key=key)
            client.set_flow_run_state(run.id, Completed(), force=True)
    before = runs_of(name)
    Spool(cache_home() / "pushes").keep(Push(name, "main", "key", 1))
    answer = sent(service(name), f"/push/{name}", push(), signed(push())).json()
    assert answer["detail"] not in before
    assert len(runs_of(name)) == len(before) + 1


def test_a_push_that_cannot_be_kept_is_refused(deployed, name):
    before = deployed()

    async def push_without_a_folder() -> httpx.Response:
        async with receiver(service(name)) as client:
            (cache_home() / "pushes").rmdir()
            (cache_home() / "pushes").write_text("no folder")
            return await client.post(f"/push/{name}", content=push(), headers=signed(push()))

    answer = asyncio.run(push_without_a_folder())
    assert answer.status_code == 503
    assert answer.json()["detail"] == "the push cannot be kept; deliver again later"
    assert deployed() == before
    with pytest.raises(SourceError, match="pushes: File exists; pushes are kept there"):
        sent(service(name), f"/push/{name}", push(), signed(push()))


@contextmanager
def receiving(**given: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """A receiver in a process of its own, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "infra.cli", "webhook", "--port", str(port)]
    process = subprocess.Popen(command, env=os.environ | {"DOCMILL_WEBHOOK_SECRET": SECRET} | given)
    try:
        with httpx.Client(transport=httpx.HTTPTransport(retries=10)) as client:
            assert client.get(f"http://127.0.0.1:{port}/health").status_code == 200
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(60)


def test_what_a_receiver_took_outlives_it(deployed, name):
    from prefect.settings import PREFECT_API_URL

    entry = {"name": name, "source": "https://example.org/a", "out": "/srv/a"}
    given = {"DOCMILL_REPOSITORIES": json.dumps([entry])}
    with receiving(PREFECT_API_URL="http://127.0.0.1:9/api", **given) as (process, url):
        answer = httpx.post(f"{url}/push/{name}", content=push(), headers=signed(push()))
        assert (answer.status_code, answer.json()["outcome"]) == (202, "kept")
        process.kill()
    assert not runs_of(name)
    with receiving(PREFECT_API_URL=PREFECT_API_URL.value(), **given):
        assert until(lambda: len(runs_of(name)) == 1)
        assert until(lambda: not kept())


def test_who_sends_too_much_sees_why_that_is_refused():
    with receiving(PREFECT_API_URL="http://127.0.0.1:9/api") as (_, url):
        body = b"x" * 6_000_000
        assert httpx.post(f"{url}/push/a", content=body, headers=signed(body)).status_code == 413


IMPATIENT = """
import sys
import infra.webhook
from infra.cli import main
infra.webhook._CONNECTED_S = 2.0
sys.exit(main(["webhook", "--port", sys.argv[1]]))
"""


def test_who_sends_nothing_keeps_no_place_for_good():
    from infra.webhook import _AT_ONCE

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    nobody = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "DOCMILL_WEBHOOK_SECRET": SECRET}
    receiver = subprocess.Popen([sys.executable, "-c", IMPATIENT, str(port)], env=os.environ | nobody)
    try:
        url = f"http://127.0.0.1:{port}/health"
        with httpx.Client(transport=httpx.HTTPTransport(retries=10)) as client:
            assert client.get(url).status_code == 200
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(_AT_ONCE)]
        silent[0].sendall(b"GET /health HTTP/1.1\r\nX-Long")
        for one in silent:  # a server that waits would let this time out
            one.settimeout(60)
            assert not one.recv(1)
            one.close()
        assert httpx.get(url).status_code == 200
    finally:
        receiver.terminate()
        receiver.wait(60)


def test_there_is_no_receiver_without_a_secret():
    from infra.webhook import application

    with pytest.raises(SourceError, match="DOCMILL_WEBHOOK_SECRET"):
        application(Service())


def test_secrets_are_not_shown():
    shown = f"{service('a')!r} {service('a').model_dump_json()}"
    assert SECRET not in shown
    assert OLD_SECRET not in shown


HEADERS = st.sampled_from(
    [
        *("x-github-event", "x-github-delivery", "x-hub-signature-256", "x-gitlab-event", "x-gitlab-token"),
        *("x-gitlab-event-uuid", "x-gitea-event", "x-gitea-delivery", "x-gitea-signature", "content-type"),
        *("content-length", "idempotency-key", "transfer-encoding"),
    ]
)
VALUES = st.one_of(
    st.sampled_from(["push", "Push Hook", "application/json", "sha256=", "sha256=" + "0" * 64]),
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40),
)
NAMES = st.one_of(st.just("a"), st.text(max_size=20))
BODIES = st.one_of(st.binary(max_size=200), st.just(push()), st.dictionaries(st.text(), st.text()).map(str))


def fuzzed(path: str, body: bytes | str, headers: dict[str, str]) -> httpx.Response:
    async def send() -> httpx.Response:
        async with receiver(service("a")) as client:
            given = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
            content = body if isinstance(body, bytes) else body.encode()
            return await client.post(f"/push/{quote(path, safe='')}", content=content, headers=given)

    return asyncio.run(send())


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=NAMES, body=BODIES, headers=st.dictionaries(HEADERS, VALUES, max_size=8))
@example(path="a", body=push(), headers={"x-gitlab-event": "Push Hook", "x-gitlab-token": "\xe9"})
def test_nothing_unsigned_builds_or_breaks(deployed, path, body, headers):
    answer = fuzzed(path, body, headers)
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text)


REFS = st.one_of(
    st.just("refs/heads/main"),
    st.text(max_size=30),
    st.text(max_size=30).map(lambda name: f"refs/heads/{name}"),
)
PAYLOADS = st.one_of(
    st.binary(max_size=200),
    st.fixed_dictionaries({"ref": REFS, "after": st.one_of(st.just(SHA), st.text(max_size=44))}).map(
        lambda payload: json.dumps(payload).encode()
    ),
    st.recursive(
        st.none() | st.text() | st.floats(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    ).map(lambda payload: json.dumps(payload).encode()),
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=PAYLOADS,
    forge=st.sampled_from(["github", "gitlab", "gitea"]),
    event=st.sampled_from(["push", "ping"]),
)
def test_nothing_signed_breaks(deployed, body, forge, event):
    answer = fuzzed("a", body, signed(body, forge, event=event))
    assert answer.status_code in {200, 202, 400}, (answer.status_code, answer.text)
