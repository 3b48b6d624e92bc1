"""A git server that misbehaves: at a chosen stage, in a chosen way, until it is told to heal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.servers import GitServer, StartResponse, serve

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


@contextmanager
def misbehaving(root: Path) -> Iterator[FaultyServer]:
    with serve(FaultyServer(root)) as server:
        yield server
