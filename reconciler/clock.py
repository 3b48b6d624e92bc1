"""The shell's one clock. The core takes `now` as an argument; only who calls it asks here."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now() -> datetime:
    """Return the wall clock's time, for display, windows and what is stored."""
    return datetime.now(UTC)


def boottime() -> float:
    """Return seconds since boot, a suspended machine's sleep included: for leases, shared with supervisors."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def monotonic() -> float:
    """Return seconds that no change of the wall clock touches, for intervals and deadlines."""
    return time.monotonic()
