"""Looking at what is really deployed, by a make target or an HTTP address, and recording where it differs.

A difference is drift: the planner heals it with a new deploy. An observer that fails says nothing about the target, so
it is no drift. What an observer sees is written only if nothing was deployed meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import aiohttp

from reconciler import __version__, clock
from reconciler.doors import Doors
from reconciler.errors import SourceError
from reconciler.events import TargetObserved
from reconciler.git.checkout import BadTree
from reconciler.git.library import mirror_name
from reconciler.model import Deploy, DeployStatus, Observed, StartReason, TargetRecord, Version
from reconciler.runner import deploys, output
from reconciler.runner.deploys import Job
from reconciler.runner.environment import step_environment
from reconciler.runner.secrets import SecretMissing, masks
from reconciler.spec import Step, Target
from reconciler.text import one_line, short
from reconciler.trees import Tree, Trees, observing

TIMEOUT_S = 60.0
HTTP_TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 64 * 1024
MAX_AT_ONCE = 4
_COMMIT = re.compile(r"[0-9a-f]{7,64}")


class CannotObserve(Exception):  # noqa: N818 - says what happened
    """The observer failed: nothing is known of what is deployed."""


class Observer:
    """Observes targets when that is due. `changed` is called when a drift came or went."""

    def __init__(self, doors: Doors, changed: Callable[[], None]) -> None:
        self._doors = doors
        self._trees = Trees(doors)
        self._changed = changed
        self._due: dict[str, float] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)

    def look(
        self, targets: Mapping[str, Target], records: Mapping[str, TargetRecord], *, at_once: bool = False
    ) -> None:
        """Start every observation that is due, of targets that have something deployed and no live deploy."""
        now = time.monotonic()
        for name in self._due.keys() - targets.keys():
            del self._due[name]
        for name, target in targets.items():
            record = records.get(name)
            if target.observe is None or record is None:
                continue
            if record.observed.deployed is None or record.observed.live is not None or name in self._running:
                continue
            due = self._due.setdefault(name, now + target.observe.every_s)
            if at_once or due <= now:
                self._due[name] = now + target.observe.every_s
                task = asyncio.create_task(self._observe(target, record.observed), name=f"observe {name}")
                self._running[name] = task

    async def settle(self) -> None:
        """Wait for the observations that run."""
        while self._running:
            await asyncio.wait(list(self._running.values()))

    async def close(self) -> None:
        """End the observations that run."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task

    async def _observe(self, target: Target, observed: Observed) -> None:
        deployed = observed.deployed
        assert deployed is not None  # noqa: S101 - `look` saw to it
        assert target.observe is not None  # noqa: S101 - the same
        try:
            async with self._slots:
                if target.observe.url is not None:
                    seen = await _ask(target.observe.url, target.observe.json_pointer)
                else:
                    seen = await self._make(target, target.observe.make or "", deployed)
            drift = None if deployed.commit.startswith(seen) else seen
            if await self._doors.db(self._doors.store.record_drift, target.name, observed, drift):
                self._tell(target.name, "drift" if drift else "same", f"{short(seen)} is deployed")
                if drift != observed.drift:
                    self._changed()
        except CannotObserve as error:
            self._tell(target.name, "failed", str(error))
        except Exception as error:  # noqa: BLE001 - the one boundary where an error becomes a failed observation
            self._tell(target.name, "failed", repr(error))
        finally:
            del self._running[target.name]

    def _tell(self, name: str, result: str, message: str) -> None:
        self._doors.listener.hear(TargetObserved(name, result, message))

    async def _make(self, target: Target, goal: str, deployed: Version) -> str:
        """Run a make target of the deployed commit, supervised as a deploy is; return the commit that it prints."""
        doors, step = self._doors, Step(make=goal)
        name = observing(target.name)
        folder, log = doors.state.runs / name, doors.state.path / "observed" / target.name
        stand_in = Deploy(
            id=name,
            target=target.name,
            fence=0,
            version=deployed,
            cause=StartReason.DRIFT,
            message="",
            status=DeployStatus.RUNNING,
            created_at=clock.now(),
            deadline=clock.now(),
        )
        try:
            head = await doors.db(doors.store.config_head)
            secrets = await asyncio.to_thread(doors.vault.read, target, head.commit if head else None)
            env = step_environment(os.environ, doors.settings.pass_env, target, step, stand_in, secrets)
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            job = Job(
                deploy_id=name,
                folder=folder,
                log=log,
                path=target.path,
                steps=[(step, {**env, "RECONCILER_REASON": "observe"})],
                timeout_s=TIMEOUT_S,
                grace_s=doors.settings.kill_grace_s,
                lease_end=clock.boottime() + 2 * TIMEOUT_S,
                masks=masks(secrets.values()),
            )
            mirror = doors.state.mirrors / mirror_name(target.source)
            await self._trees.check_out(Tree(target.source, mirror, deployed.commit, job.checkout), target, name)
            outcome = await (await doors.supervisors.start(job)).wait()
            text = await asyncio.to_thread(output.read_all, log)
        except (SourceError, BadTree, SecretMissing) as error:
            raise CannotObserve(str(error)) from error
        finally:
            await self._trees.give_back(folder / deploys.CHECKOUT, name)
            await asyncio.to_thread(deploys.forget, folder)
            await asyncio.to_thread(output.forget, log)
        if outcome.status is not DeployStatus.SUCCEEDED:
            raise CannotObserve(f"make {goal}: {outcome.message}")
        found = [line.strip() for line in text.splitlines() if _COMMIT.fullmatch(line.strip())]
        if not found:
            raise CannotObserve(f"make {goal} printed no line with a commit id alone")
        return found[-1]


async def _ask(address: str, pointer: str | None) -> str:
    """Return the commit that an HTTP address answers with. Raises CannotObserve."""
    timeout = aiohttp.ClientTimeout(total=HTTP_TIMEOUT_S)
    headers = {"User-Agent": f"reconciler/{__version__}", "Cache-Control": "no-cache"}
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.get(address, headers=headers, allow_redirects=False) as answer,
        ):
            if answer.status != 200:  # noqa: PLR2004 - the one good answer
                raise CannotObserve(f"{address} answered {answer.status}")
            body = await answer.content.read(MAX_ANSWER_BYTES)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise CannotObserve(f"{address}: {str(error) or type(error).__name__}") from error
    text = body.decode(errors="replace").strip()
    if pointer is not None:
        text = _at(text, pointer)
    if not _COMMIT.fullmatch(text):
        raise CannotObserve(f"{address} answered with no commit id: {one_line(text[:80])}")
    return text


def _at(text: str, pointer: str) -> str:
    """Return the text at a JSON pointer (RFC 6901). Raises CannotObserve."""
    try:
        found: Any = json.loads(text)
        for part in pointer.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            found = found[int(key)] if isinstance(found, list) else found[key]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise CannotObserve(f"the answer has nothing at {pointer}") from None
    return str(found).strip()
