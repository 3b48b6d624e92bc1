"""Polling: which Source is due when, and one trip to each that is.

The due times live here, on the monotonic clock, so no change of the wall clock stops or floods anything. A
Source whose pins are all in its mirror and of which no ref is followed is not polled at all. An early poll
(a webhook, a person) only moves a due time forward; one that arrives during a poll causes one more after it.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from reconciler import resolving, urls
from reconciler.breaking import Breaker
from reconciler.doors import Doors
from reconciler.errors import SourceError, SourceReason
from reconciler.events import GitOperation, PollFinished, Warned
from reconciler.fetching import Fetcher
from reconciler.git import objects
from reconciler.git.library import mirror_name
from reconciler.git.refs import Refs
from reconciler.model import SourceState
from reconciler.resolving import Needs
from reconciler.schedule import poll_delay_s
from reconciler.text import short

# What means that access was taken away, where it lasts.
REVOKED = frozenset({SourceReason.AUTHENTICATION_FAILED, SourceReason.FORBIDDEN, SourceReason.NOT_FOUND})
EXPECTANT = ("webhook", "api")  # triggers of polls that will probably find something new
MAX_POLLS = 64  # at once
MAX_POLLS_PER_HOST = 16  # so that one dead host cannot hold all of them
HOOK_GAP_S = 1.0  # between polls of one Source that webhooks ask for, however many come
VISIBLE_WITHIN_S = 30.0  # a forge may announce a commit before its own servers show it
LOOK_AGAIN_S = 1.0
BREAKER_SPREAD_S = 10.0  # over which the Sources of a host that did not answer look again
MAX_ANNOUNCED = 16  # refs of one Source that are waited for


@dataclass(slots=True)
class _Entry:
    """One Source: what is asked of it, what came of it, and when it is due."""

    needs: Needs
    state: SourceState
    due: float | None  # on the monotonic clock; None while nothing asks for a poll
    trigger: str = "startup"
    task: asyncio.Task[None] | None = None
    again: str | None = None  # an early poll that arrived during a poll
    missing: frozenset[str] = frozenset()
    known: tuple[object, Mapping[str, str]] | None = None  # the mirror, and where it has the wanted refs
    announced: dict[str, tuple[str, float]] = field(default_factory=dict)  # ref to commit, and until when to look
    last_end: float = -math.inf  # of a poll, on the monotonic clock
    is_damaged: bool = False  # the mirror turned out to be: it is made anew
    is_early: bool = False  # somebody asked for the poll that is due
    late_s: float = 0.0  # how long after its due time the last poll began


class Poller:
    """Polls Sources when they are due and fetches what is new. `changed` hears of every poll that tells something."""

    def __init__(self, doors: Doors, refs: Refs, changed: Callable[[str], None]) -> None:
        self._doors = doors
        self._refs = refs
        self._fetcher = Fetcher(doors, refs)
        self._changed = changed
        self._entries: dict[str, _Entry] = {}
        self._slots = asyncio.Semaphore(MAX_POLLS)
        self._hosts: dict[str, asyncio.Semaphore] = {}
        self._breakers: dict[str, Breaker] = {}
        self._dirty: set[str] = set()
        self._closed = False
        self._ended = asyncio.Event()  # a poll has ended since somebody last looked
        self.generation = 0  # rises whenever the Sources are others than before

    @property
    def states(self) -> dict[str, SourceState]:
        """What is known of every Source now."""
        return {url: entry.state for url, entry in self._entries.items()}

    def take_dirty(self) -> list[SourceState]:
        """Return the states that changed since the last call: what the store should hear of."""
        dirty, self._dirty = self._dirty, set()
        return [self._entries[url].state for url in sorted(dirty) if url in self._entries]

    async def follow(self, needs: Mapping[str, Needs], remembered: Mapping[str, SourceState]) -> list[str]:
        """Make `needs` what is polled from now on; return the Sources that nobody needs any more."""
        for url, wanted in needs.items():
            entry = self._entries.get(url)
            if entry is None:
                state = remembered.get(url) or SourceState(url=url, interval_s=wanted.interval_s)
                entry = self._entries[url] = _Entry(wanted, state, due=None)
                self.generation += 1
            asked_before = entry.missing
            if wanted.pins != entry.needs.pins or entry.due is None:
                found = await self._doors.git(resolving.missing_pins, self._doors.state.mirrors, url, wanted.pins)
                entry.missing = frozenset(found)
            is_new = bool(entry.missing - asked_before) or wanted.refs != entry.needs.refs
            entry.needs = wanted
            entry.state = replace(entry.state, interval_s=wanted.interval_s)
            if not wanted.refs and not entry.missing:
                self._rest(entry)
            elif entry.due is None or is_new:
                self._make_due(entry, "startup" if entry.state.last_poll is None else "config")
        gone = [url for url in self._entries if url not in needs]
        for url in gone:
            self.generation += 1
            entry = self._entries.pop(url)
            if entry.task is not None:
                entry.task.cancel()
        self._ended.set()
        return gone

    def forgotten(self, now: datetime, after_s: float) -> list[str]:
        """Return the Sources whose access has been refused for longer than `after_s`: ours is to be removed."""
        found = []
        for url, entry in self._entries.items():
            since = entry.state.revoked_since
            if since is not None and entry.task is None and (now - since).total_seconds() > after_s:
                found.append(url)
                entry.missing = entry.needs.pins  # should access come back, all is fetched again
        return found

    def repair(self, url: str) -> None:
        """Fetch a Source again whose mirror turned out to be damaged."""
        entry = self._entries.get(url)
        if entry is not None:
            entry.missing, entry.is_damaged = entry.needs.pins, True
            self._make_due(entry, "repair")

    def poke(self, url: str, trigger: str) -> None:
        """Poll a Source now; while it is being polled, once more after that."""
        entry = self._entries.get(url)
        if entry is not None:
            self._make_due(entry, trigger)

    def announce(self, url: str, tips: Mapping[str, str]) -> None:
        """Poll a Source soon, because a webhook says that refs moved; look again until its server shows `tips`.

        Nothing of `tips` is fetched or deployed: they are only compared with what the server shows.
        """
        entry = self._entries.get(url)
        if entry is None or not (entry.needs.refs or entry.missing):
            return  # nothing that a push could change is asked of it
        until = time.monotonic() + VISIBLE_WITHIN_S
        for ref, commit in tips.items():
            if _is_wanted(ref, entry.needs.refs) or commit in entry.missing:
                entry.announced[ref] = (commit, until)
        while len(entry.announced) > MAX_ANNOUNCED:
            del entry.announced[next(iter(entry.announced))]
        self._make_due(entry, "webhook", after=entry.last_end + HOOK_GAP_S)

    def tick(self) -> None:
        """Start every poll that is due. Called once a second, and after every change of due times."""
        now = time.monotonic()
        for url, entry in self._entries.items():
            if entry.due is not None and entry.due <= now:
                self._start(url, entry)

    def _start(self, url: str, entry: _Entry) -> None:
        if entry.task is None and not self._closed:
            now = time.monotonic()
            later = self._breaker(url).waits_until(now) if entry.trigger == "schedule" else None
            if later is not None:  # its host does not answer: wait with the others, and not in step with them
                entry.due = later + random.random() * BREAKER_SPREAD_S  # noqa: S311 - jitter, no secret
                wall = datetime.now(UTC) + timedelta(seconds=entry.due - now)
                entry.state = replace(entry.state, next_poll=wall)
                return
            entry.task = asyncio.create_task(self._run(url, entry), name=f"poll {url}")

    async def settle(self, url_filter: Iterable[str] | None = None) -> None:
        """Wait until no poll is running or due, of all Sources or of those given."""
        urls_to_wait = list(self._entries if url_filter is None else url_filter)
        self.tick()
        for url in urls_to_wait:
            while (entry := self._entries.get(url)) is not None and (entry.task is not None or entry.is_early):
                self._ended.clear()
                await self._ended.wait()

    async def close(self) -> None:
        """End all polls, and begin no more."""
        self._closed = True
        tasks = [entry.task for entry in self._entries.values() if entry.task is not None]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task

    # --- one poll -----------------------------------------------------------------------------------------

    def _rest(self, entry: _Entry) -> None:
        entry.due, entry.is_early = None, False
        if entry.state.next_poll is not None or entry.state.failures:
            # Nothing is asked of it any more, so nothing is wrong with it.
            entry.state = replace(entry.state, next_poll=None, failures=0, reason=None, message="", revoked_since=None)
            self._dirty.add(entry.state.url)

    def _make_due(self, entry: _Entry, trigger: str, after: float = -math.inf) -> None:
        """Move a due time forward: to now, or to `after` where that is later."""
        if entry.task is not None:
            entry.again = trigger
            return
        now = time.monotonic()
        if entry.due is None or max(now, after) < entry.due:
            entry.due, entry.trigger = max(now, after), trigger
            self._look_in(entry, entry.due - now)
        entry.is_early = True

    def _look_in(self, entry: _Entry, delay_s: float) -> None:
        """Start a poll in the loop's next turn, or `delay_s` seconds later, if it is then due; not at the next tick."""

        def look() -> None:
            url = entry.state.url
            if entry.due is not None and entry.due <= time.monotonic() and self._entries.get(url) is entry:
                self._start(url, entry)

        asyncio.get_running_loop().call_later(delay_s, look)

    def _breaker(self, url: str) -> Breaker:
        parsed = urls.parse(url)
        return self._breakers.setdefault(f"{parsed.host}:{parsed.port or parsed.scheme}", Breaker())

    async def _run(self, url: str, entry: _Entry) -> None:
        host = urls.parse(url).host
        host_slots = self._hosts.setdefault(host, asyncio.Semaphore(MAX_POLLS_PER_HOST))
        try:
            async with host_slots, self._slots:
                began = time.monotonic()
                entry.late_s = max(0.0, began - entry.due) if entry.due is not None else 0.0
                failure: SourceError | None = None
                changed = False
                try:
                    changed = await self._poll(url, entry)
                except SourceError as error:
                    failure = error
                except Exception as error:  # noqa: BLE001 - the one boundary where an error becomes a failure
                    failure = SourceError(SourceReason.PROTOCOL_ERROR, f"{url}: {error!r}")
                was_failing = entry.state.reason is not None
                self._record(entry, failure, changed=changed, duration_s=time.monotonic() - began)
        finally:
            entry.task = None
            entry.last_end = time.monotonic()
            again, entry.again = entry.again, None
            if again is not None and self._entries.get(url) is entry:
                self._make_due(entry, again, after=entry.last_end + HOOK_GAP_S if again == "webhook" else -math.inf)
            self._ended.set()
        if changed or failure is not None or was_failing:
            self._changed(url)

    async def _poll(self, url: str, entry: _Entry) -> bool:
        """Ask for refs, fetch where something is new; return whether something was. Raises SourceError."""
        needs, found = entry.needs, dict[str, str]()
        tags: dict[str, str] | None = None
        is_new = bool(entry.missing) or entry.is_damaged
        if needs.refs:
            began = time.monotonic()
            if entry.trigger in EXPECTANT:
                found, tags = await self._refs.poll_with_tags(url, sorted(needs.refs))
            else:
                found = await self._refs.poll(url, sorted(needs.refs))
            self._doors.listener.hear(GitOperation("ls_remote", time.monotonic() - began))
            for ref, (commit, _) in list(entry.announced.items()):
                if found.get(ref) == commit:
                    del entry.announced[ref]
            self._require_branches(url, needs, found)
            is_new = is_new or not await self._is_known(url, entry, found)
        if is_new:
            entry.known = None
            entry.missing = await self._fetcher.fetch(url, needs, found, tags, anew=entry.is_damaged)
            entry.is_damaged = False
        if entry.announced:
            await self._forget_visible(url, entry)
        if entry.missing:
            pins = ", ".join(short(pin) for pin in sorted(entry.missing)[:3])
            raise SourceError(
                SourceReason.COMMIT_NOT_FOUND, f"{url} has no commit {pins} in any branch or tag; push it there"
            )
        return is_new

    async def _is_known(self, url: str, entry: _Entry, found: Mapping[str, str]) -> bool:
        """Whether the mirror has its refs where `found` says. What it has is remembered while it is the same mirror."""
        mirrors = self._doors.state.mirrors
        standing = objects.standing(mirrors / mirror_name(url))
        if entry.known is None or entry.known != (standing, found):
            known = await self._doors.git(resolving.known_refs, mirrors, url, entry.needs.refs)
            entry.known = (standing, known)
        return entry.known == (standing, found)

    async def _forget_visible(self, url: str, entry: _Entry) -> None:
        """Stop waiting for announced commits that the mirror holds: seen, and perhaps moved on from."""
        commits = {commit for commit, _ in entry.announced.values()}
        hidden = await self._doors.git(resolving.missing_pins, self._doors.state.mirrors, url, commits)
        entry.announced = {ref: (commit, end) for ref, (commit, end) in entry.announced.items() if commit in hidden}

    def _look_again(self, entry: _Entry) -> str:
        """Move the next poll forward while an announced commit does not show; return what the next poll is due to.

        Complains when it never shows.
        """
        now = time.monotonic()
        for ref, (commit, until) in list(entry.announced.items()):
            if until <= now:
                del entry.announced[ref]
                message = f"{entry.state.url}: {ref} was announced at {short(commit)}, which its server does not show"
                self._doors.listener.hear(Warned("webhook.commit_not_visible", message))
        if entry.announced and entry.due is not None:
            entry.due = min(entry.due, now + LOOK_AGAIN_S)
            self._look_in(entry, LOOK_AGAIN_S)
            return "webhook"
        return "schedule"

    def _require_branches(self, url: str, needs: Needs, found: Mapping[str, str]) -> None:
        """Raise SourceError for a branch that is gone; the mirror keeps its last commit."""
        branches = [ref for ref in needs.refs if ref.startswith("refs/heads/")]
        tags = {ref.removeprefix("refs/tags/") for ref in found}
        absent = [ref for ref in branches if ref not in found and ref.removeprefix("refs/heads/") not in tags]
        if absent:
            names = ", ".join(ref.removeprefix("refs/heads/") for ref in sorted(absent))
            raise SourceError(SourceReason.NOT_FOUND, f"{url} has no branch {names}", of_a_ref=True)

    def _record(self, entry: _Entry, failure: SourceError | None, *, changed: bool, duration_s: float) -> None:
        now, trigger = datetime.now(UTC), entry.trigger
        failures = entry.state.failures + 1 if failure else 0
        delay = poll_delay_s(entry.needs.interval_s, failures, random.random())  # noqa: S311 - jitter, no secret
        breaker = self._breaker(entry.state.url)
        if failure is None:
            breaker.succeeded()
        else:
            chance = random.random()  # noqa: S311 - jitter, no secret
            breaker.failed(failure.reason, failure.retry_after_s, time.monotonic(), chance)
        idle = failure is None and not entry.needs.refs
        entry.due = None if idle else time.monotonic() + delay
        entry.is_early = False
        entry.trigger = self._look_again(entry)
        entry.state = replace(
            entry.state,
            last_poll=now,
            last_good_poll=entry.state.last_good_poll if failure else now,
            failures=failures,
            reason=failure.reason if failure else None,
            message=failure.message if failure else "",
            revoked_since=_revoked_since(entry.state, failure, now),
            next_poll=None if entry.due is None else now + timedelta(seconds=entry.due - time.monotonic()),
        )
        self._dirty.add(entry.state.url)
        result = "error" if failure else "changed" if changed else "unchanged"
        self._doors.listener.hear(
            PollFinished(
                entry.state.url,
                result,
                trigger,
                duration_s,
                failure.reason if failure else None,
                failure.message if failure else "",
                failures,
                delay,
                entry.late_s,
            )
        )


def _revoked_since(before: SourceState, failure: SourceError | None, now: datetime) -> datetime | None:
    """Return since when access has been refused; what is no refusal (a dead server) neither begins nor ends that."""
    if failure is None or failure.of_a_ref:
        return None
    if failure.reason in REVOKED:
        return before.revoked_since or now
    return before.revoked_since


def _is_wanted(ref: str, wanted: Iterable[str]) -> bool:
    return any(ref == name or (name.endswith("/") and ref.startswith(name)) for name in wanted)
