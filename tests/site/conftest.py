"""Built sites, and a browser that notices whatever a reader should never meet."""

from __future__ import annotations

import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest

from infra.cli import main

_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
_WORKSHOP = Path(__file__).parent.parent / "testdata" / "workshop"


@pytest.fixture(scope="session")
def sites(tmp_path_factory, asked_for_all) -> Path:
    """A folder with the sites of click and of the test repository, the latter also with a source URL.

    In `written` a model has written the summaries that the test repository lacks.
    """
    folder = tmp_path_factory.mktemp("sites")
    click = Path(find_spec("click").origin).parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        for source, name in ((click, "click"), (_WORKSHOP, "workshop")):
            assert main(["build", str(source), "--model", "none", "--out", str(folder / name)]) == 0
        model = ["--model", str(asked_for_all)]
        assert main(["build", str(_WORKSHOP), *model, "--out", str(folder / "written")]) == 0
        patch.setenv("DOCMILL_SOURCE_URL", "https://code.example/{revision}/{path}#L{line}")
        assert main(["build", str(_WORKSHOP), "--model", "none", "--out", str(folder / "hosted")]) == 0
    return folder


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, if it is here; closed with the module, for its event loop bars others."""
    executable = next(filter(None, map(shutil.which, _CHROMIUM)), None)
    if executable is None:
        pytest.skip("no chromium on this machine (Debian: apt install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def server(sites):
    """The sites over HTTP."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(sites)))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}/"
    httpd.shutdown()


@pytest.fixture
def disk(sites) -> str:
    """The address of the sites' folder on the disk."""
    return f"{sites.as_uri()}/"


@pytest.fixture(params=["file", "http"])
def base(request, sites) -> str:
    """The address of the sites' folder, from the disk and over HTTP."""
    return f"{sites.as_uri()}/" if request.param == "file" else request.getfixturevalue("server")


@pytest.fixture
def opened(browser, sites):
    """Opens pages in new contexts; no page may log an error, ask another host, or show a dialog."""
    contexts, trouble = [], []

    def open_page(address: str, **options):
        options = {"viewport": {"width": 1280, "height": 900}} | options
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: None if m.type == "log" else trouble.append(f"{m.type}: {m.text}"))
        page.on("pageerror", lambda error: trouble.append(f"script: {error}"))
        page.on("requestfailed", lambda r: trouble.append(f"failed: {r.url}"))
        page.on("request", lambda r: None if _is_own(r.url) else trouble.append(f"external: {r.url}"))
        page.on("dialog", lambda dialog: (trouble.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert trouble == []


def _is_own(url: str) -> bool:
    return url.startswith(("file:", "data:", "http://127.0.0.1:"))
