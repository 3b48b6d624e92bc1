"""The store, on real SQLite: the invariants that the database itself holds."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.config.catalogue import merge
from reconciler.config.deployments import UrlPolicy, parse_file
from reconciler.errors import CannotTell, LeaseLost, StateError
from reconciler.lifecycle import MOVES, Event, move
from reconciler.model import (
    Deploy,
    DeployStatus,
    Desired,
    Hold,
    HoldReason,
    Lease,
    Outcome,
    OutcomeReason,
    Request,
    SourceState,
    Start,
    StartReason,
    StepResult,
    Suspension,
    Version,
)
from reconciler.spec import Target
from reconciler.store import StateDir, Store, migrations

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
A, B = Version("a" * 40, "d1"), Version("b" * 40, "d1")
SUCCESS = Outcome(status=DeployStatus.SUCCEEDED, exit_code=0, steps=(StepResult("make deploy", 0.0, 1.5, 0),))
FAILURE = Outcome(status=DeployStatus.FAILED, reason=OutcomeReason.EXIT_CODE, message="exited with 2", exit_code=2)
ABANDONED = Outcome(status=DeployStatus.ABANDONED, reason=OutcomeReason.DAEMON_DIED)
TTL_S = 60


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "reconciler.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = Store.open(path)
    declare(opened, "api", "web")
    yield opened
    opened.close()


def declare(store: Store, *names: str) -> None:
    text = "targets:\n" + "".join(f"  {name}: {{repo: 'https://h/x', commit: {A.commit}}}\n" for name in names)
    store.save_catalogue(merge({}, [parse_file(text.encode(), "a.yaml", UrlPolicy())], "c" * 40), "c" * 40, NOW)


def target(store: Store, name: str = "api") -> Target:
    found = store.entries()[name].target
    assert found is not None
    return found


def claim(
    store: Store,
    version: Version = A,
    at: datetime = NOW,
    cause: StartReason = StartReason.NEW_VERSION,
    holder: str = "me",
) -> tuple[Lease, Deploy]:
    claimed = store.claim(target(store), Start(version, cause, "why"), None, holder, TTL_S, at)
    assert claimed is not None
    return claimed


def run(
    store: Store,
    outcome: Outcome,
    version: Version = A,
    at: datetime = NOW,
    cause: StartReason = StartReason.NEW_VERSION,
) -> Deploy:
    lease, deploy = claim(store, version, at, cause)
    store.start(deploy.id, lease, at)
    store.finish(deploy, lease, outcome, at)
    return deploy


# --- claims and tokens (G1, G5) ---------------------------------------------------------------------------


def test_a_deploy_is_named_by_its_target_and_token(store: Store) -> None:
    assert run(store, SUCCESS).id == "api.1"
    assert run(store, SUCCESS).id == "api.2"


def test_a_claimed_target_is_not_claimed_again(store: Store) -> None:
    claim(store)
    assert store.claim(target(store), Start(B, StartReason.NEW_VERSION, ""), None, "you", TTL_S, NOW) is None


def test_an_expired_lease_alone_does_not_make_a_second_live_deploy(store: Store) -> None:
    claim(store)
    later = after(TTL_S + 1)
    assert store.claim(target(store), Start(B, StartReason.NEW_VERSION, ""), None, "you", TTL_S, later) is None
    assert len(store.live_deploys()) == 1


def test_the_index_refuses_a_second_live_deploy_whatever_the_code_does(store: Store, path: Path) -> None:
    claim(store)
    raw = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        raw.execute(
            "INSERT INTO deploys (id, target, fence, generation, commit_id, digest, spec, cause, message, status, "
            "created_at, deadline) VALUES ('api.99', 'api', 99, 0, 'x', 'y', '{}', 'retry', '', 'running', 'x', 'y')"
        )
    raw.close()


def test_racing_claims_have_one_winner(store: Store, path: Path) -> None:
    rounds = 30
    wins: list[int] = []
    for number in range(rounds):
        barrier = threading.Barrier(8)
        won: list[tuple[Lease, Deploy]] = []

        def race(holder: str, barrier: threading.Barrier = barrier, won: list[tuple[Lease, Deploy]] = won) -> None:
            mine = Store.open_to_read(path)
            barrier.wait()
            claimed = mine.claim(target(mine), Start(A, StartReason.RETRY, ""), None, holder, TTL_S, NOW)
            if claimed is not None:
                won.append(claimed)
            mine.close()

        threads = [threading.Thread(target=race, args=(f"holder{index}",)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1, number
        lease, deploy = won[0]
        store.start(deploy.id, lease, NOW)
        store.finish(deploy, lease, FAILURE, NOW)
        wins.append(lease.fence)
    assert wins == list(range(1, rounds + 1))


def test_a_stale_token_changes_nothing(store: Store) -> None:
    stale, deploy = claim(store)
    store.start(deploy.id, stale, NOW)
    fresh = store.take_over(Lease("api", stale.fence, "you"), TTL_S, NOW)
    assert fresh is not None
    assert fresh.fence == stale.fence + 1
    before = store.targets()["api"], store.deploy(deploy.id)

    with pytest.raises(LeaseLost):
        store.start(deploy.id, stale, NOW)
    with pytest.raises(LeaseLost):
        store.renew(stale, TTL_S, NOW)
    with pytest.raises(LeaseLost):
        store.finish(deploy, stale, SUCCESS, NOW)

    assert (store.targets()["api"], store.deploy(deploy.id)) == before
    store.finish(deploy, fresh, ABANDONED, NOW)
    assert store.live_deploys() == []


def test_another_holder_with_the_right_number_changes_nothing(store: Store) -> None:
    lease, deploy = claim(store)
    with pytest.raises(LeaseLost):
        store.start(deploy.id, Lease("api", lease.fence, "somebody else"), NOW)


def test_a_finished_deploy_is_not_finished_again(store: Store) -> None:
    lease, deploy = claim(store)
    store.start(deploy.id, lease, NOW)
    store.finish(deploy, lease, SUCCESS, NOW)
    with pytest.raises(LeaseLost):
        store.finish(deploy, lease, FAILURE, NOW)
    assert store.targets()["api"].observed.deployed == A


def test_a_pending_deploy_cannot_succeed(store: Store) -> None:
    lease, deploy = claim(store)
    with pytest.raises(LeaseLost):
        store.finish(deploy, lease, SUCCESS, NOW)
    store.finish(deploy, lease, FAILURE, NOW)


@pytest.mark.parametrize("before", DeployStatus)
@pytest.mark.parametrize("event", [event for event in Event if event is not Event.STARTED])
def test_a_deploy_ends_only_as_the_table_of_moves_allows(store: Store, before: DeployStatus, event: Event) -> None:
    lease, deploy = claim(store)
    store._connection.execute("UPDATE deploys SET status = ?", (before,))
    outcome = Outcome(status=DeployStatus(event))
    if (before, event) in MOVES:
        store.finish(deploy, lease, outcome, NOW)
        assert store.history("api", 1)[0].status is move(before, event)
    else:
        with pytest.raises(LeaseLost):
            store.finish(deploy, lease, outcome, NOW)
        assert store._connection.execute("SELECT status FROM deploys").fetchone()[0] == before


@pytest.mark.parametrize("before", DeployStatus)
def test_a_deploy_starts_only_as_the_table_of_moves_allows(store: Store, before: DeployStatus) -> None:
    lease, deploy = claim(store)
    store._connection.execute("UPDATE deploys SET status = ?", (before,))
    if (before, Event.STARTED) in MOVES:
        store.start(deploy.id, lease, NOW)
        assert store.history("api", 1)[0].status is DeployStatus.RUNNING
    else:
        with pytest.raises(LeaseLost):
            store.start(deploy.id, lease, NOW)


def test_only_one_takes_over(store: Store) -> None:
    lease, deploy = claim(store)
    one = store.take_over(Lease("api", lease.fence, "one"), TTL_S, NOW)
    assert one is not None
    assert store.take_over(Lease("api", lease.fence, "two"), TTL_S, NOW) is None
    # The one that took over dies as well; the next one sees the newer token.
    two = store.take_over(Lease("api", store.fence_of("api"), "two"), TTL_S, NOW)
    assert two is not None
    with pytest.raises(LeaseLost):
        store.finish(deploy, one, ABANDONED, NOW)
    store.finish(deploy, two, ABANDONED, NOW)


# --- what is remembered -----------------------------------------------------------------------------------


def test_a_success_is_deployed(store: Store) -> None:
    run(store, SUCCESS)
    observed = store.targets()["api"].observed
    assert (observed.deployed, observed.attempted, observed.failures) == (A, A, 0)
    assert observed.attempted_status is DeployStatus.SUCCEEDED
    assert observed.live is None
    deploy = store.deploy("api.1")
    assert deploy is not None
    assert deploy.outcome == SUCCESS


def test_failures_of_one_version_add_up_and_a_new_version_begins_anew(store: Store) -> None:
    run(store, SUCCESS)
    for _ in range(3):
        run(store, FAILURE, B)
    observed = store.targets()["api"].observed
    assert (observed.failures, observed.attempted, observed.deployed) == (3, B, A)
    run(store, FAILURE, Version("c" * 40, "d1"))
    assert store.targets()["api"].observed.failures == 1
    run(store, SUCCESS, Version("c" * 40, "d1"))
    assert store.targets()["api"].observed.failures == 0


def test_one_abandoned_deploy_is_no_failure_but_a_row_of_them_is(store: Store) -> None:
    counts = []
    for _ in range(4):
        run(store, ABANDONED)
        counts.append(store.targets()["api"].observed.failures)
    assert counts == [0, 1, 2, 3]


def test_a_rollback_changes_what_is_deployed_and_not_what_was_attempted(store: Store) -> None:
    run(store, SUCCESS)
    run(store, FAILURE, B)
    run(store, SUCCESS, A, cause=StartReason.ROLLBACK)
    observed = store.targets()["api"].observed
    assert (observed.attempted, observed.deployed) == (B, A)
    assert observed.rollback_status is DeployStatus.SUCCEEDED
    run(store, FAILURE, B)
    assert store.targets()["api"].observed.rollback_status is None


def test_a_live_deploy_is_seen(store: Store) -> None:
    lease, deploy = claim(store)
    live = store.targets()["api"].observed.live
    assert live is not None
    assert (live.id, live.version, live.deadline) == ("api.1", A, after(1800))
    store.start(deploy.id, lease, NOW)
    assert store.targets()["api"].observed.live == live


def test_a_wish_is_a_generation(store: Store, path: Path) -> None:
    def generations() -> tuple[int, int]:
        raw = sqlite3.connect(path)
        row = raw.execute("SELECT generation, deployed_generation FROM targets WHERE name = 'api'").fetchone()
        raw.close()
        return (row[0], row[1])

    store.save_desired({"api": Desired(A, "pin")}, NOW)
    assert generations() == (1, 0)
    store.save_desired({"api": Desired(A, "pin", None, 3)}, NOW)
    assert generations() == (1, 0)
    run(store, SUCCESS)
    assert generations() == (1, 1)
    store.request("api", Request("r1", "ann"))
    assert generations() == (2, 1)


def test_desired_is_remembered_with_its_problem(store: Store) -> None:
    wanted = Desired(A, "pin@a", Hold(HoldReason.UNTRUSTED, "no"), 7)
    store.save_desired({"api": wanted}, NOW)
    record = store.targets()["api"]
    assert (record.desired, record.desired_since) == (wanted, NOW)
    store.save_desired({"api": Desired(B)}, after(5))
    assert store.targets()["api"].desired_since == after(5)


def test_a_request_is_handled_once_and_the_newest_wins(store: Store) -> None:
    store.request("api", Request("r1", "ann"))
    store.request("api", Request("r2", "bob", now=True, env={"X": "1"}))
    request = store.targets()["api"].observed.request
    assert request == Request("r2", "bob", now=True, env={"X": "1"})
    store.claim(target(store), Start(A, StartReason.REQUESTED, ""), request, "me", TTL_S, NOW)
    assert store.targets()["api"].observed.request is None
    deploy = store.deploy("api.1")
    assert deploy is not None
    assert deploy.requested_by == "bob"


def test_a_request_during_its_predecessors_claim_is_not_lost(store: Store) -> None:
    store.request("api", Request("r1", "ann"))
    first = store.targets()["api"].observed.request
    store.request("api", Request("r2", "bob"))
    store.claim(target(store), Start(A, StartReason.REQUESTED, ""), first, "me", TTL_S, NOW)
    assert store.targets()["api"].observed.request == Request("r2", "bob")


def test_suspend_and_resume(store: Store) -> None:
    store.suspend("api", Suspension("freeze", "ann", after(60)))
    assert store.targets()["api"].observed.suspension == Suspension("freeze", "ann", after(60))
    store.resume("api")
    assert store.targets()["api"].observed.suspension is None


def test_an_unknown_target_cannot_be_told_anything(store: Store) -> None:
    with pytest.raises(CannotTell, match="there is no target 'nope'"):
        store.request("nope", Request("r", "ann"))
    with pytest.raises(CannotTell, match="there is no target 'nope'"):
        store.suspend("nope", Suspension("x", "ann"))
    with pytest.raises(CannotTell, match="there is no target 'nope'"):
        store.resume("nope")


def test_sources_are_remembered_and_forgotten(store: Store) -> None:
    state = SourceState(url="https://h/x", interval_s=60.0, last_poll=NOW, failures=2, reason="timeout", message="m")
    store.save_sources([state, SourceState(url="https://h/y", interval_s=5.0)])
    assert store.sources()["https://h/x"] == state
    store.save_sources([], ["https://h/x"])
    assert set(store.sources()) == {"https://h/y"}


def test_entries_survive_a_restart(store: Store, path: Path) -> None:
    entries, head = store.entries(), store.config_head()
    store.close()
    again = Store.open(path)
    assert (again.entries(), again.config_head()) == (entries, head)
    again.close()


def test_a_rejected_config_keeps_its_head_and_says_why(store: Store) -> None:
    store.reject_config("no such directory", NOW)
    head = store.config_head()
    assert head is not None
    assert (head.commit, head.problems) == ("c" * 40, ("no such directory",))


def test_history_is_newest_first_and_counts_are_kept(store: Store) -> None:
    run(store, SUCCESS)
    run(store, FAILURE, B)
    run(store, FAILURE, B)
    assert [deploy.id for deploy in store.history("api", 2)] == ["api.3", "api.2"]
    assert store.outcome_counts() == {("api", "succeeded"): 1, ("api", "failed"): 2}
    assert store.last_deploys()["api"].id == "api.3"


def test_the_time_since_the_first_failure_is_known(store: Store) -> None:
    run(store, SUCCESS, at=after(0))
    run(store, FAILURE, B, at=after(10))
    run(store, FAILURE, B, at=after(20))
    good = run(store, SUCCESS, B, at=after(30))
    assert store.failing_since(good) == after(10)
    assert store.failing_since(run(store, SUCCESS, at=after(40))) is None


def test_the_spec_of_a_good_deploy_is_kept(store: Store) -> None:
    run(store, SUCCESS)
    assert store.good_spec("api", A) == target(store)
    assert store.good_spec("api", B) is None


def test_pruning_keeps_the_newest_the_deployed_and_the_live(store: Store) -> None:
    run(store, SUCCESS, at=after(0))
    for seconds in range(1, 6):
        run(store, FAILURE, B, at=after(seconds))
    claim(store, at=after(10))
    assert set(store.prune(keep=3, before=after(-1))) == {"api.2", "api.3", "api.4"}
    left = {deploy.id for deploy in store.history("api", 100)}
    assert left == {"api.1", "api.5", "api.6", "api.7"}
    store.prune(keep=100, before=after(1_000))
    assert {deploy.id for deploy in store.history("api", 100)} == {"api.1", "api.7"}


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["claim", "start", "succeed", "fail", "take_over", "stale"]), max_size=25))
def test_no_history_makes_two_live_deploys_or_lets_a_token_fall(moves: list[str]) -> None:
    with_store = Store(sqlite3.connect(":memory:", isolation_level=None))
    with_store._connection.row_factory = sqlite3.Row
    migrations.migrate(with_store._connection)
    declare(with_store, "api")
    leases: list[tuple[Lease, Deploy]] = []
    highest = 0
    for step in moves:
        lease, deploy = leases[-1] if leases else (Lease("api", 0, "me"), None)
        try:
            if step == "claim":
                claimed = with_store.claim(target(with_store), Start(A, StartReason.RETRY, ""), None, "me", TTL_S, NOW)
                if claimed is not None:
                    leases.append(claimed)
                    assert claimed[0].fence > highest
                    highest = claimed[0].fence
            elif deploy is None:
                continue
            elif step == "start":
                with_store.start(deploy.id, lease, NOW)
            elif step in ("succeed", "fail"):
                with_store.finish(deploy, lease, SUCCESS if step == "succeed" else FAILURE, NOW)
            elif step == "take_over":
                found = with_store.take_over(Lease("api", lease.fence, "you"), TTL_S, NOW)
                if found is not None:
                    leases.append((found, deploy))
                    highest = found.fence
            else:
                with_store.renew(leases[0][0], TTL_S, NOW)
        except LeaseLost:
            pass
        assert len(with_store.live_deploys()) <= 1
    with_store.close()


# --- the file ---------------------------------------------------------------------------------------------


def test_nothing_ever_ran_here(path: Path) -> None:
    with pytest.raises(CannotTell, match="nothing ever ran here"):
        Store.open_to_read(path)


def test_a_newer_state_is_refused_with_the_version_needed(store: Store, path: Path) -> None:
    store._connection.execute("UPDATE schema_version SET version = 99, program = '7.0'")
    store.close()
    with pytest.raises(StateError, match=r"written by reconciler 7.0 \(schema 99; this one, [0-9.]+, knows [0-9]+\)"):
        Store.open(path)
    with pytest.raises(CannotTell, match="schema 99"):
        Store.open_to_read(path)


def test_garbage_is_refused_with_what_to_do(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(StateError, match="damaged.*restore a backup"):
        Store.open(path)


def test_flipped_bytes_are_refused_or_read_right(store: Store, path: Path) -> None:
    run(store, SUCCESS)
    store.close()
    good = path.read_bytes()
    for offset in range(0, len(good), max(1, len(good) // 300)):
        path.write_bytes(good[:offset] + bytes([good[offset] ^ 0xFF]) + good[offset + 1 :])
        try:
            opened = Store.open(path)
        except StateError:
            continue
        try:
            deployed = opened.targets()["api"].observed.deployed
        except (sqlite3.DatabaseError, KeyError, ValueError, TypeError, AttributeError):
            deployed = None
        finally:
            opened.close()
        assert deployed in (None, A) or deployed.digest == A.digest or deployed.commit == A.commit


@pytest.mark.parametrize("statement", range(1, 12))
def test_a_migration_killed_at_any_statement_is_old_or_new(path: Path, statement: int) -> None:
    script = f"""
import os, sqlite3
from reconciler.store import migrations
connection = sqlite3.connect({str(path)!r}, isolation_level=None)
seen = 0
def trace(_):
    global seen
    seen += 1
    if seen == {statement} + 1:
        os._exit(9)
connection.set_trace_callback(trace)
migrations.migrate(connection)
"""
    subprocess.run([sys.executable, "-c", script], check=False)
    opened = Store.open(path)
    assert migrations.current_version(opened._connection) == migrations.newest_version()
    opened.close()


def test_the_lock_names_its_holder(tmp_path: Path) -> None:
    one, two = StateDir(tmp_path / "s"), StateDir(tmp_path / "s")
    assert not one.is_locked()
    one.acquire()
    assert two.is_locked()
    with pytest.raises(StateError, match=r"another reconciler runs on .*\(pid \d+ on .*stop it first"):
        two.acquire()
    one.release()
    two.acquire()
    two.release()


def test_the_state_directory_is_private(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "deep" / "s")
    state.create()
    assert state.path.stat().st_mode & 0o777 == 0o700
    Store.open(state.database).close()
    assert state.database.stat().st_mode & 0o777 == 0o600


def test_a_state_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot be used.*--state-dir"):
        StateDir(tmp_path / "file" / "s").create()


def test_an_older_state_moves_forward_with_a_copy_kept_and_nothing_lost(path: Path) -> None:
    old = sqlite3.connect(path, isolation_level=None)
    for statement in migrations._statements(migrations.scripts()[1]):
        old.execute(statement)
    old.execute("INSERT INTO schema_version VALUES (1)")
    old.execute(
        "INSERT INTO targets (name, deployed_commit, deployed_digest) VALUES ('api', ?, ?)", (A.commit, A.digest)
    )
    old.close()
    with pytest.raises(CannotTell, match="schema 1"):
        Store.open_to_read(path)
    opened = Store.open(path)
    assert opened.targets()["api"].observed.deployed == A
    assert migrations.current_version(opened._connection) == migrations.newest_version()
    opened.close()
    copy = path.with_name(f"{path.name}.schema-1")
    assert copy.stat().st_mode & 0o777 == 0o600
    kept = sqlite3.connect(copy)
    assert kept.execute("SELECT deployed_commit FROM targets").fetchall() == [(A.commit,)]
    assert migrations.current_version(kept) == 1
    kept.close()
