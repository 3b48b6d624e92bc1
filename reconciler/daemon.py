"""The composition root: builds everything from the settings, turns the loop, stops in order.

Start: lock, store, recovery, listeners, scheduler. Stop: scheduler, passes, running deploys (drained), polls,
workers, listeners, store, lock.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from reconciler import __version__, clock, waking
from reconciler.config.settings import Settings
from reconciler.deploying import Deployer
from reconciler.doors import Doors
from reconciler.errors import CannotTell, SettingsError
from reconciler.events import DaemonStarted, DaemonStopping, Event, Listener, PassFailed, Warned
from reconciler.gathering import in_force
from reconciler.git.asking import Asking
from reconciler.git.credentials import Credentials
from reconciler.git.library import prepare
from reconciler.git.refs import Refs
from reconciler.hooking import Hooks
from reconciler.notifying import Notifier
from reconciler.observing import Observer
from reconciler.polling import Poller
from reconciler.reconcile import Reconciler, start_key
from reconciler.report.logs import LogListener
from reconciler.report.metrics import Metrics
from reconciler.runner import cgroups
from reconciler.runner.deploys import Supervisors
from reconciler.runner.workers import WorkerFailed, WorkerPool
from reconciler.serving import Serving
from reconciler.snapshot import Snapshot
from reconciler.store import StateDir, Store
from reconciler.threads import Thread
from reconciler.ticking import Ticker
from reconciler.tidying import Tidier
from reconciler.trusting import Trust
from reconciler.vault import Vault
from reconciler.writing import Writer

SAVE_SOURCES_EVERY_S = 30.0  # unchanged polls are written together: a restart may forget so much of them
MAX_PASS_BACKOFF_S = 15.0
LOCAL_WORKERS = 4
NETWORK_WORKERS = 8  # processes of their own, so that servers that hang hold no checkout up
LOOK_AT_SECRETS_S = 10.0


class Reporter:
    """Passes events on to every listener; a listener's error never reaches who speaks."""

    def __init__(self) -> None:
        self.listeners: list[Listener] = []

    def hear(self, event: Event) -> None:
        """Tell every listener."""
        for listener in self.listeners:
            try:
                listener.hear(event)
            except Exception:  # noqa: BLE001, S112 - nobody is left to tell
                continue


class Daemon:
    """A reconciler of one config repository on one state directory."""

    def __init__(self, settings: Settings, *, wait: bool = False) -> None:
        """`wait` takes the state directory over from a daemon that runs there, once that has ended."""
        if settings.config_repo is None:
            raise SettingsError(
                "config_repo.url: is missing; set it in the settings file, as RECONCILER_CONFIG_REPO__URL "
                "or with --config-repo"
            )
        self._settings = settings
        self._config_url = settings.config_repo.url
        prepare(settings.git_timeout_s)
        self._state = StateDir(settings.state_dir)
        self._state.acquire(wait=wait)
        self._notifier = Notifier()
        self._store = Store.open(self._state.database)
        self._db, self._git = Thread("store"), Thread("git")
        self._reporter = Reporter()
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._ticker = Ticker(self._tick, self._reporter)
        self._last_save = clock.monotonic()
        self._problem: str | None = None  # why passes fail
        module, arguments = "reconciler.git.worker", [str(settings.git_timeout_s)]
        self._workers = WorkerPool(module, arguments, LOCAL_WORKERS)
        self._network_workers = WorkerPool(module, arguments, NETWORK_WORKERS)
        self._supervisors = Supervisors(partial(cgroups.make, self._state.runs))
        doors = Doors(
            settings=settings,
            state=self._state,
            store=self._store,
            db=self._db,
            git=self._git,
            ask=Asking(self._workers.ask, self._network_workers.ask, WorkerFailed),
            credentials=Credentials(settings.credentials),
            listener=self._reporter,
            supervisors=self._supervisors,
            trust=Trust(settings.key_sets),
            vault=Vault(settings, self._state.mirrors, self._state.key()),
        )
        self._refs = Refs(doors.credentials, self._state.mirrors, settings.git_timeout_s, doors.ask, self._git)
        self.poller = Poller(doors, self._refs, lambda _url: self._wake.set())
        self._deployer = Deployer(doors, self._wake.set, self.poller.repair)
        self._tidier = Tidier(doors, self.poller, self._deployer.prune, self._wake.set)
        self._observer = Observer(doors, self._wake.set)
        self._writer = Writer(doors, lambda: self.poller.poke(self._config_url, "config"))
        self._reconciler = Reconciler(doors, self.poller, self._deployer, self._writer)
        self._metrics = Metrics(self._snapshot, self._ticker.heartbeat, settings.webhooks)
        self._reporter.listeners = [LogListener(), self._metrics]
        hooks = Hooks(dict(settings.webhooks.items()), self.poller, self._reconciler.sources_of, self._reporter)
        health = (self._ticker.why_dead, self._why_not_ready)
        self._serving = Serving(doors, hooks, self._metrics, self._snapshot, health, self._woken)

    def hear_also(self, listener: Listener) -> None:
        """Let one more listener hear events."""
        self._reporter.listeners.append(listener)

    def _snapshot(self) -> Snapshot:
        """Return what the last pass knew, with what polls have found out since."""
        return replace(self._reconciler.snapshot, sources=self.poller.states)

    # --- once ---------------------------------------------------------------------------------------------

    async def run_once(self, *, start: bool = True, textfile: str | None = None) -> Snapshot:
        """Do one full pass: poll, deploy what differs (dependencies first), wait, and return what is then known.

        With `start` false nothing is deployed: the dry run. `textfile` is where the metrics go. Raises CannotTell
        where the config repository cannot be read.
        """
        try:
            await self._begin()
            if start:
                self._supervisors.prepare()
            self.poller.poke(self._config_url, "api")
            await self.poller.settle([self._config_url])
            source = self.poller.states[self._config_url]
            if source.reason is not None:
                raise CannotTell(f"the config repository cannot be read: {source.reason}: {source.message}")
            await self._reconciler.load_config()
            await self.poller.settle()
            if start:  # an observer may run what a repository holds: nothing for a dry run
                snapshot = await self._reconciler.run_pass(start=False)
                self._observer.look(in_force(snapshot.entries), snapshot.records, at_once=True)
                await self._observer.settle()
            snapshot = await self._pass_until_quiet(start=start)
            if textfile is not None:
                self._metrics.write_textfile(textfile)
            return snapshot
        finally:
            await self._close()

    async def _pass_until_quiet(self, *, start: bool) -> Snapshot:
        started: set[tuple[str, bool]] = set()  # each target once, and its rollback once
        while True:
            self._wake.clear()
            before = frozenset(started)
            snapshot = await self._reconciler.run_pass(start=start, skip=before)
            started |= {start_key(*begun) for begun in snapshot.plan.starts}
            if await self._writer.settle():  # the new pin is the config repository's newest commit
                await self.poller.settle()
                continue
            if not start or (started == before and not self._deployer.running):
                return await self._reconciler.run_pass(start=False)
            if self._deployer.running:
                await self._wake.wait()

    # --- for ever -----------------------------------------------------------------------------------------

    async def run(self, on_ready: Callable[[str], Any] = lambda _address: None) -> None:
        """Run until a stop signal; the first drains, the second cancels running deploys.

        `on_ready` is called with the address that is listened on.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        try:
            address, webhook_address = await self._serving.start()
            await self._begin()
            self._supervisors.prepare()
            waking_server = await waking.listen(self._state.path, self._woken)
            self._reporter.hear(DaemonStarted(__version__, str(self._state.path), address, webhook_address))
            self._warn()
            self._ticker.start()
            self._notifier.say(ready="1", status=f"listens on {address}")
            on_ready(address)
            await self._passes()
            waking_server.close()
        finally:
            self._ticker.stop()
            self._notifier.say(stopping="1", status="waits for running deploys")
            self._reporter.hear(DaemonStopping(self._deployer.running, self._settings.drain_timeout_s))
            await self._deployer.drain(self._settings.drain_timeout_s, self._hurry)
            await self._close()

    def _woken(self, targets: Sequence[str]) -> None:
        """Look for what is new, then decide: a person made a wish."""
        for url in (self._config_url, *self._reconciler.sources_of(targets)):
            self.poller.poke(url, "api")
        self._wake.set()

    def stop(self) -> None:
        """Ask for a stop; asked twice, running deploys are cancelled."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()
        self._wake.set()

    async def _begin(self) -> None:
        self._metrics.restore_counts(await self._db(self._store.outcome_counts))
        await self._reconciler.begin()

    def _warn(self) -> None:
        if os.geteuid() == 0:
            message = "deploys run as root; give the daemon a user of its own"
            self._reporter.hear(Warned("daemon.root", message))
        for key, file in self._settings.files.items():
            if not os.access(file, os.R_OK):
                message = f"{key}: {file} cannot be read now; it is tried again at each use"
                self._reporter.hear(Warned("settings.file_unreadable", message))

    def _why_not_ready(self) -> str | None:
        source = self.poller.states.get(self._config_url)
        if source is None or source.last_good_poll is None:
            failed = f": {source.reason}: {source.message}" if source and source.reason else ""
            return f"the config repository has not been polled yet{failed}"
        if self._problem is not None:
            return self._problem
        return None if self._reconciler.shown else "the configuration has not been loaded yet"

    async def _tick(self) -> None:
        """Do what is due: once a second."""
        now = clock.monotonic()
        self._notifier.say(watchdog="1")
        self.poller.tick()
        snapshot = self._reconciler.snapshot
        self._observer.look(in_force(snapshot.entries), snapshot.records)
        if now - self._last_save > SAVE_SOURCES_EVERY_S:
            self._last_save = now
            await self._db(self._store.save_sources, self.poller.take_dirty())
        if self._reconciler.shown:  # before, nobody knows what is needed
            self._tidier.look(snapshot, busy=bool(self._deployer.running))

    async def _passes(self) -> None:
        """Pass after pass: on every wake-up, and when a decision changes by itself."""
        failures = 0
        while not self._stopping.is_set():
            self._wake.clear()
            pause: float | None
            try:
                # Without a reserve nothing is begun whose end could not be recorded.
                room = await asyncio.to_thread(self._state.keep_ballast)
                snapshot = await self._reconciler.run_pass(start=room)
                failures, pause = 0, _until(snapshot.plan.next_change)
                if any(planned.facts.target.redeploy_on_secret_change for planned in snapshot.plan.targets.values()):
                    pause = min(pause or LOOK_AT_SECRETS_S, LOOK_AT_SECRETS_S)  # nothing tells of a changed file
                self._problem = None if room else f"the disk of {self._state.path} is full; free some space"
                if not room:
                    raise OSError(self._problem)
            except Exception as error:  # noqa: BLE001 - the next pass begins from what is stored
                failures += 1
                pause = min(MAX_PASS_BACKOFF_S, 2.0**failures)
                self._problem = f"the last pass failed: {error}"
                self._reporter.hear(PassFailed(repr(error), pause))
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    async def _close(self) -> None:
        await self.poller.close()
        await self._tidier.close()
        await self._observer.close()
        await self._writer.close()
        await self._refs.close()
        await self._workers.close()
        await self._network_workers.close()
        await self._supervisors.close()
        await self._serving.stop()
        with suppress(*self._store.errors):
            await self._db(self._store.save_sources, self.poller.take_dirty())
        self._git.close()
        self._db.close()
        self._store.close()
        self._state.release()


def _until(moment: datetime | None) -> float | None:
    """Return seconds from now until `moment`, at least a little: a pass costs something."""
    return None if moment is None else max(0.05, (moment - clock.now()).total_seconds())
