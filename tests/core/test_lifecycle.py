"""The life of a deploy: every (status, event) pair, the forbidden ones too."""

from __future__ import annotations

import itertools

import pytest

from reconciler.lifecycle import FINAL, LIVE, MOVES, Event, ForbiddenMove, move, sources_of
from reconciler.model import DeployStatus

ALLOWED = {
    ("pending", "started"): "running",
    ("pending", "failed"): "failed",
    ("pending", "cancelled"): "cancelled",
    ("pending", "abandoned"): "abandoned",
    ("running", "succeeded"): "succeeded",
    ("running", "failed"): "failed",
    ("running", "timed_out"): "timed_out",
    ("running", "cancelled"): "cancelled",
    ("running", "abandoned"): "abandoned",
}


@pytest.mark.parametrize(("status", "event"), list(itertools.product(DeployStatus, Event)))
def test_pair(status: DeployStatus, event: Event) -> None:
    expected = ALLOWED.get((status, event))
    if expected is None:
        with pytest.raises(ForbiddenMove, match=f"a deploy that is {status} cannot be {event}"):
            move(status, event)
    else:
        assert move(status, event) == expected


def test_a_final_status_never_changes() -> None:
    assert not [pair for pair in MOVES if pair[0] in FINAL]


def test_every_status_is_live_or_final() -> None:
    assert set(DeployStatus) == LIVE | FINAL
    assert not LIVE & FINAL


def test_only_a_running_deploy_succeeds() -> None:
    assert sources_of(DeployStatus.SUCCEEDED) == {DeployStatus.RUNNING}
    assert sources_of(DeployStatus.FAILED) == LIVE
