"""The settings flags that verbs share, and what they lead to: settings, the state directory, a snapshot."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from reconciler import clock
from reconciler.config import settings as settings_module
from reconciler.config.problems import nearest
from reconciler.config.settings import Settings
from reconciler.errors import CannotTell, SettingsError
from reconciler.gathering import remembered
from reconciler.snapshot import Snapshot
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


@contextmanager
def open_state(settings: Settings) -> Iterator[tuple[StateDir, Store]]:
    """Open the state directory to read it, beside a running daemon or without one. Raises CannotTell."""
    state = StateDir(settings.state_dir)
    store = Store.open_to_read(state.database)
    try:
        yield state, store
    finally:
        store.close()


def take_snapshot(store: Store, settings: Settings) -> Snapshot:
    """Return what the store knows now."""
    snapshot = remembered(store, settings.max_concurrent_deploys, clock.now())
    if snapshot.head is None and not snapshot.entries:
        raise CannotTell("no configuration has been loaded yet; `reconciler run --once` does it")
    return snapshot


def require_target(snapshot: Snapshot, name: str) -> None:
    """Raise CannotTell for a name that is not declared."""
    if name not in snapshot.entries:
        raise CannotTell(f"there is no target {name!r}{nearest(name, snapshot.entries)}")


def is_terminal() -> bool:
    """Whether a person looks at standard output in colour."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ
