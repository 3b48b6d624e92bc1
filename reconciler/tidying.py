"""Tidying: what is not needed any more is removed, what has become scattered is put together.

Once an hour: old deploys and their output, mirrors of Sources that nobody names, kept trees of targets that are gone;
and mirrors of many packs become one. At once: what we hold of repositories whose access was taken away for good.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from reconciler import clock
from reconciler.doors import Doors
from reconciler.errors import SourceError
from reconciler.events import Warned
from reconciler.gathering import in_force
from reconciler.git import mirror as mirrors
from reconciler.git.library import mirror_name
from reconciler.polling import Poller
from reconciler.snapshot import Snapshot
from reconciler.trees import Trees

EVERY_S = 3_600.0
COLLECT_TIMEOUT_S = 1_800.0


class Tidier:
    """Tidies beside everything else. `prune` forgets old deploys; `changed` is called when something was taken away."""

    def __init__(
        self, doors: Doors, poller: Poller, prune: Callable[[], Awaitable[None]], changed: Callable[[], None]
    ) -> None:
        self._doors = doors
        self._poller = poller
        self._trees = Trees(doors)
        self._prune = prune
        self._changed = changed
        self._last = -EVERY_S  # due at the first look
        self._task: asyncio.Task[None] | None = None

    def look(self, snapshot: Snapshot, *, busy: bool) -> None:
        """Begin what is due; while deploys run, which borrow from mirrors, nothing of those is taken away."""
        if self._task is not None and not self._task.done():
            return
        lost = [] if busy else self._poller.forgotten(clock.now(), self._doors.settings.forget_after_s)
        lost = [url for url in lost if (self._doors.state.mirrors / mirror_name(url)).exists()]
        is_due = clock.monotonic() - self._last > EVERY_S
        if lost or is_due:
            self._task = asyncio.create_task(self._tidy(snapshot, lost, is_due=is_due, busy=busy), name="tidy")

    async def close(self) -> None:
        """End what runs."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _tidy(self, snapshot: Snapshot, lost: Sequence[str], *, is_due: bool, busy: bool) -> None:
        try:
            for url in lost:
                await self._take_away(snapshot, url)
            if is_due:
                self._last = clock.monotonic()
                await self._prune()
            if is_due and not busy:
                await asyncio.to_thread(mirrors.remove_unneeded, self._doors.state.mirrors, self._poller.states)
                await self._trees.keep_only(in_force(snapshot.entries))
                await self._collect()
        except Exception as error:  # noqa: BLE001 - the one boundary where an error becomes a complaint
            self._doors.listener.hear(Warned("tidying.failed", repr(error)))

    async def _take_away(self, snapshot: Snapshot, url: str) -> None:
        """Remove what we hold of a repository that we may not read any more; history and what is deployed stay."""
        await asyncio.to_thread(mirrors.forget, self._doors.state.mirrors / mirror_name(url))
        targets = in_force(snapshot.entries)
        await self._trees.keep_only(name for name, target in targets.items() if target.source != url)
        self._doors.listener.hear(Warned("source.forgotten", f"{url}: access was refused for too long"))
        self._changed()

    async def _collect(self) -> None:
        """Put scattered mirrors together, one after the other."""
        doors = self._doors
        commits = sorted(await doors.db(doors.store.commits))
        for folder in await asyncio.to_thread(lambda: sorted(doors.state.mirrors.glob("*.git"))):
            if await asyncio.to_thread(mirrors.is_scattered, folder):
                try:
                    await doors.ask({"op": "collect", "mirror": str(folder), "commits": commits}, COLLECT_TIMEOUT_S)
                except SourceError as error:
                    doors.listener.hear(Warned("tidying.failed", f"{folder.name}: {error.message}"))
