"""A breaker for each host: when a host does not answer, its Sources wait together and one of them looks again.

Pure: `now` is on the monotonic clock, and chance is an argument. Without it a thousand Sources of one dead host would
each find out by themselves, again and again.
"""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.errors import SourceReason

OPENS_AFTER = 5  # failures in a row, of any of the host's Sources
FIRST_PAUSE_S = 5.0
MAX_PAUSE_S = 300.0
MAX_RETRY_AFTER_S = 900.0  # what a server may ask for
# Failures of the host; all others are of one repository, and say that the host is well.
OF_THE_HOST = frozenset(
    {SourceReason.UNREACHABLE, SourceReason.TIMEOUT, SourceReason.SERVER_ERROR, SourceReason.RATE_LIMITED}
)


@dataclass(slots=True)
class Breaker:
    """What is known of one host."""

    failures: int = 0
    open_until: float = 0.0

    def waits_until(self, now: float) -> float | None:
        """Return when the host may be asked again; None where it may be now."""
        return self.open_until if self.open_until > now else None

    def succeeded(self) -> None:
        """Note that the host answered."""
        self.failures, self.open_until = 0, 0.0

    def failed(self, reason: SourceReason, retry_after_s: float | None, now: float, chance: float) -> None:
        """Note a failed poll. `chance` spreads the next look over half of the pause; it is in [0, 1)."""
        if reason not in OF_THE_HOST:
            self.succeeded()
            return
        self.failures += 1
        if retry_after_s is not None:
            self.open_until = max(self.open_until, now + min(retry_after_s, MAX_RETRY_AFTER_S))
        elif self.failures >= OPENS_AFTER:
            pause = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self.failures - OPENS_AFTER, 30))
            self.open_until = now + pause * (0.5 + 0.5 * chance)
