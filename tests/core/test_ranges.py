from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.ranges import highest, parse_range

TAGS = ["v1.0.0", "v1.2.0", "v1.2.9", "v1.10.0", "v2.0.0-rc.1", "v2.0.0", "v3.0.0-alpha", "1.5.0", "nightly", "v1.2"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("^1.2", "v1.10.0"),
        ("~1.2.0", "v1.2.9"),
        (">=1.0 <2.0", "v1.10.0"),
        (">=1.0, <2.0", "v1.10.0"),
        ("1.x || 2.x", "v2.0.0"),
        ("*", "v2.0.0"),
        (">=3.0.0-0", "v3.0.0-alpha"),
        ("2.0.0-rc.1", "v2.0.0-rc.1"),
        ("^4", None),
    ],
)
def test_the_highest_version_of_a_range_wins(text: str, expected: str | None) -> None:
    assert highest(TAGS, text, "v") == expected


def test_without_a_prefix_other_tags_count() -> None:
    assert highest(TAGS, "^1", "") == "1.5.0"


def test_equal_versions_have_one_winner() -> None:
    assert highest(["1.0.0+a", "1.0.0+b", "1.0.0"], "^1", "") == "1.0.0+b"
    assert highest(["1.0.0", "1.0.0+b", "1.0.0+a"], "^1", "") == "1.0.0+b"


@pytest.mark.parametrize("text", ["latest", "^", "1.2.3.4", "x y"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a semver range"):
        parse_range(text)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20), st.integers(0, 20)), min_size=1))
def test_versions_are_compared_as_numbers(versions: list[tuple[int, int, int]]) -> None:
    best = max(versions)
    tags = ["v{}.{}.{}".format(*version) for version in versions]
    assert highest(tags, "*", "v") == "v{}.{}.{}".format(*best)
