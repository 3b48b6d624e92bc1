"""Verbs that read the state directory, with or without a running daemon: status, why, history, logs, diff."""

from __future__ import annotations

import time

import click

from reconciler import views
from reconciler.cli import options, render
from reconciler.errors import CannotTell
from reconciler.git import objects
from reconciler.git.library import mirror_name
from reconciler.lifecycle import LIVE
from reconciler.model import Deploy
from reconciler.runner import output as deploy_output
from reconciler.store import StateDir, Store
from reconciler.text import safe, short

MAX_DIFF = 200
FOLLOW_EVERY_S = 0.2
DEFAULT_HISTORY = 20


@click.command()
@click.argument("target", required=False)
@options.settings_flags
@click.option("-o", "--output", type=options.OUTPUTS, default="table", help="How to print it.")
def status(*, target: str | None, config_file: str | None, output: str, **flags: str | None) -> int:
    """Show what is desired, what is deployed, and why.

    The exit code is 0 when all targets (or the one named) are in sync and 1 when not.
    """
    settings = options.load_settings(config_file, **flags)
    with options.open_state(settings) as (state, store):
        snapshot = options.take_snapshot(store, settings)
        if target is not None:
            options.require_target(snapshot, target)
        data = views.targets_view(snapshot, None if target is None else [target])
    render.targets(data, output)
    if output in ("table", "wide") and snapshot.head and target is None:
        for problem in snapshot.head.problems:
            click.echo(problem, err=True)
    good = all(views.in_sync(view) for view in data["targets"])
    if not good and output in ("table", "wide") and not state.is_locked():
        click.echo(f"note: no daemon runs on {state.path}; this is what the last one knew", err=True)
    return 0 if good else 1


@click.command()
@click.argument("target")
@options.settings_flags
def why(*, target: str, config_file: str | None, **flags: str | None) -> int:
    """Explain the decision for a target.

    Names the rule that matched, and what would change it.
    """
    settings = options.load_settings(config_file, **flags)
    with options.open_state(settings) as (_, store):
        snapshot = options.take_snapshot(store, settings)
    options.require_target(snapshot, target)
    view, entry = views.target_view(snapshot, target), snapshot.entries[target]
    decision = view["decision"]
    click.echo(f"{target}: {decision['kind']}, {decision['reason']}: {safe(decision['message'])}")
    planned, record, last = snapshot.plan.targets.get(target), snapshot.records.get(target), view["last_deploy"]
    rows = [("declared in", f"{entry.place} at config commit {short(entry.commit)}")]
    if planned is not None:
        rows = [
            ("rule", f"{planned.rule.number}: {planned.rule.condition}"),
            ("then", planned.rule.action),
            ("what changes it", planned.rule.remedy),
            *rows,
        ]
    if record is not None:
        rows += [
            ("desired", f"{view['desired'] or '-'} {view['revision']} ({render.ago(record.desired_since)})"),
            ("deployed", f"{view['deployed'] or '-'} ({render.ago(record.observed.deployed_at)})"),
        ]
    if decision["until"]:
        rows.append(("until", decision["until"]))
    if last is not None:
        rows.append(
            ("last deploy", f"{last['id']} {last['status']} {last['reason'] or ''}; reconciler logs {last['id']}")
        )
    rows += [("config error", problem) for problem in entry.problems]
    render.fields(rows)
    return 0


@click.command()
@click.argument("target")
@options.settings_flags
@click.option(
    "-n", "--limit", type=click.IntRange(1, 1000), default=DEFAULT_HISTORY, help="How many.", show_default=True
)
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", help="How to print it.")
def history(*, target: str, limit: int, config_file: str | None, output: str, **flags: str | None) -> int:
    """Show the deploys of a target, the newest first."""
    settings = options.load_settings(config_file, **flags)
    with options.open_state(settings) as (_, store):
        found = store.history(target, limit)
        if not found:
            options.require_target(options.take_snapshot(store, settings), target)
    data = {"deploys": [views.deploy_view(deploy) for deploy in found]}
    if output == "table":
        render.deploys(data["deploys"])
    else:
        render.echo_data(data, output)
    return 0


@click.command()
@click.argument("target_or_deploy", metavar="TARGET|DEPLOY")
@options.settings_flags
@click.option("-f", "--follow", is_flag=True, help="Go on until the deploy ends.")
@click.option("--raw", is_flag=True, help="Do not escape control characters.")
def logs(*, target_or_deploy: str, follow: bool, raw: bool, config_file: str | None, **flags: str | None) -> int:
    """Print what the steps of a deploy printed.

    Of a target it is the newest deploy.
    """
    settings = options.load_settings(config_file, **flags)
    with options.open_state(settings) as (state, store):
        deploy = _find_deploy(store, target_or_deploy)
        offset = _print_output(state, deploy, 0, raw=raw)
        while follow and deploy.status in LIVE:
            time.sleep(FOLLOW_EVERY_S)
            # The status is read before the output: what was written until the end is then printed too.
            deploy = store.deploy(deploy.id) or deploy
            offset = _print_output(state, deploy, offset, raw=raw)
    if not offset and deploy.outcome is not None:
        click.echo(f"{deploy.id} {deploy.status} before it printed anything: {safe(deploy.outcome.message)}", err=True)
    return 0


def _find_deploy(store: Store, name: str) -> Deploy:
    newest = store.history(name, 1)
    deploy = newest[0] if newest else store.deploy(name)
    if deploy is None:
        raise CannotTell(f"there is no deploy {name!r}, and no target of that name was deployed yet")
    return deploy


def _print_output(state: StateDir, deploy: Deploy, offset: int, *, raw: bool) -> int:
    folder = state.log_of(deploy.target, deploy.id)
    while (piece := deploy_output.read(folder, offset)) is not None:
        if piece.skipped:
            click.echo(f"\n… {piece.skipped} bytes left out …")
        text = piece.data.decode(errors="replace")
        click.echo(text if raw else safe(text), nl=False, color=raw or None)
        offset = piece.next_offset
    return offset


@click.command()
@click.argument("target")
@options.settings_flags
def diff(*, target: str, config_file: str | None, **flags: str | None) -> int:
    """List the commits between deployed and desired.

    The exit code is 0 when both are the same commit and 1 when they differ.
    """
    settings = options.load_settings(config_file, **flags)
    with options.open_state(settings) as (state, store):
        snapshot = options.take_snapshot(store, settings)
    options.require_target(snapshot, target)
    view = views.target_view(snapshot, target)
    desired, deployed = view["desired"], view["deployed"]
    if desired is None:
        raise CannotTell(f"{target} has no desired commit: {view['decision']['message']}")
    if desired == deployed:
        click.echo(f"{target}: {short(desired)} is both deployed and desired", err=True)
        return 0
    mirror = state.mirrors / mirror_name(snapshot.plan.targets[target].facts.target.source)
    click.echo(f"{target}: {short(deployed or 'nothing')} is deployed, {short(desired)} is desired", err=True)
    lines = [("+", commit) for commit in objects.between(mirror, deployed, desired, MAX_DIFF)]
    if deployed is not None:
        lines += [("-", commit) for commit in objects.between(mirror, desired, deployed, MAX_DIFF)]
    for sign, commit in lines:
        when = commit.when.strftime("%Y-%m-%d")
        click.echo(safe(f"{sign} {short(commit.commit)} {when} {commit.author}: {commit.subject}"))
    return 1
