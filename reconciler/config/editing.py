"""Moving a pin in the text of a deployments file: one value changes, every other byte stays.

The value is found where the parser saw it, so comments, order, quotes and line ends are what they were.
"""

from __future__ import annotations

import re

from reconciler.config import yamltree
from reconciler.config.yamltree import Node

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


class CannotEdit(ValueError):  # noqa: N818 - says what it is
    """The pin cannot be moved by editing one value; the text says why."""


def has_target(data: bytes, file: str, target: str) -> bool:
    """Whether a file declares a target."""
    return _entry(data, file, target) is not None


def set_commit(data: bytes, file: str, target: str, commit: str) -> tuple[bytes, str | None]:
    """Return the file with a target's pin at `commit`, and what it was before; None where there was none.

    Raises CannotEdit where the file declares no such target, or the pin stands where one edit would move others too.
    """
    entry = _entry(data, file, target)
    if entry is None:
        raise CannotEdit(f"{file} declares no target {target}")
    if not isinstance(entry.value, dict):
        raise CannotEdit(f"{entry.place}: {target} has nothing below it")
    lines = data.decode().splitlines(keepends=True)
    pin = entry.value.get("commit")
    if pin is None:
        return _insert(lines, entry, target, commit).encode(), None
    line, column = pin.place.line - 1, pin.place.column - 1
    match = _COMMIT.search(lines[line], column)
    if match is None or match.start() > column + 1:
        raise CannotEdit(f"{pin.place}: expected a full commit id of {target}")
    lines[line] = lines[line][: match.start()] + commit + lines[line][match.end() :]
    return "".join(lines).encode(), match[0]


def _entry(data: bytes, file: str, target: str) -> Node | None:
    root = yamltree.parse(data, file).root
    targets = root.value.get("targets") if root is not None and isinstance(root.value, dict) else None
    return targets.value.get(target) if targets is not None and isinstance(targets.value, dict) else None


def _insert(lines: list[str], entry: Node, target: str, commit: str) -> str:
    """Put a line with the pin before the entry's first key."""
    first = min(entry.keys.values(), default=None)
    if first is None or lines[first.line - 1][: first.column - 1].strip():
        raise CannotEdit(f"{entry.place}: {target} is written on one line; give its keys lines of their own first")
    ending = "\r\n" if lines[first.line - 1].endswith("\r\n") else "\n"
    lines.insert(first.line - 1, " " * (first.column - 1) + f"commit: {commit}{ending}")
    return "".join(lines)
