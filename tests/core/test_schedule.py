from __future__ import annotations

import zoneinfo
from datetime import UTC, date, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.schedule import (
    format_duration,
    parse_duration,
    parse_moment,
    parse_window,
    poll_delay_s,
    retry_delay_s,
    window_opens,
)

CHANCE = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5m", 300), ("1h30m", 5400), ("2d", 172_800), ("250ms", 0.25), ("1.5h", 5400), ("0s", 0)],
)
def test_a_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "5 m", "m", "-5s", "5s ", "1e3s", "٣s", "five", "999999d", "1h 30m"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.05, "50ms"),
        (45, "45s"),
        (300, "5m"),
        (5400, "1h30m"),
        (183_845, "2d3h"),
        (90, "1m30s"),
        (-4, "0s"),
    ],
)
def test_a_duration_in_words(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 86_400 * 300))
def test_words_are_read_back_within_the_smaller_unit(seconds: int) -> None:
    shown = parse_duration(format_duration(seconds))
    assert shown <= seconds < shown + 86_400
    assert seconds - shown < max(60, seconds / 23)


@given(st.floats(1, 86_400), CHANCE)
def test_polls_keep_their_interval_within_a_tenth(interval: float, chance: float) -> None:
    assert interval * 0.9 <= poll_delay_s(interval, 0, chance) <= interval * 1.1


@given(st.floats(1, 86_400), st.integers(1, 1_000), CHANCE)
def test_failed_polls_back_off_within_bounds(interval: float, failures: int, chance: float) -> None:
    assert 1 <= poll_delay_s(interval, failures, chance) <= max(900, interval)


def test_failed_polls_wait_longer_and_longer() -> None:
    delays = [poll_delay_s(10, failures, 0.999) for failures in range(1, 10)]
    assert delays == sorted(delays)
    assert delays[-1] == pytest.approx(900, rel=0.01)


def test_retries_back_off_exponentially_up_to_their_limit() -> None:
    assert [retry_delay_s(5, 2, 180, failures) for failures in (0, 1, 2, 3, 6, 7, 10_000)] == [
        5,
        5,
        10,
        20,
        160,
        180,
        180,
    ]


# --- windows ----------------------------------------------------------------------------------------------


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("windows", "now", "opens"),
    [
        # 2026-11-18 is a Wednesday.
        ((), "2026-11-18 03:00", None),
        (("Mon-Fri 09:00-17:00",), "2026-11-18 09:00", None),
        (("Mon-Fri 09:00-17:00",), "2026-11-18 17:00", "2026-11-19 09:00"),
        (("Mon-Fri 09:00-17:00",), "2026-11-20 18:00", "2026-11-23 09:00"),
        (("Mon-Fri 09:00-17:00 Europe/Berlin",), "2026-11-18 08:30", None),
        (("Mon-Fri 09:00-17:00 Europe/Berlin",), "2026-07-15 06:59", "2026-07-15 07:00"),
        (("Fri-Mon 22:00-02:00",), "2026-11-21 01:30", None),
        (("Fri 22:00-02:00",), "2026-11-21 02:00", "2026-11-27 22:00"),
        (("Sat,Sun 00:00-24:00",), "2026-11-22 23:59", None),
        (("daily 00:00-24:00",), "2026-11-18 03:00", None),
        (("Mon 09:00-10:00", "Wed 12:00-13:00"), "2026-11-18 10:00", "2026-11-18 12:00"),
        (("* 08:00-00:00",), "2026-11-18 23:59", None),
    ],
)
def test_a_window(windows: tuple[str, ...], now: str, opens: str | None) -> None:
    found = window_opens(tuple(parse_window(text) for text in windows), at(now))
    assert found == (at(opens) if opens else None)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "expected DAYS"),
        ("Mon 9-17", "expected hours"),
        ("Mon 09:00-25:00", "expected hours"),
        ("Moo 09:00-17:00", "expected days"),
        ("Mon-Moo 09:00-17:00", "expected days"),
        ("Mon 09:00-09:00", "ends when it begins"),
        ("Mon 09:00-17:00 Mars/Base", "unknown time zone"),
        ("Mon 09:00-17:00 ../../etc/passwd", "unknown time zone"),
        ("Mon 09:00-17:00 Europe/Berlin now", "expected DAYS"),
    ],
)
def test_what_is_no_window(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_window(text)


def test_a_window_opens_once_where_the_clock_goes_back() -> None:
    # Berlin, 2026-10-25: 03:00 CEST becomes 02:00 CET; the hour from 02:00 happens twice.
    begin, end = parse_window("Sun 02:00-03:00 Europe/Berlin").span_on(date(2026, 10, 25))
    assert (begin, end) == (at("2026-10-25 00:00"), at("2026-10-25 02:00"))
    begin, end = parse_window("Sun 02:30-02:45 Europe/Berlin").span_on(date(2026, 10, 25))
    assert (begin, end) == (at("2026-10-25 00:30"), at("2026-10-25 01:45"))


def test_a_window_in_a_skipped_hour_moves_with_the_clock() -> None:
    # Berlin, 2026-03-29: 02:00 CET becomes 03:00 CEST; 02:30 does not exist.
    begin, end = parse_window("Sun 02:30-04:00 Europe/Berlin").span_on(date(2026, 3, 29))
    assert (begin, end) == (at("2026-03-29 01:30"), at("2026-03-29 02:00"))
    begin, end = parse_window("Sun 01:00-02:30 Europe/Berlin").span_on(date(2026, 3, 29))
    assert (begin, end) == (at("2026-03-29 00:00"), at("2026-03-29 01:30"))


ZONES = sorted(zoneinfo.available_timezones() - {"localtime", "Factory"})


def _changes(zone: zoneinfo.ZoneInfo) -> list[date]:
    """Return the days of 2026 on which the offset of the zone changes."""
    days = [date(2026, 1, 1) + timedelta(days=offset) for offset in range(364)]
    offsets = [datetime.combine(day, time(), zone).utcoffset() for day in days]
    return [day for day, one, two in zip(days, offsets, offsets[1:], strict=False) if one != two]


def test_every_zone_opens_and_closes_once_on_both_changes() -> None:
    seen = 0
    for name in ZONES:
        for day in _changes(zoneinfo.ZoneInfo(name)):
            for hours in ("00:00-01:00", "00:30-03:30", "01:30-02:30", "02:00-03:00", "03:00-09:00", "22:00-02:30"):
                window = parse_window(f"* {hours} {name}")
                begin, end = window.span_on(day)
                before, after = window.span_on(day - timedelta(days=1)), window.span_on(day + timedelta(days=1))
                # A window that a clock change swallows whole may be empty, never negative by more than the change.
                assert end - begin >= timedelta(hours=-1), (name, day, hours)
                assert before[0] < begin < after[0], (name, day, hours)
                if begin < end:
                    assert window_opens((window,), begin) is None
                    assert window_opens((window,), end) is not None or hours == "00:00-24:00"
                seen += 1
    assert seen > 1_000


@given(st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)), st.sampled_from(ZONES))
def test_the_next_opening_is_open(moment: datetime, zone: str) -> None:
    windows = (parse_window(f"Mon-Thu 09:00-17:00 {zone}"), parse_window(f"Sat 23:00-03:00 {zone}"))
    now = moment.replace(tzinfo=UTC)
    opens = window_opens(windows, now)
    if opens is not None:
        assert now < opens <= now + timedelta(days=8)
        assert window_opens(windows, opens) is None
        assert window_opens(windows, opens - timedelta(seconds=1)) == opens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2h", datetime(2026, 11, 20, 14, 0, tzinfo=UTC)),
        ("2026-12-01T09:00", datetime(2026, 12, 1, 9, 0, tzinfo=UTC)),
        ("2026-12-01T09:00+02:00", datetime(2026, 12, 1, 7, 0, tzinfo=UTC)),
    ],
)
def test_a_moment_is_a_duration_from_now_or_a_time(text: str, expected: datetime) -> None:
    assert parse_moment(text, datetime(2026, 11, 20, 12, 0, tzinfo=UTC)) == expected


@pytest.mark.parametrize("text", ["soon", "", "2026-13-01", "0001-01-01T00:00+10:00"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected 2h"):
        parse_moment(text, datetime(2026, 11, 20, 12, 0, tzinfo=UTC))
