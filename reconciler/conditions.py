"""Ready, Reconciling, Stalled: three answers about a target, derived from its decision alone."""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.model import Condition, Decision, Hold, HoldReason, Start, Wait, WaitReason


@dataclass(frozen=True, slots=True)
class Conditions:
    """Ready: the desired version runs. Reconciling: we act by ourselves. Stalled: a person must act."""

    ready: Condition
    reconciling: Condition
    stalled: Condition


def conditions(decision: Decision) -> Conditions:
    """Return the three conditions of a target with this decision; at most one of them is true."""
    reason = str(decision.reason)
    ready = isinstance(decision, Wait) and decision.reason is WaitReason.IN_SYNC
    stalled = isinstance(decision, Hold) and decision.reason is not HoldReason.SUSPENDED
    reconciling = isinstance(decision, Start) or (isinstance(decision, Wait) and not ready)
    return Conditions(Condition(ready, reason), Condition(reconciling, reason), Condition(stalled, reason))
