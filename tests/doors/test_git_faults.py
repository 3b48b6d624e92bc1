"""Servers that misbehave: each ends in a named reason within its deadline, and heals without a person."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.faults import CASES, Fault, FaultyServer, misbehaving
from support.repos import Application, git

from reconciler.errors import SourceError
from reconciler.errors import SourceReason as R
from reconciler.git.asking import Asking
from reconciler.git.credentials import Credentials
from reconciler.git.library import mirror_name
from reconciler.git.objects import has_commit
from reconciler.git.refs import Refs
from reconciler.runner.workers import WorkerFailed, WorkerPool

DEADLINE_S = 2.0
LATE_S = 1.0  # beyond the deadline, as promised; the machine may be busy, so the test allows as much again and more
SLACK_S = 6.0
MAIN = "refs/heads/main"


class Bench:
    """Polls and fetches as the daemon does: refs over http here, packs in a worker process."""

    def __init__(self, root: Path, server: FaultyServer) -> None:
        self.url = f"{server.url}/app/.git"
        self.mirrors = root / "mirrors"
        self.mirror = self.mirrors / mirror_name(self.url)
        self.pool = WorkerPool("reconciler.git.worker", [str(DEADLINE_S)], 1)
        self.ask = Asking(self.pool.ask, self.pool.ask, WorkerFailed)

        async def in_place(call: Any, *arguments: Any) -> Any:
            return call(*arguments)

        self.refs = Refs(Credentials([]), self.mirrors, DEADLINE_S, self.ask, in_place)

    async def poll(self) -> str:
        """Poll and fetch what is new; return the commit. Raises SourceError."""
        commit = (await self.refs.poll(self.url, [MAIN]))[MAIN]
        request = {"op": "fetch", "url": self.url, "mirror": str(self.mirror), "pins": [commit], "login": None}
        answer = await self.ask(request, DEADLINE_S)
        if answer["missing"]:
            raise SourceError(R.COMMIT_NOT_FOUND, commit)
        return commit

    async def close(self) -> None:
        await self.refs.close()
        await self.pool.close()


@pytest.fixture
def app(tmp_path: Path) -> Application:
    return Application(tmp_path / "git" / "app")


@pytest.fixture
def server(tmp_path: Path, app: Application) -> Iterator[FaultyServer]:
    assert app.first
    with misbehaving(tmp_path / "git") as server:
        yield server


@pytest.mark.parametrize(
    ("name", "stage", "fault", "reasons"), CASES, ids=[f"{stage}: {name}" for name, stage, _, _ in CASES]
)
def test_a_fault_has_a_name_and_an_end(
    tmp_path: Path, app: Application, server: FaultyServer, name: str, stage: str, fault: Fault, reasons: set[R]
) -> None:
    del name

    async def go() -> None:
        bench = Bench(tmp_path, server)
        server.stage, server.fault = stage, fault
        began = time.monotonic()
        with pytest.raises(SourceError) as error:
            await bench.poll()
        assert error.value.reason in reasons
        # A fetch begins after its poll, each with a deadline of its own.
        assert time.monotonic() - began < 2 * DEADLINE_S + LATE_S + SLACK_S
        if error.value.reason is R.RATE_LIMITED:
            assert error.value.retry_after_s == 7
        server.fault = None
        # A poll may have to find out once more what the server speaks; no person has to do anything.
        for last in (False, True):
            try:
                assert await bench.poll() == app.head
                break
            except SourceError:
                assert not last
        assert has_commit(bench.mirror, app.head)
        assert not list(bench.mirror.glob("objects/pack/pack_git2_*"))
        await bench.close()

    asyncio.run(go())


def test_a_ref_that_vanishes_between_poll_and_fetch_is_commit_not_found(
    tmp_path: Path, app: Application, server: FaultyServer
) -> None:
    async def go() -> None:
        bench = Bench(tmp_path, server)
        lost = app.release()
        refs = await bench.refs.poll(bench.url, [MAIN])
        assert refs[MAIN] == lost
        app.reset(app.first)
        git(app.path, "reflog", "expire", "--expire=now", "--all")
        git(app.path, "gc", "-q", "--prune=now")
        request = {"op": "fetch", "url": bench.url, "mirror": str(bench.mirror), "pins": [lost], "login": None}
        assert (await bench.ask(request, 10.0))["missing"] == [lost]
        assert await bench.poll() == app.first
        await bench.close()

    asyncio.run(go())


def test_a_forced_push_is_followed_and_what_was_pinned_stays(
    tmp_path: Path, app: Application, server: FaultyServer
) -> None:
    async def go() -> None:
        bench = Bench(tmp_path, server)
        before = app.release()
        assert await bench.poll() == before
        app.reset(app.first)
        after = app.commit({"other.txt": "rewritten"})
        assert await bench.poll() == after
        assert has_commit(bench.mirror, before)
        await bench.close()

    asyncio.run(go())


def test_a_server_that_accepts_and_closes_is_unreachable_or_lies(tmp_path: Path, server: FaultyServer) -> None:
    import socket  # noqa: PLC0415
    import threading  # noqa: PLC0415

    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def close_all() -> None:
        while not stop.is_set():
            try:
                listener.accept()[0].close()
            except OSError:
                return

    threading.Thread(target=close_all, daemon=True).start()

    async def go() -> None:
        bench = Bench(tmp_path, server)
        with pytest.raises(SourceError) as error:
            await bench.refs.poll(f"http://127.0.0.1:{listener.getsockname()[1]}/app", [MAIN])
        assert error.value.reason in (R.UNREACHABLE, R.PROTOCOL_ERROR)
        await bench.close()

    asyncio.run(go())
    stop.set()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
