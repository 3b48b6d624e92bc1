"""A git server that misbehaves: at a chosen stage, in a chosen way, until it is told to heal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.servers import GitServer, StartResponse, serve

from reconciler.errors import SourceReason as R

Answer = tuple[str, list[tuple[str, str]], Iterable[bytes]]  # status, headers, body
Fault = Callable[[Answer, bytes], Answer]  # git's own answer, and its whole body
HANG_S = 60.0  # longer than any deadline of the tests


def kept(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [pair for pair in headers if pair[0].lower() not in ("content-length", "transfer-encoding")]


def instead(status: str, body: bytes = b"", *headers: tuple[str, str]) -> Fault:
    """Answer something else."""
    return lambda _answer, _body: (status, list(headers), [body])


def silent(answer: Answer, _: bytes) -> Answer:
    """Say nothing at all, and keep the connection open."""
    time.sleep(HANG_S)
    return answer


def _slowly(pieces: Iterable[bytes], pause_s: float) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        time.sleep(pause_s)


def dripping(answer: Answer, body: bytes) -> Answer:
    """Send a byte twice a second: every read succeeds, and none of them helps."""
    status, headers, _ = answer
    whole = [*kept(headers), ("Content-Length", str(len(body)))]
    return status, whole, _slowly((body[index : index + 1] for index in range(len(body))), 0.5)


def stuck(answer: Answer, body: bytes) -> Answer:
    """Send half, then nothing more."""
    status, headers, _ = answer

    def pieces() -> Iterator[bytes]:
        yield body[: len(body) // 2]
        time.sleep(HANG_S)

    return status, [*kept(headers), ("Content-Length", str(len(body)))], pieces()


def half(answer: Answer, body: bytes) -> Answer:
    """Send half of what was promised, then close."""
    status, headers, _ = answer
    return status, [*kept(headers), ("Content-Length", str(len(body)))], [body[: len(body) // 2]]


def flipped(answer: Answer, body: bytes) -> Answer:
    """Change bytes in the last third, where a pack has its data."""
    status, headers, _ = answer
    wrong = bytearray(body)
    for index in range(len(wrong) * 2 // 3, len(wrong) - 24, 7):
        wrong[index] ^= 0x55
    return status, kept(headers), [bytes(wrong)]


def garbage(answer: Answer, _: bytes) -> Answer:
    status, headers, _body = answer
    return status, kept(headers), [bytes(range(256)) * 8]


def empty(answer: Answer, _: bytes) -> Answer:
    status, headers, _body = answer
    return status, kept(headers), [b""]


def flood(answer: Answer, _: bytes) -> Answer:
    """Send refs without end."""
    status, headers, _body = answer

    def refs() -> Iterator[bytes]:
        while True:
            line = b"9fceb02d0ae598e95dc970b74767f19372d61af8 refs/heads/" + b"x" * 400 + b"\n"
            yield (b"%04x%s" % (len(line) + 4, line)) * 200

    return status, kept(headers), refs()


def sha256(answer: Answer, body: bytes) -> Answer:
    """Claim another object format."""
    status, headers, _ = answer
    return status, kept(headers), [body.replace(b"object-format=sha1", b"object-format=sha256"[:18])]


# Name, stage, what is done there, and the reasons that may be told for it.
NEXT_CENTURY = "Fri, 20 Nov 2099 10:00:00 GMT"
ELSEWHERE = instead("302 Found", b"", ("Location", "http://127.0.0.2:1/x"))
IN_CIRCLES = instead("301 Moved", b"", ("Location", "/app/.git/info/refs?service=git-upload-pack"))
CASES: list[tuple[str, str, Fault, set[R]]] = [
    ("silent", "advertise", silent, {R.TIMEOUT}),
    ("dripping", "advertise", dripping, {R.TIMEOUT}),
    ("stuck half-way", "advertise", stuck, {R.TIMEOUT}),
    ("cut off", "advertise", half, {R.PROTOCOL_ERROR, R.UNREACHABLE}),
    ("garbage", "advertise", garbage, {R.PROTOCOL_ERROR}),
    ("empty", "advertise", empty, {R.PROTOCOL_ERROR}),
    ("HTML", "advertise", instead("200 OK", b"<html>log in</html>", ("Content-Type", "text/html")), {R.PROTOCOL_ERROR}),
    ("401", "advertise", instead("401 Unauthorized"), {R.AUTHENTICATION_FAILED}),
    ("403", "advertise", instead("403 Forbidden"), {R.FORBIDDEN}),
    ("404", "advertise", instead("404 Not Found"), {R.NOT_FOUND}),
    ("410", "advertise", instead("410 Gone"), {R.NOT_FOUND}),
    ("429", "advertise", instead("429 Too Many Requests", b"", ("Retry-After", "7")), {R.RATE_LIMITED}),
    ("500", "advertise", instead("500 Internal Server Error"), {R.SERVER_ERROR}),
    (
        "503",
        "advertise",
        instead("503 Service Unavailable", b"", ("Retry-After", NEXT_CENTURY)),
        {R.SERVER_ERROR},
    ),
    ("418", "advertise", instead("418 I'm a teapot"), {R.PROTOCOL_ERROR}),
    ("a redirect to another host", "advertise", ELSEWHERE, {R.REDIRECTED}),
    ("a redirect to itself", "advertise", IN_CIRCLES, {R.REDIRECTED}),
    ("a flood of refs", "advertise", flood, {R.TOO_LARGE, R.TIMEOUT}),
    ("a wrong object format", "advertise", sha256, {R.PROTOCOL_ERROR, R.SERVER_ERROR}),
    ("silent", "refs", silent, {R.TIMEOUT}),
    ("dripping", "refs", dripping, {R.TIMEOUT}),
    ("cut off", "refs", half, {R.PROTOCOL_ERROR}),
    ("garbage", "refs", garbage, {R.PROTOCOL_ERROR}),
    ("empty", "refs", empty, {R.PROTOCOL_ERROR}),
    ("a flood of refs", "refs", flood, {R.TOO_LARGE, R.TIMEOUT}),
    ("500", "refs", instead("500 Internal Server Error"), {R.SERVER_ERROR}),
    ("401", "refs", instead("401 Unauthorized"), {R.AUTHENTICATION_FAILED}),
    ("silent", "pack", silent, {R.TIMEOUT}),
    ("dripping", "pack", dripping, {R.TIMEOUT}),
    ("stuck half-way", "pack", stuck, {R.TIMEOUT}),
    ("cut off", "pack", half, {R.PROTOCOL_ERROR, R.UNREACHABLE, R.CORRUPT}),
    ("flipped bytes", "pack", flipped, {R.CORRUPT, R.PROTOCOL_ERROR}),
    ("garbage", "pack", garbage, {R.PROTOCOL_ERROR, R.CORRUPT}),
    ("403", "pack", instead("403 Forbidden"), {R.FORBIDDEN}),
    ("500", "pack", instead("500 Internal Server Error"), {R.SERVER_ERROR}),
]


class FaultyServer(GitServer):
    """Behaves until `fault` is set; then misbehaves at `stage`: advertise, refs or pack."""

    stage = ""
    fault: Fault | None = None

    def _git(self, environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        said: list[Any] = []
        body = b"".join(super()._git(environ, lambda *arguments: said.append(arguments)))
        status, headers = said[0]
        answer: Answer = (status, headers, [body])
        if self.fault is not None and self.stage == _stage(environ, body):
            answer = self.fault(answer, body)
        start(answer[0], answer[1])
        return answer[2]


def _stage(environ: dict[str, Any], body: bytes) -> str:
    if environ["REQUEST_METHOD"] == "GET":
        return "advertise"
    return "pack" if b"PACK" in body or b"NAK" in body else "refs"


class ManyFaultsServer(GitServer):
    """Has one repository under many names, each of which misbehaves in its own way until the server heals."""

    def __init__(self, root: Path, cases: Mapping[str, tuple[str, Fault]]) -> None:
        super().__init__(root)
        self.cases = dict(cases)

    def _git(self, environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        name = environ["PATH_INFO"].split("/")[1]
        stage, fault = self.cases.get(name, ("", None))
        said: list[Any] = []
        body = b"".join(super()._git(environ, lambda *arguments: said.append(arguments)))
        answer: Answer = (*said[0], [body])
        if fault is not None and stage == _stage(environ, body):
            answer = fault(answer, body)
        start(answer[0], answer[1])
        return answer[2]


@contextmanager
def misbehaving(root: Path) -> Iterator[FaultyServer]:
    with serve(FaultyServer(root)) as server:
        yield server
