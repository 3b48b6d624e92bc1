"""Verbs that read, here with or without a running daemon, or from one elsewhere: status, why, history, logs, diff."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import click

from reconciler import views
from reconciler.cli import options, render
from reconciler.cli.answers import Answers
from reconciler.errors import CannotTell
from reconciler.planning import RULES
from reconciler.shapes import TargetView
from reconciler.text import safe, short

DEFAULT_HISTORY = 20
WATCH_EVERY_S = 1.0
_CLEAR = "\x1b[H\x1b[2J"


@click.command()
@click.argument("target", required=False)
@options.answers_flags
@click.option("-o", "--output", type=options.OUTPUTS, default="table", help="How to print it.")
@click.option("-w", "--watch", is_flag=True, help="Print again whenever something changes, until Ctrl-C.")
def status(*, target: str | None, output: str, watch: bool, **flags: Any) -> int:
    """Show what is desired, what is deployed, and why.

    The exit code is 0 when all targets (or the one named) are in sync and 1 when not.
    """
    with options.answers(**flags) as asked:
        found = _show_status(asked, target, output)
        while watch:
            time.sleep(WATCH_EVERY_S)
            newest = asked.targets(target)
            if newest != found:
                if options.is_terminal():
                    click.echo(_CLEAR, nl=False)
                found = _show_status(asked, target, output, newest)
        good = all(views.in_sync(view) for view in found)
        note = None if good else asked.note()
    if note and output in ("table", "wide"):
        click.echo(f"note: {note}", err=True)
    return 0 if good else 1


def _show_status(
    asked: Answers, target: str | None, output: str, found: Sequence[TargetView] | None = None
) -> Sequence[TargetView]:
    found = asked.targets(target) if found is None else found
    render.targets({"targets": found}, output)
    if output in ("table", "wide") and target is None:
        for problem in asked.config()["problems"]:
            click.echo(problem, err=True)
    return found


@click.command()
@click.argument("target")
@options.answers_flags
def why(*, target: str, **flags: Any) -> int:
    """Explain the decision for a target.

    Names the rule that matched, and what would change it.
    """
    with options.answers(**flags) as asked:
        (view,) = asked.targets(target)
    decision, entry, last = view["decision"], view["config"], view["last_deploy"]
    click.echo(f"{target}: {decision['kind']}, {decision['reason']}: {safe(decision['message'])}")
    place = f"{entry['file']}:{entry['line']}"
    rows = [("declared in", f"{place} at config commit {short(entry['commit'])}")]
    if decision["rule"] is not None:
        rule = RULES[decision["rule"] - 1]
        rows = [
            ("rule", f"{rule.number}: {rule.condition}"),
            ("then", rule.action),
            ("what changes it", rule.remedy),
            *rows,
            ("desired", f"{view['desired'] or '-'} {view['revision']} ({render.ago(view['desired_since'])})"),
            ("deployed", f"{view['deployed'] or '-'} ({render.ago(view['deployed_at'])})"),
        ]
    if decision["until"]:
        rows.append(("until", decision["until"]))
    if last is not None:
        rows.append(
            ("last deploy", f"{last['id']} {last['status']} {last['reason'] or ''}; reconciler logs {last['id']}")
        )
    if entry["error"]:
        rows.append(("config error", entry["error"]))
    render.fields(rows)
    return 0


@click.command()
@click.argument("target")
@options.answers_flags
@click.option(
    "-n", "--limit", type=click.IntRange(1, 1000), default=DEFAULT_HISTORY, help="How many.", show_default=True
)
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", help="How to print it.")
def history(*, target: str, limit: int, output: str, **flags: Any) -> int:
    """Show the deploys of a target, the newest first."""
    with options.answers(**flags) as asked:
        found = asked.history(target, limit)
    if output == "table":
        render.deploys(found)
    else:
        render.echo_data({"deploys": found}, output)
    return 0


@click.command()
@click.argument("target_or_deploy", metavar="TARGET|DEPLOY")
@options.answers_flags
@click.option("-f", "--follow", is_flag=True, help="Go on until the deploy ends.")
@click.option("--raw", is_flag=True, help="Do not escape control characters.")
def logs(*, target_or_deploy: str, follow: bool, raw: bool, **flags: Any) -> int:
    """Print what the steps of a deploy printed.

    Of a target it is the newest deploy.
    """
    with options.answers(**flags) as asked:
        printed = False
        for text in asked.log(target_or_deploy, follow=follow):
            click.echo(text if raw else safe(text), nl=False, color=raw or None)
            printed = printed or bool(text)
        if not printed:
            deploy = asked.outcome(target_or_deploy)
            if deploy["finished_at"]:
                words = f"{deploy['id']} {deploy['status']} before it printed anything: {safe(deploy['message'])}"
                click.echo(words, err=True)
    return 0


@click.command()
@click.argument("target")
@options.answers_flags
def diff(*, target: str, **flags: Any) -> int:
    """List the commits between deployed and desired.

    The exit code is 0 when both are the same commit and 1 when they differ.
    """
    with options.answers(**flags) as asked:
        (view,) = asked.targets(target)
        desired, deployed = view["desired"], view["deployed"]
        if desired is None:
            raise CannotTell(f"{target} has no desired commit: {view['decision']['message']}")
        if desired == deployed:
            click.echo(f"{target}: {short(desired)} is both deployed and desired", err=True)
            return 0
        found = asked.commits(view)
    click.echo(f"{target}: {short(deployed or 'nothing')} is deployed, {short(desired)} is desired", err=True)
    for sign, commits in (("+", found["added"]), ("-", found["removed"])):
        for commit in commits:
            day = (commit["when"] or "")[:10]
            click.echo(safe(f"{sign} {short(commit['commit'])} {day} {commit['author']}: {commit['subject']}"))
    return 1
