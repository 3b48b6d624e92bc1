"""When things are due: durations, polling intervals, backoff and deployment windows.

Everything here is arithmetic on arguments. Chance comes in as `chance`, a number in [0, 1), and time as
`now`; who calls owns the clock and the dice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

POLL_JITTER = 0.1  # ± share of the interval, so that Sources never fall into step
FIRST_SOURCE_BACKOFF_S = 1.0
MAX_SOURCE_BACKOFF_S = 900.0
MAX_DURATION_S = 366 * 86_400

_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1, "ms": 0.001}
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|[dhms]))+", re.ASCII)
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[dhms])", re.ASCII)


def parse_duration(text: str) -> float:
    """Return the seconds of `90s`, `5m` or `1h30m`; raise ValueError with what was expected."""
    if not _DURATION.fullmatch(text):
        raise ValueError("expected a duration such as 90s, 5m or 1h30m")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text))
    if seconds > MAX_DURATION_S:
        raise ValueError("a duration of more than 366 days")
    return seconds


def format_duration(seconds: float) -> str:
    """Return seconds as people write them: `45s`, `5m`, `1h30m`, `2d3h`; at most two units."""
    whole = max(0, round(seconds))
    if whole == 0 and seconds > 0:
        return f"{max(1, round(seconds * 1000))}ms"
    parts = []
    for unit in ("d", "h", "m", "s"):
        count, whole = divmod(whole, int(_UNITS[unit]))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2]) or "0s"


def parse_moment(text: str, now: datetime) -> datetime:
    """Return the moment of `2h` (from now) or of an ISO 8601 time (UTC unless it says); raise ValueError."""
    try:
        return now + timedelta(seconds=parse_duration(text))
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValueError("expected 2h, 1d12h or 2026-12-01T09:00") from None


def poll_delay_s(interval_s: float, failures: int, chance: float) -> float:
    """Return seconds until the next poll: the interval ± 10 %, or after failures a full-jitter backoff.

    The backoff never polls more often than a second and never waits for more than fifteen minutes
    (or the interval, where that is longer).
    """
    if failures == 0:
        return interval_s * (1 - POLL_JITTER + 2 * POLL_JITTER * chance)
    ceiling = min(
        max(MAX_SOURCE_BACKOFF_S, interval_s), max(interval_s, FIRST_SOURCE_BACKOFF_S) * 2.0 ** min(failures, 30)
    )
    return max(FIRST_SOURCE_BACKOFF_S, ceiling * chance)


def retry_delay_s(backoff_s: float, factor: float, max_backoff_s: float, failures: int) -> float:
    """Return seconds to wait after the `failures`-th failed deploy in a row (counted from 1)."""
    exponent = min(max(failures, 1) - 1, 64)
    return min(max_backoff_s, backoff_s * factor**exponent)


# --- windows ----------------------------------------------------------------------------------------------

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOURS = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-(?:([01][0-9]|2[0-3]):([0-5][0-9])|(24):(00))", re.ASCII)


@dataclass(frozen=True, slots=True)
class Window:
    """A weekly span of local time in which automatic deploys may start; it may cross midnight."""

    days: frozenset[int]  # of its beginning, Monday is 0
    begins: time
    ends: time | None  # None: the end of the day
    zone: ZoneInfo

    def span_on(self, day: date) -> tuple[datetime, datetime]:
        """Return the UTC instants between which the window that begins on `day` is open.

        An ambiguous beginning is the first of the two instants and an ambiguous end the last; a local
        time that a clock change skips moves forward with the clock.
        """
        begin = datetime.combine(day, self.begins, self.zone)
        last_day = day if self.ends is not None and self.ends > self.begins else day + timedelta(days=1)
        end = datetime.combine(last_day, self.ends or time(), self.zone).replace(fold=1)
        if end.astimezone(UTC).astimezone(self.zone).replace(tzinfo=None) != end.replace(tzinfo=None):
            end = end.replace(fold=0)  # skipped by a clock change: fold=0 moves it forward
        return begin.astimezone(UTC), end.astimezone(UTC)


def parse_window(text: str) -> Window:
    """Return the window of `Mon-Fri 09:00-17:00 Europe/Berlin`; raise ValueError with what was expected."""
    parts = text.split()
    if len(parts) not in (2, 3):
        raise ValueError("expected DAYS HH:MM-HH:MM [ZONE], such as Mon-Fri 09:00-17:00 Europe/Berlin")
    hours = _HOURS.fullmatch(parts[1])
    if not hours:
        raise ValueError(f"expected hours such as 09:00-17:00, found {parts[1]!r}")
    begins = time(int(hours[1]), int(hours[2]))
    ends = None if hours[5] or (hours[3], hours[4]) == ("00", "00") else time(int(hours[3]), int(hours[4]))
    if ends == begins:
        raise ValueError("a window that ends when it begins; a whole day is 00:00-24:00")
    try:
        zone = ZoneInfo(parts[2] if len(parts) == 3 else "UTC")  # noqa: PLR2004 - the optional third word
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"unknown time zone {parts[2]!r}; expected a name such as Europe/Berlin") from None
    return Window(_parse_days(parts[0]), begins, ends, zone)


def _parse_days(text: str) -> frozenset[int]:
    if text in ("*", "daily"):
        return frozenset(range(7))
    days: set[int] = set()
    for part in text.split(","):
        first, _, last = part.lower().partition("-")
        if first not in _DAYS or (last and last not in _DAYS):
            raise ValueError(f"expected days such as Mon-Fri or Sat,Sun, found {part!r}")
        begin, end = _DAYS.index(first), _DAYS.index(last or first)
        days |= set(range(begin, end + 1)) if begin <= end else set(range(begin, 7)) | set(range(end + 1))
    return frozenset(days)


def window_opens(windows: tuple[Window, ...], now: datetime) -> datetime | None:
    """Return None while any of `windows` is open (or there are none), else when the next one opens."""
    if not windows:
        return None
    openings: list[datetime] = []
    for window in windows:
        today = now.astimezone(window.zone).date()
        days = [today + timedelta(days=offset) for offset in range(-1, 9)]
        spans = [window.span_on(day) for day in days if day.weekday() in window.days]
        if any(begin <= now < end for begin, end in spans):
            return None
        openings += [begin for begin, _ in spans if begin > now]
    return min(openings)
