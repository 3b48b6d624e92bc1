"""Gathering: everything that the store knows, as one snapshot with its plan. The same with and without a daemon."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from reconciler.config.catalogue import KnownEntry
from reconciler.model import Desired, Observed, SourceState, TargetRecord
from reconciler.planning import plan
from reconciler.snapshot import Snapshot
from reconciler.spec import Target
from reconciler.store import Store


def remembered(store: Store, slots: int, now: datetime, sources: Mapping[str, SourceState] | None = None) -> Snapshot:
    """Return everything that the store knows, with the plan that follows from it. Works without a daemon."""
    entries, records = store.entries(), store.targets()
    targets = in_force(entries)
    nothing = TargetRecord(Desired(), Observed(), None)
    known = {name: records.get(name, nothing) for name in targets}
    decisions = plan(
        targets,
        {name: record.desired for name, record in known.items()},
        {name: record.observed for name, record in known.items()},
        slots=slots,
        now=now,
    )
    return Snapshot(
        now=now,
        plan=decisions,
        head=store.config_head(),
        entries=entries,
        records={name: records[name] for name in entries if name in records},
        sources=store.sources() if sources is None else sources,
        last_deploys={name: deploy for name, deploy in store.last_deploys().items() if name in entries},
        slots=slots,
    )


def in_force(entries: Mapping[str, KnownEntry]) -> dict[str, Target]:
    """Return the targets that have a good entry."""
    return {name: entry.target for name, entry in entries.items() if entry.target is not None}
