"""The life of a Deploy, as a table.

Laws:
1. Every deploy begins pending and ends in exactly one final status.
2. A final status never changes.
3. Only a running deploy can succeed: `succeeded` means that the steps really ran.
4. A move that is not in the table is a bug of ours, never of the world's.

    pending  --started--> running
    pending  --failed/cancelled/abandoned--> the status of that name (the checkout failed, a stop, a crash)
    running  --succeeded/failed/timed_out/cancelled/abandoned--> the status of that name
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from reconciler.model import DeployStatus as S


class Event(StrEnum):
    """What can happen to a deploy."""

    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    ABANDONED = "abandoned"


MOVES: Mapping[tuple[S, Event], S] = MappingProxyType(
    {
        (S.PENDING, Event.STARTED): S.RUNNING,
        (S.PENDING, Event.FAILED): S.FAILED,
        (S.PENDING, Event.CANCELLED): S.CANCELLED,
        (S.PENDING, Event.ABANDONED): S.ABANDONED,
        (S.RUNNING, Event.SUCCEEDED): S.SUCCEEDED,
        (S.RUNNING, Event.FAILED): S.FAILED,
        (S.RUNNING, Event.TIMED_OUT): S.TIMED_OUT,
        (S.RUNNING, Event.CANCELLED): S.CANCELLED,
        (S.RUNNING, Event.ABANDONED): S.ABANDONED,
    }
)

LIVE = frozenset({S.PENDING, S.RUNNING})
FINAL = frozenset(S) - LIVE
# What counts as one failed try. Cancelled and abandoned deploys were interrupted, not refuted.
FAILURES = frozenset({S.FAILED, S.TIMED_OUT})


class ForbiddenMove(AssertionError):  # noqa: N818 - named as what it is
    """An event that cannot happen in that status: a bug of ours."""


def move(status: S, event: Event) -> S:
    """Return the status after `event`; raise ForbiddenMove where the table has no such move."""
    try:
        return MOVES[status, event]
    except KeyError:
        raise ForbiddenMove(f"a deploy that is {status} cannot be {event}") from None


def sources_of(final: S) -> frozenset[S]:
    """Return the statuses from which a deploy can reach `final`; guards the store's writes."""
    return frozenset(before for (before, _), after in MOVES.items() if after is final)
