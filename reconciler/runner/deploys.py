"""Starting, watching and recovering deploys. Each lives below its own supervisor process."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconciler.model import DeployStatus, Outcome, OutcomeReason, StepResult
from reconciler.runner import cgroups
from reconciler.spec import Step

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_SUPERVISOR_NAME = b"/runner/supervisor.py"
LOCK = "lock"
RESULT = "result.json"
CHECKOUT = "checkout"
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
    cgroup: Path | None = None
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
            "cgroup": str(self.cgroup) if self.cgroup else None,
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


class RunningDeploy:
    """A deploy that has a supervisor."""

    def __init__(self, job: Job, process: asyncio.subprocess.Process) -> None:
        self._job = job
        self._process = process

    @classmethod
    async def start(cls, job: Job) -> RunningDeploy:
        """Start the supervisor and tell it its job."""
        job.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(_SUPERVISOR), str(job.folder.absolute())),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            env={"LANG": "C.UTF-8"},
        )
        running = cls(job, process)
        await running._tell(json.dumps(job.as_message()))
        return running

    async def wait(self) -> Outcome:
        """Return the outcome once nothing of the deploy lives any more."""
        await self._process.wait()
        outcome = read_result(self._job.folder)
        await asyncio.to_thread(cgroups.kill, self._job.folder)
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
        await self._tell(f"renew {lease_end}")

    async def stop(self, reason: OutcomeReason, message: str) -> None:
        """End the deploy: TERM, grace, KILL. `wait` then returns a cancelled outcome."""
        await self._tell(f"stop {reason} {message}".replace("\n", " "))

    async def _tell(self, line: str) -> None:
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
    cgroups.kill(folder)
    kill_strays(folder, deploy_id)
    while _is_supervised(folder):
        time.sleep(0.02)
    return read_result(folder) or Outcome(
        status=DeployStatus.ABANDONED,
        reason=OutcomeReason.DAEMON_DIED,
        message="the daemon died while the deploy ran",
    )


def forget(folder: Path) -> None:
    """Remove what a deploy left on disk, the checkout first; its output stays."""
    shutil.rmtree(folder / CHECKOUT, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


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
            pid = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            return False  # it has just ended; the next look tells
        # By its name and not by its path: the other daemon may be installed elsewhere.
        if any(argument.endswith(_SUPERVISOR_NAME) for argument in arguments):
            return bytes(folder.absolute()) in arguments
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
