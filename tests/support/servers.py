"""A real smart-HTTP git server: `git http-backend` behind a few lines of WSGI."""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any, TypeVar
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

StartResponse = Callable[[str, list[tuple[str, str]]], object]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that went away in the middle: that is what some of them are for."""


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        del format, args


class GitServer:
    """Serves every repository below `root`. Notes each request; can ask for a password or refuse version 2."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = ""
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.user = "bot"
        self.password: str | None = None
        self.speaks_v2 = True
        self.answer: tuple[str, list[tuple[str, str]], bytes] | None = None  # instead of git's
        self.app: Callable[[dict[str, Any]], str | None] | None = None  # GitHub's answer to an app: a token, or nothing

    def __call__(self, environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        self.requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        self.headers.append({key: str(value) for key, value in environ.items() if key.startswith("HTTP_")})
        if environ["PATH_INFO"].endswith("/access_tokens"):
            token = self.app(environ) if self.app else None
            start("201 Created" if token else "401 Unauthorized", [("Content-Type", "application/json")])
            return [json.dumps({"token": token}).encode()]
        if self.answer is not None:
            status, headers, body = self.answer
            start(status, headers)
            return [body]
        if self.password is not None:
            expected = "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            if environ.get("HTTP_AUTHORIZATION") != expected:
                start("401 Unauthorized", [("WWW-Authenticate", 'Basic realm="git"')])
                return [b""]
        return self._git(environ, start)

    def _git(self, environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        env = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": environ["REQUEST_METHOD"],
            "PATH_INFO": environ["PATH_INFO"],
            "QUERY_STRING": environ.get("QUERY_STRING", ""),
            "CONTENT_TYPE": environ.get("CONTENT_TYPE", ""),
            "REMOTE_USER": "test",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
        }
        if self.speaks_v2 and "HTTP_GIT_PROTOCOL" in environ:
            env["GIT_PROTOCOL"] = environ["HTTP_GIT_PROTOCOL"]
        if "HTTP_CONTENT_ENCODING" in environ:
            env["HTTP_CONTENT_ENCODING"] = environ["HTTP_CONTENT_ENCODING"]
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length) if length else _chunked(environ)
        done = subprocess.run(["git", "http-backend"], env=env, input=body, capture_output=True, check=True)
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        headers = [tuple(line.split(": ", 1)) for line in head.decode().split("\r\n")]
        status = next((value for key, value in headers if key == "Status"), "200 OK")
        start(status, [(key, value) for key, value in headers if key != "Status"])
        return [answer]


def _chunked(environ: dict[str, Any]) -> bytes:
    if environ.get("HTTP_TRANSFER_ENCODING") != "chunked":
        return b""
    body = b""
    while size := int(environ["wsgi.input"].readline(), 16):
        body += environ["wsgi.input"].read(size)
        environ["wsgi.input"].readline()
    return body


S = TypeVar("S", bound=GitServer)


@contextmanager
def serving(root: Path, certificate: Path | None = None) -> Iterator[GitServer]:
    """Serve over http, or over https with a certificate and its key in one file."""
    with serve(GitServer(root), certificate) as app:
        yield app


@contextmanager
def serve(app: S, certificate: Path | None = None, host: str = "127.0.0.1") -> Iterator[S]:
    server = make_server(host, 0, app, server_class=_Server, handler_class=_Quiet)
    app.url = f"http://127.0.0.1:{server.server_port}"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        app.url = f"https://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield app
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
