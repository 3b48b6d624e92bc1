"""The settings flags that verbs share, and what they lead to: settings, and who answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from reconciler.cli.answers import Answers, Local, Remote
from reconciler.config import settings as settings_module
from reconciler.config.settings import Settings
from reconciler.errors import SettingsError
from reconciler.store import StateDir, Store

F = TypeVar("F", bound=Callable[..., Any])
_PATHS: dict[str, tuple[str, ...]] = {"config_repo": ("config_repo", "url"), "branch": ("config_repo", "branch")}

OUTPUTS = click.Choice(["table", "wide", "json", "yaml", "name"])


def settings_flags(function: F) -> F:
    """Add --config, --config-repo, --branch and --state-dir."""
    options = (
        click.option("--config", "config_file", metavar="FILE", envvar="RECONCILER_CONFIG", help="Settings file."),
        click.option("--config-repo", metavar="URL", help="The repository that holds deployments/*.yaml."),
        click.option("--branch", metavar="BRANCH", help="Its branch.  [default: main]"),
        click.option("--state-dir", metavar="DIR", help="The daemon's state.  [default: /var/lib/reconciler]"),
    )
    for option in reversed(options):
        function = option(function)
    return function


def load_settings(config_file: str | None, **flags: str | None) -> Settings:
    """Return the settings of file, environment and flags. Raises SettingsError."""
    data = None
    if config_file is not None:
        try:
            data = Path(config_file).read_bytes()
        except OSError as error:
            raise SettingsError(f"{config_file}: cannot be read: {error.strerror}") from error
    given: dict[tuple[str, ...], str] = {
        _PATHS.get(name, (name,)): value for name, value in flags.items() if value is not None
    }
    return settings_module.load(data, config_file or "reconciler.yaml", os.environ, given)


def answers_flags(function: F) -> F:
    """Add the settings flags, and --server with --token-file for a daemon elsewhere."""
    options = (
        click.option(
            "--server", metavar="URL", envvar="RECONCILER_SERVER", help="Ask this daemon, not the state directory."
        ),
        click.option(
            "--token-file", metavar="FILE", envvar="RECONCILER_TOKEN_FILE", help="With --server: its API token."
        ),
    )
    for option in reversed(options):
        function = option(function)
    return settings_flags(function)


@contextmanager
def answers(
    *, server: str | None, token_file: str | None, config_file: str | None, **flags: str | None
) -> Iterator[Answers]:
    """Open what answers: a daemon's API, or the state directory beside a running daemon or without one.

    Raises CannotTell where nothing ever ran.
    """
    if server is not None:
        yield Remote(server, token_file)
        return
    settings = load_settings(config_file, **flags)
    state = StateDir(settings.state_dir)
    store = Store.open_to_read(state.database)
    try:
        yield Local(settings, state, store)
    finally:
        store.close()


def is_terminal() -> bool:
    """Whether a person looks at standard output in colour."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ
