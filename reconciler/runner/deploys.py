"""Starting, watching and recovering deploys. Each lives below its own supervisor process."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconciler.model import DeployStatus, Outcome, OutcomeReason, StepResult
from reconciler.removing import remove
from reconciler.runner import cgroups
from reconciler.spec import Step

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_SUPERVISOR_NAME = b"/runner/supervisor.py"
LOCK = "lock"
RESULT = "result.json"
CHECKOUT = "checkout"
NEXT_SPARE_AFTER_S = 0.5  # not while the deploy that took the last one begins
_COOKIE = b"RECONCILER_DEPLOY_ID="


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a supervisor is told."""

    deploy_id: str
    folder: Path  # runs/ID
    log: Path
    path: str
    steps: Sequence[tuple[Step, Mapping[str, str]]]  # with the environment of each
    timeout_s: float
    grace_s: float
    lease_end: float  # on the clock that counts sleep; nothing of the deploy lives beyond it and the grace
    masks: Sequence[str] = ()

    @property
    def checkout(self) -> Path:
        """Where the tree lies while the deploy runs."""
        return self.folder / CHECKOUT

    def as_message(self) -> dict[str, Any]:
        """Return the form in which the supervisor reads it."""
        return {
            "checkout": str(self.checkout),
            "log": str(self.log),
            "lock": str(self.folder / LOCK),
            "result": str(self.folder / RESULT),
            "timeout_s": self.timeout_s,
            "grace_s": self.grace_s,
            "lease_end": self.lease_end,
            "masks": list(self.masks),
            "steps": [
                {
                    "title": step.title,
                    "make": step.make,
                    "run": list(step.run or ()),
                    "path": self.path,
                    "timeout_s": step.timeout_s,
                    "env": dict(env),
                }
                for step, env in self.steps
            ],
        }


@dataclass(frozen=True, slots=True)
class _Supervisor:
    process: asyncio.subprocess.Process
    group: Path | None  # its deploy's control group

    async def end(self) -> None:
        """End a supervisor that has no job."""
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        if self.group is not None:
            await asyncio.to_thread(cgroups.kill, self.group)


class Supervisors:
    """Starts supervisors, one ahead of need: a Python process takes longer to come up than a small deploy to begin.

    `make_group` returns a new control group for a deploy, or None where there are none.
    """

    def __init__(self, make_group: Callable[[], Path | None]) -> None:
        self._make_group = make_group
        self._spare: _Supervisor | None = None
        self._preparing: asyncio.Task[None] | None = None

    def prepare(self, after_s: float = 0.0) -> None:
        """Have a supervisor ready for the next deploy, `after_s` seconds from now."""
        if self._spare is None and self._preparing is None:
            self._preparing = asyncio.create_task(self._prepare(after_s), name="supervisor")

    async def start(self, job: Job) -> RunningDeploy:
        """Tell a supervisor its job, which it begins at once; see to the next one."""
        job.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        spare, self._spare = self._spare, None
        if spare is not None and spare.process.returncode is not None:  # somebody killed it
            await spare.end()
            spare = None
        supervisor = spare or await self._spawn()
        if supervisor.group is not None:
            cgroups.note(job.folder, supervisor.group)
        running = RunningDeploy(job, supervisor)
        await running.tell(json.dumps(job.as_message()))
        self.prepare(NEXT_SPARE_AFTER_S)
        return running

    async def close(self) -> None:
        """Let the one that waits go."""
        if self._preparing is not None:
            self._preparing.cancel()
            await asyncio.wait([self._preparing])
        if self._spare is not None:
            await self._spare.end()

    async def _prepare(self, after_s: float) -> None:
        try:
            await asyncio.sleep(after_s)
            self._spare = await self._spawn()
        except OSError:  # no process to be had just now: the next deploy will say so, if it is still true then
            self._spare = None
        finally:
            self._preparing = None

    async def _spawn(self) -> _Supervisor:
        group = self._make_group()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(_SUPERVISOR), str(group or "")),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            env={"LANG": "C.UTF-8"},
        )
        return _Supervisor(process, group)


class RunningDeploy:
    """A deploy that has a supervisor."""

    def __init__(self, job: Job, supervisor: _Supervisor) -> None:
        self._job = job
        self._group = supervisor.group
        self._process = supervisor.process

    async def wait(self) -> Outcome:
        """Return the outcome once nothing of the deploy lives any more."""
        await self._process.wait()
        outcome = read_result(self._job.folder)
        if self._group is not None:
            await asyncio.to_thread(cgroups.kill, self._group)
        if outcome is None:
            # The supervisor was killed: its children belong to init now, and carry our cookie.
            await asyncio.to_thread(kill_strays, self._job.folder, self._job.deploy_id)
            return Outcome(
                status=DeployStatus.ABANDONED,
                reason=OutcomeReason.SUPERVISOR_DIED,
                message="the supervisor of the deploy was killed; what it left was killed too",
            )
        return outcome

    async def renew(self, lease_end: float) -> None:
        """Tell the supervisor that the lease was renewed until `lease_end`, on the clock that counts sleep."""
        await self.tell(f"renew {lease_end}")

    async def stop(self, reason: OutcomeReason, message: str) -> None:
        """End the deploy: TERM, grace, KILL. `wait` then returns a cancelled outcome."""
        await self.tell(f"stop {reason} {message}".replace("\n", " "))

    async def tell(self, line: str) -> None:
        """Say one line to the supervisor."""
        assert self._process.stdin is not None  # noqa: S101 - opened as a pipe
        with suppress(ConnectionError):  # it has ended already; `wait` will tell
            self._process.stdin.write(line.encode() + b"\n")
            await self._process.stdin.drain()


def read_result(folder: Path) -> Outcome | None:
    """Return the outcome that a supervisor left, or None where there is none (yet)."""
    try:
        data = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return Outcome(
        status=DeployStatus(data["status"]),
        reason=OutcomeReason(data["reason"]) if data["reason"] else None,
        message=data["message"],
        exit_code=data.get("exit_code"),
        steps=tuple(StepResult(**step) for step in data.get("steps", ())),
        output_bytes=data.get("output_bytes", 0),
        output_omitted_bytes=data.get("output_omitted_bytes", 0),
    )


def recover(folder: Path, deploy_id: str, patience_s: float) -> Outcome:
    """Make sure that nothing of a dead daemon's deploy lives; return how it ended. Blocking.

    The supervisor ends the tree itself when its lifeline breaks; after `patience_s` seconds, or where it was
    killed too, the processes are found by their cookie and killed. A result that was written is adopted.
    """
    deadline = time.monotonic() + patience_s
    while _is_supervised(folder) and time.monotonic() < deadline:
        time.sleep(0.02)
    if (group := cgroups.noted(folder)) is not None:
        cgroups.kill(group)
    kill_strays(folder, deploy_id)
    while _is_supervised(folder):
        time.sleep(0.02)
    return read_result(folder) or Outcome(
        status=DeployStatus.ABANDONED,
        reason=OutcomeReason.DAEMON_DIED,
        message="the daemon died while the deploy ran",
    )


def forget(folder: Path) -> None:
    """Remove what a deploy left on disk, its output apart."""
    with suppress(OSError):
        remove(folder)


def kill_strays(folder: Path, deploy_id: str) -> int:
    """Kill what is left of a deploy without its supervisor; return how many processes that were.

    They are known by the deploy's id in their environment. Another daemon on this machine may run a deploy of the
    same id: what lives below a supervisor of another folder is not ours.
    """
    cookie = _COOKIE + deploy_id.encode()
    killed = 0
    for _ in range(100):  # until none is found: a fork loop converges
        pids = [pid for pid in _processes() if cookie in _environment(pid) and _is_ours(pid, folder)]
        if not pids:
            break
        for pid in pids:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
                killed += 1
        time.sleep(0.01)
    return killed


def _is_ours(pid: int, folder: Path) -> bool:
    """Whether no supervisor of another folder is above a process."""
    while pid > 1:
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            place = Path(f"/proc/{pid}/cwd").readlink()  # a supervisor stands in its deploy's folder
            pid = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            return False  # it has just ended; the next look tells
        # By its name and not by its path: the other daemon may be installed elsewhere.
        if any(argument.endswith(_SUPERVISOR_NAME) for argument in arguments):
            return place == folder.resolve()
    return True


def _is_supervised(folder: Path) -> bool:
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
