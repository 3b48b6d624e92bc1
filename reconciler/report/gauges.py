"""Gauges that are read from the state when somebody scrapes, by one collector.

A target that is removed vanishes at the next scrape, and a commit label never leaves an old series behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from reconciler import __version__
from reconciler.conditions import conditions
from reconciler.model import DeployStatus, HoldReason, WaitReason
from reconciler.planning import rests
from reconciler.report import logs
from reconciler.snapshot import Snapshot

_HELD_BY = (*HoldReason, *(reason for reason in WaitReason if reason is not WaitReason.IN_SYNC))


def _gauge(name: str, text: str, labels: Iterable[str] = ()) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"reconciler_{name}", text, labels=list(labels))


def _since(moment: datetime | None) -> float:
    return moment.timestamp() if moment else 0.0


class State(Collector):
    """Gauges that are read from the last pass at the moment of the scrape."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Return nothing: what is collected is not known before the first pass."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Return every state gauge."""
        snapshot = self._snapshot()
        yield InfoMetricFamily("reconciler_build", "The running version.", {"version": __version__})
        messages = CounterMetricFamily("reconciler_log_messages", "Lines that were logged.", labels=["level"])
        for level, count in logs.written().items():
            messages.add_metric([level], count)
        yield messages
        yield from _config(snapshot)
        yield from _sources(snapshot)
        yield from _targets(snapshot)
        yield from _deploys(snapshot)
        live = [known for known in snapshot.records.values() if known.observed.live]
        waiting = [p for p in snapshot.plan.targets.values() if p.decision.reason is WaitReason.AT_CAPACITY]
        for name, text, value in (
            ("deploys_running", "Deploys that run now.", len(live)),
            ("deploys_queued", "Targets that wait for a slot or a lock.", len(waiting)),
            ("deploy_slots", "How many deploys may run at once.", snapshot.slots),
        ):
            gauge = _gauge(name, text)
            gauge.add_metric([], value)
            yield gauge


def _config(snapshot: Snapshot) -> Iterable[GaugeMetricFamily]:
    head = snapshot.head
    good = _gauge("config_last_reload_successful", "Whether the newest config commit is free of errors.")
    when = _gauge("config_last_reload_success_timestamp_seconds", "When a config commit was last loaded.")
    invalid = _gauge("config_invalid_entries", "Entries of deployments files with errors.")
    if head is not None:
        good.add_metric([], float(not head.problems))
        when.add_metric([], _since(head.loaded_at))
    invalid.add_metric([], sum(1 for entry in snapshot.entries.values() if entry.problems))
    return [good, when, invalid]


def _sources(snapshot: Snapshot) -> Iterable[GaugeMetricFamily]:
    interval = _gauge("poll_interval_seconds", "How often a Source is polled.", ["repo"])
    success = _gauge("poll_last_success_timestamp_seconds", "When a Source was last polled well.", ["repo"])
    failures = _gauge("poll_consecutive_failures", "Failed polls in a row.", ["repo"])
    for url, source in snapshot.sources.items():
        interval.add_metric([url], source.interval_s)
        failures.add_metric([url], source.failures)
        if source.last_good_poll:
            success.add_metric([url], _since(source.last_good_poll))
    return [interval, success, failures]


def _targets(snapshot: Snapshot) -> Iterable[GaugeMetricFamily]:
    info = _gauge("target_info", "A target, with words to join.", ["target", "repo", "environment"])
    revision = _gauge("target_revision_info", "Desired and deployed commit.", ["target", "kind", "commit"])
    in_sync = _gauge("target_in_sync", "Whether the desired version is deployed.", ["target"])
    suspended = _gauge("target_suspended", "Whether deploys are suspended.", ["target"])
    stalled = _gauge("target_stalled", "Whether a person or a new commit must act.", ["target"])
    held = _gauge("target_held", "Why nothing is started now.", ["target", "reason"])
    drifted = _gauge("target_drifted", "Whether something else than the deployed commit was seen.", ["target"])
    age = _gauge("target_deployed_commit_timestamp_seconds", "When the deployed commit was made.", ["target"])
    changed = _gauge("target_desired_change_timestamp_seconds", "When the desired version last changed.", ["target"])
    for name, planned in snapshot.plan.targets.items():
        record, target = snapshot.records.get(name), planned.facts.target
        info.add_metric([name, target.source, target.labels.get("env", "")], 1)
        states = conditions(planned.decision)
        in_sync.add_metric([name], float(rests(planned.facts.desired, planned.facts.observed)))
        suspended.add_metric([name], float(planned.decision.reason is HoldReason.SUSPENDED))
        stalled.add_metric([name], float(states.stalled.status))
        for reason in _HELD_BY:
            held.add_metric([name, reason], float(planned.decision.reason is reason))
        if record is None:
            continue
        if target.observe:
            drifted.add_metric([name], float(record.observed.drift is not None))
        for kind, version in (("desired", record.desired.version), ("deployed", record.observed.deployed)):
            if version is not None:
                revision.add_metric([name, kind, version.commit], 1)
        if record.observed.deployed_commit_at:
            age.add_metric([name], _since(record.observed.deployed_commit_at))
        if record.desired_since:
            changed.add_metric([name], _since(record.desired_since))
    return [info, revision, in_sync, suspended, stalled, held, changed, age, drifted]


def _deploys(snapshot: Snapshot) -> Iterable[GaugeMetricFamily]:
    good = _gauge("deploy_last_run_successful", "Whether the last deploy that ended succeeded.", ["target"])
    last = _gauge("deploy_last_run_timestamp_seconds", "When the last deploy ended.", ["target"])
    success = _gauge("deploy_last_success_timestamp_seconds", "When a deploy last succeeded.", ["target"])
    running = _gauge("deploy_running_start_timestamp_seconds", "When the running deploy began.", ["target"])
    for name, record in snapshot.records.items():
        observed = record.observed
        if observed.attempted_at:
            good.add_metric([name], float(observed.attempted_status is DeployStatus.SUCCEEDED))
            last.add_metric([name], _since(observed.attempted_at))
        if observed.deployed_at:
            success.add_metric([name], _since(observed.deployed_at))
        if observed.live:
            running.add_metric([name], _since(observed.live.started_at))
    return [good, last, success, running]
