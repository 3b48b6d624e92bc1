"""Removing a folder with all that is in it, whatever a deploy made of it.

`shutil.rmtree` gives up where folders are nested more deeply than Python calls, and where one may not be written
(Go's module cache is made so). Here every folder is first moved to one flat place, so that nothing is deep; no link is
ever followed.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from contextlib import suppress
from pathlib import Path

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, where there is one; what cannot be removed stays, beside, and out of the way.

    A folder is gone from its place at once. Raises OSError where not even that is possible.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        path.unlink()
        return
    pit = path.with_name(f".removing-{secrets.token_hex(6)}")
    try:
        pit.mkdir(mode=0o700)
    except OSError:  # a full disk
        shutil.rmtree(path, ignore_errors=True)
        return
    if not mode & stat.S_IWUSR:
        path.chmod(0o700)  # a folder that may not be written cannot be moved either
    path.rename(pit / "0")
    count = 1
    pending = [pit / "0"]
    while pending:
        folder = pending.pop()
        with suppress(OSError):
            below = _empty(folder, pit, count)
            pending += below
            count += len(below)
            folder.rmdir()
    with suppress(OSError):
        pit.rmdir()


def _empty(folder: Path, pit: Path, count: int) -> list[Path]:
    """Unlink what is in a folder, and move its folders into the pit; return these."""
    folder.chmod(0o700)  # it was moved here by us, and is no link
    moved: list[Path] = []
    descriptor = os.open(folder, _OPEN)
    try:
        with os.scandir(descriptor) as listing:
            entries = list(listing)
        for entry in entries:
            with suppress(OSError):
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.name, dir_fd=descriptor)
                    continue
                if not entry.stat(follow_symlinks=False).st_mode & stat.S_IWUSR:
                    os.chmod(entry.name, 0o700, dir_fd=descriptor)
                place = pit / str(count + len(moved))
                os.rename(entry.name, place, src_dir_fd=descriptor)
                moved.append(place)
    finally:
        os.close(descriptor)
    return moved
