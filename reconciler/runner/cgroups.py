"""A control group a deploy, where the daemon may make one: the one way to end a tree that nothing escapes.

Needs cgroup v2 with `cgroup.kill` (Linux 5.14) and a group that is ours to write: root, or a systemd unit with
`Delegate=yes`. Everywhere else the supervisor's other means have to do, and they do for all but a process that
clears its environment while both daemon and supervisor are being killed.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

NOTE = "cgroup"
_REMOVE_TRIES = 100  # a killed group is empty within milliseconds


@cache
def own_group() -> Path | None:
    """Return the directory of this process's cgroup v2 group; None where there is none."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
        groups = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    mount = next((line.split()[4] for line in mounts if " - cgroup2 " in line), None)
    path = next((line[3:] for line in groups if line.startswith("0::")), None)
    if mount is None or path is None:
        return None
    return Path(mount) / path.lstrip("/")


def _prefix(runs: Path) -> str:
    """Return how the names of our groups begin: other daemons of this machine have theirs."""
    return f"reconciler-{hashlib.sha256(bytes(runs.absolute())).hexdigest()[:16]}-"


def make(runs: Path) -> Path | None:
    """Return a new group for a deploy of those that live in `runs`, or None where we may not make one."""
    group = own_group()
    if group is None:
        return None
    leaf = group / (_prefix(runs) + secrets.token_hex(6))
    try:
        leaf.mkdir()
    except OSError:
        return None
    if not (leaf / "cgroup.kill").exists():
        with suppress(OSError):
            leaf.rmdir()
        return None
    return leaf


def note(folder: Path, leaf: Path) -> None:
    """Note in a deploy's folder which group it has, for who finds the folder without its daemon."""
    (folder / NOTE).symlink_to(leaf)


def noted(folder: Path) -> Path | None:
    """Return the group that is noted in a deploy's folder."""
    try:
        leaf = (folder / NOTE).readlink()
    except OSError:
        return None
    return leaf if leaf.name.startswith(_prefix(folder.parent)) else None


def kill(leaf: Path) -> None:
    """Kill whatever lives in a group, and remove it."""
    with suppress(OSError):
        (leaf / "cgroup.kill").write_text("1", encoding="ascii")
    for _ in range(_REMOVE_TRIES):
        try:
            leaf.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.01)
        else:
            return


def sweep(runs: Path) -> None:
    """Kill and remove every group of ours: of supervisors that had no deploy yet when they and their daemon died."""
    group = own_group()
    for leaf in group.glob(_prefix(runs) + "*") if group else ():
        kill(leaf)
