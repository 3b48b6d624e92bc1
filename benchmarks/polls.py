"""What an unchanged poll costs: processor time and bytes, beside `git ls-remote` and a no-op `git fetch`.

    python -m benchmarks.polls

Against a real `git http-backend`, over http and https, with few refs and with many. Only the client's processor time
counts. Over https all trust the same file: the machine's authorities and the server's own.
"""

from __future__ import annotations

import asyncio
import os
import resource
import ssl
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.webhooks import free_port, server
from reconciler.config.settings import Credential
from reconciler.git.credentials import Credentials
from reconciler.git.refs import Refs

POLLS, AT_ONCE, COMMANDS = 640, 16, 20
SIZES = (10, 50_000)


@dataclass(frozen=True)
class Cost:
    """What one poll costs."""

    cpu_ms: float
    body_bytes: float


def make(folder: Path, refs: int) -> None:
    """Make a repository with so many branches."""
    subprocess.run(["git", "init", "-q", "-b", "main", str(folder)], check=True)
    identity = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "first"], cwd=folder, check=True)
    lines = "".join(f"create refs/heads/branch-{number} HEAD\n" for number in range(refs - 1))
    subprocess.run(["git", "update-ref", "--stdin"], cwd=folder, input=lines, text=True, check=True)
    subprocess.run(["git", "pack-refs", "--all"], cwd=folder, check=True)


def carried(base: str) -> int:
    """Return how many bytes of bodies the server has carried."""
    lax = ssl._create_unverified_context()  # noqa: S323, SLF001 - our own server, and nothing but a number
    with urllib.request.urlopen(f"{base}/count", timeout=10, context=lax) as answer:  # noqa: S310 - the same
        return int(answer.read())


def certificate(folder: Path) -> tuple[Path, Path, Path]:
    """Return a certificate for this machine, its key, and a file of authorities that trusts it."""
    cert, key, bundle = folder / "cert.pem", folder / "key.pem", folder / "bundle.pem"
    subject = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
    command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject)
    subprocess.run([*command, "-out", str(cert), "-keyout", str(key)], check=True, capture_output=True)
    known = Path(ssl.get_default_verify_paths().openssl_cafile)
    machine = known if known.exists() else Path("/etc/ssl/certs/ca-certificates.crt")
    bundle.write_bytes((machine.read_bytes() if machine.exists() else b"") + b"\n" + cert.read_bytes())
    return cert, key, bundle


def processor_s(who: int) -> float:
    """Return the processor time of this process, or of its children that have ended."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


async def ours(base: str, folder: Path, url: str, bundle: Path) -> Cost:
    """Poll as the daemon does: what is due in one tick together, at most AT_ONCE of one host."""

    async def nobody(*_: Any) -> Any:
        raise AssertionError("nothing is asked of a worker here")

    secure = base.startswith("https")
    credentials = Credentials([Credential(url=base, username="any", ca_file=str(bundle))] if secure else [])
    refs = Refs(credentials, folder, 30.0, nobody, nobody)
    poll: Callable[[], Awaitable[object]] = lambda: refs.poll(url, ["refs/heads/main"])  # noqa: E731 - said once
    await asyncio.gather(*(poll() for _ in range(AT_ONCE)))
    bytes_before, before = carried(base), processor_s(resource.RUSAGE_SELF)
    for _ in range(POLLS // AT_ONCE):
        await asyncio.gather(*(poll() for _ in range(AT_ONCE)))
    cpu = processor_s(resource.RUSAGE_SELF) - before
    await refs.close()
    return Cost(1000 * cpu / POLLS, (carried(base) - bytes_before) / POLLS)


def git(base: str, folder: Path, bundle: Path, *command: str) -> Cost:
    """Poll with git, as a script would."""
    bytes_before, before = carried(base), processor_s(resource.RUSAGE_CHILDREN)
    for _ in range(COMMANDS):
        env = {**os.environ, "GIT_SSL_CAINFO": str(bundle)}
        subprocess.run(["git", *command], cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL)
    cpu = processor_s(resource.RUSAGE_CHILDREN) - before
    return Cost(1000 * cpu / COMMANDS, (carried(base) - bytes_before) / COMMANDS)


def show(name: str, cost: Cost, mine: Cost) -> None:
    """Print one cost and its ratio to ours."""
    ratio = "" if cost is mine else f"  {cost.cpu_ms / mine.cpu_ms:5.0f} times the processor time of ours"
    print(f"  {name:<14} {cost.cpu_ms:8.2f} ms of processor {cost.body_bytes:10.0f} bytes{ratio}")


def compare(scheme: str, size: int) -> None:
    """Measure the three clients one after the other, and print."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        make(folder / "git" / "app", size)
        cert, key, bundle = certificate(folder)
        base = f"{scheme}://127.0.0.1:{port}"
        url = f"{base}/app/.git"
        secure = [str(cert), str(key)] if scheme == "https" else []
        command = [sys.executable, "-m", "benchmarks.gitserver", str(folder / "git"), str(port), *secure]
        with server(command, port, 0):
            mine = asyncio.run(ours(base, folder, url, bundle))
            trusting = {**os.environ, "GIT_SSL_CAINFO": str(bundle)}
            subprocess.run(["git", "clone", "-q", url, "clone"], cwd=folder, env=trusting, check=True)
            asked = git(base, folder, bundle, "ls-remote", "-q", url, "refs/heads/main")
            fetched = git(base, folder / "clone", bundle, "fetch", "-q")
    print(f"an unchanged poll over {scheme}, {size} refs")
    show("reconciler", mine, mine)
    show("git ls-remote", asked, mine)
    show("git fetch", fetched, mine)


def main() -> None:
    """Measure and print."""
    for scheme in ("http", "https"):
        for size in SIZES:
            compare(scheme, size)


if __name__ == "__main__":
    main()
