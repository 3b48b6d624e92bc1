"""The decision table, row by row, and what holds for every memory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.lifecycle import FINAL
from reconciler.model import (
    DeployStatus,
    Desired,
    Hold,
    HoldReason,
    LiveDeploy,
    Observed,
    OutcomeReason,
    Request,
    Start,
    StartReason,
    Suspension,
    Version,
    Wait,
    WaitReason,
)
from reconciler.planning import RULES, Facts, Plan, Planned, decide, plan
from reconciler.spec import Target

NOW = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)  # a Wednesday
A, B = Version("a" * 40, "d1"), Version("b" * 40, "d1")
LIVE = LiveDeploy("api.3", A, NOW - timedelta(minutes=1), NOW + timedelta(minutes=29))


def a_target(**keys: Any) -> Target:
    return Target.model_validate({"name": "api", "repo": "https://git.example.com/api.git", "commit": A.commit, **keys})


def seen(status: str | None = None, version: Version | None = A, **keys: Any) -> Observed:
    """What is remembered after the last attempt ended with `status`, a minute ago."""
    if status is not None:
        keys = {
            "attempted": version,
            "attempted_status": DeployStatus(status),
            "attempted_at": NOW - timedelta(minutes=1),
            **keys,
        }
    return Observed(**keys)


WANTS_A = Desired(A, "pin@aaaaaaaaaa")
SUSPENDED = Suspension("freeze", "ann")
ROLLBACK = {"on_failure": "rollback", "retry": {"limit": 0}}
FAILED_B = {"failures": 1, "deployed": A}

# sentence, target, desired, observed, extra facts, (kind, reason, row)
ROWS: list[tuple[str, dict[str, Any], Desired, Observed, dict[str, Any], tuple[str, str, int]]] = [
    ("suspended in YAML", {"suspend": "true"}, WANTS_A, seen(), {}, ("hold", "suspended", 1)),
    ("suspended by an operator", {}, WANTS_A, seen(suspension=SUSPENDED), {}, ("hold", "suspended", 1)),
    ("suspended while a deploy is live", {"suspend": "true"}, WANTS_A, seen(live=LIVE), {}, ("hold", "suspended", 1)),
    (
        "a suspension that has expired does not hold",
        {},
        WANTS_A,
        seen(suspension=Suspension("freeze", "ann", NOW)),
        {},
        ("start", "new_version", 10),
    ),
    (
        "a suspension with an end in the future holds",
        {},
        WANTS_A,
        seen(suspension=Suspension("freeze", "ann", NOW + timedelta(hours=1))),
        {},
        ("hold", "suspended", 1),
    ),
    ("a ref that does not resolve", {}, Desired(), seen(), {}, ("hold", "unresolved", 2)),
    (
        "a version with a problem is held for it",
        {},
        Desired(A, "", Hold(HoldReason.UNTRUSTED, "no")),
        seen(),
        {},
        ("hold", "untrusted", 2),
    ),
    ("a live deploy is waited for", {}, WANTS_A, seen(live=LIVE), {}, ("wait", "running", 3)),
    ("a live deploy of another version is waited for", {}, Desired(B), seen(live=LIVE), {}, ("wait", "running", 3)),
    ("what was deployed rests", {}, WANTS_A, seen("succeeded"), {}, ("wait", "in_sync", 4)),
    (
        "a request wakes what rests",
        {},
        WANTS_A,
        seen("succeeded", request=Request("r1", "ann")),
        {},
        ("start", "requested", 10),
    ),
    ("drift wakes what rests", {}, WANTS_A, seen("succeeded", drift="c" * 40), {}, ("start", "drift", 10)),
    (
        "the same commit with another spec is a new version",
        {},
        Desired(Version(A.commit, "d2")),
        seen("succeeded"),
        {},
        ("start", "new_version", 10),
    ),
    (
        "A deployed, B failed, back to A: A runs again",
        {},
        WANTS_A,
        seen("failed", B, failures=1, deployed=A),
        {},
        ("start", "new_version", 10),
    ),
    (
        "failures beyond the limit stall",
        {"retry": {"limit": 0}},
        WANTS_A,
        seen("failed", failures=1),
        {},
        ("hold", "stalled", 5),
    ),
    (
        "time-outs beyond the limit stall",
        {"retry": {"limit": 1}},
        WANTS_A,
        seen("timed_out", failures=2),
        {},
        ("hold", "stalled", 5),
    ),
    (
        "failures within the limit do not stall",
        {"retry": {"limit": 1}},
        WANTS_A,
        seen("failed", failures=1),
        {},
        ("start", "retry", 10),
    ),
    (
        "a request overrides a stall",
        {"retry": {"limit": 0}},
        WANTS_A,
        seen("failed", failures=1, request=Request("r1", "ann")),
        {},
        ("start", "requested", 10),
    ),
    (
        "a new pin overrides a stall",
        {"retry": {"limit": 0}},
        Desired(B),
        seen("failed", failures=1),
        {},
        ("start", "new_version", 10),
    ),
    (
        "a stalled version is rolled back where that is asked for",
        ROLLBACK,
        Desired(B),
        seen("failed", B, **FAILED_B),
        {},
        ("start", "rollback", 5),
    ),
    (
        "a rollback waits for a slot",
        ROLLBACK,
        Desired(B),
        seen("failed", B, **FAILED_B),
        {"busy": "full"},
        ("wait", "at_capacity", 5),
    ),
    (
        "after the rollback it is held as such",
        ROLLBACK,
        Desired(B),
        seen("failed", B, **FAILED_B, rollback_status=DeployStatus.SUCCEEDED),
        {},
        ("hold", "rolled_back", 5),
    ),
    (
        "a rollback that failed too stalls",
        ROLLBACK,
        Desired(B),
        seen("failed", B, **FAILED_B, rollback_status=DeployStatus.FAILED),
        {},
        ("hold", "stalled", 5),
    ),
    (
        "there is nothing to roll back to before the first success",
        ROLLBACK,
        Desired(B),
        seen("failed", B, failures=1),
        {},
        ("hold", "stalled", 5),
    ),
    (
        "a retry waits for its backoff",
        {"retry": {"backoff": "2m"}},
        WANTS_A,
        seen("failed", failures=1),
        {},
        ("wait", "backoff", 6),
    ),
    (
        "a cancelled deploy starts again later",
        {"retry": {"backoff": "2m"}},
        WANTS_A,
        seen("cancelled"),
        {},
        ("wait", "backoff", 6),
    ),
    (
        "an abandoned deploy is made up for at once",
        {"retry": {"backoff": "2m"}},
        WANTS_A,
        seen("abandoned"),
        {},
        ("start", "retry", 10),
    ),
    (
        "abandoned again and again backs off",
        {"retry": {"backoff": "2m"}},
        WANTS_A,
        seen("abandoned", failures=1),
        {},
        ("wait", "backoff", 6),
    ),
    (
        "a clock that went back does not stop retries",
        {"retry": {"backoff": "2m"}},
        WANTS_A,
        seen("failed", failures=1, attempted_at=NOW + timedelta(days=1)),
        {},
        ("start", "retry", 10),
    ),
    (
        "a backoff does not delay a new pin",
        {"retry": {"backoff": "2m"}},
        Desired(B),
        seen("failed", failures=1),
        {},
        ("start", "new_version", 10),
    ),
    (
        "a dependency is waited for",
        {"depends_on": ["db"]},
        WANTS_A,
        seen(),
        {"not_in_sync": frozenset({"db"})},
        ("wait", "dependency", 7),
    ),
    (
        "a dependency in sync is not waited for",
        {"depends_on": ["db"]},
        WANTS_A,
        seen(),
        {},
        ("start", "new_version", 10),
    ),
    ("outside the window it waits", {"windows": ["Sat 00:00-24:00"]}, WANTS_A, seen(), {}, ("wait", "window", 8)),
    (
        "inside the window it starts",
        {"windows": ["Wed 12:00-13:00"]},
        WANTS_A,
        seen(),
        {},
        ("start", "new_version", 10),
    ),
    (
        "a request waits for the window",
        {"windows": ["Sat 00:00-24:00"]},
        WANTS_A,
        seen("succeeded", request=Request("r1", "ann")),
        {},
        ("wait", "window", 8),
    ),
    (
        "a request with --now does not",
        {"windows": ["Sat 00:00-24:00"]},
        WANTS_A,
        seen("succeeded", request=Request("r1", "ann", now=True)),
        {},
        ("start", "requested", 10),
    ),
    ("without a slot it waits", {}, WANTS_A, seen(), {"busy": "all 4 slots are taken"}, ("wait", "at_capacity", 9)),
    ("the first version starts", {}, WANTS_A, seen(), {}, ("start", "new_version", 10)),
]


@pytest.mark.parametrize(
    ("keys", "desired", "observed", "extra", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_row(
    keys: dict[str, Any], desired: Desired, observed: Observed, extra: dict[str, Any], expected: tuple[str, str, int]
) -> None:
    planned = decide(Facts(a_target(**keys), desired, observed, NOW, **extra))

    assert (planned.decision.kind, planned.decision.reason, planned.rule.number) == expected
    assert planned.decision.message


def test_every_row_has_a_case() -> None:
    assert {row[-1][2] for row in ROWS} == {rule.number for rule in RULES}


def test_rows_are_numbered_in_order() -> None:
    assert [rule.number for rule in RULES] == list(range(1, len(RULES) + 1))


def test_the_table_in_the_documentation_is_the_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "ARCHITECTURE.md").read_text()
    for rule in RULES:
        assert f"| {rule.number} | {rule.condition} | {rule.action} |" in page


def test_messages_say_what_people_need() -> None:
    stalled = decide(
        Facts(
            a_target(retry={"limit": 0}),
            WANTS_A,
            seen("failed", failures=1, attempted_reason=OutcomeReason.EXIT_CODE),
            NOW,
        )
    )
    assert stalled.decision.message == (
        "aaaaaaaaaa failed 1 time (exit_code); it is not tried again until the pin changes"
    )
    backoff = decide(Facts(a_target(retry={"backoff": "2m"}), WANTS_A, seen("timed_out", failures=1), NOW))
    assert isinstance(backoff.decision, Wait)
    assert backoff.decision.until is not None
    assert backoff.decision.message == f"try 1 of 6 timed out; the next one is at {backoff.decision.until:%H:%M:%S} UTC"
    changed = decide(Facts(a_target(), Desired(Version(A.commit, "d2")), seen("succeeded", deployed=A), NOW))
    assert "path, steps, variables or secrets" in changed.decision.message


# --- what holds for every memory --------------------------------------------------------------------------

VERSIONS = st.sampled_from([A, B, Version(A.commit, "d2")])
MOMENTS = st.integers(-10_000, 10_000).map(lambda seconds: NOW + timedelta(seconds=seconds))
FINALS = st.sampled_from(sorted(FINAL))


@st.composite
def memories(draw: st.DrawFn) -> Observed:
    attempted = draw(st.none() | VERSIONS)
    live = LiveDeploy("x.1", draw(VERSIONS), draw(MOMENTS), draw(MOMENTS)) if draw(st.booleans()) else None
    return Observed(
        attempted=attempted,
        attempted_status=draw(FINALS) if attempted else None,
        attempted_at=draw(MOMENTS) if attempted else None,
        failures=draw(st.integers(0, 10)) if attempted else 0,
        deployed=draw(st.none() | VERSIONS),
        rollback_status=draw(st.none() | FINALS),
        live=live,
        request=draw(st.none() | st.builds(Request, st.just("r"), st.just("ann"), st.booleans())),
        suspension=draw(st.none() | st.builds(Suspension, st.just("why"), st.just("ann"), st.none() | MOMENTS)),
        drift=draw(st.none() | st.just("c" * 40)),
    )


POLICIES = st.fixed_dictionaries(
    {
        "suspend": st.sampled_from(["true", "false"]),
        "on_failure": st.sampled_from(["hold", "rollback"]),
        "retry": st.fixed_dictionaries({"limit": st.integers(0, 6), "backoff": st.sampled_from(["0s", "5s", "1h"])}),
        "windows": st.sampled_from([[], ["Sat 00:00-24:00"], ["Wed 09:00-17:00 Europe/Berlin"]]),
        "lock": st.sampled_from([None, "one", "two"]),
    }
)
WISHES = st.builds(Desired, st.none() | VERSIONS) | st.just(Desired(A, "", Hold(HoldReason.UNTRUSTED, "no")))


@st.composite
def worlds(draw: st.DrawFn) -> tuple[dict[str, Target], dict[str, Desired], dict[str, Observed]]:
    names = [f"t{number}" for number in range(draw(st.integers(1, 6)))]
    targets = {
        name: Target.model_validate(
            {
                **draw(POLICIES),
                "name": name,
                "repo": "https://h/x",
                "commit": A.commit,
                "depends_on": draw(
                    st.sampled_from([other for other in ([], ["t0"], ["t1", "t2"]) if name not in other])
                ),
            }
        )
        for name in names
    }
    return targets, {name: draw(WISHES) for name in names}, {name: draw(memories()) for name in names}


@given(worlds(), st.integers(1, 4))
def test_every_memory_gets_a_sound_decision(
    world: tuple[dict[str, Target], dict[str, Desired], dict[str, Observed]], slots: int
) -> None:
    targets, desired, observed = world

    made = plan(targets, desired, observed, slots=slots, now=NOW)

    assert set(made.targets) == set(targets)
    for planned in made.targets.values():
        if isinstance(planned.decision, Wait) and planned.decision.until is not None:
            assert planned.decision.until > NOW
    live = sum(1 for known in observed.values() if known.live)
    assert len(made.starts) <= max(0, slots - live)
    locks = [target.lock for target, _ in made.starts if target.lock]
    assert len(locks) == len(set(locks))
    held = {targets[name].lock for name, known in observed.items() if known.live}
    assert not held & set(locks)
    assert made.next_change is None or made.next_change > NOW


@given(memories(), VERSIONS, POLICIES)
def test_after_a_success_the_same_desire_rests(memory: Observed, version: Version, policy: dict[str, Any]) -> None:
    policy = {**policy, "suspend": "false"}
    after = Observed(
        attempted=version,
        attempted_status=DeployStatus.SUCCEEDED,
        attempted_at=NOW,
        deployed=version,
        failures=0,
        rollback_status=memory.rollback_status,
    )

    planned = decide(Facts(a_target(**policy), Desired(version), after, NOW))

    assert planned.decision.reason is WaitReason.IN_SYNC


@given(VERSIONS, st.integers(0, 3))
def test_a_version_that_always_fails_is_tried_once_more_than_its_limit(version: Version, limit: int) -> None:
    target, memory, tries, now = a_target(retry={"limit": limit}), Observed(), 0, NOW
    decision = decide(Facts(target, Desired(version), memory, now)).decision
    for _ in range(20):
        decision = decide(Facts(target, Desired(version), memory, now)).decision
        if isinstance(decision, Hold):
            break
        if isinstance(decision, Wait):
            assert decision.until is not None
            now = decision.until
            continue
        tries += 1
        memory = Observed(attempted=version, attempted_status=DeployStatus.FAILED, attempted_at=now, failures=tries)
    assert decision.reason is HoldReason.STALLED
    assert tries == limit + 1


def test_fair_the_longest_waiting_is_first() -> None:
    names = ["a", "b", "c"]
    targets = {name: a_target().model_copy(update={"name": name}) for name in names}
    desired = dict.fromkeys(names, Desired(B))
    observed = {
        "a": seen("failed", failures=1, attempted_at=NOW - timedelta(minutes=1)),
        "b": seen("failed", failures=1, attempted_at=NOW - timedelta(minutes=3)),
        "c": seen("failed", failures=1, attempted_at=NOW - timedelta(minutes=2)),
    }

    made = plan(targets, desired, observed, slots=1, now=NOW)

    assert [target.name for target, _ in made.starts] == ["b"]


def test_every_cause_is_said_in_words() -> None:
    def said(desired: Desired, observed: Observed) -> str:
        return decide(Facts(a_target(retry={"backoff": "0s"}), desired, observed, NOW)).decision.message

    assert said(Desired(B), seen("succeeded", deployed=A)) == "aaaaaaaaaa is deployed, bbbbbbbbbb is wanted"
    assert said(WANTS_A, seen("succeeded", drift="c" * 40)) == "cccccccccc was seen instead of aaaaaaaaaa"
    assert said(WANTS_A, seen("cancelled")) == "again after a try that was cancelled"
    assert said(WANTS_A, seen(request=Request("r", "ann"))) == "requested by ann"


def test_a_shared_lock_says_who_has_it() -> None:
    targets = {name: a_target(lock="cluster").model_copy(update={"name": name}) for name in ("a", "b")}
    observed = {"a": Observed(live=LIVE), "b": Observed()}

    made = plan(targets, dict.fromkeys(targets, WANTS_A), observed, slots=4, now=NOW)

    assert made.targets["b"].decision.message == "lock cluster is taken by a"


def test_of_two_that_share_a_lock_one_starts() -> None:
    targets = {name: a_target(lock="cluster").model_copy(update={"name": name}) for name in ("a", "b")}

    made = plan(targets, dict.fromkeys(targets, WANTS_A), {}, slots=4, now=NOW)

    assert [target.name for target, _ in made.starts] == ["a"]
    assert made.targets["b"].decision.message == "lock cluster is taken by a"


def test_a_dependency_is_satisfied_while_it_is_suspended_but_deployed() -> None:
    targets = {"db": a_target(suspend="true").model_copy(update={"name": "db"}), "api": a_target(depends_on=["db"])}
    observed = {"db": seen("succeeded"), "api": Observed()}

    made = plan(targets, dict.fromkeys(targets, WANTS_A), observed, slots=4, now=NOW)

    assert made.targets["api"].decision.reason is StartReason.NEW_VERSION


def test_the_end_of_a_suspension_is_a_change() -> None:
    end = NOW + timedelta(hours=1)
    facts = Facts(a_target(), WANTS_A, seen(suspension=Suspension("freeze", "ann", end)), NOW)
    assert Plan(NOW, {"api": decide(facts)}).next_change == end


def test_a_decision_is_a_value() -> None:
    planned = decide(Facts(a_target(), WANTS_A, seen(), NOW))
    assert isinstance(planned, Planned)
    assert planned.decision == Start(A, StartReason.NEW_VERSION, "aaaaaaaaaa is the first version")


# --- drift ------------------------------------------------------------------------------------------------

OBSERVES = {"observe": {"make": "deployed-commit", "every": "5m"}}


def test_drift_is_healed_no_sooner_after_a_deploy_than_it_is_looked_for() -> None:
    drifted = seen("succeeded", drift="c" * 40)  # a minute after the deploy
    early = decide(Facts(a_target(**OBSERVES), WANTS_A, drifted, NOW))
    assert isinstance(early.decision, Wait)
    assert (early.decision.reason, early.decision.until) == (WaitReason.BACKOFF, NOW + timedelta(minutes=4))
    assert early.decision.message == "cccccccccc was seen instead of aaaaaaaaaa; it is deployed again at 12:04:00 UTC"
    late = decide(Facts(a_target(**OBSERVES), WANTS_A, drifted, NOW + timedelta(minutes=4)))
    assert isinstance(late.decision, Start)
    assert late.decision.reason is StartReason.DRIFT
    requested = seen("succeeded", drift="c" * 40, request=Request("r", "ann"))
    assert decide(Facts(a_target(**OBSERVES), WANTS_A, requested, NOW)).decision.kind == "start"


def test_a_request_that_ignores_the_window_says_so() -> None:
    target = a_target(windows=["Sat 00:00-24:00"])
    found = decide(Facts(target, WANTS_A, seen(request=Request("r", "ann", now=True)), NOW))
    assert isinstance(found.decision, Start)
    assert found.decision.message == "requested by ann, whatever its window"


# --- order and fairness -----------------------------------------------------------------------------------


@st.composite
def fleets(draw: st.DrawFn) -> dict[str, Target]:
    """Targets of which some share locks, and some wait for others that come before them."""
    names = [f"t{index}" for index in range(draw(st.integers(2, 8)))]
    return {
        name: a_target(
            name=name,
            retry={"limit": 1_000, "backoff": "0s"},
            lock=draw(st.sampled_from([None, None, "one", "two"])),
            depends_on=draw(st.lists(st.sampled_from(names[:index]), unique=True, max_size=2)) if index else [],
        )
        for index, name in enumerate(names)
    }


def simulate(
    fleet: dict[str, Target], failing: frozenset[str], slots: int, rounds: int
) -> tuple[list[list[str]], dict[str, Observed]]:
    """Plan, run what is started for a minute, record; return what was started in each round, and the end."""
    observed = dict.fromkeys(fleet, Observed())
    started: list[list[str]] = []
    now = NOW
    for _ in range(rounds):
        now += timedelta(minutes=1)
        made = plan(fleet, dict.fromkeys(fleet, WANTS_A), observed, slots=slots, now=now)
        started.append([target.name for target, _ in made.starts])
        for turn, name in enumerate(started[-1]):  # no two end in the same microsecond
            status = DeployStatus.FAILED if name in failing else DeployStatus.SUCCEEDED
            failures = observed[name].failures + 1 if name in failing else 0
            observed[name] = seen(str(status), failures=failures, attempted_at=now + timedelta(microseconds=turn))
    return started, observed


@given(fleets(), st.data(), st.integers(1, 3))
def test_who_fails_all_the_time_starves_nobody(fleet: dict[str, Target], data: st.DataObject, slots: int) -> None:
    failing = data.draw(st.frozensets(st.sampled_from(sorted(fleet))))
    rounds = 2 * len(fleet)
    started, observed = simulate(fleet, failing, slots, rounds)
    for name in fleet:
        if not _waits_for_ever(name, fleet, failing):
            assert any(name in names for names in started), f"{name} never ran in {rounds} rounds"
    for name, known in observed.items():
        if name not in failing and known.attempted is not None:
            assert known.attempted_status is DeployStatus.SUCCEEDED


def _waits_for_ever(name: str, fleet: dict[str, Target], failing: frozenset[str]) -> bool:
    return any(below in failing or _waits_for_ever(below, fleet, failing) for below in fleet[name].depends_on)


@given(fleets(), st.integers(1, 3))
def test_slots_locks_and_dependencies_hold_in_every_round(fleet: dict[str, Target], slots: int) -> None:
    started, _ = simulate(fleet, frozenset(), slots, 2 * len(fleet))
    done: set[str] = set()
    for names in started:
        assert len(names) <= slots
        locks = [fleet[name].lock for name in names if fleet[name].lock]
        assert len(locks) == len(set(locks))
        for name in names:
            assert set(fleet[name].depends_on) <= done
        done |= set(names)
    assert done == fleet.keys()


@given(st.integers(2, 8), st.integers(1, 3))
def test_all_that_fail_get_their_turn_equally_often(count: int, slots: int) -> None:
    fleet = {f"t{index}": a_target(name=f"t{index}", retry={"limit": 1_000, "backoff": "0s"}) for index in range(count)}
    started, _ = simulate(fleet, frozenset(fleet), slots, 4 * count)
    turns = [sum(name in names for names in started) for name in fleet]
    assert max(turns) - min(turns) <= 1
