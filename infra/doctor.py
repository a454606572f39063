"""What docmill needs, looked at: each thing in a line that says how it is and what to do about it.

Nothing is changed, but that a result cache is made where there is none, and that the result
storage is written to, as before each build. A check that fails, or does not come to an end,
keeps no other from its turn.
"""

from __future__ import annotations

import contextvars
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import partial
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, metadata, packages_distributions, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from packaging.requirements import Requirement

from flows.pipeline import target_of
from flows.settings import CONFIG_VARIABLE, Service, Settings, cache_home, operator_file, resolve_settings
from infra.imports import PACKAGES, foreign
from models.config import BUNDLED
from models.machine import processor
from tasks.documents import DocmillError, first_line
from tasks.ingest.git import shown
from tasks.publish import PublishError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

_CHECK_S = 10.0
_ANSWER_S = 3.0
_GIGABYTE = 1_000_000_000
_SCARCE, _LOW = 1 * _GIGABYTE, 5 * _GIGABYTE
_HASHED = 200_000_000  # bytes, within a check's time
_AT_ONCE = 200  # what the Prefect server lists in one answer
# What breaks under another version, beyond that it was never tried.
_BREAKS = {
    "fastapi": "every flow fails",
    "sqlalchemy": "the scheduler of the Prefect server fails, and no night ever comes",
}
_INSTALL = "install docmill anew, with pip install -c constraints.txt"


class Level(StrEnum):
    """How a thing is."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


class Finding(NamedTuple):
    """A line about one thing; what is not ok says what to do."""

    level: Level
    what: str
    said: str


class _Said(NamedTuple):
    level: Level
    said: str


_Check = Callable[[], Iterator[_Said]]

_ok, _warning, _wrong = (partial(_Said, level) for level in Level)


def examine(config: Path | None) -> Iterator[Finding]:
    """Look at everything, one thing after the other.

    Args:
        config: The operator's file, where it is not at its usual place.
    """
    try:
        resolved = resolve_settings(None, {}, config)
    except DocmillError as error:
        settings, service = Settings.model_validate({}), Service.model_validate({})
        yield Finding(Level.WRONG, "settings", f"{error}; what follows is of the built-in ones")
    else:
        settings, service = resolved.settings, resolved.service
        yield from _of("settings", partial(_settings, service, config))
    yield from _of("versions", _versions)
    yield from _of("imports", _imports)
    yield from _of("git", _git)
    yield from _of("Prefect server", partial(_server, service))
    yield from _of("result cache", partial(_cache, settings))
    yield from _of("result storage", partial(_results, settings))
    yield from _of("sites", partial(_sites, settings, service))
    yield from _of("model", partial(_models, settings, service))
    yield from _of("device", partial(_device, settings, service))
    yield from _of("disk", partial(_disk, settings, service))


def _of(what: str, check: _Check) -> Iterator[Finding]:
    """What a check says, as far as it comes within its time."""
    found: list[_Said] = []

    def run() -> None:
        try:
            found.extend(check())
        except Exception as error:  # noqa: BLE001 - whatever it is, the next check has its turn
            first = first_line(error)
            found.append(_wrong(first if isinstance(error, DocmillError) else f"cannot be checked: {first}"))

    # A thread of its own can be left behind where it hangs; what flows set for this one holds there, too.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
    thread.start()
    thread.join(_CHECK_S)
    if thread.is_alive():
        found.append(_wrong(f"gave no answer within {_CHECK_S:.0f} s"))
    for level, said in found:
        yield Finding(level, what, shown(said))


def _settings(service: Service, config: Path | None) -> Iterator[_Said]:
    file = config or Path(os.environ.get(CONFIG_VARIABLE) or operator_file())
    if not service.repositories:
        yield _warning(f"{file}: names no repository; add [[repositories]] to have them built")
        return
    sites = sum(len(one.branches) for one in service.repositories)
    yield _ok(f"{file}: {len(service.repositories)} repositories, {sites} sites")
    if service.webhook_secret is None:
        yield _warning("DOCMILL_WEBHOOK_SECRET is not set here: docmill up and docmill webhook do not start")


def _versions() -> Iterator[_Said]:
    try:
        needed, python = requires("docmill") or [], metadata("docmill")["Requires-Python"]
    except PackageNotFoundError:
        yield _wrong(f"docmill runs, but is not installed; {_INSTALL}")
        return
    if not Requirement(f"python{python}").specifier.contains(platform.python_version()):
        yield _wrong(f"Python {platform.python_version()}: docmill takes {python}")
    wrong = list(_unmet(needed))
    yield from wrong
    if not wrong:
        told = ", ".join(f"{name} {version(name)}" for name in ("prefect", "fastapi", "sqlalchemy", "torch"))
        yield _ok(f"docmill {version('docmill')}, Python {platform.python_version()}, {told}")


def _unmet(needed: list[str]) -> Iterator[_Said]:
    for line in needed:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name = requirement.name
        try:
            found = version(name)
        except PackageNotFoundError:
            yield _wrong(f"{name} is not installed; {_INSTALL}")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            follows = f": {_BREAKS[name]}" if name in _BREAKS else ""
            yield _wrong(f"{name} {found} is not {requirement.specifier}{follows}; {_INSTALL}")


def _imports() -> Iterator[_Said]:
    wrong = dict(foreign(sys.path))
    for name, place in wrong.items():
        yield _wrong(f"{name} is imported from {place}; rename that, or take its folder off PYTHONPATH")
    from_here = foreign([str(Path.cwd()), *sys.path])
    here = {name: place for name, place in from_here if name not in wrong}
    for place in here.values():
        yield _warning(
            f"{place} would be imported by what python -m starts in this folder; start it in another"
        )
    others = {name: {*packages_distributions().get(name, ())} - {"docmill"} for name in PACKAGES}
    for name, distributions in others.items():
        for other in sorted(distributions):
            yield _wrong(f"{other} installs {name} as well; keep docmill in an environment of its own")
    if not wrong and not here and not any(others.values()):
        yield _ok(f"{', '.join(PACKAGES)} are docmill's own")


def _git() -> Iterator[_Said]:
    git = shutil.which("git")
    if git is None:
        yield _wrong("is not installed: no repository can be fetched; apt install git")
        return
    told = subprocess.run([git, "--version"], capture_output=True, text=True, timeout=_ANSWER_S, check=True)
    yield _ok(told.stdout.strip())


# --- the Prefect server


def _server(service: Service) -> Iterator[_Said]:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    from infra.up import refuse_unwritable_home

    if not PREFECT_API_URL.value():
        refuse_unwritable_home()
        yield _ok("none is named by PREFECT_API_URL; docmill up starts one")
        return
    once = temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0})
    with once, get_client(httpx_settings={"timeout": _ANSWER_S}, sync_client=True) as client:
        if (error := client.api_healthcheck()) is not None:
            first = first_line(error)
            yield _wrong(f"{client.api_url}: {first}; see that it runs, and that PREFECT_API_URL names it")
            return
        yield from _server_itself(client)
        yield from _known_there(client, service)
        yield from _workers(client, service.work_pool)


def _server_itself(client: SyncPrefectClient) -> Iterator[_Said]:
    here, there = version("prefect"), client.api_version()
    if here == there:
        yield _ok(f"{client.api_url}: answers, Prefect {there}")
    else:
        yield _warning(f"{client.api_url}: Prefect {there} there, {here} here; install the same")
    client.request("GET", "/ready")  # fails where its database does not answer
    told = client.request("GET", "/admin/settings").json()["server"]
    driver = told["database"].get("driver")
    yield _ok(f"its database answers{f', {driver}' if driver else ''}")
    storage = told["concurrency"]["lease_storage"]
    if storage.endswith(".memory"):
        yield _wrong(
            "keeps leases in memory: a restart during a build holds that repository for ever; set "
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=prefect.server.concurrency.lease_storage.filesystem"
        )
    else:
        yield _ok(f"keeps leases in {storage}")


def _known_there(client: SyncPrefectClient, service: Service) -> Iterator[_Said]:
    from flows.on_push import limit_of
    from infra.deploy import AUTOMATIONS, deployments_of

    entries = deployments_of(service)
    named = {
        "deployments": {"name": {"any_": [entry.name for entry in entries]}},
        "flows": {"name": {"any_": ["nightly", "on-push", "build-docs"]}},  # others have such names, too
    }
    there = {one["name"]: one for one in client.request("POST", "/deployments/filter", json=named).json()}
    missing = [f"deployment {entry.name}" for entry in entries if entry.name not in there]
    limits = {one["name"]: one for one in _all(client, "/v2/concurrency_limits/filter")}
    wanted = {limit_of(one.name): one.name for one in service.repositories}
    missing += [f"limit {name}" for name in wanted if name not in limits]
    automations = {one["name"] for one in _all(client, "/automations/filter") if one["enabled"]}
    missing += [f"automation {name!r}" for name in AUTOMATIONS if name not in automations]
    for entry in entries:
        crons = [
            (s["schedule"].get("cron"), s["schedule"].get("timezone")) for s in _schedules(there, entry.name)
        ]
        if entry.name in there and crons != [(s.cron, s.timezone) for s in entry.schedules]:
            yield _warning(f"deployment {entry.name} has another schedule than is set; run docmill deploy")
        if entry.name in there and there[entry.name]["paused"]:
            yield _warning(f"deployment {entry.name} is paused; resume it in the UI")
    if missing:
        yield _wrong(f"does not know {', '.join(missing)}; run docmill deploy")
    else:
        yield _ok(f"knows {len(entries)} deployments, their limits and automations")
    yield from _turns(client, [(limits[name], wanted[name]) for name in wanted if name in limits])


def _schedules(there: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return there[name]["schedules"] if name in there else []


def _turns(client: SyncPrefectClient, limits: list[tuple[dict[str, Any], str]]) -> Iterator[_Said]:
    """Whether builds of each repository can take turns by its limit."""
    from flows.on_push import BUILDING

    building = {"flow_runs": {"state": {"name": {"any_": [BUILDING]}}}}
    runs = client.request("POST", "/flow_runs/filter", json=building).json()
    built = {run["parameters"].get("repository") for run in runs}
    for limit, repository in limits:
        update = f"prefect gcl update {limit['name']}"
        if limit["limit"] != 1 or not limit["active"]:
            how = f"lets {limit['limit']} builds run at a time" if limit["active"] else "is off"
            yield _wrong(
                f"limit {limit['name']} {how}, and builds of {repository} have to take turns; "
                f"{update} --limit 1 --enable"
            )
        elif limit["active_slots"] and repository not in built:
            yield _warning(
                f"limit {limit['name']} is held, and no run builds {repository}; "
                f"if it still is in two minutes, {update} --active-slots 0"
            )


def _all(client: SyncPrefectClient, path: Any) -> Iterator[dict[str, Any]]:
    """All that the server lists, piece by piece."""
    offset = 0
    while piece := client.request("POST", path, json={"limit": _AT_ONCE, "offset": offset}).json():
        yield from piece
        offset += len(piece)


def _workers(client: SyncPrefectClient, pool: str) -> Iterator[_Said]:
    from prefect.exceptions import ObjectNotFound

    start = f"prefect worker start --pool {pool} --type process"
    try:
        paused = client.read_work_pool(pool).is_paused
    except ObjectNotFound:
        yield _wrong(f"has no work pool {pool}; prefect work-pool create --type process {pool}")
        return
    if paused:
        yield _wrong(f"work pool {pool} is paused: nothing is built; prefect work-pool resume {pool}")
    listed = client.request(
        "POST", "/work_pools/{work_pool_name}/workers/filter", path_params={"work_pool_name": pool}, json={}
    )
    online = sum(worker["status"] == "ONLINE" for worker in listed.json())
    if online:
        yield _ok(f"work pool {pool}: {online} workers online")
    else:
        yield _wrong(f"work pool {pool}: no worker is online, and nothing is built; {start}")


# --- what builds read and write


def _cache(settings: Settings) -> Iterator[_Said]:
    from tasks.result_cache import ResultCache

    cache = ResultCache(settings.result_cache)
    try:
        cache.identity()
        yield _ok(f"{cache.kind}, {_bytes(cache.size())}: can be read and written")
    finally:
        cache.close()


def _results(settings: Settings) -> Iterator[_Said]:
    from prefect.settings import (
        PREFECT_API_REQUEST_TIMEOUT,
        PREFECT_API_URL,
        PREFECT_CLIENT_MAX_RETRIES,
        temporary_settings,
    )

    from flows.result_storage import ResultStorage

    if not PREFECT_API_URL.value():  # Prefect would start one for the moment
        level = _warning if settings.result_storage else _ok
        yield level("is looked at where PREFECT_API_URL names a server")
        return
    with temporary_settings({PREFECT_API_REQUEST_TIMEOUT: _ANSWER_S, PREFECT_CLIENT_MAX_RETRIES: 0}):
        ResultStorage(settings).holds("docmill-doctor")  # no such thing, and a store has to say so
    yield _ok(f"{settings.result_storage or 'as Prefect is set'}: can be read and written")


def _sites(settings: Settings, service: Service) -> Iterator[_Said]:
    reached: set[str] = set()
    count = 0
    for name, location in _locations(service):
        count += 1
        bucket = location.removeprefix("s3://").partition("/")[0] if location.startswith("s3://") else ""
        if bucket and bucket in reached:
            continue
        reached.add(bucket)
        try:
            target_of(settings.model_copy(update={"out": location})).reach()
        except DocmillError as error:
            what = "; see docs/s3.md for credentials" if bucket and isinstance(error, PublishError) else ""
            yield _wrong(f"{name}: {error}{what}")
        else:
            if bucket:
                yield _ok(f"s3://{bucket} can be read; whether it can be written, the first build shows")
    if count:
        yield _ok(f"{count} places looked at, of a bucket the first")


def _locations(service: Service) -> Iterator[tuple[str, str]]:
    for one in service.repositories:
        for branch in one.branches:
            yield f"{one.name} {branch}", str(one.flags(branch)["out"])
    if service.index is not None:
        yield "index", service.index


def _models_asked(settings: Settings, service: Service) -> set[str]:
    """What repositories are built with; without any, what a build has that names no model."""
    return {one.model or settings.model for one in service.repositories} or {settings.model}


def _models(settings: Settings, service: Service) -> Iterator[_Said]:
    for name in sorted(_models_asked(settings, service)):
        folder = BUNDLED if name == "bundled" else Path(name).expanduser()
        if name == "none":
            yield _ok("none is asked for texts")
        elif folder.is_dir():
            yield _model_in(folder, name)
        elif "/" in name and not folder.is_absolute():
            yield _warning(f"{name}: no folder here, so builds fetch it from the hub; not looked at")
        else:
            yield _wrong(f"{name}: no such folder, and no id on the hub; see model in docmill config show")


def _model_in(folder: Path, name: str) -> _Said:
    """Whether a model can be read; of a small one, also whether it is as it was made."""
    from safetensors import SafetensorError, safe_open

    again = "install docmill anew" if name == "bundled" else "fetch or prepare it again"
    try:
        json.loads((folder / "config.json").read_bytes())
        weights = sorted(folder.glob("*.safetensors"))
        if not weights:
            return _wrong(f"{name}: has no safetensors, and docmill loads weights from nothing else; {again}")
        tensors = 0
        for file in weights:
            with safe_open(file, framework="numpy") as opened:
                tensors += len(list(opened.keys()))
        manifest = folder / "manifest.json"
        is_small = sum(file.stat().st_size for file in weights) < _HASHED
        listed = json.loads(manifest.read_bytes())["files"] if is_small and manifest.is_file() else {}
        differing = [
            file for file, made in listed.items() if sha256((folder / file).read_bytes()).hexdigest() != made
        ]
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        return _wrong(f"{name}: cannot be read ({error}); {again}")
    if differing:
        return _wrong(f"{name}: {differing[0]} is not what its manifest says; {again}")
    held = f", {len(listed)} files as its manifest says" if listed else ""
    return _ok(f"{name}: {tensors} tensors{held}")


def _device(settings: Settings, service: Service) -> Iterator[_Said]:
    gpus = [*Path("/proc/driver/nvidia/gpus").glob("*/information")]
    if settings.device == "cuda" and not gpus:
        yield _wrong("device is cuda, and no NVIDIA driver tells of one; set device = 'auto' or install it")
    flags = {flag for line in processor() if line.startswith("flags") for flag in line.split()}
    known = (("avx512_vnni", "AVX-512 VNNI"), ("amx_int8", "AMX"))
    fast = ", ".join(name for flag, name in known if flag in flags)
    has = "avx512_vnni" in flags
    computing = f"products in int8 by {fast}" if has else "no products in int8, for want of AVX-512 VNNI"
    yield _ok(f"{len(gpus)} GPUs; {len(os.sched_getaffinity(0))} cores, {computing}")
    if _models_asked(settings, service) == {"none"}:
        return
    if not any((cache_home() / "tuned").glob("*.json")):
        yield _warning("texts take longer than need be: docmill model tune has not run on this machine")
    if shutil.which("g++") is None:
        yield _warning("without g++ no model is compiled, which halves the time of texts; apt install g++")


def _disk(settings: Settings, service: Service) -> Iterator[_Said]:
    places = {"cache": cache_home()}
    if settings.result_cache.startswith("sqlite:///"):
        places["result cache"] = Path(settings.result_cache.removeprefix("sqlite:///"))
    for name, location in _locations(service):
        if "://" not in location:
            places[name] = Path(location).expanduser()
    seen: set[int] = set()
    for name, place in places.items():
        there = next(folder for folder in (place, *place.parents) if folder.is_dir())
        disk = there.stat().st_dev
        if disk not in seen:
            seen.add(disk)
            free = shutil.disk_usage(there).free
            level = _wrong if free < _SCARCE else _warning if free < _LOW else _ok
            todo = "; make room: releases_kept, the result cache, ~/.cache/docmill" if free < _LOW else ""
            yield level(f"{_bytes(free)} free at {there} ({name}){todo}")


def _bytes(count: int) -> str:
    return f"{count / _GIGABYTE:.1f} GB" if count >= _GIGABYTE else f"{count / 1_000_000:.1f} MB"
