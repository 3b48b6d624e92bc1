"""Verbs that move pins: pin, promote, rollback. A pin is a commit of the config repository, and nothing else."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from reconciler import urls
from reconciler.cli import options
from reconciler.cli.answers import who
from reconciler.config.catalogue import check
from reconciler.config.deployments import parse_file
from reconciler.config.problems import nearest
from reconciler.config.settings import Settings
from reconciler.errors import CannotTell, SettingsError
from reconciler.git import mirror as mirrors
from reconciler.git import objects
from reconciler.git.credentials import Credentials
from reconciler.git.library import mirror_name, prepare, use_login
from reconciler.git.pinning import Change, ConfigPlace, Pinned, person, resolve_revision
from reconciler.git.pinning import pin as move_pin
from reconciler.spec import Target
from reconciler.text import short

F = TypeVar("F", bound=Callable[..., Any])
_FULL = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
HISTORY = 200


def _flags(function: F) -> F:
    added = (
        click.option("--push", is_flag=True, help="Push to the config branch, on top of what others pushed."),
        click.option("--push-branch", metavar="NAME", help="Push to this branch instead, for a review."),
        click.option("-m", "--message", metavar="TEXT", default="", help="Why; added to the commit's message."),
    )
    for option in reversed(added):
        function = option(function)
    return function


class _Desk:
    """The config repository, fetched into a folder that is thrown away."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        repo = settings.config_repo
        if repo is None:
            raise SettingsError("config_repo.url: is missing; set it, or name it with --config-repo")
        self._settings = settings
        self._folder = folder
        self._author = person(dict(os.environ)) or (who(), f"{who()}@{socket.gethostname()}")
        prepare(settings.git_timeout_s)
        self._credentials = Credentials(settings.credentials)
        self.place = ConfigPlace(
            repo.url, repo.branch, repo.path, folder / mirror_name(repo.url), self._login(repo.url)
        )

    def _login(self, url: str) -> dict[str, Any] | None:
        login = asyncio.run(self._credentials.login(url))
        message = login.as_message() if login else None
        home = self._folder / f"home-{mirror_name(url)}"
        home.mkdir(exist_ok=True)
        use_login(message, home)
        return message

    def target(self, name: str) -> Target:
        """Return a target as the newest config commit has it. Raises CannotTell."""
        mirrors.fetch(self.place.url, self.place.mirror, [], self.place.login)
        head = objects.resolve(self.place.mirror, f"refs/heads/{self.place.branch}")
        if head is None:
            raise CannotTell(f"{self.place.url} has no branch {self.place.branch}")
        files = objects.config_files(self.place.mirror, head, self.place.path, frozenset())
        found = check(
            parse_file(file.data, file.name, self._settings.url_policy) for file in files if file.data is not None
        )
        entry = found.entries.get(name)
        if entry is None:
            raise CannotTell(f"no file of {self.place.path} declares {name}{nearest(name, found.entries)}")
        if entry.target is None:
            raise CannotTell("; ".join(entry.problems))
        return entry.target

    def commit_of(self, target: Target, revision: str) -> str:
        """Return the full id of a branch, a tag or an abbreviated commit of a target's source. Raises CannotTell."""
        url = str(urls.parse(target.repo))
        mirror = self._folder / mirror_name(url)
        pins = [revision] if _FULL.fullmatch(revision) else []
        mirrors.fetch(url, mirror, pins, self._login(url))
        commit = resolve_revision(mirror, revision)
        if commit is None:
            raise CannotTell(f"{url} has no branch, tag or commit {revision}; push it there first")
        return commit

    def move(self, name: str, commit: str, *, push: bool, push_branch: str | None, message: str) -> Pinned:
        """Move a pin, and say what was done."""
        change = Change(target=name, commit=commit, author=self._author, time=int(time.time()), note=message)
        done = move_pin(self.place, change, push_branch or (self.place.branch if push else None))
        before = short(done.before) if done.before else "no pin"
        if done.commit is None:
            click.echo(f"{name} is pinned to {short(commit)} already", err=True)
        elif push or push_branch:
            where = push_branch or self.place.branch
            click.echo(f"{name}: {before} -> {short(commit)} in {done.file}; pushed {short(done.commit)} to {where}")
        else:
            click.echo(done.patch, nl=False)
            click.echo(
                f"{name}: {before} -> {short(commit)} in {done.file}; nothing is pushed without --push", err=True
            )
        return done


@contextmanager
def _desk(config_file: str | None, flags: dict[str, Any]) -> Iterator[_Desk]:
    named = {key: value for key, value in flags.items() if key not in ("server", "token_file")}
    settings = options.load_settings(config_file, **named)
    with tempfile.TemporaryDirectory(prefix="reconciler-") as folder:
        yield _Desk(settings, Path(folder))


@click.command()
@click.argument("target")
@click.argument("revision", metavar="REV")
@options.settings_flags
@_flags
def pin(
    *,
    target: str,
    revision: str,
    push: bool,
    push_branch: str | None,
    message: str,
    config_file: str | None,
    **flags: Any,
) -> int:
    """Pin a target to a branch's newest commit, a tag or a commit.

    One line of the config repository changes. Without --push the commit is printed as a patch for `git am`.
    """
    with _desk(config_file, flags) as desk:
        commit = desk.commit_of(desk.target(target), revision)
        desk.move(target, commit, push=push, push_branch=push_branch, message=message)
    return 0


@click.command()
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@options.answers_flags
@_flags
def promote(
    *,
    source: str,
    target: str,
    push: bool,
    push_branch: str | None,
    message: str,
    config_file: str | None,
    **flags: Any,
) -> int:
    """Pin TO to what FROM has deployed.

    What is deployed is asked of the daemon (--server, or its state directory). Both must be of one repository.
    """
    with options.answers(config_file=config_file, **flags) as asked:
        (view,) = asked.targets(source)
    if view["deployed"] is None:
        raise CannotTell(f"{source} has nothing deployed yet")
    with _desk(config_file, flags) as desk:
        wanted = desk.target(target)
        if urls.parse(wanted.repo) != urls.parse(desk.target(source).repo):
            raise CannotTell(f"{source} and {target} are not of one repository")
        note = message or f"Promoted from {source}."
        desk.move(target, view["deployed"], push=push, push_branch=push_branch, message=note)
    return 0


@click.command()
@click.argument("target")
@click.argument("deploy", required=False)
@options.answers_flags
@_flags
def rollback(
    *,
    target: str,
    deploy: str | None,
    push: bool,
    push_branch: str | None,
    message: str,
    config_file: str | None,
    **flags: Any,
) -> int:
    """Pin a target to what it ran before.

    Without DEPLOY that is the last commit that was deployed well before the desired one.
    """
    with options.answers(config_file=config_file, **flags) as asked:
        (view,) = asked.targets(target)
        history = asked.history(target, HISTORY)
    good = [one for one in history if one["status"] == "succeeded" and one["commit"] != view["desired"]]
    chosen = good if deploy is None else [one for one in history if one["id"] == deploy]
    if not chosen:
        what = f"no deploy {deploy}" if deploy else "no successful deploy of another commit"
        raise CannotTell(f"the history of {target} has {what}")
    with _desk(config_file, flags) as desk:
        desk.target(target)
        note = message or f"Rolled back to deploy {chosen[0]['id']}."
        desk.move(target, chosen[0]["commit"], push=push, push_branch=push_branch, message=note)
    return 0
