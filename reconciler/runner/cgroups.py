"""A control group a deploy, where the daemon may make one: the one way to end a tree that nothing escapes.

Needs cgroup v2 with `cgroup.kill` (Linux 5.14) and a group that is ours to write: root, or a systemd unit with
`Delegate=yes`. Everywhere else the supervisor's other means have to do, and they do for all but a process that
clears its environment while both daemon and supervisor are being killed.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

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


def _leaf(folder: Path) -> Path | None:
    """Return the group of the deploy that lives in `folder`: other daemons have deploys of the same name."""
    group = own_group()
    if group is None:
        return None
    return group / f"reconciler-{hashlib.sha256(bytes(folder.absolute())).hexdigest()[:16]}-{folder.name}"


def make(folder: Path) -> Path | None:
    """Return a new group for the deploy that lives in `folder`, or None where we may not make one."""
    leaf = _leaf(folder)
    if leaf is None:
        return None
    try:
        leaf.mkdir(exist_ok=True)
    except OSError:
        return None
    if not (leaf / "cgroup.kill").exists():
        with suppress(OSError):
            leaf.rmdir()
        return None
    return leaf


def kill(folder: Path) -> None:
    """Kill whatever lives in a deploy's group, and remove the group."""
    leaf = _leaf(folder)
    if leaf is None or not leaf.exists():
        return
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
