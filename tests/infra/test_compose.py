"""What infra/compose.yaml, the Dockerfile and the runbook say of containers, as far as it can be read or run here.

That the services run is test_topology.py's to show; no container engine is needed for either.
"""

from __future__ import annotations

from tests.topology import services

OF_DOCMILL = {name: one for name, one in services().items() if one["image"] == "docmill"}


def test_one_service_builds_the_image_and_the_others_use_it():
    """Several that build it at once can fail; to others it must not be pulled from wherever there is one."""
    assert len(OF_DOCMILL) > 5
    assert [name for name, one in services().items() if "build" in one] == ["migrate"]
    assert {one["pull_policy"] for one in OF_DOCMILL.values()} == {"never"}
