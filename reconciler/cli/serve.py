"""Verbs that work: run, plan, healthcheck."""

from __future__ import annotations

import asyncio
import sys
import urllib.request
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import click

from reconciler import clock, views
from reconciler.cli import options, render
from reconciler.config.settings import Log, Settings
from reconciler.daemon import Daemon
from reconciler.errors import CannotTell
from reconciler.gathering import remembered
from reconciler.report import logs
from reconciler.snapshot import Snapshot
from reconciler.store import StateDir, Store

T = TypeVar("T")
_PROGRESS_AFTER_S = 1.0
_HEALTH_TIMEOUT_S = 5.0


@click.command()
@click.option("--once", is_flag=True, help="Poll, deploy everything that differs, wait, print the table, exit.")
@options.settings_flags
@click.option("--listen", metavar="HOST:PORT", help="API, pages and metrics.  [default: 127.0.0.1:8080]")
@click.option("--textfile", metavar="FILE", help="With --once: write the metrics there, for node_exporter.")
@click.option("--wait", is_flag=True, help="Take over from a daemon that has the state directory, once that has ended.")
def run(*, once: bool, textfile: str | None, wait: bool, config_file: str | None, **flags: str | None) -> int:
    """Poll and deploy, for ever or once.

    The first stop signal lets running deploys finish (drain_timeout), the second cancels them. With --once the
    exit code is 0 when all targets are in sync and 1 when not: for cron, CI and tests.
    """
    if textfile is not None and not once:
        raise click.UsageError("--textfile goes with --once; the daemon serves /metrics")
    settings = options.load_settings(config_file, **flags)
    logs.configure(settings.log)
    if not once:
        if wait and StateDir(settings.state_dir).is_locked():
            click.echo(f"waiting for the daemon that has {settings.state_dir} to end", err=True)
        asyncio.run(_run(settings, wait=wait))
        return 0
    snapshot = asyncio.run(_once(settings, start=True, textfile=textfile))
    return _show(snapshot)


async def _run(settings: Settings, *, wait: bool) -> None:
    await Daemon(settings, wait=wait).run()


async def _once(settings: Settings, *, start: bool, textfile: str | None = None) -> Snapshot:
    return await Daemon(settings).run_once(start=start, textfile=textfile)


@click.command()
@options.settings_flags
@click.option("-o", "--output", type=options.OUTPUTS, default="table", help="How to print it.")
def plan(*, config_file: str | None, output: str, **flags: str | None) -> int:
    """Show what would be done, and why, without doing it.

    Polls and fetches as `run` does, and starts nothing. Beside a running daemon it shows the daemon's own view.
    The exit code is 0 when all targets are in sync and 1 when not.
    """
    settings = options.load_settings(config_file, **flags)
    logs.configure(Log(format=settings.log.format, level="error"))
    if StateDir(settings.state_dir).is_locked():
        store = Store.open_to_read(StateDir(settings.state_dir).database)
        snapshot = remembered(store, settings.max_concurrent_deploys, clock.now())
        store.close()
    else:
        snapshot = asyncio.run(_with_progress(lambda: _once(settings, start=False), "polling and fetching"))
    return _show(snapshot, output)


def _show(snapshot: Snapshot, output: str = "table") -> int:
    data = views.targets_view(snapshot)
    render.targets(data, output)
    problems = snapshot.head.problems if snapshot.head else ()
    for problem in problems:
        click.echo(problem, err=True)
    return 0 if not problems and all(views.in_sync(target) for target in data["targets"]) else 1


async def _with_progress(work: Callable[[], Awaitable[T]], words: str) -> T:
    """Do work; on a terminal, say so when it takes over a second."""

    async def say() -> None:
        await asyncio.sleep(_PROGRESS_AFTER_S)
        click.echo(f"{words} …", err=True)

    saying = asyncio.create_task(say()) if sys.stderr.isatty() else None
    try:
        return await work()
    finally:
        if saying is not None:
            saying.cancel()
            with suppress(asyncio.CancelledError):
                await saying


@click.command()
@options.settings_flags
@click.option("--listen", metavar="HOST:PORT", help="Where the daemon listens.  [default: 127.0.0.1:8080]")
def healthcheck(*, config_file: str | None, **flags: str | None) -> int:
    """Ask the daemon on this machine whether its loop turns."""
    host, port = options.load_settings(config_file, **flags).listen_address
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - asked, not listened on
    shown = f"[{host}]" if ":" in host else host
    try:
        with urllib.request.urlopen(f"http://{shown}:{port}/healthz", timeout=_HEALTH_TIMEOUT_S) as answer:
            click.echo(answer.read().decode().strip())
    except OSError as error:
        raise CannotTell(f"the daemon on {host}:{port} is not healthy: {error}") from error
    return 0
