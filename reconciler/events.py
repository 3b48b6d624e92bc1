"""What happened, as frozen events. Reporters listen; decisions never call them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from reconciler.model import Decision, Deploy, Outcome


@dataclass(frozen=True, slots=True)
class DaemonStarted:
    """The daemon runs."""

    version: str
    state_dir: str
    listen: str
    webhook_listen: str | None = None


@dataclass(frozen=True, slots=True)
class DaemonStopping:
    """The daemon was asked to stop and waits for what runs."""

    running: int
    drain_timeout_s: float


@dataclass(frozen=True, slots=True)
class Warned:
    """Something that an operator should know; `event` is a dotted noun."""

    event: str
    message: str


@dataclass(frozen=True, slots=True)
class ConfigLoaded:
    """A config commit is in force."""

    commit: str
    targets: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConfigRejected:
    """A config commit could not be read at all; the last good one stays."""

    commit: str
    message: str


@dataclass(frozen=True, slots=True)
class PollFinished:
    """A Source was polled. `result` is changed, unchanged or error."""

    url: str
    result: str
    trigger: str
    duration_s: float
    reason: str | None = None
    message: str = ""
    failures: int = 0
    next_in_s: float = 0.0
    late_s: float = 0.0  # after it was due


@dataclass(frozen=True, slots=True)
class GitOperation:
    """A git operation took its time; `operation` is ls_remote, fetch or checkout."""

    operation: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class WebhookReceived:
    """A delivery was answered; `result` is a word of `webhooks.delivery.Result`."""

    provider: str
    result: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class HttpAnswered:
    """A request was answered; `handler` is the route's template, never the path that was asked."""

    handler: str
    method: str
    status: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class Decided:
    """The decision for a target is another one than before."""

    target: str
    decision: Decision
    rule: int


@dataclass(frozen=True, slots=True)
class DeployStarted:
    """A deploy began; `queued_s` is how long the target had waited for it."""

    deploy: Deploy
    queued_s: float


@dataclass(frozen=True, slots=True)
class DeployFinished:
    """A deploy ended. Lead time: commit made to deployed; restore time: first failure to next success."""

    deploy: Deploy
    outcome: Outcome
    duration_s: float
    lead_time_s: float | None = None
    restore_s: float | None = None


@dataclass(frozen=True, slots=True)
class TargetObserved:
    """It was asked what is really deployed. `result` is same, drift or failed; a failure is no drift."""

    target: str
    result: str
    message: str


@dataclass(frozen=True, slots=True)
class PassFailed:
    """A pass ended in an error; the next one is in `next_in_s` seconds."""

    error: str
    next_in_s: float


Event = (
    DaemonStarted
    | DaemonStopping
    | Warned
    | ConfigLoaded
    | ConfigRejected
    | PollFinished
    | GitOperation
    | WebhookReceived
    | HttpAnswered
    | Decided
    | DeployStarted
    | DeployFinished
    | TargetObserved
    | PassFailed
)


class Listener(Protocol):
    """Hears events. Must not raise and must not wait."""

    def hear(self, event: Event) -> None:
        """Take note of an event."""
