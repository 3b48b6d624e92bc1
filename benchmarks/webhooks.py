"""Signed webhooks of 8 KiB a second, beside a bare handler that only checks the signature; and beside slow clients.

python -m benchmarks.webhooks [SECONDS]
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SECRET = b"bench"
CONNECTIONS = 32
SLOW = 2_000
BODY = (
    json.dumps(
        {
            "ref": "refs/heads/main",
            "after": "9fceb02d0ae598e95dc970b74767f19372d61af8",
            "repository": {"clone_url": "https://git.example.com/acme/api.git", "full_name": "acme/api"},
            "commits": [{"id": f"{index:040x}", "message": "x" * 120, "added": ["a"] * 8} for index in range(32)],
        }
    )
    .encode()[: 8 * 1024 - 1]
    .rpartition(b", {")[0]
    + b"]}"
)
SIGNATURE = "sha256=" + hmac.new(SECRET, BODY, hashlib.sha256).hexdigest()
BARE = """
import hashlib, hmac, sys
from aiohttp import web

async def hook(request):
    body = await request.read()
    good = hmac.new(b"bench", body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest("sha256=" + good, request.headers["X-Hub-Signature-256"]):
        raise web.HTTPUnauthorized
    return web.json_response({"result": "accepted"}, status=202)

app = web.Application()
app.router.add_post("/webhook/github", hook)
web.run_app(app, port=int(sys.argv[1]), host="127.0.0.1", access_log=None, print=None)
"""


@dataclass(frozen=True)
class Load:
    """What came of one load."""

    answers: int
    seconds: float
    p50_ms: float
    p99_ms: float
    bad: int

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return self.answers / self.seconds


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def server(command: list[str], port: int, core: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server on one core until it is not needed any more."""
    process = subprocess.Popen(["taskset", "-c", str(core), *command], stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait()


def resident(pid: int) -> int:
    """Return the resident KiB of a process."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1])


def request(number: int) -> bytes:
    """Return one delivery with a number of its own."""
    head = (
        "POST /webhook/github HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"X-GitHub-Event: push\r\nX-GitHub-Delivery: {number}\r\nX-Hub-Signature-256: {SIGNATURE}\r\n"
        f"Content-Length: {len(BODY)}\r\n\r\n"
    )
    return head.encode() + BODY


async def one_client(port: int, until: float, index: int, times: list[float], bad: list[bytes]) -> None:
    """Send deliveries one after the other until a moment."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    number = index * 10_000_000
    while time.perf_counter() < until:
        number += 1
        began = time.perf_counter()
        writer.write(request(number))
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        times.append(time.perf_counter() - began)
        if not head.startswith(b"HTTP/1.1 202"):
            bad.append(head)
    writer.close()


async def load(port: int, seconds: float, connections: int = CONNECTIONS) -> Load:
    """Send deliveries over kept connections, each as soon as the one before is answered."""
    times: list[float] = []
    bad: list[bytes] = []
    began = time.perf_counter()
    await asyncio.gather(*(one_client(port, began + seconds, n, times, bad) for n in range(connections)))
    taken = time.perf_counter() - began
    times.sort()
    return Load(len(times), taken, 1000 * times[len(times) // 2], 1000 * times[int(len(times) * 0.99)], len(bad))


async def beside_slow_clients(port: int, seconds: float) -> Load:
    """Send good deliveries while SLOW connections hold half a request each, opened again when they are closed."""

    async def dawdle() -> None:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"POST /webhook/github HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
                while not writer.is_closing():
                    await asyncio.sleep(1)
                    writer.write(b" ")
            except OSError:
                await asyncio.sleep(0.2)

    slow = [asyncio.create_task(dawdle()) for _ in range(SLOW)]
    await asyncio.sleep(2)
    found = await load(port, seconds, connections=2)
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    return found


def main() -> None:
    """Measure and print."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 8.0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "secret").write_bytes(SECRET)
        (root / "bare.py").write_text(textwrap.dedent(BARE))
        subprocess.run(["git", "init", "-q", str(root / "config")], check=True)
        port, bare_port = free_port(), free_port()
        (root / "reconciler.yaml").write_text(
            f"config_repo: {{url: {root}/config, interval: 1h}}\nallow_local_repos: true\nstate_dir: {root}/state\n"
            f"listen: 127.0.0.1:{port}\nlog: {{level: error}}\n"
            f"webhooks: {{github: {{secret_files: [{root}/secret]}}}}\n"
        )
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        core = min(range(os.cpu_count() or 1))
        with server([sys.executable, str(root / "bare.py"), str(bare_port)], bare_port, core):
            asyncio.run(load(bare_port, 1))
            bare = asyncio.run(load(bare_port, seconds))
        command = [sys.executable, "-m", "reconciler", "run", "--config", str(root / "reconciler.yaml")]
        with server(command, port, core) as process:
            asyncio.run(load(port, 1))
            before = resident(process.pid)
            ours = asyncio.run(load(port, seconds))
            grown = resident(process.pid) - before
            alone = asyncio.run(load(port, seconds, connections=2))
            beside = asyncio.run(beside_slow_clients(port, seconds))
    print(f"signed webhooks of {len(BODY)} bytes on one core, {CONNECTIONS} connections")
    show("bare aiohttp handler with HMAC", bare)
    show("reconciler", ours)
    print(f"  ratio {ours.per_second / bare.per_second:.2f}; memory grew {grown} KiB")
    print(f"good deliveries over 2 connections beside {SLOW} slow ones")
    show("alone", alone)
    show("beside them", beside)
    print(f"  ratio {beside.per_second / alone.per_second:.2f}")


def show(name: str, found: Load) -> None:
    """Print one load."""
    rate = f"{found.per_second:8.0f}/s  p50 {found.p50_ms:6.2f} ms  p99 {found.p99_ms:6.2f} ms"
    print(f"  {name:<32} {rate}  refused {found.bad} of {found.answers}")


if __name__ == "__main__":
    main()
