"""Reading what a deploy printed: from an offset, while it still runs or long after."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from reconciler.removing import remove

MAX_READ = 1024 * 1024


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


def forget(folder: Path) -> None:
    """Remove the output of a deploy."""
    with suppress(OSError):
        remove(folder)


def read_all(folder: Path) -> str:
    """Return everything that is kept, with a line where something is left out; its bound is the writer's."""
    parts: list[str] = []
    offset = 0
    while (piece := read(folder, offset)) is not None:
        if piece.skipped:
            parts.append(f"\n… {piece.skipped} bytes left out …\n")
        parts.append(piece.data.decode(errors="replace"))
        offset = piece.next_offset
    return "".join(parts)
