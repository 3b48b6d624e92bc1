"""Reading what a deploy printed: from an offset, while it still runs or long after."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

MAX_READ = 1024 * 1024
# C0 and C1 controls but for newline and tab: a log must not drive the terminal that shows it.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Piece:
    """Some output: `data` ends at `next_offset`; `skipped` bytes before it are gone."""

    data: bytes
    next_offset: int
    skipped: int = 0


def read(folder: Path, offset: int) -> Piece | None:
    """Return the output at `offset` or the first that is kept after it; None where there is none yet."""
    try:
        segments = sorted((int(path.name), path) for path in folder.iterdir() if path.name.isdigit())
    except OSError:
        return None
    for begin, path in segments:
        start = max(offset, begin)
        try:
            with path.open("rb") as file:
                file.seek(start - begin)
                data = file.read(MAX_READ)
        except OSError:
            continue  # dropped meanwhile
        if data:
            return Piece(data, start + len(data), max(0, begin - offset))
    return None


def safe(text: str) -> str:
    """Return text whose control characters are escaped, so that it can be printed."""
    return _CONTROLS.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def forget(folder: Path) -> None:
    """Remove the output of a deploy."""
    shutil.rmtree(folder, ignore_errors=True)
