from __future__ import annotations

import pytest

from reconciler.conditions import conditions
from reconciler.model import Decision, Hold, HoldReason, Start, StartReason, Version, Wait, WaitReason

VERSION = Version("a" * 40, "d")
CASES: list[tuple[Decision, tuple[bool, bool, bool]]] = [
    *((Start(VERSION, reason, "m"), (False, True, False)) for reason in StartReason),
    *((Wait(reason, "m"), (False, True, False)) for reason in WaitReason if reason is not WaitReason.IN_SYNC),
    (Wait(WaitReason.IN_SYNC, "m"), (True, False, False)),
    *((Hold(reason, "m"), (False, False, True)) for reason in HoldReason if reason is not HoldReason.SUSPENDED),
    (Hold(HoldReason.SUSPENDED, "m"), (False, False, False)),
]


@pytest.mark.parametrize(("decision", "expected"), CASES, ids=[str(case[0].reason) for case in CASES])
def test_ready_reconciling_stalled(decision: Decision, expected: tuple[bool, bool, bool]) -> None:
    found = conditions(decision)
    assert (found.ready.status, found.reconciling.status, found.stalled.status) == expected
    assert found.ready.reason == decision.reason
