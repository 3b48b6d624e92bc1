"""Writing pins: where a target says `follow: {…, write: true}`, the daemon itself commits the newest commit as its pin.

The pin then goes the way of every other one: polled, parsed, planned. What cannot be written is told and tried again.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from reconciler.doors import Doors
from reconciler.errors import SourceError
from reconciler.events import Warned
from reconciler.git.library import mirror_name
from reconciler.spec import Target

TRY_AGAIN_S = 60.0


class Writer:
    """Commits pins, one at a time. `written` is called after each one."""

    def __init__(self, doors: Doors, written: Callable[[], None]) -> None:
        self._doors = doors
        self._written = written
        self._wanted: dict[str, str] = {}
        self._not_before: dict[tuple[str, str], float] = {}
        self._task: asyncio.Task[None] | None = None

    def write(self, wanted: Mapping[str, str], targets: Mapping[str, Target]) -> None:
        """Take note of which pins should be at which commit, and begin to write those that are not."""
        self._wanted = {name: commit for name, commit in wanted.items() if targets[name].commit != commit}
        if self._due() and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._write(), name="write pins")

    async def settle(self) -> bool:
        """Wait for what is being written; return whether something was waited for."""
        if self._task is None or self._task.done():
            return False
        await self._task
        return True

    async def close(self) -> None:
        """End what is being written."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def _due(self) -> list[tuple[str, str]]:
        now = time.monotonic()
        return [pair for pair in self._wanted.items() if self._not_before.get(pair, 0.0) <= now]

    async def _write(self) -> None:
        while due := self._due():
            name, commit = due[0]
            now = time.monotonic()
            self._not_before = {pair: until for pair, until in self._not_before.items() if until > now}
            self._not_before[name, commit] = now + TRY_AGAIN_S
            try:
                await self._write_one(name, commit)
            except (SourceError, OSError) as error:
                self._doors.listener.hear(Warned("pin.not_written", f"{name}: {error}"))
            else:
                self._written()

    async def _write_one(self, name: str, commit: str) -> None:
        repo = self._doors.settings.config_repo
        assert repo is not None  # noqa: S101 - a daemon has one
        login = await self._doors.credentials.login(repo.url)
        request = {
            "op": "pin",
            "url": repo.url,
            "branch": repo.branch,
            "path": repo.path,
            "mirror": str(self._doors.state.mirrors / mirror_name(repo.url)),
            "login": login.as_message() if login else None,
            "target": name,
            "commit": commit,
            "author": ["reconciler", f"reconciler@{socket.gethostname()}"],
            "time": int(time.time()),
        }
        answer = await self._doors.ask(request, self._doors.settings.git_timeout_s)
        if answer.get("problem"):
            self._doors.listener.hear(Warned("pin.not_written", f"{name}: {answer['problem']}"))
