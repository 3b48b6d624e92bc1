"""The scheduler's second: APScheduler turns one job, and a watchdog brings it back when the wall clock took it away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from reconciler import clock
from reconciler.events import Listener, Warned

TICK_S = 1.0
LATE_TICK_S = 2.5  # a tick that is so late was lost to a change of the wall clock
DEAD_LOOP_S = 30.0  # /healthz fails when no tick came for so long


class NoCatchUp(BaseTrigger):  # type: ignore[misc] # APScheduler ships no types
    """Fires TICK_S after now, whatever was missed.

    APScheduler's own interval trigger catches up tick by tick after a jump of the clock, and never comes back.
    """

    def get_next_fire_time(self, _previous: datetime | None, now: datetime) -> datetime:
        """Return the next tick."""
        return now + timedelta(seconds=TICK_S)


class Ticker:
    """Calls `work` once a second."""

    def __init__(self, work: Callable[[], Awaitable[None]], listener: Listener) -> None:
        self._work = work
        self._listener = listener
        self._last, self._last_at = clock.monotonic(), clock.now()
        self._watching: asyncio.Task[None] | None = None
        self._scheduler = AsyncIOScheduler(
            timezone=UTC, job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        )

    def start(self) -> None:
        """Begin to turn."""
        failures = EVENT_JOB_ERROR | EVENT_JOB_MISSED | EVENT_JOB_MAX_INSTANCES
        self._scheduler.add_listener(self._failed, failures)
        self._scheduler.add_job(self._tick, NoCatchUp(), id="tick")
        self._scheduler.start()
        self._watching = asyncio.create_task(self._watch(), name="watch")

    def stop(self) -> None:
        """Turn no more."""
        if self._watching is not None:
            self._watching.cancel()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def heartbeat(self) -> float:
        """Return when the last tick came, in seconds since 1970."""
        return self._last_at.timestamp()

    def why_dead(self) -> str | None:
        """Return why the loop counts as dead; None while it turns."""
        age = clock.monotonic() - self._last
        return f"the scheduler has not turned for {age:.0f} s" if age > DEAD_LOOP_S else None

    async def _tick(self) -> None:
        self._last, self._last_at = clock.monotonic(), clock.now()
        await self._work()

    def _failed(self, event: Any) -> None:
        """Tell of a tick that APScheduler left out or that raised: by itself it only writes to its own log."""
        error = getattr(event, "exception", None)
        self._listener.hear(Warned("scheduler.tick_lost", repr(error) if error else "the last one was still running"))

    async def _watch(self) -> None:
        """Bring back a tick that a jump of the wall clock took away: APScheduler sleeps until a wall time."""
        while True:
            await asyncio.sleep(TICK_S)
            if clock.monotonic() - self._last > LATE_TICK_S:
                self._listener.hear(Warned("scheduler.tick_lost", "the clock jumped, or the loop was busy"))
                self._scheduler.modify_job("tick", next_run_time=clock.now())
