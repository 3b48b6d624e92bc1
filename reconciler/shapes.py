"""The shapes of what is shown: the API's description, and what `views.py` fills in.

Words are those of the glossary, commits are full, times are RFC 3339 in UTC.
"""

from __future__ import annotations

from typing_extensions import TypedDict  # pydantic reads no other one before Python 3.12


class StepView(TypedDict):
    """How one step went."""

    title: str
    started_s: float
    duration_s: float
    exit_code: int | None


class LastDeployView(TypedDict):
    """The short form of a deploy, as it stands in a target."""

    id: str
    status: str
    reason: str | None
    exit_code: int | None
    started_at: str | None
    finished_at: str | None


class DeployView(LastDeployView):
    """One deploy."""

    target: str
    message: str
    commit: str
    digest: str
    previous_commit: str | None
    cause: str
    cause_message: str
    requested_by: str | None
    fencing_token: int
    created_at: str | None
    duration_s: float | None
    steps: list[StepView]
    output_bytes: int | None
    output_omitted_bytes: int | None


class DecisionView(TypedDict):
    """What is done with a target now, and why. `rule` is the row of the decision table."""

    kind: str
    reason: str
    until: str | None
    message: str
    rule: int | None


class ConditionsView(TypedDict):
    """The three conditions."""

    ready: bool
    reconciling: bool
    stalled: bool


class EntryView(TypedDict):
    """Where a target is declared, and what is wrong with that."""

    commit: str
    file: str
    line: int
    error: str | None


class TargetView(TypedDict):
    """One target: desired, observed, decided."""

    name: str
    repo: str | None
    desired: str | None
    attempted: str | None
    deployed: str | None
    decision: DecisionView
    conditions: ConditionsView
    last_deploy: LastDeployView | None
    behind: int | None
    config: EntryView
    revision: str
    desired_since: str | None
    deployed_at: str | None
    failures: int
    drift: str | None
    follows: str | None
    labels: dict[str, str]


class TargetsView(TypedDict):
    """Targets, by name."""

    targets: list[TargetView]


class ConfigView(TypedDict):
    """The config commit in force, and what is wrong with the newest one."""

    commit: str | None
    loaded_at: str | None
    problems: list[str]


class DeploysView(TypedDict):
    """Deploys, the newest first."""

    deploys: list[DeployView]


class SourceView(TypedDict):
    """One Source: how its polls go."""

    url: str
    interval: float
    last_poll: str | None
    last_good_poll: str | None
    failures: int
    reason: str | None
    message: str
    next_poll: str | None
    targets: list[str]


class SourcesView(TypedDict):
    """Sources, by URL."""

    sources: list[SourceView]


class CommitView(TypedDict):
    """A commit as people see it."""

    commit: str
    author: str
    when: str | None
    subject: str


class CommitsView(TypedDict):
    """The commits between what is deployed and what is desired: what a deploy would add, and take away."""

    deployed: str | None
    desired: str | None
    added: list[CommitView]
    removed: list[CommitView]
