"""docmill as a service: what the receiver takes, from push to page, a night of many repositories, a long run.

    python benchmarks/operations.py [--pushes N] [--edits N] [--repositories N] [--runs N] [--source FOLDER]

Everything is real and on this machine: `docmill up` with a Prefect server on SQLite, a worker, the receiver
and bare git repositories. `--source` is the package whose one function is edited (default: click as it is
installed); the night is one of so many packages of one module. The receiver gets pushes to one repository,
which share a run, and after the night one to each, which all make a run; what it keeps is passed on when the
Prefect server is ready for it, and what it refuses is not taken. In the
long run one run of on-push follows the other, every second one with something to publish; memory and open
files are those of the server, worker and receiver, sampled between runs, when no build is at work.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import json
import os
import platform
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import psutil

HERE = Path(__file__).resolve().parent
SECRET = secrets.token_hex(32)
AT_ONCE = 50
TAKEN = ("queued", "waiting", "kept")
PATIENCE_S = 300
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
SAMPLES = 10


class Repository:
    """A bare repository, and a clone that pushes to it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self.out = name, folder / "sites" / name
        self.bare, self.clone = folder / "bare" / name, folder / "clones" / name
        git(folder, "init", "--quiet", "--bare", "--initial-branch=main", self.bare)
        git(folder, "clone", "--quiet", self.bare, self.clone)

    def push(self, path: str, text: str) -> None:
        (self.clone / path).write_text(text)
        git(self.clone, "add", ".")
        git(self.clone, "commit", "--quiet", "--message", path)
        git(self.clone, "push", "--quiet", "origin", "HEAD:main")


def git(folder: Path, *arguments: str | Path) -> None:
    who = ["-c", "user.name=docmill", "-c", "user.email=docmill@example.org"]
    subprocess.run(["git", *who, *map(str, arguments)], cwd=folder, check=True, stderr=subprocess.DEVNULL)


def module(name: str) -> str:
    return (
        f'"""A module."""\n\n\ndef {name}(x: int) -> int:\n    """Return what was given."""\n    return x\n'
    )


class Service:
    """A running `docmill up`."""

    def __init__(self, folder: Path, repositories: list[Repository]) -> None:
        self.folder = folder
        server, webhook = free_ports()
        self.api, self.hooks = f"http://127.0.0.1:{server}/api", f"http://127.0.0.1:{webhook}"
        tables = [
            f'[[repositories]]\nname = "{one.name}"\nsource = "{one.bare.as_uri()}"\nout = "{one.out}"\n'
            for one in repositories
        ]
        config = folder / "operator.toml"
        config.write_text('model = "none"\nwebhook_rate = 1000000\n' + "".join(tables))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        environment |= {
            "PREFECT_HOME": str(folder / "prefect"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "DOCMILL_WEBHOOK_SECRET": SECRET,
        }
        ports = ["--port", str(server), "--webhook-port", str(webhook)]
        command = [sys.executable, "-m", "infra.cli", "up", "--config", str(config), *ports]
        self._log = (folder / "up.log").open("w")
        self.process = subprocess.Popen(
            command, cwd=HERE.parent, env=environment, stdout=self._log, stderr=subprocess.STDOUT
        )
        self.client = httpx.Client(transport=httpx.HTTPTransport(retries=5), timeout=60)
        for url in (f"{self.hooks}/health", f"{self.api}/deployments/name/on-push/on-push"):
            self._wait_for(url)

    def _wait_for(self, url: str) -> None:
        for _ in range(600):
            with suppress(httpx.HTTPError):
                if self.client.get(url).is_success:
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.2)
        raise SystemExit(f"{url} does not answer; see {self.folder / 'up.log'}")

    def started(self, flow: str, **parameters: Any) -> str:
        """The id of a new run."""
        deployment = self.client.get(f"{self.api}/deployments/name/{flow}/{flow}").json()["id"]
        url = f"{self.api}/deployments/{deployment}/create_flow_run"
        return str(self.client.post(url, json={"parameters": parameters}).raise_for_status().json()["id"])

    def ended(self, run: str) -> dict[str, Any]:
        """A run, when it has ended."""
        while True:
            with suppress(httpx.HTTPError):
                found = self.client.get(f"{self.api}/flow_runs/{run}").raise_for_status().json()
                if found["state_type"] in ENDED:
                    return dict(found)
            time.sleep(0.1)

    def wait_until_idle(self) -> None:
        """Return when every run of on-push has ended."""
        unfinished = {"state": {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING"]}}}
        wanted = {"flows": {"name": {"any_": ["on-push"]}}, "flow_runs": unfinished}
        left = 1
        while left:
            time.sleep(1)
            with suppress(httpx.HTTPError):
                answer = self.client.post(f"{self.api}/flow_runs/count", json=wanted)
                left = answer.raise_for_status().json()

    def parts(self) -> dict[str, psutil.Process]:
        """The server, the worker and the receiver."""
        named = {"server": "server start", "worker": "worker start", "receiver": "infra.cli webhook"}
        children = psutil.Process(self.process.pid).children()
        lines = {child: " ".join(child.cmdline()) for child in children}
        return {name: child for name, sign in named.items() for child, line in lines.items() if sign in line}

    def sample(self, runs: int) -> dict[str, Any]:
        """What the service holds now: megabytes and open files of each part with its children, of disk."""
        found: dict[str, Any] = {"runs": runs}
        for name, part in self.parts().items():
            tree = [part, *part.children(recursive=True)]
            found[f"{name}_mb"] = round(sum(one.memory_full_info().uss for one in tree) / 1e6)
            found[f"{name}_files"] = sum(one.num_fds() for one in tree)
        files = (self.folder / "prefect").rglob("prefect.db*")
        found["database_mb"] = round(sum(file.stat().st_size for file in files) / 1e6, 1)
        return found

    def close(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(120)
        self._log.close()


def free_ports() -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def signed(name: str) -> dict[str, Any]:
    """A push of GitHub's, as arguments of an HTTP client."""
    body = json.dumps({"ref": "refs/heads/main", "after": secrets.token_hex(20)}).encode()
    proof = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    headers = {
        "content-type": "application/json",
        "x-github-event": "push",
        "x-github-delivery": str(uuid.uuid4()),
        "x-hub-signature-256": f"sha256={proof}",
    }
    return {"url": f"/push/{name}", "content": body, "headers": headers}


def taken(service: Service, names: list[str], at_once: int) -> dict[str, Any]:
    """What the receiver answers to a push for each of these names, and how fast."""
    seconds: list[float] = []
    answers: dict[str, int] = {}

    async def push(client: httpx.AsyncClient, pending: Iterator[str]) -> None:
        for name in pending:
            request = signed(name)
            start = time.perf_counter()
            answer = await client.post(**request)
            seconds.append(time.perf_counter() - start)
            outcome = answer.json()["outcome"]
            answers[outcome] = answers.get(outcome, 0) + 1

    async def push_all() -> float:
        async with httpx.AsyncClient(base_url=service.hooks, timeout=60) as client:
            pending, start = iter(names), time.perf_counter()
            await asyncio.gather(*(push(client, pending) for _ in range(at_once)))
            return time.perf_counter() - start

    start = time.perf_counter()
    whole = asyncio.run(push_all())
    while any((service.folder / "cache" / "docmill" / "pushes").iterdir()):
        time.sleep(0.05)
    passed_on = time.perf_counter() - start
    ordered = sorted(seconds)
    return {
        "at_once": at_once,
        "repositories": len(set(names)),
        "pushes_a_second": round(sum(answers.get(outcome, 0) for outcome in TAKEN) / whole, 1),
        "median_s": round(statistics.median(ordered), 3),
        "p99_s": round(ordered[int(0.99 * (len(ordered) - 1))], 3),
        "slowest_s": round(ordered[-1], 3),
        "answers": answers,
        "passed_on_s": round(passed_on, 2),
    }


def published(service: Service, repository: Repository, count: int) -> list[float]:
    """Seconds from each of so many pushes of a one-function edit to its being in the published site."""
    found = []
    for number in range(count):
        name = f"edited_{number}"
        repository.push("docmill_edited.py", module(name))
        start = time.perf_counter()
        given = signed(repository.name)
        given["url"] = service.hooks + given["url"]
        service.client.post(**given).raise_for_status()
        while name not in (repository.out / "symbols.json").read_text():
            if time.perf_counter() - start > PATIENCE_S:
                raise SystemExit(f"{name} was not published; see {service.folder / 'up.log'}")
            time.sleep(0.02)
        found.append(time.perf_counter() - start)
        time.sleep(3)  # the run ends
    return found


def night(service: Service) -> dict[str, Any]:
    """A nightly run, and the most memory that all processes held meanwhile."""
    start, run, peak = time.perf_counter(), service.started("nightly"), 0.0
    while True:
        time.sleep(1)
        with suppress(psutil.NoSuchProcess):
            tree = psutil.Process(service.process.pid).children(recursive=True)
            peak = max(peak, sum(one.memory_full_info().pss for one in tree) / 1e6)
        answer = service.client.get(f"{service.api}/flow_runs/{run}")
        found: dict[str, Any] = answer.json() if answer.is_success else {"state_type": None}
        if found["state_type"] in ENDED:
            seconds = round(time.perf_counter() - start, 1)
            message = found["state"]["message"]
            return {
                "seconds": seconds,
                "state": found["state_name"],
                "message": message,
                "peak_mb": round(peak),
            }


def long_run(service: Service, repository: Repository, runs: int) -> Iterator[dict[str, Any]]:
    """What the service holds as one run follows the other."""
    yield service.sample(0)
    for number in range(1, runs + 1):
        if number % 2:
            repository.push("a.py", module(f"run_{number}"))
        state = service.ended(service.started("on-push", repository=repository.name))["state_name"]
        if state not in {"Published", "Unchanged"}:
            raise SystemExit(f"run {number}: {state}")
        if number % max(1, runs // SAMPLES) == 0:
            time.sleep(5)  # processes of builds end
            yield service.sample(number)


@contextmanager
def serving(folder: Path, repositories: list[Repository]) -> Iterator[Service]:
    service = Service(folder, repositories)
    try:
        yield service
    finally:
        service.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pushes", type=int, default=2000)
    parser.add_argument("--edits", type=int, default=10)
    parser.add_argument("--repositories", type=int, default=100)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--source", type=Path, default=Path(str(find_spec("click").origin)).parent)  # type: ignore[union-attr]
    arguments = parser.parse_args()
    results: dict[str, Any] = {"processor": processor(), "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        edited = Repository(folder, "edited")
        shutil.copytree(arguments.source, edited.clone / arguments.source.name)
        edited.push("docmill_edited.py", module("at_first"))
        many = [Repository(folder, f"r{number:03}") for number in range(arguments.repositories)]
        for one in many:
            one.push("a.py", module(one.name))
        with serving(folder, [edited, *many]) as service:
            service.ended(service.started("on-push", repository=edited.name))
            edits = published(service, edited, arguments.edits)
            results["edit"] = {
                "source": arguments.source.name,
                "median_s": round(statistics.median(edits), 2),
                "slowest_s": round(max(edits), 2),
            }
            print(f"push to page: {results['edit']}", flush=True)
            results["receiver"] = [
                taken(service, [many[0].name] * arguments.pushes, at_once) for at_once in (1, 10, AT_ONCE)
            ]
            print(*results["receiver"], sep="\n", flush=True)
            results["night"] = {"repositories": len(many) + 1, **night(service)}
            print(f"a night: {results['night']}", flush=True)
            for at_once in (1, AT_ONCE):  # all is published now, so that these runs end soon
                service.wait_until_idle()
                results["receiver"].append(taken(service, [one.name for one in many], at_once))
                print(results["receiver"][-1], flush=True)
            service.wait_until_idle()
            keep(results)  # the rest takes an hour
            results["long_run"] = []
            for sample in long_run(service, many[0], arguments.runs):
                results["long_run"].append(sample)
                print("  ", sample, flush=True)
                keep(results)


def keep(results: dict[str, Any]) -> None:
    file = HERE / "results" / f"operations-{datetime.now(UTC):%Y-%m-%d}.json"
    file.write_text(json.dumps(results, indent=1) + "\n")


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if "model name" in line), platform.machine()
    )


if __name__ == "__main__":
    main()
