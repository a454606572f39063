"""A real S3 server in a process of its own, and a proxy before it that counts requests and fails some."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, quote, urlsplit

from tasks.documents import SiteFile
from tasks.publish import Storage
from tasks.publish.lease import LEASE_S
from tasks.publish.s3 import S3Target
from tasks.result_cache import ResultCache

_LISTED_AT_ONCE = 7  # so that every listing has pages
_FAULTS = ("timeout", "lost answer", "500", "503", "reset", "truncated answer", "truncated request")
_ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>"


@contextmanager
def moto() -> Iterator[int]:
    """The port of a server that has an empty bucket, `docs`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, server)
        _opened(f"http://127.0.0.1:{port}/docs", "PUT", b"").close()
        yield port
    finally:
        server.kill()
        server.wait()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while server.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the S3 server did not start")


class Request:
    """One request, as the proxy saw it."""

    def __init__(self, method: str, path: str, headers: Any) -> None:
        self.method, self.headers = method, headers
        parts = urlsplit(path)
        self.key, self.query = parts.path.partition("/")[2].partition("/")[2], parse_qs(parts.query, True)

    @property
    def what(self) -> str:
        """get, list, put, copy or delete."""
        if self.method == "GET":
            return "list" if "list-type" in self.query else "get"
        if self.method == "POST":
            return "delete"
        return "copy" if "x-amz-copy-source" in self.headers else self.method.lower()

    def __repr__(self) -> str:
        return f"{self.what} {self.key}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_arguments: object) -> None:
        """Clients may be gone, by design."""


class Proxy:
    """Stands between a client and a server, and notes every request.

    With `share`, that share of all requests fails in one of many ways. With `policy_for`, clients have rights
    on that prefix and no others. `before` and `after` are called with each request before the server sees it,
    and when it has answered.
    """

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.requests: list[Request] = []
        self.faults: dict[str, int] = {}
        self.share, self.chance = 0.0, random.Random(5)
        self.policy_for: str | None = None
        self.before: Callable[[Request], None] = lambda request: None
        self.after: Callable[[Request], None] = lambda request: None
        proxy = self

        class Handler(_Relay):
            of = proxy

        self.server = _Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def fault(self) -> str | None:
        if self.chance.random() >= self.share:
            return None
        found = self.chance.choice(_FAULTS)
        self.faults[found] = self.faults.get(found, 0) + 1
        return found

    def count(self, what: str, key: str = "") -> int:
        """How many requests of a kind there were for keys that hold `key`."""
        return sum(request.what == what and key in request.key for request in self.requests)

    def allows(self, request: Request) -> bool:
        """Whether the policy of docs/s3.md lets a request pass, where there is one."""
        place = request.query.get("prefix", [""])[0] if request.what == "list" else request.key
        return self.policy_for is None or place.startswith(f"{self.policy_for}/")

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Relay(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    of: Proxy

    def log_message(self, *_arguments: object) -> None:
        """Stay quiet."""

    def relay(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(self.command, self.path, self.headers)
        self.of.requests.append(request)
        self.of.before(request)
        if not self.of.allows(request):
            return self.forbid()
        fault = self.of.fault()
        match fault:
            case "timeout":
                time.sleep(1.2)
                return self.reset()
            case "500" | "503":
                code = "InternalError" if fault == "500" else "SlowDown"
                return self.answer(int(fault), {}, _ERROR.format(code=code).encode())
            case "reset":
                return self.reset()
            case "truncated request":
                self.truncated(body)
                return self.reset()
        status, headers, data = self.forwarded(body)
        if status == 404 and self.of.policy_for and request.what != "list":
            return self.forbid()  # which objects there are, it may not know
        self.of.after(request)
        if fault == "lost answer":
            return self.reset()
        return self.answer(status, headers, data, len(data) // 2 if fault == "truncated answer" else None)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = relay  # noqa: N815

    def forbid(self) -> None:
        self.answer(403, {}, b"" if self.command == "HEAD" else _ERROR.format(code="AccessDenied").encode())

    def forwarded(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        upstream = http.client.HTTPConnection("127.0.0.1", self.of.upstream, timeout=30)
        path = self.path + f"&max-keys={_LISTED_AT_ONCE}" * ("list-type" in self.path)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        upstream.request(self.command, path, body, headers)
        answer = upstream.getresponse()
        data = answer.read()
        upstream.close()
        return answer.status, dict(answer.getheaders()), data

    def truncated(self, body: bytes) -> None:
        """Half a request."""
        with socket.create_connection(("127.0.0.1", self.of.upstream)) as upstream:
            head = f"{self.command} {self.path} HTTP/1.1\r\n" + "".join(
                f"{name}: {value}\r\n" for name, value in self.headers.items() if name.lower() != "expect"
            )
            upstream.sendall(f"{head}\r\n".encode() + body[: len(body) // 2])
            if len(body) < 2:  # that was a whole one
                upstream.recv(1)

    def answer(self, status: int, headers: dict[str, str], data: bytes, sent: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", headers.get("Content-Length") or str(len(data)))
        self.end_headers()
        self.wfile.write(data[:sent])
        if sent is not None:
            self.reset()

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


class Site:
    """A prefix of a bucket, a target that reaches it through a proxy, and readers that do not."""

    def __init__(self, port: int, proxy: Proxy, folder: Path, name: str, kept: int = 3) -> None:
        self.port, self.proxy = port, proxy
        self.location = f"s3://docs/{name}"
        self.url = f"http://127.0.0.1:{port}/docs/{name}"
        self.kept, self.lease_s = kept, LEASE_S
        self._targets: dict[tuple[int, float], S3Target] = {}
        self.folder = folder
        self.cache = ResultCache(f"sqlite:///{folder}/cache.sqlite")

    def target(self) -> S3Target:
        return S3Target(self.location, self.kept, Storage(self.proxy.address, "us-east-1"), self.lease_s)

    def publish(self, texts: dict[str, str]):
        known = (self.kept, self.lease_s)
        if known not in self._targets:  # to connect takes longer than to publish
            self._targets = {known: self.target()}
        return self._targets[known].publish(site_files(texts, self.cache), self.cache)

    def stored(self) -> set[str]:
        """All keys under the prefix, as the server itself lists them."""
        with _opened(f"http://127.0.0.1:{self.port}/docs?list-type=2&max-keys=9999") as answer:
            found = re.findall("<Key>(.*?)</Key>", answer.read().decode())
        prefix = self.location.removeprefix("s3://docs/") + "/"
        return {key.removeprefix(prefix) for key in found if key.startswith(prefix)}

    def open(self, name: str) -> Any:
        return _opened(f"{self.url}/{quote(name)}")

    def read(self, name: str) -> str | None:
        """What a reader gets there."""
        try:
            with self.open(name) as answer:
                return answer.read().decode()
        except HTTPError as error:
            if error.code != 404:
                raise
            return None

    def shown(self) -> dict[str, str]:
        """All that readers can find, but the manifest."""
        names = [key for key in self.stored() if not key.startswith(".docmill/") and key != "manifest.json"]
        return {name: text for name in names if (text := self.read(name)) is not None}

    def broken(self) -> list[str]:
        """Assets that pages refer to and that are not there, while the page is."""
        found = []
        for name in sorted(key for key in self.stored() if key.endswith(".html")):
            page = self.read(name)
            wanted = re.findall(r"assets/[\w.]+", page or "")
            missing = [asset for asset in wanted if self.read(asset) is None]
            if missing and self.read(name) == page:  # a slow reader may have one of two releases ago
                found += [f"{name}: {asset}" for asset in missing]
        return found

    def write(self, name: str, data: bytes | None) -> None:
        """Change the store behind docmill's back; None deletes."""
        method = "DELETE" if data is None else "PUT"
        _opened(f"{self.url}/{quote(name)}", method, data).close()


def _opened(url: str, method: str = "GET", data: bytes | None = None) -> Any:
    # Objects are private, and the server believes everybody who signs.
    headers = {
        "Authorization": "AWS4-HMAC-SHA256 Credential=reader/20261126/us-east-1/s3/aws4_request",
        "Content-Type": "application/octet-stream",
    }
    return urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method))


def site_files(texts: dict[str, str], cache: ResultCache) -> dict[str, SiteFile]:
    """A site of these texts, which the cache then holds."""
    found, values = {}, {}
    for name, text in texts.items():
        data = text.encode()
        digest = hashlib.sha256(data).hexdigest()
        values[f"file:{digest[:40]}"] = data
        found[name] = SiteFile(f"file:{digest[:40]}", digest, len(data))
    cache.put_many(values)
    return found


def site_of(version: int, pages: int = 4) -> dict[str, str]:
    """A small site whose pages need assets that are named by their content, and others of every version."""
    found = {
        "assets/site.js": f"site {version}",
        "symbols.json": f"[{version}]",
        "assets/search.js": "search",
    }
    style = f"style {version // 2}"
    name = f"assets/docmill.{hashlib.sha256(style.encode()).hexdigest()[:12]}.css"
    found[name] = style
    for number in range(pages):
        shown = version if number % 2 else "the same"
        found[f"api/p{number}.html"] = f"<link href={name}><script src=assets/site.js>{number}: {shown}"
    found[f"api/only{version}.html"] = f"<link href={name}> only {version}"
    found["index.html"] = f"<link href={name}> home of {version}"
    return found


def site_styles(*versions: int) -> dict[str, str]:
    """The styles of some versions of a site."""
    sites = [site_of(version) for version in versions]
    return {name: text for site in sites for name, text in site.items() if name.endswith(".css")}


class Publishers:
    """Publishers in processes of their own, forked from one that has imported all they need."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.s3"]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, site: Site, texts: dict[str, str]) -> int:
        """Begin to publish; returns the process's id."""
        site_files(texts, site.cache)
        given = [site.proxy.address, str(site.folder), site.location, texts, site.kept]
        self._server.stdin.write(json.dumps(given) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def end(self) -> int:
        """Wait for the one that was started last; returns its exit status, or minus a signal."""
        return int(self._server.stdout.readline())

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait()


def _publish(address: str, folder: str, location: str, texts: dict[str, str], kept: int) -> None:
    target = S3Target(location, kept, Storage(address, "us-east-1"))
    cache = ResultCache(f"sqlite:///{folder}/cache.sqlite")
    target.publish(site_files(texts, cache), cache)


def _fork_publishers() -> None:
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            _publish(*json.loads(line))
            os._exit(0)
        print(pid, flush=True)  # noqa: T201 - read by the process that started this one
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)  # noqa: T201


if __name__ == "__main__":
    _fork_publishers()
