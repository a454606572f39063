"""The services of infra/compose.yaml as processes of this machine, where there are no containers.

From the file come commands, environments, volumes, health checks, how many there are of a service, and who
waits for whom. What a container has of its own is stood in for: names of hosts, ports, folders, a home; and
what the image of PostgreSQL makes of its environment.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psutil
import pytest

from tests.infra.test_up import free_ports
from tests.postgres import postgresql, programs

COMPOSE = Path(__file__).parents[1] / "infra" / "compose.yaml"

_HOST = re.compile(r"\b(?:postgres|redis|api)(?=:\d)|^(?:postgres|redis|api)$|\b0\.0\.0\.0\b")
_PORTS = ("4200", "4201", "5432", "6379", "8080")  # the last is one of each worker
_PORT = re.compile(rf"\b(?:{'|'.join(_PORTS)})\b")
_FOLDERS = {"/var/lib/docmill": "state", "/etc/docmill": "etc", "/srv/docs": "docs", "/data": "redis"}
_FOLDER = re.compile(rf"^(?:{'|'.join(_FOLDERS)})\b")
_VARIABLE = re.compile(r"\$\$|\$\{(\w+):(?:\?[^}]*|-([^}]*))\}")
_PATIENCE_S = 180
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def services() -> dict[str, Any]:
    """The services as the file has them."""
    return msgspec.yaml.decode(COMPOSE.read_bytes())["services"]


def stays(service: Mapping[str, Any]) -> bool:
    """Whether a service is not done when its command is."""
    return service["restart"] != "no"


class Instance(NamedTuple):
    """One of the containers of a service, counted from 1."""

    service: str
    number: int


class Topology:
    """Services that run, and what a test needs to reach them."""

    def __init__(self, folder: Path, secrets: Mapping[str, str]) -> None:
        """Start nothing yet.

        Args:
            folder: Where all that services keep goes.
            secrets: What infra/.env would hold.
        """
        for program in ("redis-server", "redis-cli"):
            if not shutil.which(program):
                pytest.skip(f"{program} is not installed")
        self.folder, self._secrets = folder, secrets
        self._path = ":".join([str(Path(sys.executable).parent), str(programs()), "/usr/bin", "/bin"])
        self._services = services()
        self._started: set[str] = set()
        self.processes: dict[Instance, subprocess.Popen[bytes]] = {}
        workers = self.instances("worker")
        shared, own = free_ports(len(_PORTS)), free_ports(len(workers))
        self._ports = dict(zip(_PORTS, map(str, shared), strict=True))
        self._own_ports = dict(zip(workers, map(str, own), strict=True))
        self._stack = ExitStack()
        for name in ("home", "logs", "etc", "docs", "state", "redis", "postgres"):
            (folder / name).mkdir()

    @property
    def api(self) -> str:
        """The address of the Prefect server's API."""
        return f"http://127.0.0.1:{self._ports['4200']}/api"

    @property
    def hooks(self) -> str:
        """The address of the receiver."""
        return f"http://127.0.0.1:{self._ports['4201']}"

    def instances(self, service: str) -> list[Instance]:
        """The containers that there are of a service."""
        count = self._services[service].get("deploy", {}).get("replicas", 1)
        return [Instance(service, number) for number in range(1, count + 1)]

    def up(self) -> None:
        """Start all services, each after what it depends on."""
        for name in self._services:
            self._start_after_others(name)
        for name, service in self._services.items():
            if stays(service):
                self._wait_until(name, "service_healthy")

    def _start_after_others(self, name: str) -> None:
        if name in self._started:
            return
        self._started.add(name)
        for other, how in self._services[name].get("depends_on", {}).items():
            self._start_after_others(other)
            self._wait_until(other, how["condition"])
        if name == "postgres":
            self._start_postgres()
            return
        for instance in self.instances(name):
            self.start(instance)

    def start(self, instance: Instance) -> None:
        """Start a container's command, or start it again."""
        service = self._services[instance.service]
        with self._log(instance).open("ab") as log:
            self.processes[instance] = subprocess.Popen(
                [self._here(part, instance) for part in service["command"]],
                env=self._environment(instance),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
            )

    def _start_postgres(self) -> None:
        """What PostgreSQL's image does with its environment."""
        made = self._environment(Instance("postgres", 1))
        password = self.folder / "password"
        password.write_text(made["POSTGRES_PASSWORD"])
        password.chmod(0o644)
        assert made["POSTGRES_USER"] == "docmill"
        listening = f"-c listen_addresses=127.0.0.1 -c port={self._ports['5432']} -c unix_socket_directories="
        how = ["--auth=scram-sha-256", f"--pwfile={password}"]
        self._stack.enter_context(postgresql(self.folder / "postgres", listening, *how))
        reached = ["--host=127.0.0.1", f"--port={self._ports['5432']}", "--username=docmill"]
        environment = {"PATH": self._path, "PGPASSWORD": made["POSTGRES_PASSWORD"]}
        subprocess.run(["createdb", *reached, made["POSTGRES_DB"]], env=environment, check=True)

    def _wait_until(self, name: str, condition: str) -> None:
        for instance in self.instances(name):
            if condition == "service_completed_successfully":
                assert self.processes[instance].wait(_PATIENCE_S) == 0, self.told(instance)
            else:
                assert condition == "service_healthy"
                assert self.comes_true(lambda instance=instance: self.is_healthy(instance)), self.told(
                    instance
                )

    def is_healthy(self, instance: Instance) -> bool:
        """Whether a container's own health check passes."""
        kind, *command = self._services[instance.service]["healthcheck"]["test"]
        if kind == "CMD-SHELL":
            command = ["sh", "-c", *command]
        done = subprocess.run(
            [self._here(part, instance) for part in command],
            env=self._environment(instance),
            cwd=self.folder,
            capture_output=True,
            check=False,
        )
        return done.returncode == 0

    @staticmethod
    def comes_true(holds: Callable[[], bool], seconds: float = _PATIENCE_S) -> bool:
        """Whether something holds before long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if holds():
                return True
            time.sleep(0.2)
        return False

    def told(self, instance: Instance) -> str:
        """What a container printed."""
        log = self._log(instance)
        return f"{instance}: " + (log.read_text(errors="replace") if log.exists() else "")

    def kill(self, instance: Instance) -> None:
        """End a container's processes as a lack of memory does."""
        process = psutil.Process(self.processes[instance].pid)
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self.processes[instance].wait()

    def close(self) -> None:
        """End all services."""
        for instance in reversed(self.processes):
            if self.processes[instance].poll() is None:
                self.kill(instance)
        self._stack.close()

    def _log(self, instance: Instance) -> Path:
        return self.folder / "logs" / f"{instance.service}-{instance.number}"

    def _environment(self, instance: Instance) -> dict[str, str]:
        """What the file sets, and no more of this machine's than a container has."""
        service = self._services[instance.service]
        found = {"PATH": self._path, "HOME": str(self.folder / "home"), "LANG": "C.UTF-8"}
        for file in service.get("env_file", ()):
            found |= self._variables(self.folder / file["path"])
        for name, value in service.get("environment", {}).items():
            if value is not None:
                found[name] = self._here(value, instance)
            elif name in self._secrets:
                found[name] = self._secrets[name]
        return found

    @staticmethod
    def _variables(file: Path) -> dict[str, str]:
        """What an `env_file` sets, which an operator need not have."""
        lines = file.read_text().splitlines() if file.exists() else []
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    def _here(self, text: str, instance: Instance) -> str:
        """What a text of the file is on this machine."""
        ports = self._ports | {"8080": self._own_ports.get(instance, "")}
        text = _HOST.sub("127.0.0.1", text)
        text = _PORT.sub(lambda found: ports[found[0]], text)
        text = _FOLDER.sub(lambda found: self._volume(found[0], instance), text)
        return _VARIABLE.sub(self._value_of, text)

    def _volume(self, place: str, instance: Instance) -> str:
        """What is mounted at a place of a container."""
        volumes = self._services[instance.service].get("volumes", ())
        mounted = [one["target"] if isinstance(one, dict) else one.partition(":")[2] for one in volumes]
        assert place in mounted, f"{instance.service} has nothing at {place}"
        return str(self.folder / _FOLDERS[place])

    def _value_of(self, found: re.Match[str]) -> str:
        """What a variable stands for, or `$$`."""
        name, default = found.groups()
        if name is None:
            return "$"
        return self._secrets[name] if default is None else self._secrets.get(name, default)
