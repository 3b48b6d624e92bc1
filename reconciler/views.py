"""What is shown, as plain data: one form for `status -o json`, the API and the pages.

Words are those of the glossary, commits are full, times are RFC 3339 in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from reconciler.conditions import conditions
from reconciler.config.catalogue import KnownEntry
from reconciler.lifecycle import LIVE
from reconciler.model import Deploy, Hold, HoldReason, SourceState, Wait, WaitReason
from reconciler.planning import Planned
from reconciler.resolving import needs
from reconciler.snapshot import Snapshot

Json = dict[str, Any]


def time_text(moment: datetime | None) -> str | None:
    """Return a moment as RFC 3339 in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None


def deploy_view(deploy: Deploy) -> Json:
    """Return one deploy."""
    outcome = deploy.outcome
    return {
        "id": deploy.id,
        "target": deploy.target,
        "status": str(deploy.status),
        "reason": str(outcome.reason) if outcome and outcome.reason else None,
        "message": outcome.message if outcome else "",
        "exit_code": outcome.exit_code if outcome else None,
        "commit": deploy.version.commit,
        "digest": deploy.version.digest,
        "previous_commit": deploy.previous_commit,
        "cause": str(deploy.cause),
        "cause_message": deploy.message,
        "requested_by": deploy.requested_by,
        "fencing_token": deploy.fence,
        "created_at": time_text(deploy.created_at),
        "started_at": time_text(deploy.started_at),
        "finished_at": time_text(deploy.finished_at),
        "duration_s": _duration(deploy),
        "steps": [
            {
                "title": step.title,
                "started_s": step.started_s,
                "duration_s": step.duration_s,
                "exit_code": step.exit_code,
            }
            for step in (outcome.steps if outcome else ())
        ],
        "output_bytes": outcome.output_bytes if outcome else None,
        "output_omitted_bytes": outcome.output_omitted_bytes if outcome else None,
    }


def _duration(deploy: Deploy) -> float | None:
    if deploy.status in LIVE or deploy.finished_at is None:
        return None
    return round((deploy.finished_at - (deploy.started_at or deploy.created_at)).total_seconds(), 3)


def last_deploy_view(deploy: Deploy | None) -> Json | None:
    """Return the short form that stands in a target."""
    if deploy is None:
        return None
    whole = deploy_view(deploy)
    return {key: whole[key] for key in ("id", "status", "reason", "exit_code", "started_at", "finished_at")}


def target_view(snapshot: Snapshot, name: str) -> Json:
    """Return one target of the snapshot."""
    entry, planned = snapshot.entries[name], snapshot.plan.targets.get(name)
    record = snapshot.records.get(name)
    last = last_deploy_view(snapshot.last_deploys.get(name))
    config = _config_view(entry)
    if planned is None or record is None:
        return {
            "name": name,
            "repo": None,
            "desired": None,
            "attempted": None,
            "deployed": None,
            "decision": _decision_view(Hold(HoldReason.UNRESOLVED, config["error"] or "it was never valid"), None),
            "conditions": {"ready": False, "reconciling": False, "stalled": True},
            "last_deploy": last,
            "behind": None,
            "config": config,
        }
    desired, observed = record.desired, record.observed
    states = conditions(planned.decision)
    return {
        "name": name,
        "repo": planned.facts.target.repo,
        "desired": desired.version.commit if desired.version else None,
        "attempted": observed.attempted.commit if observed.attempted else None,
        "deployed": observed.deployed.commit if observed.deployed else None,
        "decision": _decision_view(planned.decision, planned),
        "conditions": {
            "ready": states.ready.status,
            "reconciling": states.reconciling.status,
            "stalled": states.stalled.status,
        },
        "last_deploy": last,
        "behind": desired.behind,
        "config": config,
        "revision": desired.revision,
        "desired_since": time_text(record.desired_since),
        "deployed_at": time_text(observed.deployed_at),
        "failures": observed.failures,
        "labels": dict(planned.facts.target.labels),
    }


def _decision_view(decision: Any, planned: Planned | None) -> Json:
    until = decision.until if isinstance(decision, Wait) else None
    return {
        "kind": decision.kind,
        "reason": str(decision.reason),
        "until": time_text(until),
        "message": decision.message,
        "rule": planned.rule.number if planned else None,
    }


def _config_view(entry: KnownEntry) -> Json:
    return {
        "commit": entry.commit,
        "file": entry.place.file,
        "line": entry.place.line,
        "error": "; ".join(entry.problems) or None,
    }


def targets_view(snapshot: Snapshot, names: list[str] | None = None) -> Json:
    """Return all targets, or those named."""
    wanted = sorted(snapshot.entries) if names is None else names
    return {"targets": [target_view(snapshot, name) for name in wanted]}


def in_sync(target: Mapping[str, Any]) -> bool:
    """Whether a target's view is where it should be."""
    return bool(target["decision"]["reason"] == WaitReason.IN_SYNC)


def sources_view(snapshot: Snapshot) -> Json:
    """Return all Sources with their targets."""
    asked = needs((planned.facts.target for planned in snapshot.plan.targets.values()), None)
    users: dict[str, list[str]] = {url: [] for url in (*snapshot.sources, *asked)}
    for name, planned in snapshot.plan.targets.items():
        users[planned.facts.target.source].append(name)
    return {
        "sources": [
            _source_view(snapshot.sources.get(url), url, asked[url].interval_s if url in asked else 0.0, targets)
            for url, targets in sorted(users.items())
        ]
    }


def _source_view(source: SourceState | None, url: str, interval_s: float, targets: list[str]) -> Json:
    state = source or SourceState(url=url, interval_s=interval_s)
    return {
        "url": url,
        "interval": state.interval_s,
        "last_poll": time_text(state.last_poll),
        "last_good_poll": time_text(state.last_good_poll),
        "failures": state.failures,
        "reason": state.reason,
        "message": state.message,
        "next_poll": time_text(state.next_poll),
        "targets": sorted(targets),
    }
