"""The first five minutes: a small application, a config repository that pins it, and the daemon between them."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import click

from reconciler.cli import render
from reconciler.config import settings as settings_module
from reconciler.config.settings import Log, Settings
from reconciler.daemon import Daemon
from reconciler.errors import ReconcilerError
from reconciler.events import DeployFinished, DeployStarted, Event
from reconciler.git import authoring
from reconciler.model import DeployStatus
from reconciler.report import logs
from reconciler.schedule import format_duration
from reconciler.text import short
from reconciler.views import targets_view

EXAMPLE_URL = "https://git.example.com/acme/hello.git"
DEFAULT_LISTEN = "127.0.0.1:8080"
_MAKEFILE = """\
.PHONY: test deploy

test:
	grep -q Hello greeting.txt

deploy:
	mkdir -p "$(SITE)"
	cp greeting.txt "$(SITE)/$(STAGE).txt"
	@echo "$(STAGE) now says: $$(cat greeting.txt)"
"""
# Fixed content, author and times make the same commit ids everywhere: those that deployments/hello.yaml pins.
HISTORY = (
    ("Say hello", "Hello.\n"),
    ("Say hello to the world", "Hello, world.\n"),
    ("Greet with more warmth", "Hello, dear world!\n"),
)
_FIRST_COMMIT_TIME = 1_767_225_600  # 2026-01-01, an hour between commits


def make_application(path: Path) -> list[str]:
    """Make the example's application repository; return its commits, the oldest first."""
    authoring.create(path)
    commits = []
    for number, (subject, greeting) in enumerate(HISTORY):
        files = {"Makefile": _MAKEFILE, "greeting.txt": greeting}
        commits.append(authoring.commit(path, files, subject + "\n", _FIRST_COMMIT_TIME + 3600 * number))
    return commits


def example_files() -> dict[str, str]:
    """Return the project's own deployments/ example: from the installed package, or from a source tree."""
    packaged = resources.files("reconciler.cli") / "example" / "deployments"
    source = Path(__file__).parents[2] / "deployments"
    folder = packaged if packaged.is_dir() else source
    return {
        f"deployments/{file.name}": file.read_text(encoding="utf-8")
        for file in folder.iterdir()
        if file.name.endswith(".yaml")
    }


def make_config(path: Path, application: Path) -> None:
    """Make the config repository: the example, with the application's place in it."""
    files = {name: text.replace(EXAMPLE_URL, application.as_uri()) for name, text in example_files().items()}
    authoring.create(path)
    authoring.commit(path, files, "Deploy hello to staging and production\n", _FIRST_COMMIT_TIME + 86_400)


@click.command()
@click.option("--once", is_flag=True, help="Deploy, print what happened, and end.")
@click.option("--dir", "directory", metavar="DIR", help="Where to make it all.  [default: a temporary directory]")
@click.option("--listen", metavar="HOST:PORT", help=f"API and metrics.  [default: {DEFAULT_LISTEN}, or a free port]")
def demo(*, once: bool, directory: str | None, listen: str | None) -> int:
    """Show it at work: two repositories, two targets, one daemon.

    Makes an application repository and a config repository that pins it, starts the daemon on them, and goes on
    until Ctrl-C, so that you can move a pin and watch it being deployed.
    """
    root = Path(directory).absolute() if directory else Path(tempfile.mkdtemp(prefix="reconciler-demo-"))
    if root.exists() and any(root.iterdir()):
        raise ReconcilerError(f"{root} exists and is not empty; name a new directory with --dir")
    try:
        return _demo(root, once=once, listen=listen)
    finally:
        if directory is None:
            shutil.rmtree(root, ignore_errors=True)
            click.echo(f"removed   {root}")
        else:
            click.echo(f"kept      {root}")


def _demo(root: Path, *, once: bool, listen: str | None) -> int:
    commits = make_application(root / "hello")
    make_config(root / "config", root / "hello")
    settings = _settings(root, listen or _free_address())
    logs.configure(Log(level="error"))
    click.echo(f"made      {root}/hello   an application of {len(commits)} commits, with a Makefile")
    click.echo(f"made      {root}/config  a config repository: deployments/hello.yaml pins two targets to them")
    os.environ["SITE"] = str(root / "site")
    if once:
        return asyncio.run(_once(settings, root))
    asyncio.run(_for_ever(settings, root, commits))
    return 0


def _settings(root: Path, listen: str) -> Settings:
    values: Mapping[tuple[str, ...], str] = {
        ("config_repo", "url"): str(root / "config"),
        ("config_repo", "interval"): "2s",
        ("state_dir",): str(root / "state"),
        ("listen",): listen,
        ("allow_local_repos",): "true",
    }
    return settings_module.load(b"pass_env: [PATH, SITE]", "demo", {}, values)


def _free_address() -> str:
    host, _, port = DEFAULT_LISTEN.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError:
            return f"{host}:0"
    return DEFAULT_LISTEN


class _Teller:
    """Tells what happens, in a line a deploy."""

    def hear(self, event: Event) -> None:
        """Print a line for the start and the end of a deploy."""
        if isinstance(event, DeployStarted):
            click.echo(f"deploying {event.deploy.target}  {short(event.deploy.version.commit)}: {event.deploy.message}")
        elif isinstance(event, DeployFinished):
            outcome, took = event.outcome, format_duration(event.duration_s)
            why = "" if outcome.status is DeployStatus.SUCCEEDED else f": {outcome.message}"
            click.echo(f"{outcome.status} {event.deploy.target}  {short(event.deploy.version.commit)} in {took}{why}")
        sys.stdout.flush()


async def _once(settings: Settings, root: Path) -> int:
    daemon = Daemon(settings)
    daemon.hear_also(_Teller())
    snapshot = await daemon.run_once()
    click.echo()
    render.targets(targets_view(snapshot), "table")
    click.echo()
    for file in sorted((root / "site").iterdir()):
        click.echo(f"{file}: {file.read_text(encoding='utf-8').strip()}")
    good = all(planned.facts.observed.deployed for planned in snapshot.plan.targets.values())
    return 0 if good else 1


async def _for_ever(settings: Settings, root: Path, commits: list[str]) -> None:
    daemon = Daemon(settings)
    daemon.hear_also(_Teller())
    await daemon.run(lambda address: _show_around(address, root, commits))


def _command() -> str:
    """Return how a person in another directory calls us."""
    return "reconciler" if shutil.which("reconciler") else str(Path(sys.argv[0]).absolute())


def _show_around(address: str, root: Path, commits: list[str]) -> None:
    click.echo(
        f"listening http://{address}/   (also /api/v1/targets, /metrics and /healthz)\n"
        f"\nMove a pin, and watch it being deployed (in another terminal):\n"
        f"  cd {root}/config\n"
        f"  sed -i s/{commits[1]}/{commits[2]}/ deployments/hello.yaml\n"
        f"  git commit -am 'Deploy the warmer greeting to production'\n"
        f"\nLook around:\n"
        f"  {_command()} status --state-dir {root}/state\n"
        f"  {_command()} history hello-production --state-dir {root}/state\n"
        f"  cat {root}/site/production.txt\n"
        f"\nCtrl-C ends it.\n"
    )
    sys.stdout.flush()
