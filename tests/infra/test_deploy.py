"""Deployments, limits and automations: what prefect.yaml says is there, and is put at a server once."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from flows.settings import Repository, Service
from infra.cli import main
from infra.deploy import deploy, deployments_of

REPOSITORY = {"name": "deployed", "source": "https://example.org/deployed", "out": "/srv/deployed"}


@pytest.mark.parametrize(
    ("name", "entrypoint", "parameters"),
    [
        ("nightly", "flows.nightly.nightly", ["night", "attempt"]),
        ("on-push", "flows.on_push.on_push", ["repository", "branch", "rebuild", "attempt"]),
        (
            "on-demand",
            "flows.build_docs.build_docs",
            [
                "source",
                "out",
                "revision",
                "model",
                "quantize",
                "device",
                "budget",
                "strict",
                "config",
                "report_file",
            ],
        ),
    ],
)
def test_each_entry_is_a_flow_that_takes_its_parameters(name, entrypoint, parameters):
    from prefect import Flow
    from prefect.flows import load_flow_from_entrypoint
    from prefect.utilities.callables import parameter_schema

    (entry,) = [one for one in deployments_of(Service()) if one.name == name]
    assert entry.entrypoint == entrypoint
    flow = load_flow_from_entrypoint(entry.entrypoint)
    assert isinstance(flow, Flow)
    properties = parameter_schema(flow).properties
    assert list(properties) == parameters
    assert [properties[one]["position"] for one in parameters] == list(range(len(parameters)))
    assert all(properties[one]["description"] for one in parameters)


def test_the_form_offers_every_way_to_quantize():
    from prefect.flows import load_flow_from_entrypoint
    from prefect.utilities.callables import parameter_schema

    from models.quantize import METHODS

    properties = parameter_schema(load_flow_from_entrypoint("flows.build_docs.build_docs")).properties
    assert properties["quantize"]["enum"] == ["as set", "auto", "none", *METHODS]


def test_the_operators_settings_complete_the_entries():
    entries = deployments_of(Service(nightly="30 1 * * 1-5", time_zone="Europe/Berlin", work_pool="docs"))
    assert {entry.work_pool.name for entry in entries} == {"docs"}
    (schedule,) = [schedule for entry in entries for schedule in entry.schedules]
    assert (schedule.cron, schedule.timezone) == ("30 1 * * 1-5", "Europe/Berlin")


def test_a_name_is_a_name_whatever_it_would_mean_in_yaml():
    entries = deployments_of(Service(work_pool='a "pool": {{ $DOCMILL_NIGHTLY }} #'))
    assert {entry.work_pool.name for entry in entries} == {'a "pool": {{ $DOCMILL_NIGHTLY }} #'}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("NIGHTLY", "99 2 * * *", "nightly '99 2 * * *': is no cron line; give minute, hour, day"),
        ("NIGHTLY", "a b c d e", "nightly 'a b c d e': is no cron line; give minute, hour, day"),
        ("WORK_POOL", "a/b", "environment: work_pool: 'a/b' is no name that Prefect takes"),
    ],
)
def test_what_prefect_would_refuse_is_refused_before_anything_starts(name, value, said, monkeypatch, capsys):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setenv(f"DOCMILL_{name}", value)
    monkeypatch.setenv("DOCMILL_WEBHOOK_SECRET", "a secret of some length")
    for command in ("deploy", "up"):
        with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
            assert main([command]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line


def test_deploying_again_changes_nothing(server):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    service = Service(repositories=(Repository.model_validate(REPOSITORY),), work_pool="deployments")
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="deployments", type="process"))
        deploy(service)

        def found():
            deployments = client.read_deployments()
            automations = client.request("POST", "/automations/filter", json={}).json()
            return (
                sorted((one.name, one.entrypoint, len(one.schedules)) for one in deployments),
                # By the trigger's id the server knows which runs it watches.
                sorted((one["name"], one["id"], one["trigger"]["id"], one["enabled"]) for one in automations),
                client.read_global_concurrency_limit_by_name("docmill-deployed"),
            )

        first = found()
        deploy(service)
        assert found() == first
    deployments, automations, limit = first
    assert [name for name, _, _ in deployments] == ["nightly", "on-demand", "on-push"]
    assert [name for name, *_ in automations] == [
        "docmill: crash zombie flows",
        "docmill: run a night again that crashed",
        "docmill: run again what crashed",
    ]
    assert (limit.limit, limit.active_slots) == (1, 0)


def test_a_run_that_crashed_is_run_again_with_the_next_number(server):
    import time

    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.states import Crashed

    service = Service(work_pool="crashes")
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="crashes", type="process"))
        deploy(service)
        on_push = client.read_deployment_by_name("on-push/on-push")
        given = {"repository": "crashing", "branch": "main", "rebuild": True}
        run = client.create_flow_run_from_deployment(on_push.id, parameters=given)
        client.set_flow_run_state(run.id, Crashed(), force=True)
        for _ in range(100):
            of_it = [r for r in client.read_flow_runs() if r.parameters.get("repository") == "crashing"]
            if len(of_it) > 1:
                break
            time.sleep(0.2)
    (again,) = [one for one in of_it if one.id != run.id]
    assert again.parameters == {**given, "attempt": 2}


def test_a_night_that_crashed_is_run_again_as_the_same_night(server):
    import time

    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.client.schemas.objects import FlowRun
    from prefect.states import Crashed

    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="nights", type="process"))
        deploy(Service(work_pool="nights"))
        nightly = client.read_deployment_by_name("nightly/nightly")
        first = client.create_flow_run_from_deployment(nightly.id)

        def again(run: FlowRun, attempt: int) -> FlowRun:
            client.set_flow_run_state(run.id, Crashed(), force=True)
            wanted = {"night": str(first.id), "attempt": attempt}
            for _ in range(300):
                if found := [one for one in client.read_flow_runs() if one.parameters == wanted]:
                    return found[0]
                time.sleep(0.2)
            raise AssertionError(f"{run.name} was not run again")

        assert again(again(first, 2), 3).deployment_id == nightly.id


def test_a_password_is_not_written_down(server):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import PrefectHTTPStatusError

    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="passwords", type="process"))
        deploy(Service(work_pool="passwords"))
        on_demand = client.read_deployment_by_name("build-docs/on-demand")
        for source in ("https://user:hunter2@example.org/a", "https://token@example.org/a"):
            with pytest.raises(PrefectHTTPStatusError, match="409"):
                client.create_flow_run_from_deployment(
                    on_demand.id, parameters={"source": source, "out": "/srv/a"}
                )
        for source in ("https://example.org/a@b", "ssh://git@example.org/a", "git@example.org:a", "/a"):
            given = {"source": source, "out": "/srv/a"}
            client.create_flow_run_from_deployment(on_demand.id, parameters=given)


def test_what_a_worker_could_not_build_makes_no_run(server):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import PrefectHTTPStatusError

    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="forms", type="process"))
        deploy(Service(work_pool="forms"))
        on_demand = client.read_deployment_by_name("build-docs/on-demand")
        for given, said in (
            ({}, "'source' is a required property"),
            ({"source": "", "out": "/srv/a"}, "field 'source'"),
            ({"source": "/a"}, "'out' is a required property"),
            ({"source": "/a", "out": ""}, "field 'out'"),
            ({"source": "/a", "out": "site"}, "field 'out'"),
            ({"source": "/a", "out": "/srv/a", "quantize": "int3"}, "field 'quantize'"),
        ):
            with pytest.raises(PrefectHTTPStatusError) as raised:
                client.create_flow_run_from_deployment(on_demand.id, parameters=given)
            assert said in raised.value.response.json()["detail"]


@pytest.fixture
def listener():
    """A real address that failures are told to; gives it, and what was told."""
    told: list[dict] = []
    arrived = threading.Condition()

    class Take(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            with arrived:
                told.append({"type": self.headers["content-type"], "path": self.path, **json.loads(body)})
                arrived.notify_all()
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Take)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()

    def of(run: str) -> dict:
        with arrived:
            assert arrived.wait_for(lambda: [one for one in told if one["run"].endswith(run)], timeout=120)
            return next(one for one in told if one["run"].endswith(run))

    yield f"http://127.0.0.1:{httpd.server_port}/hook-of-a-team", of
    httpd.shutdown()


def test_whoever_is_to_know_is_told_of_runs_that_fail_and_crash(server, listener):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.settings import PREFECT_API_URL
    from prefect.states import Crashed, Failed

    url, told_of = listener
    service = Service.model_validate({"work_pool": "failures", "failure_url": url})
    assert url not in repr(service)
    ui = str(PREFECT_API_URL.value()).removesuffix("/api")
    name = "docmill: tell of failures"
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="failures", type="process"))
        deploy(service)
        (first,) = client.read_automations_by_name(name)
        deploy(service)
        (again,) = client.read_automations_by_name(name)
        assert first.id == again.id
        listed = client.request("POST", "/automations/filter", json={}).text
        blocks = client.request("POST", "/block_documents/filter", json={}).text
        assert "docmill-failures" in blocks
        assert "hook-of-a-team" not in listed + blocks

        on_push = client.read_deployment_by_name("on-push/on-push")
        given = {"repository": "failing", "branch": "main", "attempt": 4}
        for state in (Failed(message='it said "no"\n\x1b{{ flow_run }} <é>'), Crashed(message="m" * 5_000)):
            run = client.create_flow_run_from_deployment(on_push.id, parameters=given)
            client.set_flow_run_state(run.id, state, force=True)
            told = told_of(str(run.id))
            message = state.message if state.name == "Failed" else "m" * 997 + "..."
            assert told == {
                "type": "application/json",
                "path": "/hook-of-a-team",
                "repository": "failing",
                "branch": "main",
                "deployment": "on-push",
                "state": state.name,
                "message": message,
                "run": f"{ui}/runs/flow-run/{run.id}",
            }
        nightly = client.read_deployment_by_name("nightly/nightly")
        run = client.create_flow_run_from_deployment(nightly.id)
        client.set_flow_run_state(run.id, Failed(), force=True)
        assert (told_of(str(run.id))["repository"], told_of(str(run.id))["deployment"]) == (None, "nightly")

        deploy(Service(work_pool="failures"))
        assert client.read_automations_by_name(name) == []
        blocks = client.request("POST", "/block_documents/filter", json={"include_secrets": True}).text
        assert "hook-of-a-team" not in blocks


def test_runs_are_told_how_to_write_their_logs(server):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="logs", type="process"))
        for log_format, formatter in (("json", "json"), ("text", None)):
            deploy(Service.model_validate({"work_pool": "logs", "log_format": log_format}))
            variables = client.read_deployment_by_name("on-push/on-push").job_variables["env"]
            assert variables.get("PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER") == formatter
            assert variables["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"


def test_without_its_work_pool_deploying_fails_in_a_line(server, monkeypatch, capsys):
    monkeypatch.setenv("DOCMILL_WORK_POOL", "absent")
    assert main(["deploy"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("docmill: work pool 'absent': not at http")


@pytest.mark.parametrize("command", ["deploy", "webhook"])
def test_a_server_has_to_be_named(command, capsys):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: None}):
        assert main([command]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("docmill: Prefect server: set PREFECT_API_URL")


def test_without_a_server_deploying_fails_in_a_line(capsys):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert main(["deploy"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("docmill: Prefect server: ")
