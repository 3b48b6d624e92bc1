"""The nouns, as frozen values. docs/glossary.md has one meaning a word.

What may not be in here: behaviour beyond reading a value, I/O, and anything that a person configures (that
is `spec.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Version:
    """What a deploy brings out: a commit, and the digest of those parts of the spec that change it."""

    commit: str
    digest: str


class DeployStatus(StrEnum):
    """The life of a Deploy; the table of moves is in `lifecycle.py`."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    ABANDONED = "abandoned"


class OutcomeReason(StrEnum):
    """Why a Deploy did not succeed: a closed list, explained in docs/reasons.md."""

    EXIT_CODE = "exit_code"
    KILLED = "killed"
    TIMEOUT = "timeout"
    NO_MAKEFILE = "no_makefile"
    MAKEFILE_NOT_REGULAR = "makefile_not_regular"
    NO_SUCH_MAKE_TARGET = "no_such_make_target"
    NOTHING_TO_DO = "nothing_to_do"
    NO_SUCH_PATH = "no_such_path"
    NOT_EXECUTABLE = "not_executable"
    CHECKOUT_FAILED = "checkout_failed"
    SECRET_MISSING = "secret_missing"  # noqa: S105 - the name of a reason
    BAD_TREE = "bad_tree"
    TREE_TOO_LARGE = "tree_too_large"
    OBSOLETE = "obsolete"
    CANCELLED = "cancelled"
    STOPPED = "stopped"
    DAEMON_DIED = "daemon_died"
    SUPERVISOR_DIED = "supervisor_died"
    LEASE_EXPIRED = "lease_expired"
    INTERNAL_ERROR = "internal_error"


@dataclass(frozen=True, slots=True)
class StepResult:
    """How one step went. `started_s` counts from the start of the deploy."""

    title: str
    started_s: float
    duration_s: float
    exit_code: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a Deploy ended, as a value."""

    status: DeployStatus
    reason: OutcomeReason | None = None
    message: str = ""
    exit_code: int | None = None
    steps: Sequence[StepResult] = ()
    output_bytes: int = 0
    output_omitted_bytes: int = 0


class StartReason(StrEnum):
    """Why a deploy was started."""

    REQUESTED = "requested"
    NEW_VERSION = "new_version"
    DRIFT = "drift"
    RETRY = "retry"
    ROLLBACK = "rollback"


class WaitReason(StrEnum):
    """Why nothing is started now, and why nobody needs to act."""

    RUNNING = "running"
    IN_SYNC = "in_sync"
    BACKOFF = "backoff"
    DEPENDENCY = "dependency"
    WINDOW = "window"
    AT_CAPACITY = "at_capacity"


class HoldReason(StrEnum):
    """Why nothing is started until a person or a new commit acts."""

    SUSPENDED = "suspended"
    UNRESOLVED = "unresolved"
    UNTRUSTED = "untrusted"
    STALLED = "stalled"
    ROLLED_BACK = "rolled_back"


@dataclass(frozen=True, slots=True)
class Start:
    """Deploy this version now."""

    version: Version
    reason: StartReason
    message: str
    kind: str = field(default="start", init=False)


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing now; `until` is when the decision changes by itself, where that is known."""

    reason: WaitReason
    message: str
    until: datetime | None = None
    kind: str = field(default="wait", init=False)


@dataclass(frozen=True, slots=True)
class Hold:
    """Do nothing until a person or a new commit acts."""

    reason: HoldReason
    message: str
    kind: str = field(default="hold", init=False)


Decision = Start | Wait | Hold


@dataclass(frozen=True, slots=True)
class Desired:
    """What configuration and mirrors ask of one target: a version, or why there is none."""

    version: Version | None = None
    revision: str = ""  # for people: main@9fceb02d0a, or the pin
    problem: Hold | None = None  # Hold(unresolved) or Hold(untrusted)
    behind: int | None = None  # commits between the version and what is followed


@dataclass(frozen=True, slots=True)
class LiveDeploy:
    """A deploy that is pending or running."""

    id: str
    version: Version
    started_at: datetime
    deadline: datetime
    cancelled_by: str | None = None  # who asked for its end


@dataclass(frozen=True, slots=True)
class Request:
    """A wish for one deploy: `token` is compared with the last one handled; the newest wins."""

    token: str
    requested_by: str
    now: bool = False  # ignore the window
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Suspension:
    """An operator's stop, with the reason for it and its end."""

    reason: str
    by: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What the store remembers of one target."""

    attempted: Version | None = None
    attempted_status: DeployStatus | None = None
    attempted_reason: OutcomeReason | None = None
    attempted_at: datetime | None = None  # when the last attempt ended
    failures: int = 0  # failed attempts in a row at `attempted`
    deployed: Version | None = None
    deployed_at: datetime | None = None
    deployed_commit_at: datetime | None = None  # when the deployed commit was made
    rollback_status: DeployStatus | None = None  # of the rollback that followed the failure of `attempted`
    live: LiveDeploy | None = None
    request: Request | None = None  # only one that is not handled yet
    suspension: Suspension | None = None
    drift: str | None = None  # the commit that was seen instead of the deployed one


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a target: every write carries `fence`, and an older one changes nothing."""

    target: str
    fence: int
    holder: str

    @property
    def deploy_id(self) -> str:
        """The deploy that this lease was taken for. A dot cannot stand in a target's name."""
        return f"{self.target}.{self.fence}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deploy:
    """One execution of a target's steps at one version, as it is recorded."""

    id: str
    target: str
    fence: int
    version: Version
    cause: StartReason
    message: str
    status: DeployStatus
    created_at: datetime
    deadline: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    outcome: Outcome | None = None
    previous_commit: str | None = None
    requested_by: str | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """One of Ready, Reconciling, Stalled."""

    status: bool
    reason: str


@dataclass(frozen=True, slots=True)
class ConfigHead:
    """The config commit in force."""

    commit: str
    loaded_at: datetime
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceState:
    """What is remembered of one Source."""

    url: str
    interval_s: float
    last_poll: datetime | None = None
    last_good_poll: datetime | None = None
    failures: int = 0
    reason: str | None = None
    message: str = ""
    next_poll: datetime | None = None
    revoked_since: datetime | None = None  # access was refused at every poll since


@dataclass(frozen=True, slots=True)
class TargetRecord:
    """Desired and observed of one target, as the store has them."""

    desired: Desired
    observed: Observed
    desired_since: datetime | None
