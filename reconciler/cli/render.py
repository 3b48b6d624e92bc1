"""Tables and texts for terminals: columns that fit a line, the reason in words, the next command to type."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import click
import yaml

from reconciler import clock
from reconciler.cli.options import is_terminal
from reconciler.schedule import format_duration
from reconciler.text import one_line, short

_GOOD, _BUSY, _BAD = "green", "yellow", "red"
_MIN_LAST_COLUMN = 24


def echo_data(data: Any, form: str) -> None:
    """Print data as JSON or YAML."""
    click.echo(json.dumps(data, indent=2) if form == "json" else yaml.safe_dump(data, sort_keys=False).rstrip())


def table(head: Sequence[str], rows: Sequence[Sequence[str]], colours: Sequence[str | None] = ()) -> None:
    """Print aligned columns. The last column is cut to the terminal's width; the second one has the colour."""
    clean = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in (head, *clean)) for column in range(len(head) - 1)]
    used = sum(widths) + 2 * len(widths)
    room = max(_MIN_LAST_COLUMN, shutil.get_terminal_size((100, 24)).columns - used) if is_terminal() else None
    for index, row in enumerate((head, *clean)):
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)]
        last = row[-1]
        if room is not None and len(last) > room:
            last = last[: room - 1] + "…"
        if is_terminal():
            if index == 0:
                cells, last = [click.style(cell, dim=True) for cell in cells], click.style(last, dim=True)
            elif index <= len(colours) and colours[index - 1]:
                cells[1] = click.style(cells[1], fg=colours[index - 1])
        click.echo("  ".join([*cells, last]).rstrip())


def targets(data: Mapping[str, Any], form: str) -> None:
    """Print the targets' table in one of the forms of `status -o`."""
    if form in ("json", "yaml"):
        echo_data(data, form)
        return
    views = data["targets"]
    if form == "name":
        for view in views:
            click.echo(view["name"])
        return
    head = ["TARGET", "STATE", "DESIRED", "DEPLOYED", "WHY"]
    rows = [
        [
            view["name"],
            view["decision"]["reason"],
            short(view["desired"] or "-"),
            short(view["deployed"] or "-"),
            _why(view),
        ]
        for view in views
    ]
    if form == "wide":
        head[4:4] = ["BEHIND", "LAST DEPLOY", "REPO", "CONFIG"]
        for row, view in zip(rows, views, strict=True):
            last, config = view["last_deploy"], view["config"]
            row[4:4] = [
                "-" if view["behind"] is None else str(view["behind"]),
                f"{last['id']} {last['status']}" if last else "-",
                view["repo"] or "-",
                f"{config['file']}:{config['line']}",
            ]
    table(head, rows, [_colour(view) for view in views])


def _why(view: Mapping[str, Any]) -> str:
    message = str(view["decision"]["message"])
    if view["behind"]:
        message += f"; {view['behind']} behind {view['follows']}"
    if view["config"]["error"] and view["repo"]:
        message += f"; its new configuration is not valid: {view['config']['error']}"
    return message


def _colour(view: Mapping[str, Any]) -> str:
    if view["conditions"]["ready"]:
        return _GOOD
    return _BAD if view["conditions"]["stalled"] else _BUSY


def deploys(views: Sequence[Mapping[str, Any]]) -> None:
    """Print a history."""
    head = ["DEPLOY", "STATUS", "COMMIT", "CAUSE", "STARTED", "TOOK", "REASON"]
    colours = {"succeeded": _GOOD, "failed": _BAD, "timed_out": _BAD}
    rows = [
        [
            view["id"],
            view["status"],
            short(view["commit"]),
            view["cause"],
            view["started_at"] or view["created_at"],
            "-" if view["duration_s"] is None else format_duration(view["duration_s"]),
            ": ".join(text for text in (view["reason"], view["message"]) if text) or view["cause_message"],
        ]
        for view in views
    ]
    table(head, rows, [colours.get(view["status"], _BUSY) for view in views])


def fields(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values, aligned."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"  {name.ljust(width)}  {one_line(value)}".rstrip())


def ago(moment: str | None) -> str:
    """Return how long ago a moment of a view was, in words."""
    if moment is None:
        return "never"
    return f"{format_duration((clock.now() - datetime.fromisoformat(moment)).total_seconds())} ago"
