"""Verbs that wish for something: reconcile, cancel, suspend, resume. The store has it, the daemon is woken."""

from __future__ import annotations

import getpass
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import click
from pydantic import TypeAdapter, ValidationError

from reconciler import clock, waking
from reconciler.cli import options
from reconciler.config.problems import describe
from reconciler.errors import CannotTell
from reconciler.model import Request, Suspension
from reconciler.schedule import parse_duration
from reconciler.spec import Variables
from reconciler.store import StateDir

_VARIABLES: TypeAdapter[Mapping[str, str]] = TypeAdapter(Variables)


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"


def _told(state: StateDir, targets: Sequence[str], words: str) -> None:
    if waking.wake(state.path, targets):
        click.echo(words)
    else:
        click.echo(f"{words}; no daemon runs on {state.path}, the next one will act on it")


@click.command()
@click.argument("targets", nargs=-1, required=True)
@options.settings_flags
@click.option("--env", "variables", multiple=True, metavar="K=V", help="A variable for this deploy alone; no secrets.")
@click.option("--now", is_flag=True, help="Ignore the window.")
def reconcile(
    *, targets: tuple[str, ...], variables: tuple[str, ...], now: bool, config_file: str | None, **flags: str | None
) -> int:
    """Poll now, and deploy targets once more.

    Each is deployed once at its desired version, even where it is in sync or stalled.
    """
    env = _environment(variables)
    settings = options.load_settings(config_file, **flags)
    with options.open_state(settings) as (state, store):
        snapshot = options.take_snapshot(store, settings)
        for target in targets:
            options.require_target(snapshot, target)
        for target in targets:
            store.request(target, Request(uuid.uuid4().hex, _who(), now, env))
        _told(state, targets, f"requested: {', '.join(targets)}")
    return 0


def _environment(variables: Sequence[str]) -> dict[str, str]:
    pairs = [variable.partition("=") for variable in variables]
    for name, equals, _ in pairs:
        if not equals:
            raise click.BadParameter(f"expected K=V, found {name!r}", param_hint="--env")
    try:
        return dict(_VARIABLES.validate_python({name: value for name, _, value in pairs}))
    except ValidationError as error:
        item = error.errors(include_url=False, include_input=False)[0]
        raise click.BadParameter(f"{item['loc'][0]}: {describe(item, ())}", param_hint="--env") from None


@click.command()
@click.argument("target")
@options.settings_flags
def cancel(*, target: str, config_file: str | None, **flags: str | None) -> int:
    """End a target's running deploy.

    It is recorded as cancelled and starts again after its backoff; suspend the target to keep it stopped.
    """
    settings = options.load_settings(config_file, **flags)
    with options.open_state(settings) as (state, store):
        options.require_target(options.take_snapshot(store, settings), target)
        if not store.cancel(target, _who()):
            raise CannotTell(f"no deploy of {target} is running")
        _told(state, [target], f"cancelling the deploy of {target}")
    return 0


@click.command()
@click.argument("target")
@options.settings_flags
@click.option("--reason", required=True, help="Why; shown wherever the target is.")
@click.option("--until", metavar="WHEN", help="The end: 2h, 1d12h or 2026-12-01T09:00 (UTC); without it: until resume.")
def suspend(*, target: str, reason: str, until: str | None, config_file: str | None, **flags: str | None) -> int:
    """Start no deploy of a target for a while.

    It ends by itself, or with `resume`; a deploy that runs already goes on.
    """
    end = _moment(until) if until else None
    settings = options.load_settings(config_file, **flags)
    with options.open_state(settings) as (state, store):
        options.require_target(options.take_snapshot(store, settings), target)
        store.suspend(target, Suspension(reason, _who(), end))
        _told(state, [target], f"suspended: {target}" + (f" until {end:%Y-%m-%d %H:%M} UTC" if end else ""))
    return 0


def _moment(text: str) -> datetime:
    try:
        return clock.now() + timedelta(seconds=parse_duration(text))
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter("expected 2h, 1d12h or 2026-12-01T09:00", param_hint="--until") from None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


@click.command()
@click.argument("target")
@options.settings_flags
def resume(*, target: str, config_file: str | None, **flags: str | None) -> int:
    """End a suspension."""
    settings = options.load_settings(config_file, **flags)
    with options.open_state(settings) as (state, store):
        options.require_target(options.take_snapshot(store, settings), target)
        store.resume(target)
        _told(state, [target], f"resumed: {target}")
    return 0
