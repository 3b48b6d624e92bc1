from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.breaking import FIRST_PAUSE_S, MAX_PAUSE_S, MAX_RETRY_AFTER_S, OF_THE_HOST, OPENS_AFTER, Breaker
from reconciler.errors import SourceReason

CHANCE = st.floats(0, 1, exclude_max=True)


def fail(breaker: Breaker, times: int, reason: SourceReason = SourceReason.TIMEOUT, now: float = 100.0) -> None:
    for _ in range(times):
        breaker.failed(reason, None, now, 0.0)


def test_a_host_that_does_not_answer_is_left_alone_for_a_while() -> None:
    breaker = Breaker()
    fail(breaker, OPENS_AFTER - 1)
    assert breaker.waits_until(100.0) is None
    fail(breaker, 1)
    assert breaker.waits_until(100.0) == 100.0 + FIRST_PAUSE_S / 2
    assert breaker.waits_until(100.0 + FIRST_PAUSE_S) is None


def test_one_good_answer_closes_it() -> None:
    breaker = Breaker()
    fail(breaker, 50)
    breaker.succeeded()
    assert breaker.waits_until(100.0) is None
    fail(breaker, OPENS_AFTER - 1)
    assert breaker.waits_until(100.0) is None


@pytest.mark.parametrize("reason", sorted(set(SourceReason) - OF_THE_HOST))
def test_what_one_repository_lacks_says_that_the_host_is_well(reason: SourceReason) -> None:
    breaker = Breaker()
    fail(breaker, 50)
    breaker.failed(reason, None, 100.0, 0.0)
    assert breaker.waits_until(100.0) is None


def test_a_server_may_say_how_long_to_wait_within_bounds() -> None:
    breaker = Breaker()
    breaker.failed(SourceReason.RATE_LIMITED, 30.0, 100.0, 0.0)
    assert breaker.waits_until(100.0) == 130.0
    breaker.failed(SourceReason.RATE_LIMITED, 10.0, 100.0, 0.0)
    assert breaker.waits_until(100.0) == 130.0
    breaker.failed(SourceReason.RATE_LIMITED, 1e9, 100.0, 0.0)
    assert breaker.waits_until(100.0) == 100.0 + MAX_RETRY_AFTER_S


@given(st.integers(OPENS_AFTER, 10_000), CHANCE)
def test_no_pause_is_longer_than_its_bound_or_shorter_than_half_of_the_first(failures: int, chance: float) -> None:
    breaker = Breaker(failures - 1)
    breaker.failed(SourceReason.UNREACHABLE, None, 0.0, chance)
    until = breaker.waits_until(0.0)
    assert until is not None
    assert FIRST_PAUSE_S / 2 <= until <= MAX_PAUSE_S
