"""The supervisor of one deploy: a small program that owns the deploy's whole process tree.

Started by `deploys.py` as `supervisor.py [CONTROL GROUP]`, ahead of need; standard library only, one thread. It reads
its job as one line of JSON from standard input, which stays open as a lifeline: further lines renew the lease or stop
the deploy, and its end means that the daemon is dead. It stands in the folder of its deploy, where who looks for strays
finds it. It runs the steps one after the other in a session of their own, writes their output in bounded segments, and
ends when the tree has ended: what a step left in the background is terminated, then killed. As a subreaper it inherits
daemonised children, so none escapes. The result is written beside, synced and renamed; it exists only when nothing of
the deploy lives any more.

Facts that this rests on are pinned in tests/assumptions.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import re
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
READ_BYTES = 65_536
TAIL_BYTES = 8_192
HEAD_BYTES = 4 * 1024 * 1024
SEGMENT_BYTES = 1024 * 1024
KEPT_SEGMENTS = 4
RESULT_BYTES = 65_536
DRAIN_ROUNDS = 256  # reads after the end of the tree: what a pipe can still hold, with room to spare
MASK = b"***"
MAKEFILES = ("GNUmakefile", "makefile", "Makefile")  # make's own order

_KILLED = re.compile(
    rb"^make(?:\[\d+\])?: \*\*\* \[[^\n]*\] (Killed|Terminated|Aborted|Segmentation fault)\b", re.MULTILINE
)
_NO_RULE = re.compile(rb"^make: \*\*\* No rule to make target '([^\n']*)'\.  Stop\.$", re.MULTILINE)


def clock() -> float:
    """Return seconds that no change of the wall clock touches; a suspended machine's sleep counts."""
    return float(time.clock_gettime(time.CLOCK_BOOTTIME))


class Output:
    """The deploy's output: the beginning and the end are kept, the middle is counted; secrets are masked.

    A folder of segments, each named by the offset at which it begins, so a reader sees what is missing.
    """

    def __init__(self, folder: Path, masks: list[bytes]) -> None:
        self._folder = folder
        self._masks = sorted(masks, key=len, reverse=True)
        self._held = b""  # may be the beginning of a secret
        self._file: int | None = None
        self._room = 0
        self._segments: list[tuple[Path, int]] = []
        self.total = 0
        self.omitted = 0
        self.tail = b""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write(self, data: bytes) -> None:
        """Add what a step printed."""
        data = self._held + data
        for mask in self._masks:
            data = data.replace(mask, MASK)
        keep = self._possible_beginning(data)
        self._held = data[len(data) - keep :] if keep else b""
        self._store(data[: len(data) - keep] if keep else data)

    def flush(self) -> None:
        """Write what was held back: it was not a secret after all."""
        held, self._held = self._held, b""
        self._store(held)

    def close(self) -> None:
        """Write everything and close the last segment."""
        self.flush()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _possible_beginning(self, data: bytes) -> int:
        longest = 0
        for mask in self._masks:
            for length in range(min(len(mask) - 1, len(data)), longest, -1):
                if data.endswith(mask[:length]):
                    longest = length
                    break
        return longest

    def _store(self, data: bytes) -> None:
        self.tail = (self.tail + data)[-TAIL_BYTES:]
        view = memoryview(data)
        while view:
            if self._room == 0:
                self._next_segment()
            piece = view[: self._room]
            if self._file is not None:
                try:
                    os.write(self._file, piece)
                except OSError:  # no space: what cannot be kept is counted, and the deploy goes on
                    self.omitted += len(piece)
            self._room -= len(piece)
            self.total += len(piece)
            view = view[len(piece) :]

    def _next_segment(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        size = SEGMENT_BYTES if self._segments else HEAD_BYTES
        path = self._folder / f"{self.total:015d}"
        self._segments.append((path, size))
        self._room = size
        with contextlib.suppress(OSError):
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        if len(self._segments) > KEPT_SEGMENTS + 1:  # the head stays
            doomed, size = self._segments.pop(1)
            doomed.unlink(missing_ok=True)
            self.omitted += size


class Stopped(Exception):  # noqa: N818 - says what happened
    """The deploy must end now; a status and a reason say why."""

    def __init__(self, status: str, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class Failed(Exception):  # noqa: N818 - says what happened
    """A step failed."""

    def __init__(self, reason: str, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.exit_code = exit_code


class Launcher:
    """Forks a child ahead of need, which waits in the control group for the command that it is to become.

    Joining a control group takes the kernel longer than all the rest of starting a command.
    """

    def __init__(self, group: str) -> None:
        self.group = Path(group) if group else None
        self.output, self._output = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)  # what commands print; made before any child
        os.set_blocking(self._output, True)
        self._waiting: tuple[int, int, int] | None = None  # process, pipe to it, pipe from it

    def prepare(self) -> None:
        """Fork the child, if there is none."""
        if self._waiting is None:
            (order, teller), (hearer, error) = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
            pid = os.fork()
            if pid == 0:
                for descriptor in (teller, hearer):
                    os.close(descriptor)
                self._become(order, error)
            for descriptor in (order, error):
                os.close(descriptor)
            self._waiting = pid, teller, hearer

    def launch(self, command: list[str], folder: Path, env: dict[str, str]) -> int:
        """Let the child become a command; return its process. Raises Failed where that is impossible."""
        self.prepare()
        assert self._waiting is not None  # noqa: S101 - made one line ago
        (pid, teller, hearer), self._waiting = self._waiting, None
        try:
            with open(teller, "wb") as pipe:  # noqa: PTH123 - a descriptor
                pipe.write(json.dumps([command, str(folder), env]).encode())
        except BrokenPipeError:
            os.close(hearer)
            raise Failed("not_executable", f"{command[0]} cannot be run: its process was killed") from None
        with open(hearer, "rb") as pipe:  # noqa: PTH123 - a descriptor
            problem = pipe.read().decode()
        if problem:
            raise Failed("not_executable", f"{command[0]} cannot be run: {problem}")
        return pid

    def dismiss(self) -> None:
        """Let the child that waits end."""
        if self._waiting is not None:
            _, teller, hearer = self._waiting
            os.close(teller)
            os.close(hearer)
            self._waiting = None

    def kill(self) -> None:
        """Kill whatever lives in the group."""
        if self.group is not None:
            with contextlib.suppress(OSError):
                (self.group / "cgroup.kill").write_text("1", encoding="ascii")

    def _become(self, order: int, error: int) -> None:
        problem = "its control group is gone"
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores, and a command would inherit
                signal.signal(number, signal.SIG_DFL)
            os.setsid()
            if self.group is not None:
                (self.group / "cgroup.procs").write_text("0", encoding="ascii")
            problem = "it cannot be told"
            with open(order, "rb") as pipe:
                told = pipe.read()
            if told:
                command, folder, env = json.loads(told)
                null = os.open(os.devnull, os.O_RDONLY)
                for descriptor, standard in ((null, 0), (self._output, 1), (self._output, 2)):
                    os.dup2(descriptor, standard)
                os.chdir(folder)
                try:
                    os.execvpe(command[0], command, env)  # noqa: S606 - what we are for
                except OSError as failure:
                    problem = failure.strerror or problem
                    raise
        except BaseException:  # noqa: BLE001 - the parent hears of it
            os.write(error, problem.encode())
        finally:
            os._exit(0)


class Supervisor:
    """One deploy."""

    def __init__(self, job: dict[str, Any], lifeline: int, commands: bytes, launcher: Launcher) -> None:
        self._job = job
        self._launcher = launcher
        self._lifeline = lifeline
        self._commands = commands  # what was already read from the lifeline
        self._began = clock()
        self._deadline = self._began + job["timeout_s"]
        self._lease_end = float(job["lease_end"])
        self._output = Output(Path(job["log"]), [mask.encode() for mask in job["masks"]])
        self._wake, wake_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._exits: dict[int, int] = {}
        self._poll = select.poll()
        for descriptor in (self._lifeline, self._launcher.output, self._wake):
            self._poll.register(descriptor, select.POLLIN)
        self.steps: list[dict[str, Any]] = []

    # --- the deploy ---------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Run all steps and end the tree; return the outcome."""
        outcome: dict[str, Any] = {"status": "succeeded", "reason": None, "message": "", "exit_code": 0}
        try:
            self._obey()
            self._check_deadlines(None, "the deploy")
            for step in self._job["steps"]:
                self._step(step)
        except Failed as failure:
            outcome = {"status": "failed", "reason": failure.reason, "message": str(failure)}
            outcome["exit_code"] = failure.exit_code
        except Stopped as stop:
            outcome = {"status": stop.status, "reason": stop.reason, "message": str(stop), "exit_code": None}
        self.end_tree()
        if outcome["status"] != "succeeded":
            self._say(f"==> {outcome['status']}: {outcome['message']}")
        self._output.close()
        return {
            **outcome,
            "steps": self.steps,
            "output_bytes": self._output.total,
            "output_omitted_bytes": self._output.omitted,
        }

    def _step(self, step: dict[str, Any]) -> None:
        began = clock()
        self._say(f"==> {step['title']}  ({time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())})")
        record = {"title": step["title"], "started_s": round(began - self._began, 3), "exit_code": None}
        self.steps.append(record)
        try:
            folder = self._folder(step["path"])
            command = self._make(folder, step) if step["make"] else step["run"]
            record["exit_code"] = self._execute(command, folder, step)
        finally:
            record["duration_s"] = round(clock() - began, 3)
        self._judge(step, folder, int(record["exit_code"]))

    def _judge(self, step: dict[str, Any], folder: Path, code: int) -> None:
        title, tail = step["title"], self._output.tail.rstrip(b"\n")
        if code < 0:
            raise Failed("killed", f"{title} was killed by signal {-code}", code)
        if code != 0:
            reason = "exit_code"
            if step["make"] and (rule := _NO_RULE.search(tail)) and rule[1] == step["make"].encode():
                raise Failed("no_such_make_target", f"the Makefile in {folder.name} has no target {step['make']}", code)
            if step["make"] and _KILLED.search(tail):
                reason = "killed"
            raise Failed(reason, f"{title} exited with {code}", code)
        nothing = (f"make: '{step['make']}' is up to date.", f"make: Nothing to be done for '{step['make']}'.")
        if step["make"] and tail.rpartition(b"\n")[2].decode(errors="replace") in nothing:
            raise Failed(
                "nothing_to_do", f"{title} ran nothing; declare .PHONY: {step['make']} and give it a recipe", 0
            )

    def _folder(self, path: str) -> Path:
        root = Path(self._job["checkout"]).resolve()
        folder = (root / path).resolve()
        if not folder.is_dir() or not folder.is_relative_to(root):
            raise Failed("no_such_path", f"the tree has no directory {path}")
        return folder

    def _make(self, folder: Path, step: dict[str, Any]) -> list[str]:
        root, goal = Path(self._job["checkout"]).resolve(), step["make"]
        for name in MAKEFILES:
            makefile = folder / name
            if not makefile.is_symlink() and not makefile.exists():
                continue
            real = makefile.resolve()
            if not real.is_file() or not real.is_relative_to(root):
                raise Failed("makefile_not_regular", f"{name} is not a regular file of the tree")
            command = ["make", "--no-print-directory", "-f", name, goal]
            if (folder / goal).exists() and self._is_up_to_date(folder, command, step):
                message = f"a file named {goal} makes the target up to date; declare .PHONY: {goal}"
                raise Failed("nothing_to_do", message)
            return command
        raise Failed("no_makefile", "the tree has no Makefile where the step runs")

    def _is_up_to_date(self, folder: Path, command: list[str], step: dict[str, Any]) -> bool:
        """Ask make: a silent Makefile (-s) would not tell afterwards. Only asked where a file has the name."""
        return self._execute([command[0], "-q", *command[1:]], folder, step) == 0

    # --- processes ----------------------------------------------------------------------------------------

    def _execute(self, command: list[str], folder: Path, step: dict[str, Any]) -> int:
        """Run one command to its end; return its exit code, negative for a signal. Raises Stopped, Failed."""
        pid = self._launcher.launch(command, folder, step["env"])
        if step is not self._job["steps"][-1]:
            self._launcher.prepare()
        limit = clock() + step["timeout_s"] if step["timeout_s"] else None
        while pid not in self._exits:
            self._wait(self._next_deadline(limit))
            self._reap()
            self._check_deadlines(limit, step["title"])
        self._drain()
        self._output.flush()
        return self._exits[pid]

    def _next_deadline(self, limit: float | None) -> float:
        return float(min(self._deadline, self._lease_end, limit or self._deadline)) - clock()

    def _check_deadlines(self, limit: float | None, title: str) -> None:
        now = clock()
        if now >= self._deadline:
            raise Stopped("timed_out", "timeout", f"the deploy took longer than {self._job['timeout_s']:g} s")
        if limit is not None and now >= limit:
            raise Stopped("timed_out", "timeout", f"{title} took longer than its timeout")
        if now >= self._lease_end:
            raise Stopped("abandoned", "lease_expired", "the daemon did not renew the lease in time")

    def _wait(self, seconds: float) -> None:
        """Wait for output, a command, an exit or the time; raise Stopped for a command to stop."""
        for descriptor, _ in self._poll.poll(max(0.0, seconds) * 1000):
            if descriptor == self._launcher.output:
                self._read_output()
            elif descriptor == self._wake:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, READ_BYTES)
            elif descriptor == self._lifeline:
                self._listen()

    def _listen(self) -> None:
        data = os.read(self._lifeline, READ_BYTES)
        if not data:
            self._poll.unregister(self._lifeline)
            raise Stopped("abandoned", "daemon_died", "the daemon died while the deploy ran")
        self._commands += data
        self._obey()

    def _obey(self) -> None:
        *commands, self._commands = self._commands.split(b"\n")
        for command in commands:
            word, _, argument = command.decode().partition(" ")
            if word == "renew":
                self._lease_end = float(argument)
            elif word == "stop":
                reason, _, message = argument.partition(" ")
                raise Stopped("cancelled", reason, message)

    def _read_output(self) -> bool:
        try:
            data = os.read(self._launcher.output, READ_BYTES)
        except BlockingIOError:
            return False
        self._output.write(data)
        return bool(data)

    def _drain(self) -> None:
        for _ in range(DRAIN_ROUNDS):
            if not self._read_output():
                break

    def _say(self, line: str) -> None:
        if self._output.tail and not self._output.tail.endswith(b"\n"):
            self._output.write(b"\n")
        self._output.write(line.encode(errors="replace") + b"\n")

    def _reap(self) -> bool:
        """Collect every child that has ended; return whether any child is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self._exits[pid] = os.waitstatus_to_exitcode(status)

    def end_tree(self) -> None:
        """TERM, grace, then KILL until nothing is left. Commands no longer matter here."""
        self._launcher.dismiss()
        with contextlib.suppress(KeyError):
            self._poll.unregister(self._lifeline)
        kill_at = clock() + self._job["grace_s"]
        signalled: set[int] = set()
        while self._reap():
            now = clock()
            kill = now >= kill_at
            if kill:
                self._launcher.kill()
            for pid in descendants(os.getpid()):
                if kill or pid not in signalled:
                    signalled.add(pid)
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signal.SIGKILL if kill else signal.SIGTERM)
            self._wait(0.01 if kill else min(0.1, kill_at - now))
        self._drain()


def descendants(root: int) -> list[int]:
    """Return all processes below `root`, daemonised ones too (they are re-parented to a subreaper)."""
    found: list[int] = []
    pending = [root]
    while pending:
        pid = pending.pop()
        try:
            for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - a fork loop must be outrun
                with open(f"/proc/{pid}/task/{task}/children", "rb") as file:  # noqa: PTH123 - the same
                    children = [int(child) for child in file.read().split()]
                found += children
                pending += children
        except OSError:
            continue
    return found


class Result:
    """The result file: its space is taken before anything runs, so that a full disk cannot swallow the outcome."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._beside = path.with_suffix(".tmp")
        self._file = os.open(self._beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.posix_fallocate(self._file, 0, RESULT_BYTES)

    def write(self, result: dict[str, Any]) -> None:
        """Write the result so that it is either not there or whole, after a power loss too."""
        data = json.dumps(result).encode()
        if len(data) > RESULT_BYTES:
            data = json.dumps({**result, "steps": []}).encode()
        os.pwrite(self._file, data, 0)
        os.ftruncate(self._file, len(data))
        os.fsync(self._file)
        os.close(self._file)
        self._beside.rename(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def read_job(lifeline: int) -> tuple[dict[str, Any], bytes] | None:
    """Return the job, which is the first line of the lifeline, and what was read beyond it; None where none comes."""
    data = b""
    while b"\n" not in data:
        chunk = os.read(lifeline, READ_BYTES)
        if not chunk:
            return None
        data += chunk
    line, _, rest = data.partition(b"\n")
    job: dict[str, Any] = json.loads(line)
    return job, rest


def main() -> None:
    """Supervise one deploy."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # The lifeline tells when to stop. Handlers and not SIG_IGN, which every step would inherit.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: None)
    lifeline = sys.stdin.fileno()
    launcher = Launcher(sys.argv[1])
    launcher.prepare()
    told = read_job(lifeline)
    if told is None:  # the daemon ended, or died, before it had anything to do for us
        launcher.dismiss()
        with contextlib.suppress(OSError):
            os.wait()
            if launcher.group is not None:
                launcher.group.rmdir()
        return
    job, commands = told
    # Held until this process ends: who gets this lock knows that nothing of the deploy is left.
    lock = os.open(job["lock"], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.chdir(Path(job["lock"]).parent)
    written = Result(Path(job["result"]))
    supervisor = Supervisor(job, lifeline, commands, launcher)
    try:
        result = supervisor.run()
    except Exception as error:  # noqa: BLE001 - whatever happened, the tree must end and the result say so
        supervisor.end_tree()
        result = {"status": "failed", "reason": "internal_error", "message": f"the supervisor: {error!r}"}
    written.write(result)


if __name__ == "__main__":
    main()
