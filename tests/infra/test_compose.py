"""What infra/compose.yaml, the Dockerfile and the runbook say of containers, as far as it can be checked here.

That the services run is test_topology.py's to show; neither takes a container engine.
"""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

from tests.topology import COMPOSE, services

ROOT = COMPOSE.parents[1]
RUNBOOK = (ROOT / "docs" / "operations.md").read_text()
OF_DOCMILL = {name: one for name, one in services().items() if one["image"] == "docmill"}


def test_one_service_builds_the_image_and_the_others_use_it():
    """Several that build it at once can fail; and whoever has published one of that name is not to be asked."""
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
