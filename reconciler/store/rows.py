"""Rows of the database as values, and values as rows."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Container, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from reconciler.config.catalogue import KnownEntry
from reconciler.config.problems import Place
from reconciler.model import (
    Deploy,
    DeployStatus,
    Desired,
    Hold,
    HoldReason,
    LiveDeploy,
    Observed,
    Outcome,
    OutcomeReason,
    Request,
    SourceState,
    StartReason,
    StepResult,
    Suspension,
    TargetRecord,
    Version,
)
from reconciler.spec import Target

T = TypeVar("T")
Row = sqlite3.Row


def to_text(moment: datetime | None) -> str | None:
    """Return the stored form of a moment: RFC 3339 in UTC, of one width."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ") if moment else None


def to_time(text: str | None) -> datetime | None:
    """Return the moment of a stored text."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC) if text else None


def certain_time(text: str) -> datetime:
    """Return the moment of a text in a column that is never null."""
    moment = to_time(text)
    assert moment is not None  # noqa: S101 - the column is NOT NULL
    return moment


def _optional(value: Any, make: Callable[[Any], T]) -> T | None:
    return None if value is None else make(value)


def _version(commit: str | None, digest: str | None) -> Version | None:
    return Version(commit, digest or "") if commit else None


def spec(name: str, text: str) -> Target:
    """Return a stored target."""
    return Target.model_validate({**json.loads(text), "name": name})


class Specs:
    """The targets in force: every pass reads all of them, and hardly one has changed. They are frozen, so shared."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[bytes, Target]] = {}

    def keep(self, target: Target, text: str) -> Target:
        """Note which target a text means."""
        self._known[target.name] = _digest(text), target
        return target

    def get(self, name: str, text: str) -> Target:
        """Return the target of a name and a text."""
        digest, target = self._known.get(name, (b"", None))
        return target if target is not None and digest == _digest(text) else self.keep(spec(name, text), text)

    def keep_only(self, names: Container[str]) -> None:
        """Forget all others."""
        self._known = {name: known for name, known in self._known.items() if name in names}


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def entry(row: Row, specs: Specs) -> KnownEntry:
    """Return a row of `entries`."""
    place = Place(row["file"], row["line"], row["col"])
    target = specs.get(row["name"], row["spec"]) if row["spec"] else None
    problems = tuple(json.loads(row["problems"]))
    return KnownEntry(row["name"], place, target, row["config_commit"], problems, row["vanished_in"])


def entry_values(known: KnownEntry) -> dict[str, Any]:
    """Return an entry as the values of a row."""
    return {
        "name": known.name,
        "file": known.place.file,
        "line": known.place.line,
        "col": known.place.column,
        "spec": known.target.model_dump_json() if known.target else None,
        "config_commit": known.commit,
        "problems": json.dumps(known.problems),
        "vanished_in": known.vanished_in,
    }


def source_values(state: SourceState) -> dict[str, Any]:
    """Return the state of a Source as the values of a row."""
    values: dict[str, Any] = {name: getattr(state, name) for name in ("url", "interval_s", "failures", "reason")}
    times = ("last_poll", "last_good_poll", "next_poll", "revoked_since")
    return values | {"message": state.message} | {name: to_text(getattr(state, name)) for name in times}


def source(row: Row) -> SourceState:
    """Return a row of `sources`."""
    values: dict[str, Any] = {key: row[key] for key in ("url", "interval_s", "failures", "reason", "message")}
    values |= {key: to_time(row[key]) for key in ("last_poll", "last_good_poll", "next_poll", "revoked_since")}
    return SourceState(**values)


def target(row: Row) -> TargetRecord:
    """Return a row of the query `observe`."""
    problem = row["problem_reason"] and Hold(HoldReason(row["problem_reason"]), row["problem_message"])
    version = _version(row["desired_commit"], row["desired_digest"])
    desired = Desired(version, row["desired_revision"], problem or None, row["behind"])
    return TargetRecord(desired, _observed(row), to_time(row["desired_since"]))


def _observed(row: Row) -> Observed:
    live = live_version = None
    if row["live_id"]:
        live_version = Version(row["live_commit"], row["live_digest"])
        since, deadline = certain_time(row["live_since"]), certain_time(row["live_deadline"])
        live = LiveDeploy(row["live_id"], live_version, since, deadline, row["live_cancelled_by"])
    request = None
    if row["request_token"] and row["request_token"] != row["handled_token"]:
        env = json.loads(row["request_env"] or "{}")
        request = Request(row["request_token"], row["request_by"], bool(row["request_now"]), env)
    suspension = None
    if row["suspended_reason"] is not None:
        suspension = Suspension(row["suspended_reason"], row["suspended_by"], to_time(row["suspended_until"]))
    return Observed(
        attempted=_version(row["attempted_commit"], row["attempted_digest"]),
        attempted_status=_optional(row["attempted_status"], DeployStatus),
        attempted_reason=_optional(row["attempted_reason"], OutcomeReason),
        attempted_at=to_time(row["attempted_at"]),
        failures=row["failures"],
        deployed=_version(row["deployed_commit"], row["deployed_digest"]),
        deployed_at=to_time(row["deployed_at"]),
        deployed_commit_at=to_time(row["deployed_commit_at"]),
        rollback_status=_optional(row["rollback_status"], DeployStatus),
        live=live,
        request=request,
        suspension=suspension,
        drift=row["drift"],
    )


def deploy(row: Row) -> Deploy:
    """Return a row of `deploys`."""
    status = DeployStatus(row["status"])
    outcome = None
    if row["finished_at"]:
        steps: Sequence[StepResult] = tuple(StepResult(**step) for step in json.loads(row["steps"]))
        outcome = Outcome(
            status=status,
            reason=_optional(row["reason"], OutcomeReason),
            message=row["outcome"],
            exit_code=row["exit_code"],
            steps=steps,
            output_bytes=row["output_bytes"],
            output_omitted_bytes=row["output_omitted_bytes"],
        )
    return Deploy(
        id=row["id"],
        target=row["target"],
        fence=row["fence"],
        version=Version(row["commit_id"], row["digest"]),
        cause=StartReason(row["cause"]),
        message=row["message"],
        status=status,
        created_at=certain_time(row["created_at"]),
        deadline=certain_time(row["deadline"]),
        started_at=to_time(row["started_at"]),
        finished_at=to_time(row["finished_at"]),
        outcome=outcome,
        previous_commit=row["previous_commit"],
        requested_by=row["requested_by"],
    )
