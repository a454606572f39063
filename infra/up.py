"""All on one machine: a Prefect server unless one is named, a worker, the receiver; until interrupted."""

from __future__ import annotations

import ctypes
import ipaddress
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, PREFECT_HOME, temporary_settings

from flows import logs
from flows.settings import CONFIG_VARIABLE, Service, cache_home
from infra.crashes import crash_what_died
from infra.deploy import as_deploy_error, deploy, deployments_of, named_server
from tasks.documents import DocmillError, SourceError
from tasks.files import locked

_log = logging.getLogger("docmill.up")
_LIBC = ctypes.CDLL(None)

_POLL_S = 0.5
_SERVER_STARTS_S = 120
_STOPS_S = 15
_SETTLED_S = 20
_EARLY_ENDS = 3
_RUNS_AT_ONCE = 8  # one waits and one builds for each repository; few of them use the processor
_NOT_OF_BUILDS = {
    "DOCMILL_WEBHOOK_SECRET",
    "DOCMILL_WEBHOOK_SECRET_BEFORE",
    "DOCMILL_FAILURE_URL",
    "PREFECT_SERVER_API_AUTH_STRING",
}
SERVER_DEFAULTS = {
    # Else the UI looks for the API at port 4200 of the machine that the browser runs on.
    "PREFECT_SERVER_UI_API_URL": "/api",
    # Else runs are kept for ever. Of those that go, after 90 days, none has a site's last report, which each
    # night writes anew.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
}
# prctl(2)
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class UpError(DocmillError):
    """A part does not start, or ends again and again."""


class Listen(NamedTuple):
    """An address, the port of the Prefect server there, and that of the receiver."""

    host: str
    port: int
    webhook_port: int


class Part:
    """A child process, in a session of its own: an interrupt of the terminal is not its to heed."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        ended_by: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name, self._command, self._environment = name, command, environment
        self._ended_by = ended_by
        self._early_ends = 0
        self.start()

    def start(self) -> None:
        """Start it, and have it end with this process, however that ends."""
        self._since = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", *self._command],
            env=self._environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_become_a_part,
        )

    def look_after(self) -> None:
        """Start it again if it ended.

        Raises:
            UpError: It ends soon after each start.
        """
        status = self.process.poll()
        if status is None:
            return
        early = time.monotonic() - self._since < _SETTLED_S
        self._early_ends = self._early_ends + 1 if early else 1
        if self._early_ends >= _EARLY_ENDS:
            raise UpError(
                f"{self.name}: ended {_EARLY_ENDS} times soon after its start; its last lines say why"
            )
        _log.warning("%s ended (status %s); starting it again", self.name, status)
        self.start()

    def stop(self) -> None:
        """End it."""
        self.process.send_signal(self._ended_by)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOPS_S)
        self.process.kill()
        self.process.wait()


def _become_a_part() -> None:
    """Have a new process end with the one that starts it, however that ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # Ignored, as a shell has it for what it starts in the background, it would be so here, too; and Prefect's
    # worker ends by sending it to itself.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _end_builds(parts: Iterable[Part]) -> None:
    """End all processes whose parent has ended, and what they started: builds, which then tell the server."""
    known = {part.process.pid for part in parts}
    builds = [child for child in psutil.Process().children() if child.pid not in known]
    started = [*builds, *(inner for build in builds for inner in _started_by(build))]
    _signal(builds, signal.SIGTERM)
    until = time.monotonic() + _STOPS_S
    while (alive := [one for one in started if _is_alive(one)]) and time.monotonic() < until:
        time.sleep(_POLL_S / 5)
    _signal(alive, signal.SIGKILL)
    psutil.wait_procs(alive, _POLL_S)
    _bury(known)


def _started_by(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


def _is_alive(process: psutil.Process) -> bool:
    """Whether a process has not ended; whoever ended is there until its parent has taken note."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _signal(processes: Iterable[psutil.Process], number: int) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def up(service: Service, config: Path | None, listen: Listen, tell: Callable[[str], None]) -> None:
    """Run docmill as a service until interrupted.

    Args:
        service: What is built, and when.
        config: The operator's file, where it is not at its usual place.
        listen: Where; beyond loopback a Prefect server that is started asks for an auth string.
        tell: Told, line by line, what runs where.

    Raises:
        SourceError: There is no secret for webhooks, `nightly` is no cron line, or an address is taken.
        DeployError: The Prefect server that is named does not answer.
        UpError: Something does not start, or does not keep running.
    """
    if service.webhook_secret is None:
        raise SourceError("webhook: set DOCMILL_WEBHOOK_SECRET, as in $(openssl rand -hex 32)")
    deployments_of(service)  # else the server would be started first
    _refuse_taken(listen.host, listen.webhook_port)
    if is_own := not PREFECT_API_URL.value():
        if listen.port == listen.webhook_port:
            raise SourceError(f"port {listen.port}: give the Prefect server and the receiver one each")
        _refuse_taken(listen.host, listen.port)
        refuse_unwritable_home()
    environment = {**os.environ, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    if config is not None:
        environment[CONFIG_VARIABLE] = str(config.resolve())
    logs.write_logs(service.log_format)
    if service.log_format == "json":
        environment |= logs.ENVIRONMENT
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)  # a build whose worker died is this process's to end
    with ExitStack() as stack, suppress(KeyboardInterrupt):
        stack.enter_context(_ended_by_sigterm())
        parts: list[Part] = []
        stack.callback(_stop, parts)
        if is_own:
            stack.enter_context(locked(cache_home() / "up.lock", _tells_of_another(tell)))
            stack.enter_context(_own_server(listen, environment, parts, tell))
        environment["PREFECT_API_URL"] = named_server()
        _create_work_pool(service.work_pool)
        deploy(service)
        if is_own:  # all that ran was of this machine, and ended with the docmill up before
            crash_what_died()
        parts.append(_worker(service.work_pool, environment))
        address = ["--host", listen.host, "--port", str(listen.webhook_port)]
        parts.append(Part("webhook", ["infra.cli", "webhook", *address], environment))
        for line in _running(service, listen):
            tell(line)
        while True:
            time.sleep(_POLL_S)
            _bury({part.process.pid for part in parts})
            for part in parts:
                part.look_after()


def _tells_of_another(tell: Callable[[str], None]) -> Callable[[], None]:
    """Whoever waits for another one to end, whose builds would go on at this one's server, says so."""
    return lambda: tell("another docmill up of this user is stopping, or runs: waiting for its end")


def _bury(parts: set[int]) -> None:
    """Take leave of processes that ended and whose parent had died."""
    with suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid in parts:  # which are looked after
                return
            os.waitpid(ended.si_pid, os.WNOHANG)


def _running(service: Service, listen: Listen) -> Iterator[str]:
    api = named_server()
    names = ", ".join(one.name for one in service.repositories)
    yield f"Prefect        {api.removesuffix('/api')}"
    yield f"webhooks       http://{_in_url(listen.host)}:{listen.webhook_port}/push/REPOSITORY"
    yield f"repositories   {names or 'none; add [[repositories]] to docmill.toml'}"
    yield f"nightly        {service.nightly} {service.time_zone}"


@contextmanager
def _own_server(
    listen: Listen, environment: dict[str, str], parts: list[Part], tell: Callable[[str], None]
) -> Iterator[None]:
    """Start a Prefect server, and have this process and later parts talk to it."""
    # In memory, the default, a lease would not outlive the server, and its repository be held for ever.
    environment["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"] = (
        "prefect.server.concurrency.lease_storage.filesystem"
    )
    for name, value in SERVER_DEFAULTS.items():
        environment.setdefault(name, value)
    auth = environment.get("PREFECT_SERVER_API_AUTH_STRING")
    if not auth and not _is_loopback(listen.host):
        auth = _kept_auth()
        tell(f"auth string    in {_auth_file()}")
    if auth:
        environment |= {"PREFECT_SERVER_API_AUTH_STRING": auth, "PREFECT_API_AUTH_STRING": auth}
    address = ["--host", listen.host, "--port", str(listen.port)]
    parts.append(Part("server", ["infra.server", "server", "start", *address], environment))
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)
    api = f"http://{_in_url(reached)}:{listen.port}/api"
    _wait_for(f"{api}/health", parts[-1])
    with temporary_settings({PREFECT_API_URL: api, PREFECT_API_AUTH_STRING: auth}):
        yield


def _auth_file() -> Path:
    return cache_home() / "server-auth"


def _kept_auth() -> str:
    """The auth string of this machine's server, made once and readable by its owner alone."""
    _auth_file().parent.mkdir(parents=True, exist_ok=True)
    with locked(_auth_file().with_suffix(".lock")):
        kept = _auth_file().read_text() if _auth_file().exists() else ""
        if not kept:  # never made, or its making was broken off
            kept = f"docmill:{secrets.token_urlsafe(32)}"
            descriptor = os.open(_auth_file(), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(kept)
    return kept


def _worker(pool: str, environment: Mapping[str, str]) -> Part:
    """The process that starts builds; some secrets are not its to know."""
    kept = {name: value for name, value in environment.items() if name not in _NOT_OF_BUILDS}
    kept.setdefault("PREFECT_WORKER_QUERY_SECONDS", "2")
    start = ["prefect", "worker", "start", "--pool", pool, "--type", "process", "--limit", str(_RUNS_AT_ONCE)]
    # Asked to end, it would go on for a while: end its builds, and begin those that are made in their place.
    return Part("worker", start, kept, ended_by=signal.SIGKILL)


def _create_work_pool(name: str) -> None:
    with as_deploy_error(), get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=name, type="process"))


def _wait_for(url: str, part: Part) -> None:
    until = time.monotonic() + _SERVER_STARTS_S
    while time.monotonic() < until:
        if part.process.poll() is not None:
            raise UpError(f"{part.name}: ended with status {part.process.returncode}; its last lines say why")
        with suppress(httpx.HTTPError):
            if httpx.get(url, timeout=2).is_success:
                return
        time.sleep(_POLL_S)
    raise UpError(f"{part.name}: did not answer at {url} within {_SERVER_STARTS_S} s")


def _stop(parts: list[Part]) -> None:
    """End the parts, the last one first, and builds when their worker has: they tell the server of it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    for part in reversed(parts):
        part.stop()
        _end_builds(parts)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Have a request to end be an interrupt: service managers send it."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _refuse_taken(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SourceError(
                f"{host} port {port}: {error.strerror}; choose another, or end what has it"
            ) from error


def refuse_unwritable_home() -> None:
    """See that a Prefect server can keep its leases, and unless told otherwise its database.

    Raises:
        SourceError: It cannot.
    """
    home = PREFECT_HOME.value()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        raise SourceError(
            f"PREFECT_HOME {home}: {error.strerror}; the Prefect server keeps its state there: "
            "set it to a place on a disk"
        ) from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
