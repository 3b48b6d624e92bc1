"""What the shell works with: the settings and one handle for each thing outside."""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.config.settings import Settings
from reconciler.events import Listener
from reconciler.git.asking import Asking
from reconciler.git.credentials import Credentials
from reconciler.runner.deploys import Supervisors
from reconciler.store import StateDir, Store
from reconciler.threads import Thread
from reconciler.trusting import Trust
from reconciler.vault import Vault


@dataclass(frozen=True, slots=True)
class Doors:
    """Made once, by the composition root."""

    settings: Settings
    state: StateDir
    store: Store  # every call goes through `db`
    db: Thread
    git: Thread  # for local git objects
    ask: Asking  # worker processes, for fetches and checkouts
    credentials: Credentials
    listener: Listener
    supervisors: Supervisors
    trust: Trust
    vault: Vault
