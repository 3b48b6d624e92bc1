"""Metrics: counters that events move, and gauges that are read from the state when somebody scrapes.

State gauges come from one collector, so a target that is removed vanishes at the next scrape and a commit
label never leaves an old series behind. Labels are names that the configuration checked, source URLs without
user information, and closed lists; never a text from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, write_to_textfile
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from reconciler import __version__
from reconciler.conditions import conditions
from reconciler.events import (
    DeployFinished,
    DeployStarted,
    Event,
    GitOperation,
    HttpAnswered,
    PassFailed,
    PollFinished,
    TargetObserved,
    Warned,
    WebhookReceived,
)
from reconciler.lifecycle import FINAL
from reconciler.model import DeployStatus, HoldReason, StartReason, WaitReason
from reconciler.planning import rests
from reconciler.report import logs
from reconciler.snapshot import Snapshot
from reconciler.webhooks.delivery import Result as HookResult

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_DEPLOY_BUCKETS = (1, 5, 15, 30, 60, 120, 300, 600, 1_200, 1_800, 3_600)
_QUEUE_BUCKETS = (0.05, 0.5, 1, 5, 15, 30, 60, 300, 900, 1_800)
_GIT_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_LEAD_BUCKETS = (
    _MINUTE,
    5 * _MINUTE,
    15 * _MINUTE,
    30 * _MINUTE,
    _HOUR,
    4 * _HOUR,
    12 * _HOUR,
    _DAY,
    3 * _DAY,
    7 * _DAY,
)
_RESULTS = tuple(sorted(FINAL))
_TRIGGERS = ("schedule", "startup", "config", "webhook", "api", "repair")
_WARNINGS = (
    "lease.lost",
    "lease.not_renewed",
    "store.failed",
    "scheduler.tick_lost",
    "webhook.commit_not_visible",
    "webhook.refused",
    "webhook.secret_unreadable",
    "api.token_unreadable",
)
_HOOK_BUCKETS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.25, 1)
_HTTP_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5)
_HELD_BY = (*HoldReason, *(reason for reason in WaitReason if reason is not WaitReason.IN_SYNC))


class Metrics:
    """The registry, the counters, and what they listen to."""

    def __init__(
        self, snapshot: Callable[[], Snapshot], heartbeat: Callable[[], float], providers: Iterable[str] = ()
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self._known: set[str] = set()
        self._observed: set[str] = set()
        self._snapshot = snapshot
        self.polls = Counter("reconciler_polls", "Polls of a Source.", ["repo", "result"], registry=registry)
        self.triggers = Counter("reconciler_poll_triggers", "What caused polls.", ["trigger"], registry=registry)
        self.deploys = Counter("reconciler_deploys", "Deploys that ended.", ["target", "result"], registry=registry)
        self.retries = Counter("reconciler_deploy_retries", "Deploys that were retries.", ["target"], registry=registry)
        self.rollbacks = Counter("reconciler_rollbacks", "Deploys that were rollbacks.", ["target"], registry=registry)
        self.observations = Counter(
            "reconciler_observations", "Looks at what is really deployed.", ["target", "result"], registry=registry
        )
        self.git = Histogram(
            "reconciler_git_operation_duration_seconds",
            "Time of git operations.",
            ["operation"],
            buckets=_GIT_BUCKETS,
            registry=registry,
        )
        self.duration = Histogram(
            "reconciler_deploy_duration_seconds",
            "Time from start to end of a deploy.",
            ["target"],
            buckets=_DEPLOY_BUCKETS,
            registry=registry,
        )
        self.queue = Histogram(
            "reconciler_deploy_queue_duration_seconds",
            "Time from a wanted version to the start of its deploy.",
            buckets=_QUEUE_BUCKETS,
            registry=registry,
        )
        self.lead_time = Histogram(
            "reconciler_deploy_lead_time_seconds",
            "Time from a commit to its successful deploy.",
            ["target"],
            buckets=_LEAD_BUCKETS,
            registry=registry,
        )
        self.restore = Histogram(
            "reconciler_deploy_restore_seconds",
            "Time from the first failure to the next success.",
            ["target"],
            buckets=_LEAD_BUCKETS,
            registry=registry,
        )
        beat = Gauge(
            "reconciler_scheduler_heartbeat_timestamp_seconds", "When the scheduler last turned.", registry=registry
        )
        beat.set_function(heartbeat)
        self.warnings = Counter("reconciler_warnings", "What the daemon complained of.", ["event"], registry=registry)
        self.missed = Counter(
            "reconciler_scheduler_missed_runs", "Ticks that came late or were left out.", registry=registry
        )
        self.failed_passes = Counter("reconciler_passes_failed", "Passes that ended in an error.", registry=registry)
        self.http = Histogram(
            "reconciler_http_request_duration_seconds",
            "Time of answers to HTTP requests, by the route's template.",
            ["handler", "method", "code"],
            buckets=_HTTP_BUCKETS,
            registry=registry,
        )
        # Looking a series up by its labels takes longer than counting in it.
        self._http_series = cache(lambda handler, method, kind: self.http.labels(handler, method, f"{kind}xx"))
        self.hooks = _Hooks(providers, registry)
        for event in _WARNINGS:
            self.warnings.labels(event)
        for trigger in _TRIGGERS:
            self.triggers.labels(trigger)
        for operation in ("ls_remote", "fetch", "checkout"):
            self.git.labels(operation)
        registry.register(_State(snapshot))

    def restore_counts(self, counts: Mapping[tuple[str, str], int]) -> None:
        """Begin the deploy counters where the store says that they were."""
        for (target, result), count in counts.items():
            if result in _RESULTS:
                self.deploys.labels(target, result).inc(count)

    def declare(self) -> None:
        """Begin every series of a declared target and Source at 0, and drop those of removed ones."""
        snapshot = self._snapshot()
        names = set(snapshot.entries)
        for name in names - self._known:
            for status in _RESULTS:
                self.deploys.labels(name, status)
            for family in (self.retries, self.rollbacks, self.duration, self.lead_time, self.restore):
                family.labels(name)
        for family in (self.deploys, self.retries, self.rollbacks, self.duration, self.lead_time, self.restore):
            for name in self._known - names:
                family.remove_by_labels({"target": name})
        self._known = names
        self._declare_observed(snapshot)
        for url in snapshot.sources:
            for result in ("changed", "unchanged", "error"):
                self.polls.labels(url, result)

    def _declare_observed(self, snapshot: Snapshot) -> None:
        looked_at = {name for name, planned in snapshot.plan.targets.items() if planned.facts.target.observe}
        for name in self._observed - looked_at:
            self.observations.remove_by_labels({"target": name})
        for name in looked_at - self._observed:
            for result in ("same", "drift", "failed"):
                self.observations.labels(name, result)
        self._observed = looked_at

    def hear(self, event: Event) -> None:
        """Move the counters."""
        match event:
            case PollFinished():
                self.polls.labels(event.url, event.result).inc()
                self.triggers.labels(event.trigger).inc()
            case GitOperation(operation, duration_s):
                self.git.labels(operation).observe(duration_s)
            case Warned(name) if name in _WARNINGS:
                self.warnings.labels(name).inc()
                if name == "scheduler.tick_lost":
                    self.missed.inc()
            case WebhookReceived(provider, result, duration_s):
                self.hooks.count(provider, result, duration_s)
            case HttpAnswered(handler, method, status, duration_s):
                self._http_series(handler, method, status // 100).observe(duration_s)
            case TargetObserved(target, result):
                self.observations.labels(target, result).inc()
            case PassFailed():
                self.failed_passes.inc()
            case DeployStarted() | DeployFinished():
                self._count_deploy(event)

    def _count_deploy(self, event: DeployStarted | DeployFinished) -> None:
        target = event.deploy.target
        if isinstance(event, DeployStarted):
            self.queue.observe(event.queued_s)
            if event.deploy.cause is StartReason.RETRY:
                self.retries.labels(target).inc()
            elif event.deploy.cause is StartReason.ROLLBACK:
                self.rollbacks.labels(target).inc()
            return
        self.deploys.labels(target, event.outcome.status).inc()
        self.duration.labels(target).observe(event.duration_s)
        if event.lead_time_s is not None:
            self.lead_time.labels(target).observe(event.lead_time_s)
        if event.restore_s is not None:
            self.restore.labels(target).observe(event.restore_s)

    def write_textfile(self, path: str) -> None:
        """Write the metrics where node_exporter's textfile collector reads them; beside, then renamed."""
        self.declare()
        write_to_textfile(path, self.registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics and their content type, as the scraper accepts them."""
        self.declare()
        encoder, content_type = choose_encoder(accept)
        return encoder(self.registry), content_type


class _Hooks:
    """Counts deliveries of the providers that are on; no label comes from a payload, and none from a stranger."""

    def __init__(self, providers: Iterable[str], registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "reconciler_webhook_requests",
            "Deliveries, by what became of them.",
            ["provider", "result"],
            registry=registry,
        )
        self.duration = Histogram(
            "reconciler_webhook_request_duration_seconds",
            "Time to verify a delivery and to act on it.",
            ["provider"],
            buckets=_HOOK_BUCKETS,
            registry=registry,
        )
        self.last = Gauge(
            "reconciler_webhook_last_accepted_timestamp_seconds",
            "When a delivery was last accepted.",
            ["provider"],
            registry=registry,
        )
        self._count, self._time = cache(self.requests.labels), cache(self.duration.labels)
        for provider in providers:
            self._time(provider)
            for result in HookResult:
                self._count(provider, str(result))

    def count(self, provider: str, result: str, duration_s: float) -> None:
        """Count one delivery."""
        self._count(provider, str(result)).inc()
        self._time(provider).observe(duration_s)
        if result in (HookResult.ACCEPTED, HookResult.DUPLICATE, HookResult.UNMATCHED):
            self.last.labels(provider).set_to_current_time()


def _gauge(name: str, text: str, labels: Iterable[str] = ()) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"reconciler_{name}", text, labels=list(labels))


def _since(moment: datetime | None) -> float:
    return moment.timestamp() if moment else 0.0


class _State(Collector):
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
