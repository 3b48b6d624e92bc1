"""Writing to repositories of a person's own: a new one with its first commits. Never to a Source's mirror."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pygit2

AUTHOR = ("reconciler", "reconciler@localhost")


def create(path: Path, branch: str = "main") -> None:
    """Make an empty repository with a work tree, in which `git commit` works without further set-up."""
    repository = pygit2.init_repository(str(path), initial_head=branch)
    repository.config["user.name"], repository.config["user.email"] = AUTHOR


def commit(path: Path, files: Mapping[str, str], message: str, time: int) -> str:
    """Write files, commit them to the branch that is checked out, and return the commit's id.

    `time` is in seconds since 1970: with the same content it makes the same id everywhere.
    """
    repository = pygit2.Repository(str(path))
    for name, text in files.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        repository.index.add(name)
    repository.index.write()
    signature = pygit2.Signature(*AUTHOR, time, 0)
    parents = [] if repository.head_is_unborn else [repository.head.target]
    tree = repository.index.write_tree()
    return str(repository.create_commit("HEAD", signature, signature, message, tree, parents))
