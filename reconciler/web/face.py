"""What the HTTP face is made from; the composition root fills it in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from reconciler.events import Listener
from reconciler.hooking import Hooks
from reconciler.model import Deploy
from reconciler.runner.output import Piece
from reconciler.shapes import CommitsView, TargetView
from reconciler.snapshot import Snapshot
from reconciler.wishes import Wish


@dataclass(frozen=True, slots=True)
class Face:
    """Everything that handlers may ask for."""

    snapshot: Callable[[], Snapshot]
    metrics: Callable[[str], tuple[bytes, str]]
    alive: Callable[[], str | None]  # why the loop does not turn, or None
    ready: Callable[[], str | None]  # why the daemon is not ready, or None
    history: Callable[[str, int, int | None], Awaitable[list[Deploy]]]  # of a target, so many, before a fence
    deploy: Callable[[str], Awaitable[Deploy | None]]
    log: Callable[[Deploy], Awaitable[str]]
    piece: Callable[[Deploy, int], Awaitable[Piece | None]]  # of the log, at an offset
    commits: Callable[[TargetView], Awaitable[CommitsView]]
    wish: Callable[[str, Wish, str], Awaitable[str]]  # target, wish, by whom
    token: Callable[[], bytes | None]  # the API's, read now; None where there is none
    hooks: Hooks
    listener: Listener
    hosts: frozenset[str]  # names under which browsers may ask, beside addresses and names without a dot
