"""What we rely on in SQLite, PyYAML and APScheduler."""

from __future__ import annotations

import inspect
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from apscheduler.triggers.interval import IntervalTrigger


def test_a_partial_unique_index_holds() -> None:
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE d (t TEXT, s TEXT)")
    database.execute("CREATE UNIQUE INDEX one ON d (t) WHERE s = 'running'")
    database.execute("INSERT INTO d VALUES ('a', 'running'), ('a', 'failed'), ('a', 'failed')")
    with pytest.raises(sqlite3.IntegrityError):
        database.execute("INSERT INTO d VALUES ('a', 'running')")
    database.close()


def test_an_upsert_that_does_not_apply_returns_no_row() -> None:
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE l (t TEXT PRIMARY KEY, f INTEGER, h TEXT)")
    claim = """INSERT INTO l VALUES ('a', 1, ?)
        ON CONFLICT (t) DO UPDATE SET f = f + 1, h = excluded.h WHERE h IS NULL RETURNING f"""
    assert database.execute(claim, ("me",)).fetchone() == (1,)
    assert database.execute(claim, ("you",)).fetchone() is None
    database.close()


def test_a_killed_writer_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    script = f"""
import os, sqlite3
database = sqlite3.connect({str(tmp_path / "d.db")!r}, isolation_level=None)
database.execute("PRAGMA synchronous = FULL")
database.execute("CREATE TABLE t (n INTEGER)")
for n in range(50):
    database.execute("INSERT INTO t VALUES (?)", (n,))
database.execute("BEGIN IMMEDIATE")
database.execute("INSERT INTO t VALUES (50)")
os._exit(9)
"""
    subprocess.run([sys.executable, "-c", script], check=False)
    database = sqlite3.connect(tmp_path / "d.db")
    assert database.execute("SELECT COUNT(*) FROM t").fetchone() == (50,)
    database.close()


def test_garbage_is_a_database_error_and_not_an_operational_one(tmp_path: Path) -> None:
    (tmp_path / "d.db").write_bytes(b"garbage" * 1000)
    database = sqlite3.connect(tmp_path / "d.db")
    with pytest.raises(sqlite3.DatabaseError) as error:
        database.execute("PRAGMA quick_check").fetchone()
    assert not isinstance(error.value, sqlite3.OperationalError)
    database.close()


def test_the_composing_loader_dies_of_nesting_where_events_do_not() -> None:
    # Why we build the tree from events. The loader crashes the whole process.
    script = "import sys, yaml; yaml.load('[' * 200_000, yaml.CSafeLoader)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode < 0
    events = yaml.parse("[" * 200_000, Loader=yaml.CSafeLoader)
    assert sum(1 for _, _event in zip(range(1_000), events, strict=False)) == 1_000


def test_yaml_guesses_types_and_swallows_duplicates() -> None:
    # Why scalars stay text here, and duplicate keys are problems.
    assert yaml.safe_load("a: 0123456") == {"a": 42_798}
    assert yaml.safe_load("a: no") == {"a": False}
    assert yaml.safe_load("a: 1\na: 2") == {"a": 2}


def test_the_stock_interval_trigger_catches_up_tick_by_tick() -> None:
    # Why the tick has a trigger of its own: after a jump of a year this one fires 31 million times.
    start = datetime(2026, 1, 1, tzinfo=UTC)
    trigger = IntervalTrigger(seconds=1, start_date=start, timezone=UTC)
    following = trigger.get_next_fire_time(start, start + timedelta(seconds=1))
    assert following == start + timedelta(seconds=1)
    assert "now" in inspect.signature(trigger.get_next_fire_time).parameters
