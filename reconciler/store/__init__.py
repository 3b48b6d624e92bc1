"""The store: what the daemon remembers, in SQLite, and the state directory that holds it.

The database keeps the invariants: one live deploy a target is a unique index, a claim is one statement, and
every result is written only while its fencing token is the newest one. SQL stands in `sql/*.sql`, in a
dialect that PostgreSQL reads too. The only importer of a database driver; no git, no processes, no decisions
in here.
"""

from reconciler.store.database import Store
from reconciler.store.statedir import StateDir

__all__ = ["StateDir", "Store"]
