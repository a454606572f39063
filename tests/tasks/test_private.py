"""A repository that asks for a token, over HTTP as a forge serves it, with git's own server behind."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tasks.documents import SourceError
from tasks.ingest import open_source
from tests.conftest import GitRepository

TOKEN = "ghp_thisIsASecretOfTheOperator0123456789"
# As docs/operations.md says it; git runs this with a shell.
HELPER = '!f() { echo username=docmill; echo "password=$DOCS_TOKEN"; }; f'


@contextmanager
def private(repository: GitRepository) -> Iterator[str]:
    """The address of a repository, at which a forge asks for the token."""
    wanted = "Basic " + base64.b64encode(f"docmill:{TOKEN}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_arguments: object) -> None:
            """Stay quiet."""

        def serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Authorization") != wanted:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="forge"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            parts = urlsplit(self.path)
            environment = {
                "GIT_PROJECT_ROOT": str(repository.bare.parent),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH": os.environ["PATH"],
                "PATH_INFO": parts.path,
                "QUERY_STRING": parts.query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "HTTP_GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            }
            command = ["git", "http-backend"]
            done = subprocess.run(command, input=body, env=environment, capture_output=True, check=True)
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            fields = [line.split(": ", 1) for line in head.decode().split("\r\n")]
            status = next((value for name, value in fields if name == "Status"), "200")
            self.send_response(int(status.split()[0]))
            for name, value in fields:
                if name != "Status":
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = serve  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/{repository.bare.name}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def forge(git_repository) -> Iterator[str]:
    git_repository.push("private")
    with private(git_repository) as address:
        yield address


@pytest.fixture
def commands(tmp_path, monkeypatch) -> Path:
    """A file with the arguments of each git that is run."""
    programs, noted = tmp_path / "bin", tmp_path / "commands"
    programs.mkdir()
    (programs / "git").write_text(f'#!/bin/sh\necho "$@" >> {noted}\nexec {shutil.which("git")} "$@"\n')
    (programs / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return noted


def test_a_token_from_the_environment_opens_it_and_is_written_nowhere(
    forge, commands, home, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(home))
    subprocess.run(["git", "config", "--global", f"credential.{forge}.helper", HELPER], check=True)
    monkeypatch.setenv("DOCS_TOKEN", TOKEN)
    source = open_source(forge, "main", tmp_path / "cache")
    assert "private" in (source.root / "a.py").read_text()
    assert "fetch" in commands.read_text()
    written = [file for folder in (home, tmp_path) for file in folder.rglob("*") if file.is_file()]
    assert len(written) > 5
    assert not [file for file in written if TOKEN.encode() in file.read_bytes()]


@pytest.mark.parametrize("token", ["", "another"])
def test_without_the_token_a_line_says_so(forge, home, tmp_path, monkeypatch, token):
    monkeypatch.setenv("HOME", str(home))
    if token:
        subprocess.run(["git", "config", "--global", f"credential.{forge}.helper", HELPER], check=True)
        monkeypatch.setenv("DOCS_TOKEN", token)
    with pytest.raises(SourceError) as raised:
        open_source(forge, "main", tmp_path / "cache")
    (line,) = str(raised.value).splitlines()
    assert line.startswith(f"source {forge!r}: ")
    assert "uthentication failed" in line or "could not read" in line
