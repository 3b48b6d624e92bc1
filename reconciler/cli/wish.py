"""Verbs that wish for something: reconcile, cancel, suspend, resume. It is written down, and the daemon is woken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click
from pydantic import TypeAdapter, ValidationError

from reconciler import clock
from reconciler.cli import options
from reconciler.config.problems import describe
from reconciler.schedule import parse_moment
from reconciler.spec import Variables
from reconciler.wishes import Cancel, Reconcile, Resume, Suspend, Wish

_VARIABLES: TypeAdapter[Mapping[str, str]] = TypeAdapter(Variables)


def _wish(targets: Sequence[str], wish: Wish, flags: dict[str, Any]) -> int:
    with options.answers(**flags) as asked:
        click.echo(asked.wish(targets, wish))
    return 0


@click.command()
@click.argument("targets", nargs=-1, required=True)
@options.answers_flags
@click.option("--env", "variables", multiple=True, metavar="K=V", help="A variable for this deploy alone; no secrets.")
@click.option("--now", is_flag=True, help="Ignore the window.")
def reconcile(*, targets: tuple[str, ...], variables: tuple[str, ...], now: bool, **flags: Any) -> int:
    """Poll now, and deploy targets once more.

    Each is deployed once at its desired version, even where it is in sync or stalled.
    """
    return _wish(targets, Reconcile(env=_environment(variables), now=now), flags)


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
@options.answers_flags
def cancel(*, target: str, **flags: Any) -> int:
    """End a target's running deploy.

    It is recorded as cancelled and starts again after its backoff; suspend the target to keep it stopped.
    """
    return _wish([target], Cancel(), flags)


@click.command()
@click.argument("target")
@options.answers_flags
@click.option("--reason", required=True, help="Why; shown wherever the target is.")
@click.option("--until", metavar="WHEN", help="The end: 2h, 1d12h or 2026-12-01T09:00 (UTC); without it: until resume.")
def suspend(*, target: str, reason: str, until: str | None, **flags: Any) -> int:
    """Start no deploy of a target for a while.

    It ends by itself, or with `resume`; a deploy that runs already goes on.
    """
    try:
        if until is not None:
            parse_moment(until, clock.now())
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--until") from None
    try:
        wish = Suspend(reason=reason, until=until)
    except ValidationError:
        raise click.BadParameter("expected 1 to 500 characters on one line", param_hint="--reason") from None
    return _wish([target], wish, flags)


@click.command()
@click.argument("target")
@options.answers_flags
def resume(*, target: str, **flags: Any) -> int:
    """End a suspension."""
    return _wish([target], Resume(), flags)
