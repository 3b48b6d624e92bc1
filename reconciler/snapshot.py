"""All that is known at one moment, as one frozen value: what status, pages, metrics and `why` are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from reconciler.config.catalogue import KnownEntry
from reconciler.model import ConfigHead, Deploy, SourceState, TargetRecord
from reconciler.planning import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Configuration, what was observed, and the plan that follows from both at `now`."""

    now: datetime
    plan: Plan
    head: ConfigHead | None = None
    entries: Mapping[str, KnownEntry] = field(default_factory=dict)
    records: Mapping[str, TargetRecord] = field(default_factory=dict)
    sources: Mapping[str, SourceState] = field(default_factory=dict)
    last_deploys: Mapping[str, Deploy] = field(default_factory=dict)
    slots: int = 0
