"""What infra/compose.yaml, the Dockerfile and the runbook say of containers, as far as it can be seen here.

That the services run is test_topology.py's to show; neither takes a container engine.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import create_engine
from sqlalchemy import text as sql

from tasks.result_cache import ResultCache
from tests.infra.test_operations import BLOCKS
from tests.tasks.test_result_cache import postgres  # noqa: F401 - a fixture
from tests.topology import COMPOSE, services, stays

ROOT = COMPOSE.parents[1]
RUNBOOK = (ROOT / "docs" / "operations.md").read_text()
OF_DOCMILL = {name: one for name, one in services().items() if one["image"] == "docmill"}


def test_one_service_builds_the_image_and_the_others_use_it():
    """Several that build it at once can fail; and nobody is asked for an image of that name."""
    assert len(OF_DOCMILL) > 5
    assert [name for name, one in services().items() if "build" in one] == ["migrate"]
    assert {one["pull_policy"] for one in OF_DOCMILL.values()} == {"never"}


def test_what_an_operator_keeps_beside_it_gets_into_neither_git_nor_the_image():
    kept_out = {
        name: re.findall(r"^/?(infra/\S+?)/?$", (ROOT / name).read_text(), re.MULTILINE)
        for name in (".gitignore", "infra/Dockerfile.dockerignore")
    }
    named = set(re.findall(r"`(infra/[\w./]+)`", RUNBOOK)) - {"infra/compose.yaml"}
    assert {"infra/.env", "infra/compose.override.yaml", "infra/worker.env"} <= named
    for file, patterns in kept_out.items():
        for name in named:
            places = [name, *map(str, Path(name).parents)]
            assert any(fnmatch(place, one) for place in places for one in patterns), f"{file}: {name}"


def test_what_differs_is_read():
    """Where a file is named, compose.override.yaml is not."""
    assert re.findall(r"docker compose (.*)", RUNBOOK)
    assert not re.findall(r"docker compose (?:--file|-f|--project-directory)", RUNBOOK)


def test_what_torch_the_image_has_is_set_once_for_all_builds_of_it():
    """So that an upgrade does not put a build for the CPU in the place of one for CUDA."""
    (line,) = re.findall(r"^ARG TORCH_INDEX=(.*)$", (ROOT / "infra/Dockerfile").read_text(), re.MULTILINE)
    assert services()["migrate"]["build"]["args"] == {"TORCH_INDEX": f"${{TORCH_INDEX-{line}}}"}
    assert "--build-arg" not in RUNBOOK


DOCKER = """#!/bin/sh
shift
if [ "$1" = exec ]; then shift 3; exec "$@"; fi
echo "$@" >> "$CALLED"
"""


@pytest.mark.skipif(not shutil.which("pg_dump"), reason="pg_dump is not installed")
def test_back_up_and_restore(postgres, tmp_path):  # noqa: F811
    """With the runbook's commands, which run here instead of in containers."""
    folders = {name: tmp_path / name for name in ("bin", "infra", "srv", "backups")}
    for folder in folders.values():
        folder.mkdir()
    (folders["bin"] / "docker").write_text(DOCKER)
    (folders["bin"] / "docker").chmod(0o755)
    (folders["infra"] / ".env").write_text("A=b\n")
    (folders["infra"] / "etc").mkdir()
    environment = {
        "PATH": f"{folders['bin']}:{os.environ['PATH']}",
        "PGHOST": postgres.partition("host=")[2],
        "CALLED": str(tmp_path / "called"),
    }

    places = {"/var/backups/docmill": folders["backups"], "/srv/docs": folders["srv"]}

    def run(program: str) -> None:
        (text,) = [text for _, text in BLOCKS if f"docker compose exec -T postgres {program}" in text]
        for place, here in places.items():
            text = text.replace(place, str(here))
        command = ["bash", "-euo", "pipefail", "-c", text]
        done = subprocess.run(command, cwd=folders["infra"], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    engine = create_engine(postgres.format("postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sql("CREATE DATABASE docmill"))
    engine.dispose()
    cache = ResultCache(postgres.format("docmill"))
    cache.put_many({"kept": b"value"})
    (folders["srv"] / "index.html").write_text("a page")
    run("pg_dump")
    kept = {file.name for file in folders["backups"].iterdir()}
    assert kept == {".env", "etc", "docmill.dump", "sites.tar"}
    cache.discard(["kept"])
    cache.put_many({"later": b"value"})
    cache.close()
    (folders["srv"] / "index.html").unlink()
    run("pg_restore")
    cache = ResultCache(postgres.format("docmill"))
    assert cache.get_many(["kept", "later"]) == {"kept": b"value"}
    cache.close()
    assert (folders["srv"] / "index.html").read_text() == "a page"
    stop, up = (tmp_path / "called").read_text().splitlines()
    assert stop.split() == ["stop", *(name for name, one in OF_DOCMILL.items() if stays(one))]
    assert up == "up --detach"
    volumes = msgspec.yaml.decode(COMPOSE.read_bytes())["volumes"]
    assert [name for name in volumes if f"`docmill_{name}`" not in RUNBOOK] == []
