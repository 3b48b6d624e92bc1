"""The schema's version, and the way forward from each older one: one file, one transaction a step."""

from __future__ import annotations

import re
import sqlite3
from importlib import resources

from reconciler import __version__
from reconciler.errors import StateError

_KNOWS_PROGRAM = 2  # the first schema that says which program wrote it
_FILE = re.compile(r"([0-9]{4})_[a-z0-9_]+\.sql")


def scripts() -> dict[int, str]:
    """Return the migrations by the version that they lead to."""
    folder = resources.files("reconciler.store") / "sql" / "migrations"
    found = {int(match[1]): entry for entry in folder.iterdir() if (match := _FILE.fullmatch(entry.name))}
    return {version: found[version].read_text(encoding="utf-8") for version in sorted(found)}


def current_version(connection: sqlite3.Connection) -> int:
    """Return the schema's version; 0 for an empty database."""
    query = "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = 'schema_version'"
    if not connection.execute(query).fetchone()[0]:
        return 0
    row = connection.execute("SELECT version FROM schema_version").fetchone()
    return int(row[0]) if row else 0


def newest_version() -> int:
    """Return the version that this program reads and writes."""
    return max(scripts())


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema forward; a crash leaves either the old or the new version, never between.

    Raises StateError for a state that a newer program wrote.
    """
    version = current_version(connection)
    if version > newest_version():
        raise StateError(
            f"this state was written by {_writer(connection)} (schema {version}; this one, {__version__}, knows "
            f"{newest_version()}); install that version, or restore the copy of the database from before the upgrade"
        )
    for step, script in scripts().items():
        if step <= version:
            continue
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in _statements(script):
                connection.execute(statement)
            connection.execute("DELETE FROM schema_version")
            connection.execute("INSERT INTO schema_version (version) VALUES (?)", (step,))
            if step >= _KNOWS_PROGRAM:
                connection.execute("UPDATE schema_version SET program = ?", (__version__,))
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


def _writer(connection: sqlite3.Connection) -> str:
    try:
        row = connection.execute("SELECT program FROM schema_version").fetchone()
    except sqlite3.OperationalError:
        row = None
    return f"reconciler {row[0]}" if row and row[0] else "a newer reconciler"


def _statements(script: str) -> list[str]:
    statements, pending = [], ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            statements.append(pending)
            pending = ""
    return statements
