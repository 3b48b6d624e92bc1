"""One deploy from its claim to its record: lease, checkout, supervised steps, guarded result.

Errors become an Outcome here and nowhere else. Whatever happens in between, a claimed deploy is recorded
exactly once, by whoever holds the newest token; who lost it writes nothing.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from reconciler import clock
from reconciler.doors import Doors
from reconciler.errors import LeaseLost, SourceError, SourceReason
from reconciler.events import DeployFinished, DeployStarted, GitOperation, Warned
from reconciler.git import objects
from reconciler.git.checkout import BadTree
from reconciler.git.library import mirror_name
from reconciler.model import (
    Deploy,
    DeployStatus,
    Lease,
    Outcome,
    OutcomeReason,
    Request,
    Start,
    StartReason,
    TargetRecord,
    Version,
)
from reconciler.runner import cgroups, deploys, output
from reconciler.runner.deploys import Job, RunningDeploy
from reconciler.runner.environment import step_environment
from reconciler.runner.secrets import SecretMissing, masks
from reconciler.spec import Target
from reconciler.trees import Tree, Trees

LEASE_TTL_S = 60.0
RENEW_EVERY_S = LEASE_TTL_S / 4
FENCE_AFTER_S = LEASE_TTL_S / 2  # a supervisor that hears nothing for so long ends its deploy; the rest is margin
RECORD_AGAIN_S = 1.0  # between tries to write a result while the disk is full or the database locked
RECOVERY_PATIENCE_S = 5.0  # beyond the grace, for a supervisor to end what a dead daemon left


@dataclass(slots=True)
class _Live:
    """A deploy of this process."""

    deploy: Deploy
    target: Target
    lease_end: float  # on the clock that counts sleep
    wanted: Version | None  # what was desired when it began; a rollback brings out another version
    task: asyncio.Task[None] | None = None
    running: RunningDeploy | None = None
    stop: tuple[OutcomeReason, str] | None = None

    def asked_to_stop(self) -> tuple[OutcomeReason, str] | None:
        """Return why it should end, where it should."""
        return self.stop


class Deployer:
    """Runs deploys. `ended` is called after each one; `damaged` with the Source of a damaged mirror."""

    def __init__(self, doors: Doors, ended: Callable[[], None], damaged: Callable[[str], None]) -> None:
        self._settings = doors.settings
        self._state = doors.state
        self._store = doors.store
        self._db = doors.db
        self._supervisors = doors.supervisors
        self._vault = doors.vault
        self._trees = Trees(doors)
        self._listener = doors.listener
        self._ended = ended
        self._damaged = damaged
        self._holder = f"{socket.gethostname()}:{os.getpid()}"
        self._live: dict[str, _Live] = {}

    @property
    def running(self) -> int:
        """How many deploys live."""
        return len(self._live)

    def wanted_by(self, target: str) -> Version | None:
        """Return what was desired of a target when its running deploy began; None where none runs."""
        live = self._live.get(target)
        return live.wanted if live else None

    async def start(self, target: Target, start: Start, record: TargetRecord) -> bool:
        """Claim the target and begin; return False where somebody else has it."""
        if start.reason is StartReason.ROLLBACK:
            good = await self._db(self._store.good_spec, target.name, start.version)
            target = good or target
        request = record.observed.request
        claimed_at = clock.boottime()  # before the claim, so that the fence falls before the lease does
        claimed = await self._db(self._store.claim, target, start, request, self._holder, LEASE_TTL_S, clock.now())
        if claimed is None:
            return False
        lease, deploy = claimed
        live = _Live(deploy, target, claimed_at + FENCE_AFTER_S, record.desired.version)
        self._live[target.name] = live
        since = record.desired_since if start.reason is StartReason.NEW_VERSION else None
        queued = (deploy.created_at - since).total_seconds() if since else 0.0
        self._listener.hear(DeployStarted(deploy, max(0.0, queued)))
        live.task = asyncio.create_task(self._deploy(live, lease, request), name=f"deploy {deploy.id}")
        return True

    async def cancel(self, target: str, reason: OutcomeReason, message: str) -> bool:
        """Ask a running deploy to end; its outcome is then cancelled. False where none runs."""
        live = self._live.get(target)
        if live is None:
            return False
        if live.stop is None:
            live.stop = (reason, message)
            if live.running is not None:
                await live.running.stop(reason, message)
        return True

    async def drain(self, timeout_s: float, hurry: asyncio.Event) -> None:
        """Wait for running deploys; cancel them after `timeout_s` seconds, or when `hurry` is set."""
        tasks = [live.task for live in self._live.values() if live.task is not None]
        if not tasks:
            return
        hurried = asyncio.create_task(hurry.wait())
        done = asyncio.ensure_future(asyncio.wait(tasks))
        await asyncio.wait({hurried, done}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        for name in list(self._live):
            await self.cancel(name, OutcomeReason.STOPPED, "the daemon is stopping")
        await done

    async def recover(self) -> None:
        """End what a daemon left that died, record it, and remove leftovers. Nothing is started before."""
        patience = self._settings.kill_grace_s + RECOVERY_PATIENCE_S
        left = await self._db(self._store.live_deploys)
        await asyncio.gather(*(self._recover(deploy, patience) for deploy in left))
        for folder in self._state.runs.iterdir():  # what is left belongs to no deploy: an observer, or a half start
            await asyncio.to_thread(deploys.recover, folder, folder.name, patience)
            await asyncio.to_thread(deploys.forget, folder)
        await asyncio.to_thread(cgroups.sweep, self._state.runs)

    async def _recover(self, deploy: Deploy, patience_s: float) -> None:
        outcome = await asyncio.to_thread(deploys.recover, self._folder(deploy), deploy.id, patience_s)
        seen = Lease(deploy.target, await self._db(self._store.fence_of, deploy.target), self._holder)
        lease = await self._db(self._store.take_over, seen, LEASE_TTL_S, clock.now())
        if lease is None:
            raise LeaseLost(f"{deploy.id} belongs to somebody else, who holds no lock of this state directory")
        if deploy.status is DeployStatus.PENDING:
            outcome = Outcome(
                status=DeployStatus.ABANDONED,
                reason=OutcomeReason.DAEMON_DIED,
                message="the daemon died before the deploy ran",
            )
        await self._record(deploy, lease, outcome, None)

    # --- one deploy ---------------------------------------------------------------------------------------

    def _folder(self, deploy: Deploy) -> Path:
        return self._state.runs / deploy.id

    async def _deploy(self, live: _Live, lease: Lease, request: Request | None) -> None:
        deploy, target = live.deploy, live.target
        try:
            outcome = await self._run(live, lease, request.env if request else {})
            await self._record(deploy, lease, outcome, target)
            await self._trees.give_back(self._folder(deploy) / deploys.CHECKOUT, target.name)
            # Only now: until it is recorded, the result on disk is the only one there is.
            await asyncio.to_thread(deploys.forget, self._folder(deploy))
        except LeaseLost as error:
            self._listener.hear(Warned("lease.lost", str(error)))
        finally:
            if self._live.get(target.name) is live:  # once it was recorded, the next one may have begun
                del self._live[target.name]
            self._ended()

    async def _run(self, live: _Live, lease: Lease, one_time: Mapping[str, str]) -> Outcome:
        deploy, target = live.deploy, live.target
        try:
            secrets = await self._secrets(target)
            job = self._job(live, {**secrets, **one_time}, list(secrets.values()))
            await self._checkout(deploy, target, job)
            if (stop := live.asked_to_stop()) is not None:
                return Outcome(status=DeployStatus.CANCELLED, reason=stop[0], message=stop[1])
            # The token is checked once more, in the write that says so, before anything of the target runs.
            await self._db(self._store.start, deploy.id, lease, clock.now())
            live.running = await self._supervisors.start(job)
            if (stop := live.asked_to_stop()) is not None:  # asked while the supervisor started
                await live.running.stop(*stop)
            renewing = asyncio.create_task(self._keep_lease(lease, live.running))
            try:
                return await live.running.wait()
            finally:
                renewing.cancel()
        except BadTree as error:
            return _failed(OutcomeReason(error.reason), str(error))
        except SourceError as error:
            if error.reason is SourceReason.CORRUPT:
                self._damaged(target.source)
            return _failed(OutcomeReason.CHECKOUT_FAILED, str(error))
        except SecretMissing as error:
            return _failed(OutcomeReason.SECRET_MISSING, str(error))
        except LeaseLost:
            raise
        except Exception as error:  # noqa: BLE001 - the one boundary where an error becomes an Outcome
            return _failed(OutcomeReason.INTERNAL_ERROR, f"the deploy could not be run: {error!r}")

    async def _secrets(self, target: Target) -> dict[str, str]:
        if not target.secrets:
            return {}
        head = await self._db(self._store.config_head)
        return await asyncio.to_thread(self._vault.read, target, head.commit if head else None)

    def _job(self, live: _Live, extra: Mapping[str, str], secret_values: list[str]) -> Job:
        deploy, target, settings = live.deploy, live.target, self._settings
        return Job(
            deploy_id=deploy.id,
            folder=self._folder(deploy),
            log=self._state.log_of(target.name, deploy.id),
            path=target.path,
            steps=[
                (step, step_environment(os.environ, settings.pass_env, target, step, deploy, extra))
                for step in target.steps
            ],
            timeout_s=target.timeout_s,
            grace_s=settings.kill_grace_s,
            lease_end=live.lease_end,
            masks=masks(secret_values),
        )

    async def _checkout(self, deploy: Deploy, target: Target, job: Job) -> None:
        job.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mirror = self._state.mirrors / mirror_name(target.source)
        began = clock.monotonic()
        tree = Tree(target.source, mirror, deploy.version.commit, job.checkout)
        await self._trees.check_out(tree, target, target.name)
        self._listener.hear(GitOperation("checkout", clock.monotonic() - began))

    async def _keep_lease(self, lease: Lease, running: RunningDeploy) -> None:
        """Renew the lease in the store, then at the supervisor, which ends the deploy when it hears nothing."""
        while True:
            await asyncio.sleep(RENEW_EVERY_S)
            asked_at = clock.boottime()
            try:
                await self._db(self._store.renew, lease, LEASE_TTL_S, clock.now())
            except LeaseLost as error:
                await running.stop(OutcomeReason.LEASE_EXPIRED, str(error))
                return
            except self._store.errors as error:
                self._listener.hear(Warned("lease.not_renewed", str(error)))
                continue
            await running.renew(asked_at + FENCE_AFTER_S)

    async def _record(self, deploy: Deploy, lease: Lease, outcome: Outcome, target: Target | None) -> None:
        """Write the outcome, however long the store refuses; the supervisor's result waits on disk."""
        made = None
        if outcome.status is DeployStatus.SUCCEEDED and target is not None:
            mirror = self._state.mirrors / mirror_name(target.source)
            made = await asyncio.to_thread(objects.commit_time, mirror, deploy.version.commit)
        while True:
            try:
                await self._db(self._store.finish, deploy, lease, outcome, clock.now(), made)
                break
            except self._store.errors as error:
                self._state.drop_ballast()
                self._listener.hear(Warned("store.failed", f"{deploy.id} is not recorded yet: {error}"))
                await asyncio.sleep(RECORD_AGAIN_S)
        lead = restore = None
        now = clock.now()
        if outcome.status is DeployStatus.SUCCEEDED:
            lead = max(0.0, (now - made).total_seconds()) if made else None
            failing_since = await self._db(self._store.failing_since, deploy)
            restore = max(0.0, (now - failing_since).total_seconds()) if failing_since else None
        began = deploy.started_at or deploy.created_at
        duration = max(0.0, (now - began).total_seconds())
        self._listener.hear(DeployFinished(deploy, outcome, duration, lead, restore))

    async def prune(self) -> None:
        """Forget old deploys and their output."""
        before = clock.now() - timedelta(seconds=self._settings.keep_deploys_for_s)
        for deploy_id in await self._db(self._store.prune, self._settings.keep_deploys, before):
            target = deploy_id.rpartition(".")[0]
            with suppress(OSError):
                await asyncio.to_thread(output.forget, self._state.log_of(target, deploy_id))


def _failed(reason: OutcomeReason, message: str) -> Outcome:
    return Outcome(status=DeployStatus.FAILED, reason=reason, message=message)
