"""The night: each site in a run of its own, once, however many runs the night takes."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from flows.settings import operator_file, resolve_settings

NAMES = ("dusk", "midnight", "dawn")


@pytest.fixture
def worker(home, server, tmp_path) -> Iterator[None]:
    """Three repositories in the operator's file, and one who says of all their runs that they published."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.states import Completed

    from infra.deploy import deploy

    operator_file().parent.mkdir(parents=True)
    entry = '[[repositories]]\nname = "{0}"\nsource = "https://example.org/{0}"\nout = "/srv/{0}"\n'
    operator_file().write_text('work_pool = "sky"\n' + "".join(entry.format(name) for name in NAMES))
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="sky", type="process"), overwrite=True)
    deploy(resolve_settings(None, {}).service)
    is_over = threading.Event()

    def work() -> None:
        with get_client(sync_client=True) as client:
            while not is_over.wait(0.2):
                for run in client.read_flow_runs():
                    if run.parameters.get("repository") in NAMES and not run.state.is_final():
                        client.set_flow_run_state(run.id, Completed(name="Published"), force=True)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    is_over.set()
    thread.join()


def test_what_a_night_has_built_is_not_built_by_the_run_that_goes_on_with_it(worker):
    from prefect.client.orchestration import get_client

    from flows.nightly import nightly

    def all_runs() -> Counter[str]:
        with get_client(sync_client=True) as client:
            of_sites = [run.parameters.get("repository") for run in client.read_flow_runs()]
        return Counter(name for name in of_sites if name in NAMES)

    before = all_runs()

    def runs() -> Counter[str]:
        return all_runs() - before

    first = asyncio.run(nightly(return_state=True))
    assert (first.name, first.message, runs()) == ("Completed", "3 sites", Counter(NAMES))
    night = str(first.state_details.flow_run_id)
    again = asyncio.run(nightly(night=night, attempt=2, return_state=True))
    assert (again.message, runs()) == ("3 sites", Counter(NAMES))
    asyncio.run(nightly(return_state=True))  # the next night
    assert runs() == Counter(NAMES * 2)


def test_a_server_that_answers_with_an_error_now_and_then_fails_no_site(worker, monkeypatch):
    """While a run is followed, the server says 500 to the first five questions about each; then to all."""
    import httpx
    from prefect.client.orchestration import PrefectClient

    from flows import nightly

    monkeypatch.setattr(nightly, "_POLL_S", 0.1)
    read, failed = PrefectClient.read_flow_run, Counter()

    async def failing(self, flow_run_id):
        run = await read(self, flow_run_id)
        if run.parameters.get("repository") in NAMES and failed[run.id] < patience:
            failed[run.id] += 1
            answer = httpx.Response(500, request=httpx.Request("GET", "http://prefect"))
            raise httpx.HTTPStatusError("500 Internal Server Error", request=answer.request, response=answer)
        return run

    monkeypatch.setattr(PrefectClient, "read_flow_run", failing)
    patience = 5
    state = asyncio.run(nightly.nightly(return_state=True))
    assert (state.name, state.message, set(failed.values())) == ("Completed", "3 sites", {5})
    patience = 10**6
    monkeypatch.setattr(nightly, "_PATIENCE_S", 0.5)
    state = asyncio.run(nightly.nightly(return_state=True))
    assert state.is_failed() and state.message.startswith("3 of 3 sites failed")


def test_nights_that_die_one_after_the_other_come_to_an_end(server):
    from flows.nightly import nightly

    state = asyncio.run(nightly(attempt=4, return_state=True))
    assert (state.is_failed(), state.message) == (
        True,
        "nightly: 3 runs died one after the other (out of memory?)",
    )
