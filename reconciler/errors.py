"""The exception tree. A type says who acts next.

    ReconcilerError
    ├── Transient            we act: try again, with backoff
    │   └── SourceError      a poll, fetch or checkout that failed, with a reason from a closed list
    ├── Stalling             a person, or a new commit, must act
    │   ├── SettingsError    the daemon's own settings are wrong (exit code 78)
    │   ├── StateError       the state directory cannot be used
    │   └── CannotTell       a question that the state directory has no answer to (exit code 2)
    └── LeaseLost            somebody else owns the target now: write nothing

Errors become an `Outcome` (of a Deploy) or a failure (of a Source) at exactly one boundary each: the
deployment in `reconcile.py` and the poll in `polling.py`. An `assert` is for our own bugs.
"""

from __future__ import annotations

from enum import StrEnum

MAX_MESSAGE = 2_000  # characters


class SourceReason(StrEnum):
    """Why a Source could not be polled or fetched: a closed list, shown in API, metrics and status."""

    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    AUTHENTICATION_FAILED = "authentication_failed"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    REDIRECTED = "redirected"
    PROTOCOL_ERROR = "protocol_error"
    TOO_LARGE = "too_large"
    CORRUPT = "corrupt"
    COMMIT_NOT_FOUND = "commit_not_found"
    HOST_KEY_MISMATCH = "host_key_mismatch"
    DISK_FULL = "disk_full"


class ReconcilerError(Exception):
    """Anything that this program raises on purpose."""


class Transient(ReconcilerError):  # noqa: N818 - the word is the design's
    """We act next: the same thing is tried again, with backoff."""


class SourceError(Transient):
    """A poll, a fetch or a checkout failed for a named reason; `message` is for people.

    `retry_after_s` is how long the server asks us to wait. `of_a_ref` tells that only a ref is missing: the repository
    itself answered.
    """

    def __init__(
        self, reason: SourceReason, message: str, *, retry_after_s: float | None = None, of_a_ref: bool = False
    ) -> None:
        # Parts of it come from servers: bounded, and text that every sink can write.
        message = message[:MAX_MESSAGE].encode("utf-8", "replace").decode()
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s
        self.of_a_ref = of_a_ref


class Stalling(ReconcilerError):  # noqa: N818 - the word is the design's
    """A person, or a new commit, acts next: trying again changes nothing."""


class SettingsError(Stalling):
    """The daemon's settings are wrong; the text has one `place: key: problem` a line."""


class StateError(Stalling):
    """The state directory cannot be used: locked, too new, damaged or not writable."""


class CannotTell(Stalling):
    """The question has no answer: an unknown target, or a state directory that nothing ever ran on."""


class LeaseLost(ReconcilerError):  # noqa: N818 - the word is the design's
    """A newer fencing token exists: somebody else owns the target, and we write nothing."""
