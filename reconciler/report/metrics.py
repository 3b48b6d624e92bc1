"""Metrics: counters that events move, and gauges that are read from the state when somebody scrapes.

State gauges come from `gauges.py`. Labels are names that the configuration checked, source URLs without
user information, and closed lists; never a text from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, write_to_textfile
from prometheus_client.exposition import choose_encoder
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

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
from reconciler.model import StartReason
from reconciler.report.gauges import State
from reconciler.snapshot import Snapshot
from reconciler.webhooks.delivery import Result as HookResult

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_DEPLOY_BUCKETS = (1, 5, 15, 30, 60, 120, 300, 600, 1_200, 1_800, 3_600)
_QUEUE_BUCKETS = (0.05, 0.5, 1, 5, 15, 30, 60, 300, 900, 1_800)
_GIT_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_LATENESS_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 1.5, 2.5, 5, 15, 60)
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
    "settings.file_unreadable",
    "source.forgotten",
    "tidying.failed",
    "pin.not_written",
)
_HOOK_BUCKETS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.25, 1)
_HTTP_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5)


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
        self.lateness = Histogram(
            "reconciler_poll_lateness_seconds",
            "Time from when a poll was due to when it began.",
            buckets=_LATENESS_BUCKETS,
            registry=registry,
        )
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
        registry.register(State(snapshot))

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
                self.lateness.observe(event.late_s)
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
