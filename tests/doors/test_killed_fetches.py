"""Fetches that are killed in the middle, again and again: the mirror works afterwards, and does not grow."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.faults import Answer, kept, misbehaving
from support.repos import Application

from reconciler.git import mirror as mirrors
from reconciler.git.asking import Asking
from reconciler.git.objects import has_commit
from reconciler.runner.workers import WorkerFailed, WorkerPool

PIECES = 40


def throttled(answer: Answer, body: bytes) -> Answer:
    """Send in pieces, so that a fetch has a middle."""
    import time  # noqa: PLC0415

    status, headers, _ = answer
    size = len(body) // PIECES + 1

    def pieces() -> Any:
        for start in range(0, len(body), size):
            yield body[start : start + size]
            time.sleep(0.01)

    return status, [*kept(headers), ("Content-Length", str(len(body)))], pieces()


def size_of(folder: Path) -> int:
    done = subprocess.run(["du", "-sk", str(folder)], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0])


def kill_in_the_middle(root: Path, rounds: int) -> None:
    app = Application(root / "git" / "app")
    chance = random.Random(20261120)
    (app.path / "data.bin").write_bytes(chance.randbytes(3_000_000))
    commit = app.commit({}, "data")
    mirror = root / "mirrors" / "app.git"

    async def go(url: str) -> None:
        pool = WorkerPool("reconciler.git.worker", ["30"], 1)
        ask = Asking(pool.ask, pool.ask, WorkerFailed)
        request = {"op": "fetch", "url": url, "mirror": str(mirror), "pins": [commit], "login": None}
        killed = sizes = 0
        for _ in range(rounds):
            fetching = asyncio.create_task(ask(request, 30.0))
            while not pool._all:
                await asyncio.sleep(0.005)
            worker = next(iter(pool._all))
            await asyncio.sleep(0.15 + chance.random() * 0.4)
            if not fetching.done():
                os.kill(worker.process.pid, signal.SIGKILL)
                killed += 1
            await asyncio.gather(fetching, return_exceptions=True)
            sizes = max(sizes, size_of(mirror) if mirror.exists() else 0)
            if mirror.exists() and has_commit(mirror, commit):
                mirrors.discard(mirror)  # it was done sooner: begin again
        assert killed > rounds / 2
        server.fault = None
        assert (await ask(request, 30.0))["missing"] == []
        await pool.close()
        assert has_commit(mirror, commit)
        assert not list(mirror.glob("objects/pack/pack_git2_*"))
        assert not list(mirror.rglob("*.lock"))
        assert sizes < 3 * size_of(mirror)  # never more than what one killed fetch leaves

    with misbehaving(root / "git") as server:
        server.stage, server.fault = "pack", throttled
        asyncio.run(go(f"{server.url}/app/.git"))
    subprocess.run(["git", "-c", "safe.directory=*", "fsck", "--full"], cwd=mirror, check=True, capture_output=True)


def test_a_killed_fetch_leaves_nothing_that_stays(tmp_path: Path) -> None:
    kill_in_the_middle(tmp_path, 15)


@pytest.mark.torture
def test_a_hundred_killed_fetches_leave_nothing_that_stays(tmp_path: Path) -> None:
    kill_in_the_middle(tmp_path, 100)
