"""Kills the daemon at a chosen point: every state write, every spawn and wait, every change of a file.

Nothing in the product knows of this. The points come from outside it: SQLite's own trace of statements, Python's
audit events for processes and files, and the methods at which the daemon waits for a deploy. Each run is a forked
child, so that nothing is imported again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reconciler import deploying
from reconciler.config import settings as settings_module
from reconciler.config.settings import Settings
from reconciler.daemon import Daemon
from reconciler.runner.deploys import RunningDeploy

FILES = frozenset({"os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "subprocess.Popen", "os.chmod"})
WRITES = ("BEGIN", "INSERT", "UPDATE", "DELETE", "COMMIT", "CREATE")


class Points:
    """Counts points; at the one chosen, the process is killed as by `kill -9`."""

    def __init__(self, die_at: int | None) -> None:
        self.die_at = die_at
        self.names: list[str] = []

    def reach(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        del arguments
        if event in FILES:
            self.reach(event)

    def traced(self, connect: Callable[..., sqlite3.Connection]) -> Callable[..., sqlite3.Connection]:
        def connect_and_trace(*arguments: Any, **keywords: Any) -> sqlite3.Connection:
            connection = connect(*arguments, **keywords)
            connection.set_trace_callback(self.trace)
            return connection

        return connect_and_trace

    def trace(self, statement: str) -> None:
        if statement.lstrip().startswith(WRITES):
            self.reach("sql " + " ".join(statement.split()[:3]))

    def around(self, owner: type, name: str) -> None:
        original = getattr(owner, name)

        async def wrapped(*arguments: Any) -> Any:
            self.reach(f"before {name}")
            value = await original(*arguments)
            self.reach(f"after {name}")
            return value

        setattr(owner, name, wrapped)


def settings_of(config_url: str, state: Path) -> Settings:
    values: dict[tuple[str, ...], str] = {
        ("config_repo", "url"): config_url,
        ("state_dir",): str(state),
        ("allow_local_repos",): "true",
        ("kill_grace",): "200ms",
    }
    return settings_module.load(b"pass_env: [PATH, SITE]", "crashing", {}, values)


def run_once(settings: Settings, die_at: int | None, report: Path | None = None) -> int:
    """Run `run --once` in a forked child that dies at point `die_at`; return its wait status as an exit code."""
    pid = os.fork()
    if pid == 0:
        _child(settings, Points(die_at), report)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _child(settings: Settings, points: Points, report: Path | None) -> None:
    code = 1
    try:
        deploying.RECOVERY_PATIENCE_S = 5.0
        quiet = os.open("/dev/null", os.O_WRONLY)
        os.dup2(quiet, 1)
        for name in ("wait", "tell"):
            points.around(RunningDeploy, name)
        setattr(sqlite3, "connect", points.traced(sqlite3.connect))  # noqa: B010 - mypy sees the other way as an error
        sys.addaudithook(points.hear)

        async def go() -> bool:
            snapshot = await Daemon(settings).run_once()
            return all(planned.decision.reason == "in_sync" for planned in snapshot.plan.targets.values())

        code = 0 if asyncio.run(go()) else 3
        if report is not None:
            report.write_text("\n".join(points.names))
    except BaseException:  # noqa: BLE001 - the child must end here, whatever happened
        traceback.print_exc()
    finally:
        os._exit(code)
