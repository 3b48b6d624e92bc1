"""The whole core against a model, with faults: hypothesis moves pins, fails deploys, kills daemons and turns clocks.

The core here is the real one: the planner, the store on real SQLite, the lifecycle. The model beside it knows only
what the world saw: which versions took effect, and what the last wish was.
"""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from reconciler.config.catalogue import merge
from reconciler.config.deployments import UrlPolicy, parse_file
from reconciler.errors import LeaseLost
from reconciler.gathering import remembered
from reconciler.model import (
    Deploy,
    DeployStatus,
    Desired,
    HoldReason,
    Lease,
    Outcome,
    OutcomeReason,
    Request,
    StartReason,
    Suspension,
    Version,
    WaitReason,
)
from reconciler.store import Store, migrations

NAMES = ("api", "web", "db")
COMMITS = ["a" * 40, "b" * 40, "c" * 40]
SLOTS = 2
LIMIT = 2
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
YAML = "defaults:\n  repo: https://h/x\n  retry: {limit: 2, backoff: 5s}\ntargets:\n" + "".join(
    f"  {name}: {{commit: {COMMITS[0]}, depends_on: [{'db' if name == 'api' else ''}]}}\n" for name in NAMES
)
STATUSES = st.sampled_from(
    [DeployStatus.SUCCEEDED, DeployStatus.FAILED, DeployStatus.TIMED_OUT, DeployStatus.CANCELLED]
)


class Core(RuleBasedStateMachine):
    """One daemon at a time; `running` is what lives in the world."""

    @initialize()
    def begin(self) -> None:
        connection = sqlite3.connect(":memory:", isolation_level=None)
        connection.row_factory = sqlite3.Row
        migrations.migrate(connection)
        self.store = Store(connection)
        self.now = NOW
        catalogue = merge({}, [parse_file(YAML.encode(), "a.yaml", UrlPolicy())], "c1")
        self.store.save_catalogue(catalogue, "c1", self.now)
        self.targets = catalogue.targets
        self.wanted = dict.fromkeys(NAMES, 0)
        self.running: dict[str, tuple[Lease, Deploy]] = {}
        self.stale: list[tuple[Lease, Deploy]] = []  # what a dead daemon may still try to write with
        self.effects: dict[str, list[str]] = {name: [] for name in NAMES}
        self.tokens = dict.fromkeys(NAMES, 0)
        self.want()

    def want(self) -> None:
        desired = {
            name: Desired(Version(COMMITS[number], self.targets[name].digest)) for name, number in self.wanted.items()
        }
        self.store.save_desired(desired, self.now)

    @rule(name=st.sampled_from(NAMES), number=st.integers(0, 2))
    def move_pin(self, name: str, number: int) -> None:
        self.wanted[name] = number
        self.want()

    @rule(seconds=st.sampled_from([1, 4, 6, 11, 3_600, -3_600, 315_360_000]))
    def turn_the_clock(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(name=st.sampled_from(NAMES), token=st.uuids())
    def request(self, name: str, token: object) -> None:
        self.store.request(name, Request(str(token), "ann"))

    @rule(name=st.sampled_from(NAMES))
    def suspend(self, name: str) -> None:
        self.store.suspend(name, Suspension("freeze", "ann"))

    @rule(name=st.sampled_from(NAMES))
    def resume(self, name: str) -> None:
        self.store.resume(name)

    @rule()
    def run_a_pass(self) -> None:
        snapshot = remembered(self.store, SLOTS, self.now)
        for target, start in snapshot.plan.starts:
            observed = snapshot.records[target.name].observed
            if start.reason is not StartReason.REQUESTED:
                last_good = observed.attempted == start.version and observed.attempted_status is DeployStatus.SUCCEEDED
                assert not last_good, "a recorded success is not run again without a wish (G3)"
            claimed = self.store.claim(target, start, observed.request, "me", 60, self.now)
            if claimed is None:
                continue
            lease, deploy = claimed
            assert lease.fence > self.tokens[target.name]
            self.tokens[target.name] = lease.fence
            self.store.start(deploy.id, lease, self.now)
            self.running[target.name] = claimed

    @precondition(lambda self: self.running)
    @rule(data=st.data(), status=STATUSES)
    def a_deploy_ends(self, data: st.DataObject, status: DeployStatus) -> None:
        name = data.draw(st.sampled_from(sorted(self.running)))
        lease, deploy = self.running.pop(name)
        if status is DeployStatus.SUCCEEDED:
            self.effects[name].append(deploy.version.commit)
        reason = None if status is DeployStatus.SUCCEEDED else OutcomeReason.EXIT_CODE
        self.store.finish(deploy, lease, Outcome(status=status, reason=reason), self.now)

    @precondition(lambda self: self.running)
    @rule(finished=st.booleans())
    def the_daemon_dies_and_the_next_one_recovers(self, finished: bool) -> None:
        for name, (lease, deploy) in self.running.items():
            if finished:  # the effect was made, and could not be recorded
                self.effects[name].append(deploy.version.commit)
            self.stale.append((lease, deploy))
        self.running.clear()
        for deploy in self.store.live_deploys():
            seen = Lease(deploy.target, self.store.fence_of(deploy.target), "you")
            taken = self.store.take_over(seen, 60, self.now)
            assert taken is not None
            self.tokens[deploy.target] = taken.fence
            outcome = Outcome(status=DeployStatus.ABANDONED, reason=OutcomeReason.DAEMON_DIED)
            self.store.finish(deploy, taken, outcome, self.now)

    @precondition(lambda self: self.stale)
    @rule(data=st.data())
    def a_ghost_writes(self, data: st.DataObject) -> None:
        lease, deploy = data.draw(st.sampled_from(self.stale))
        before = self.store.targets()
        with pytest.raises(LeaseLost):
            self.store.finish(deploy, lease, Outcome(status=DeployStatus.SUCCEEDED), self.now)
        with pytest.raises(LeaseLost):
            self.store.start(deploy.id, lease, self.now)
        assert self.store.targets() == before

    @rule()
    def left_alone_it_settles(self) -> None:
        """Without faults and further wishes, every target ends in sync, or held or waiting for a reason (G2)."""
        for _ in range(60):
            self.run_a_pass()
            if self.running:
                name = min(self.running)
                lease, deploy = self.running.pop(name)
                self.effects[name].append(deploy.version.commit)
                self.store.finish(deploy, lease, Outcome(status=DeployStatus.SUCCEEDED), self.now)
                continue
            until = remembered(self.store, SLOTS, self.now).plan.next_change
            if until is None:
                break
            self.now = until
        planned = remembered(self.store, SLOTS, self.now).plan.targets
        resting = {WaitReason.IN_SYNC, WaitReason.DEPENDENCY, HoldReason.SUSPENDED, HoldReason.STALLED}
        for name, decision in planned.items():
            assert decision.decision.reason in resting, (name, decision.decision)
            if decision.decision.reason is WaitReason.IN_SYNC:
                assert self.effects[name][-1] == COMMITS[self.wanted[name]], "in sync means that it took effect last"

    @invariant()
    def at_most_one_lives(self) -> None:
        if not hasattr(self, "store"):
            return
        live = [deploy.target for deploy in self.store.live_deploys()]
        assert sorted(live) == sorted(self.running)
        assert len(live) <= SLOTS

    @invariant()
    def what_is_recorded_as_deployed_took_effect(self) -> None:
        if not hasattr(self, "store"):
            return
        for name, record in self.store.targets().items():
            if record.observed.deployed is not None:
                assert record.observed.deployed.commit in self.effects[name]
            assert record.observed.failures <= 60

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()


Core.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestCore = Core.TestCase
