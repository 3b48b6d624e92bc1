"""What a person may wish for, and how it is written down: the same for local verbs and for the API.

A wish is a row in the store; whoever writes it then wakes the daemon. Nothing is done here and now.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Annotated

from pydantic import Field, StringConstraints

from reconciler.errors import CannotTell
from reconciler.model import Request, Suspension
from reconciler.schedule import parse_moment
from reconciler.spec import Flag, Spec, Variables
from reconciler.store import Store

Words = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")]


class Wish(Spec):
    """What every wish has."""

    by: Annotated[Words, StringConstraints(max_length=64)] | None = Field(None, description="Who wishes; only shown.")


class Reconcile(Wish):
    """Deploy once more, even where nothing differs."""

    env: Variables = Field(default_factory=dict, description="Variables for this deploy alone; no secrets.")
    now: Flag = Field(default=False, description="Ignore the window.")


class Cancel(Wish):
    """End the running deploy."""


class Suspend(Wish):
    """Start no deploy for a while."""

    reason: Words = Field(description="Why; shown wherever the target is.")
    until: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None, description="The end: 2h, 1d12h or 2026-12-01T09:00 (UTC); without it: until resume."
    )


class Resume(Wish):
    """End a suspension."""


class NothingToCancel(CannotTell):
    """No deploy of the target is running."""


def grant(store: Store, target: str, wish: Wish, by: str, now: datetime) -> str:
    """Write a wish for one target down; return what was done in words.

    Raises CannotTell for an unknown target, NothingToCancel, and ValueError for an `until` that is no time.
    """
    if isinstance(wish, Reconcile):
        store.request(target, Request(uuid.uuid4().hex, by, wish.now, wish.env))
        return f"requested: {target}"
    if isinstance(wish, Suspend):
        end = parse_moment(wish.until, now) if wish.until else None
        store.suspend(target, Suspension(wish.reason, by, end))
        return f"suspended: {target}" + (f" until {end:%Y-%m-%d %H:%M} UTC" if end else "")
    if isinstance(wish, Resume):
        store.resume(target)
        return f"resumed: {target}"
    if not store.cancel(target, by):
        raise NothingToCancel(f"no deploy of {target} is running")
    return f"cancelling the deploy of {target}"
