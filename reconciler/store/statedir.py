"""The state directory: where everything lies, and the lock that makes it one daemon's.

lock              held by the running daemon (flock: it ends with the process, whatever kills it)
reconciler.db     the store
wake.sock         where local verbs wake the daemon
ballast           space in reserve, dropped when the disk is full so that the failure can be recorded
mirrors/          bare copies of Sources, disposable
runs/ID/          one deploy: its job, its checkout while it runs, its result
trees/TARGET/     the tree of a large repository between two deploys of a target, disposable
logs/TARGET/ID/   what the steps of one deploy printed
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import socket
from pathlib import Path

from reconciler.errors import StateError

KEY_BYTES = 32
BALLAST_BYTES = 4 * 1024 * 1024


class StateDir:
    """A state directory; made with mode 0700 where it does not exist."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self._lock: int | None = None

    @property
    def database(self) -> Path:
        """The store's file."""
        return self.path / "reconciler.db"

    @property
    def mirrors(self) -> Path:
        """The folder of bare copies."""
        return self.path / "mirrors"

    @property
    def runs(self) -> Path:
        """The folder of live deploys."""
        return self.path / "runs"

    @property
    def trees(self) -> Path:
        """The folder of kept trees."""
        return self.path / "trees"

    @property
    def logs(self) -> Path:
        """The folder of outputs."""
        return self.path / "logs"

    def log_of(self, target: str, deploy_id: str) -> Path:
        """Return the folder that holds the output of one deploy."""
        return self.logs / target / deploy_id

    def create(self) -> None:
        """Make the folders; raise StateError where that is impossible."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self.mirrors, self.runs, self.trees, self.logs):
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StateError(
                f"the state directory {self.path} cannot be used: {error.strerror}; "
                "choose another with --state-dir, or make it writable for this user"
            ) from error

    def key(self) -> bytes:
        """Return a key of this state directory's own, made at its first use; for digests that tell nothing."""
        file = self.path / "key"
        if file.exists() and len(found := file.read_bytes()) == KEY_BYTES:
            return found
        beside, made = file.with_suffix(".tmp"), secrets.token_bytes(KEY_BYTES)
        beside.unlink(missing_ok=True)
        beside.touch(mode=0o600)
        beside.write_bytes(made)
        beside.replace(file)
        return made

    def keep_ballast(self) -> bool:
        """Hold some space in reserve, so that a full disk can still be written about; False where there is none."""
        if self._ballast.exists():
            return True
        if shutil.disk_usage(self.path).free < 4 * BALLAST_BYTES:
            return False
        beside = self._ballast.with_suffix(".tmp")
        try:
            with beside.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, BALLAST_BYTES)
            beside.rename(self._ballast)
        except OSError:
            beside.unlink(missing_ok=True)
            return False
        return True

    def drop_ballast(self) -> None:
        """Give the reserve back to the disk."""
        self._ballast.unlink(missing_ok=True)

    @property
    def _ballast(self) -> Path:
        return self.path / "ballast"

    def acquire(self, *, wait: bool = False) -> None:
        """Take the lock. While another daemon has it, wait for its end, or raise StateError that names it."""
        self.create()
        lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            holder = os.pread(lock, 200, 0).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise StateError(
                f"another reconciler runs on the state directory {self.path} ({holder}); "
                "stop it first, take over from it with --wait, or choose another with --state-dir"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        self._lock = lock

    def release(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def is_locked(self) -> bool:
        """Whether a daemon runs on this state directory."""
        try:
            lock = os.open(self.path / "lock", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False
