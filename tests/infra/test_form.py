"""The form that starts a build on demand, in Prefect's own UI: what a person sees of it, and can do wrong."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator

import pytest
import uvicorn

from flows.settings import Service
from infra.deploy import deploy
from tests.infra.test_up import free_ports
from tests.site.conftest import browser  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def form(server, tmp_path_factory) -> Iterator[str]:
    """The address of the form in Prefect's UI, which speaks to the server of these tests."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.server.api.server import create_ui_app
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_UI_API_URL,
        PREFECT_UI_ENABLED,
        PREFECT_UI_STATIC_DIRECTORY,
        temporary_settings,
    )

    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="people", type="process"))
        deploy(Service(work_pool="people"))
        on_demand = client.read_deployment_by_name("build-docs/on-demand").id
    (port,) = free_ports(1)
    folder = str(tmp_path_factory.mktemp("ui"))
    given = {PREFECT_UI_ENABLED: True, PREFECT_UI_STATIC_DIRECTORY: folder}
    with temporary_settings({**given, PREFECT_UI_API_URL: str(PREFECT_API_URL.value())}):
        app = create_ui_app(ephemeral=False)
        running = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
        thread = threading.Thread(target=running.run, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{port}/v2/deployments/deployment/{on_demand}/run"
        running.should_exit = True
        thread.join(30)


def test_a_person_can_fill_it(form, browser):  # noqa: F811
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(120_000)
    page.goto(form)
    page.get_by_text("report_file (Optional)").wait_for()
    seen = page.inner_text("main")
    names = ("source", "out", "revision", "model", "quantize", "device", "budget", "strict", "config")
    assert re.findall(rf"^({'|'.join(names)})(?: \(Optional\))?$", seen, re.MULTILINE) == [*names]
    assert not re.findall(r"^(?:source|out) \(Optional\)$", seen, re.MULTILINE)
    submit = page.get_by_role("button", name="Submit")
    page.get_by_label("source").fill("https://example.org/a.git")
    page.get_by_label("out").fill("site")
    submit.click()
    page.get_by_text("'site' does not match").wait_for()
    with page.expect_response(lambda one: one.url.endswith("/schemas/validate")):
        page.get_by_label("out").fill("/srv/docs/a")
    page.wait_for_timeout(1000)  # the form takes that in; a click meanwhile would be lost
    with page.expect_response(lambda one: one.url.endswith("/create_flow_run") and one.ok) as created:
        submit.click()
    parameters = created.value.json()["parameters"]
    assert (parameters["source"], parameters["out"]) == ("https://example.org/a.git", "/srv/docs/a")
