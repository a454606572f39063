"""The last push wins: what is published is what the branch names, and nothing is built twice or at once."""

from __future__ import annotations

import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from flows.settings import operator_file


@pytest.fixture
def site(home, git_repository, tmp_path, server) -> Path:
    """A repository in the operator's file, and its limit at the server; gives where its site goes."""
    from prefect.client.orchestration import get_client

    from flows.on_push import limit_of

    operator_file().parent.mkdir(parents=True)
    operator_file().write_text(
        f'[[repositories]]\nname = "workshop"\nsource = "{git_repository.url}"\n'
        f'branches = ["main", "old"]\nout = "{tmp_path}/site-{{branch}}"\nmodel = "none"\n'
    )
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(limit_of("workshop"), 1)
    return tmp_path / "site-main"


def run(**parameters):
    from flows.on_push import on_push

    return on_push(**{"repository": "workshop", **parameters}, return_state=True)


def test_the_newest_is_published_once(git_repository, site):
    first = git_repository.push("first")
    state = run()
    assert (state.name, first in state.message) == ("Published", True)
    assert "first" in (site / "symbols.json").read_text()
    git_repository.push("second")
    git_repository.push("third")
    assert run().name == "Published"
    assert "third" in (site / "symbols.json").read_text()
    assert run(branch="main").name == "Unchanged"
    assert run(rebuild=True).name == "Published"
    (site / "index.html").unlink()
    assert run().name == "Published"  # what is damaged is not published


def test_branches_have_sites_of_their_own(git_repository, site):
    git_repository.push("first")
    git_repository.push("second", branch="old")
    assert {run().name, run(branch="old").name} == {"Published"}
    assert "first" in (site / "symbols.json").read_text()
    assert "second" in (site.with_name("site-old") / "symbols.json").read_text()


def test_what_is_pushed_during_a_build_is_published_instead(git_repository, site, monkeypatch):
    from flows import on_push

    opened = on_push.open_source
    pushes = iter(("second", "third", "fourth"))

    def open_source(*arguments):
        source = opened(*arguments)
        git_repository.push(next(pushes))
        return source

    git_repository.push("first")
    monkeypatch.setattr(on_push, "open_source", open_source)
    assert run().name == "Published"
    assert "second" in (site / "symbols.json").read_text()  # steady pushes do not put it off for ever
    assert next(pushes) == "fourth"
    monkeypatch.undo()


def test_two_runs_of_a_repository_take_turns(git_repository, site):
    from prefect.client.orchestration import get_client
    from prefect.concurrency.sync import concurrency

    from flows.on_push import WAITING, limit_of

    git_repository.push("first")
    with ThreadPoolExecutor(1) as pool, get_client(sync_client=True) as client:
        with concurrency(limit_of("workshop"), strict=True):
            waiting = pool.submit(run)
            while not [run for run in client.read_flow_runs() if run.state.name == WAITING]:
                time.sleep(0.1)
            assert not site.exists()
            git_repository.push("second")
        assert waiting.result().name == "Published"
    assert "second" in (site / "symbols.json").read_text()


class Between:
    """A way to a server; what `fails` holds of is answered with 500, and goes no further."""

    def __init__(self, upstream: int) -> None:
        self.refused = 0
        self.fails: Callable[[bytes], bool] = lambda sent: False
        self._upstream = upstream
        between = self

        class Relay(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):  # either may be gone
                    between.relay(self.request)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Relay)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.api = f"http://127.0.0.1:{self._server.server_address[1]}/api"

    def relay(self, client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self._upstream)) as server:
            threading.Thread(target=self._pass_on, args=(server, client), daemon=True).start()
            while sent := client.recv(1 << 16):
                if self.fails(sent):
                    self.refused += 1
                    client.sendall(b"HTTP/1.1 500 \r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                    client.shutdown(socket.SHUT_WR)
                    while client.recv(1 << 16):  # else it might not read the answer
                        pass
                    break
                server.sendall(sent)
            server.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _pass_on(server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while answered := server.recv(1 << 16):
                client.sendall(answered)
            client.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def between(server) -> Iterator[Between]:
    from prefect.settings import PREFECT_API_URL

    way = Between(urlsplit(str(PREFECT_API_URL.value())).port)
    yield way
    way.close()


PUSHED = "from flows.on_push import on_push; print(on_push('workshop', return_state=True))"


def test_a_server_that_fails_for_a_while_ends_no_run(git_repository, site, between, request):
    """While it waits, when its turn comes, in the middle of the build, and at the end of its turn."""
    from prefect.client.orchestration import get_client
    from prefect.concurrency.sync import concurrency

    from flows.on_push import BUILDING, WAITING, limit_of

    def comes_true(holds: Callable[[], object]) -> object:
        while run.poll() is None and not (found := holds()):
            time.sleep(0.1)
        assert run.poll() is None, run.stdout.read()
        return found

    git_repository.push("first")
    wrong = {b'"Building"': {1, 2}, b"POST /api/artifacts/ ": {1}, b"/decrement-with-lease": {2}}
    seen: Counter[bytes] = Counter()

    def fails_at_times(sent: bytes) -> bool:
        what = next((one for one in wrong if one in sent), b"")
        seen[what] += 1
        return seen[what] in wrong.get(what, ())

    with get_client(sync_client=True) as client, concurrency(limit_of("workshop"), strict=True):
        run = subprocess.Popen(
            [sys.executable, "-c", PUSHED],
            env=os.environ | {"PREFECT_API_URL": between.api},
            stdout=subprocess.PIPE,
            text=True,
        )
        request.addfinalizer(run.kill)
        (waiting,) = comes_true(lambda: [one for one in client.read_flow_runs() if one.state.name == WAITING])
        between.fails = lambda sent: b"/increment-with-lease" in sent
        comes_true(lambda: between.refused >= 2)
        between.fails = lambda sent: True
        before = between.refused
        comes_true(lambda: between.refused >= before + 2)
        git_repository.push("second")
        between.fails = fails_at_times
    printed, _ = run.communicate(timeout=200)
    with get_client(sync_client=True) as client:
        states = [state.name for state in client.read_flow_run_states(waiting.id)]
    assert printed.startswith("Published("), printed
    assert BUILDING in states, states  # before it looked: what is pushed then is not left to it
    assert [seen[what] >= max(times) for what, times in wrong.items()] == [True] * 3, seen
    assert "second" in (site / "symbols.json").read_text()


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"repository": "unknown"}, "repository 'unknown': is not in the operator's file"),
        ({"branch": "other"}, "repository 'workshop': branch 'other' is not in the operator's file"),
        ({"branch": "old"}, "has no branch 'old'"),
        ({"attempt": 4}, "workshop: 3 runs died one after the other"),
    ],
)
def test_a_run_that_cannot_build_says_why_in_a_line(git_repository, site, monkeypatch, parameters, said):
    monkeypatch.setattr("flows.on_push._AGAIN_AFTER_S", (0.1,))
    git_repository.push("first")
    state = run(**parameters)
    assert state.is_failed()
    assert said in state.message
    assert "\n" not in state.message


def test_a_forge_that_does_not_answer_is_asked_again(git_repository, site, monkeypatch):
    monkeypatch.setattr("flows.on_push._AGAIN_AFTER_S", (2.5,))
    git_repository.push("first")
    away = git_repository.bare.rename(git_repository.bare.with_name("away"))
    threading.Timer(2, away.rename, [git_repository.bare]).start()
    assert run().name == "Published"


def test_without_its_limit_a_run_fails(git_repository, site):
    from prefect.client.orchestration import get_client

    from flows.on_push import limit_of

    git_repository.push("first")
    with get_client(sync_client=True) as client:
        client.delete_global_concurrency_limit_by_name(limit_of("workshop"))
    assert "run docmill deploy" in run().message
    assert not site.exists()


def test_the_engine_is_held_by_one_build_at_a_time(tmp_path):
    from tasks.generate.writer import engine_held

    held, order = threading.Event(), []

    def other() -> None:
        held.wait()
        with engine_held("cpu", tmp_path):
            order.append("other")

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(other)
        with engine_held("cpu", tmp_path):
            held.set()
            time.sleep(0.2)
            order.append("this")
        done.result()
    assert order == ["this", "other"]
