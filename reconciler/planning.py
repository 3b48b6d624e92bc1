"""What to do with each target: the decision table, as documentation, code and test in one.

A rule looks at the facts of one target and answers with a Decision, or with None when it does not apply;
the first answer counts. `RULES` is the table of docs/ARCHITECTURE.md, row by row, and `why` prints the row
that matched. Pure: `now` is an argument, and nothing here reads a clock, a disk or a log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from reconciler.lifecycle import FAILURES
from reconciler.model import (
    Decision,
    DeployStatus,
    Desired,
    Hold,
    HoldReason,
    Observed,
    Start,
    StartReason,
    Version,
    Wait,
    WaitReason,
)
from reconciler.schedule import retry_delay_s, window_opens
from reconciler.spec import Target
from reconciler.text import short

_ENDED = {
    DeployStatus.FAILED: "failed",
    DeployStatus.TIMED_OUT: "timed out",
    DeployStatus.CANCELLED: "was cancelled",
    DeployStatus.ABANDONED: "was abandoned",
}
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known of one target when its decision is made."""

    target: Target
    desired: Desired
    observed: Observed
    now: datetime
    not_in_sync: frozenset[str] = frozenset()  # of its dependencies
    busy: str = ""  # why no slot or lock is free; empty while there is one

    @property
    def version(self) -> Version:
        """The desired version; rules below row 2 may ask for it."""
        assert self.desired.version is not None, "row 2 holds targets without a version"  # noqa: S101
        return self.desired.version

    @property
    def is_retry(self) -> bool:
        """Whether a start now would try the last attempted version again."""
        return self.observed.request is None and self.observed.attempted == self.desired.version

    @property
    def failures_exhausted(self) -> bool:
        """Whether the desired version failed more often than its retry limit allows."""
        return (
            self.is_retry
            and self.observed.attempted_status in FAILURES
            and self.observed.failures > self.target.retry.limit
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table."""

    number: int
    condition: str
    action: str
    remedy: str  # what would change the decision, for people
    decide: Callable[[Facts], Decision | None]


@dataclass(frozen=True, slots=True)
class Planned:
    """The decision for one target, with the row that made it."""

    facts: Facts
    decision: Decision
    rule: Rule


@dataclass(frozen=True, slots=True)
class Plan:
    """All decisions of one pass, by target."""

    now: datetime
    targets: Mapping[str, Planned] = field(default_factory=dict)
    order: Sequence[str] = ()  # in which slots and locks were given out

    @property
    def starts(self) -> Sequence[tuple[Target, Start]]:
        """What is to be started now, who waited longest first."""
        served = (self.targets[name] for name in self.order)
        return [(planned.facts.target, planned.decision) for planned in served if isinstance(planned.decision, Start)]

    @property
    def next_change(self) -> datetime | None:
        """The earliest moment at which a decision changes by itself."""
        moments = []
        for planned in self.targets.values():
            if isinstance(planned.decision, Wait):
                moments.append(planned.decision.until)
            elif suspension := planned.facts.observed.suspension:
                moments.append(suspension.until)
        return min((moment for moment in moments if moment and moment > self.now), default=None)


def rests(desired: Desired, observed: Observed) -> bool:
    """Whether the target is where it should be: the heart of row 4, also asked of dependencies."""
    return (
        desired.version is not None
        and observed.live is None
        and observed.request is None
        and desired.version == observed.attempted
        and observed.attempted_status is DeployStatus.SUCCEEDED
        and observed.drift is None
    )


def retry_due(facts: Facts) -> datetime | None:
    """Return when the next retry may start, or None when it may start now.

    An interrupted deploy (cancelled, abandoned) waits as after a first failure; a clock that went back
    never makes the wait longer than the backoff itself.
    """
    observed, retry = facts.observed, facts.target.retry
    if observed.attempted_at is None or observed.attempted_status is DeployStatus.SUCCEEDED:
        return None
    if observed.attempted_status is DeployStatus.ABANDONED and observed.failures == 0:
        return None  # a crash of ours: make up for it at once
    delay = retry_delay_s(retry.backoff_s, retry.factor, retry.max_backoff_s, observed.failures)
    due = observed.attempted_at + timedelta(seconds=delay)
    return due if observed.attempted_at <= facts.now < due else None


# --- the rows ---------------------------------------------------------------------------------------------


def _suspended(facts: Facts) -> Decision | None:
    if facts.target.suspend:
        return Hold(HoldReason.SUSPENDED, "suspended in its YAML (suspend: true)")
    suspension = facts.observed.suspension
    if suspension is None or (suspension.until is not None and suspension.until <= facts.now):
        return None
    end = f" until {suspension.until:%Y-%m-%d %H:%M} UTC" if suspension.until else ""
    return Hold(HoldReason.SUSPENDED, f"suspended by {suspension.by}{end}: {suspension.reason}")


def _unresolved(facts: Facts) -> Decision | None:
    if facts.desired.version is not None:
        return facts.desired.problem
    return facts.desired.problem or Hold(HoldReason.UNRESOLVED, "its commit is not known yet")


def _running(facts: Facts) -> Decision | None:
    live = facts.observed.live
    if live is None:
        return None
    deadline = live.deadline if live.deadline > facts.now else None
    return Wait(WaitReason.RUNNING, f"deploy {live.id} of {short(live.version.commit)} is running", deadline)


def _in_sync(facts: Facts) -> Decision | None:
    if not rests(facts.desired, facts.observed):
        return None
    return Wait(WaitReason.IN_SYNC, f"{short(facts.version.commit)} is deployed")


def _stalled(facts: Facts) -> Decision | None:
    observed = facts.observed
    if not facts.failures_exhausted:
        return None
    wanted = short(facts.version.commit)
    tries = f"{wanted} failed {observed.failures} time{'s' if observed.failures != 1 else ''}"
    reason = f" ({observed.attempted_reason})" if observed.attempted_reason else ""
    good = observed.deployed
    if facts.target.on_failure != "rollback" or good is None or good == facts.version:
        return Hold(HoldReason.STALLED, f"{tries}{reason}; it is not tried again until the pin changes")
    if observed.rollback_status is None:
        if facts.busy:
            return Wait(WaitReason.AT_CAPACITY, facts.busy)
        return Start(good, StartReason.ROLLBACK, f"{tries}{reason}; back to {short(good.commit)}")
    if observed.rollback_status is DeployStatus.SUCCEEDED:
        return Hold(HoldReason.ROLLED_BACK, f"{tries}{reason}; rolled back to {short(good.commit)}")
    return Hold(HoldReason.STALLED, f"{tries}{reason}, and so did the rollback to {short(good.commit)}")


def _heals_at(facts: Facts) -> datetime | None:
    """Return when drift may be healed, where that is later than now: as long after a deploy as it is looked for."""
    observed, observe = facts.observed, facts.target.observe
    if observed.drift is None or observe is None or observed.attempted_at is None:
        return None
    due = observed.attempted_at + timedelta(seconds=observe.every_s)
    return due if observed.attempted_at <= facts.now < due else None


def _backoff(facts: Facts) -> Decision | None:
    if facts.is_retry and (due := _heals_at(facts)) is not None:
        seen = short(facts.observed.drift or "")
        message = (
            f"{seen} was seen instead of {short(facts.version.commit)}; it is deployed again at {due:%H:%M:%S} UTC"
        )
        return Wait(WaitReason.BACKOFF, message, due)
    if not facts.is_retry or (due := retry_due(facts)) is None:
        return None
    observed, limit = facts.observed, facts.target.retry.limit
    ended = f"the last try {_how_it_ended(observed)}"
    if observed.failures:
        ended = f"try {observed.failures} of {limit + 1} {_how_it_ended(observed)}"
    reason = f" ({observed.attempted_reason})" if observed.attempted_reason else ""
    return Wait(WaitReason.BACKOFF, f"{ended}{reason}; the next one is at {due:%H:%M:%S} UTC", due)


def _dependency(facts: Facts) -> Decision | None:
    missing = [name for name in facts.target.depends_on if name in facts.not_in_sync]
    if not missing:
        return None
    return Wait(WaitReason.DEPENDENCY, f"waits for {', '.join(missing)} to be in sync")


def _window(facts: Facts) -> Decision | None:
    request = facts.observed.request
    if request is not None and request.now:
        return None
    opens = window_opens(facts.target.open_windows, facts.now)
    if opens is None:
        return None
    return Wait(WaitReason.WINDOW, f"outside its window, which opens at {opens:%Y-%m-%d %H:%M} UTC", opens)


def _at_capacity(facts: Facts) -> Decision | None:
    return Wait(WaitReason.AT_CAPACITY, facts.busy) if facts.busy else None


def _start(facts: Facts) -> Decision:
    observed, version = facts.observed, facts.version
    if observed.request is not None:
        how = ", whatever its window" if observed.request.now and facts.target.windows else ""
        return Start(version, StartReason.REQUESTED, f"requested by {observed.request.requested_by}{how}")
    if observed.attempted == version and observed.attempted_status is DeployStatus.SUCCEEDED:
        seen = short(observed.drift or "")
        return Start(version, StartReason.DRIFT, f"{seen} was seen instead of {short(version.commit)}")
    if observed.attempted == version:
        return Start(version, StartReason.RETRY, f"again after a try that {_how_it_ended(observed)}")
    return Start(version, StartReason.NEW_VERSION, _what_is_new(observed.deployed, version))


def _how_it_ended(observed: Observed) -> str:
    assert observed.attempted_status is not None, "a retry follows an attempt"  # noqa: S101
    return _ENDED[observed.attempted_status]


def _what_is_new(deployed: Version | None, version: Version) -> str:
    if deployed is None:
        return f"{short(version.commit)} is the first version"
    if deployed.commit == version.commit:
        return "its path, steps, variables or secrets changed, or an earlier version is wanted back"
    return f"{short(deployed.commit)} is deployed, {short(version.commit)} is wanted"


RULES: tuple[Rule, ...] = (
    Rule(
        1,
        "suspended (in YAML, or by an operator with reason and expiry)",
        "Hold(suspended)",
        "set suspend: false, or `reconciler resume`",
        _suspended,
    ),
    Rule(
        2,
        "the ref does not resolve, or its signature is not trusted",
        "Hold(unresolved), Hold(untrusted)",
        "push the commit, mend access to the repository, or pin another commit",
        _unresolved,
    ),
    Rule(3, "a deploy is live", "Wait(running, until its deadline)", "the end of the running deploy", _running),
    Rule(
        4,
        "no request, desired = last attempted, it succeeded, no drift",
        "Wait(in_sync)",
        "a new pin, a changed spec, a request or drift",
        _in_sync,
    ),
    Rule(
        5,
        "no request, desired = last attempted, failures > limit",
        "Hold(stalled), or first Start(rollback) and then Hold(rolled_back) where on_failure asks for it",
        "a new pin, a changed spec or `reconciler reconcile`",
        _stalled,
    ),
    Rule(6, "a retry whose backoff is not over", "Wait(backoff, until)", "time, or a new pin", _backoff),
    Rule(
        7,
        "a dependency is not in sync",
        "Wait(dependency)",
        "the dependency's next successful deploy",
        _dependency,
    ),
    Rule(
        8,
        "outside the window, and the request did not say --now",
        "Wait(window, until it opens)",
        "time, or `reconciler reconcile --now`",
        _window,
    ),
    Rule(
        9,
        "no slot is free, or a shared lock is taken",
        "Wait(at_capacity)",
        "the end of another deploy",
        _at_capacity,
    ),
    Rule(10, "otherwise", "Start(requested, new_version, drift or retry)", "a new pin", _start),
)


def decide(facts: Facts) -> Planned:
    """Return the decision for one target: the first row that answers."""
    for rule in RULES:
        decision = rule.decide(facts)
        if decision is not None:
            return Planned(facts, decision, rule)
    raise AssertionError("row 10 always answers")


def plan(
    targets: Mapping[str, Target],
    desired: Mapping[str, Desired],
    observed: Mapping[str, Observed],
    *,
    slots: int,
    now: datetime,
) -> Plan:
    """Return the decisions for all targets, with never more starts than free slots.

    Fair: the target whose last attempt is the longest ago is served first, so that one that fails all the
    time cannot starve the others.
    """
    nothing = Observed()
    resting = {name for name in targets if rests(desired[name], observed.get(name, nothing))}
    live = {name for name, known in observed.items() if known.live is not None}
    taken = {lock: name for name, target in targets.items() if name in live and (lock := target.lock)}
    free = slots - len(live)
    decisions: dict[str, Planned] = {}
    for name in sorted(targets, key=lambda name: (observed.get(name, nothing).attempted_at or _LONG_AGO, name)):
        target = targets[name]
        busy = ""
        if target.lock in taken:
            busy = f"lock {target.lock} is taken by {taken[target.lock]}"
        elif free <= 0:
            busy = f"all {slots} deploy slots are taken"
        planned = decide(
            Facts(
                target,
                desired[name],
                observed.get(name, nothing),
                now,
                frozenset(target.depends_on) - resting,
                busy,
            )
        )
        if isinstance(planned.decision, Start):
            free -= 1
            if target.lock:
                taken[target.lock] = name
        decisions[name] = planned
    return Plan(now, {name: decisions[name] for name in sorted(decisions)}, tuple(decisions))
