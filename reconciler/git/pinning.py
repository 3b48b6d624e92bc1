"""Moving a pin in a config repository: fetch, edit one file, commit, push; again from the top if others were faster.

There is no work tree: the new commit is made from objects. Runs in a worker process for the daemon, and in the
process of the verbs that people type.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pygit2

from reconciler import urls
from reconciler.config import editing
from reconciler.errors import ReconcilerError, SourceError, SourceReason
from reconciler.git import mirror as mirrors
from reconciler.git import objects
from reconciler.text import short

MAX_TRIES = 20
_OUT = "refs/reconciler/out/"


class CannotPin(ReconcilerError):  # noqa: N818 - says what it is
    """The pin cannot be moved; the text says why, and what to do."""


class _Overtaken(Exception):  # noqa: N818 - never leaves this module
    """Somebody else pushed first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A pin that is to be moved, and by whom."""

    target: str
    commit: str
    author: tuple[str, str]  # name and address
    time: int  # in seconds since 1970
    note: str = ""  # for the commit's message

    def message(self, before: str | None) -> str:
        """Return the commit's message, with trailers for machines."""
        note = f"\n{self.note.strip()}\n" if self.note.strip() else ""
        trailers = [
            f"Reconciler-Target: {self.target}",
            *([f"Reconciler-From: {before}"] if before else []),
            f"Reconciler-To: {self.commit}",
        ]
        return f"Pin {self.target} to {short(self.commit)}\n{note}\n" + "\n".join(trailers) + "\n"


@dataclass(frozen=True, slots=True)
class Pinned:
    """What became of a change: the file, the pin before, and the new commit (none where the pin was there already)."""

    file: str
    before: str | None
    commit: str | None
    patch: str = ""

    def as_message(self) -> dict[str, Any]:
        """Return the form in which a worker answers."""
        return {"file": self.file, "before": self.before, "commit": self.commit}


@dataclass(frozen=True, slots=True)
class ConfigPlace:
    """Where the config repository is, and which files of it count."""

    url: str
    branch: str
    path: str
    mirror: Path
    login: dict[str, Any] | None


def pin(place: ConfigPlace, change: Change, push_to: str | None) -> Pinned:
    """Move a pin on the config branch, and push it to the branch `push_to`; None makes the commit and its patch only.

    Raises CannotPin, or SourceError where the repository cannot be reached.
    """
    for _ in range(MAX_TRIES):
        mirrors.fetch(place.url, place.mirror, [], place.login)
        head = objects.resolve(place.mirror, f"refs/heads/{place.branch}")
        if head is None:
            raise CannotPin(f"{place.url} has no branch {place.branch}")
        file, data, before = _edited(place, head, change)
        if before == change.commit:
            return Pinned(file, before, None)
        made = _commit(place.mirror, head, file, data, change, before)
        if push_to is None:
            return Pinned(file, before, made, _patch(place.mirror, made))
        try:
            _push(place, made, push_to)
        except _Overtaken:
            continue
        return Pinned(file, before, made)
    raise CannotPin(f"{place.url}: others pushed first {MAX_TRIES} times in a row; try again")


def _edited(place: ConfigPlace, head: str, change: Change) -> tuple[str, bytes, str | None]:
    files = objects.config_files(place.mirror, head, place.path, frozenset())
    found = [
        (file.name, file.data)
        for file in files
        if file.data is not None and editing.has_target(file.data, file.name, change.target)
    ]
    if len(found) != 1:
        names = ", ".join(name for name, _ in found)
        what = f"is declared more than once: {names}" if found else f"is declared in no file of {place.path}"
        raise CannotPin(f"{change.target} {what}")
    name, data = found[0]
    try:
        edited, before = editing.set_commit(data, name, change.target, change.commit)
    except editing.CannotEdit as error:
        raise CannotPin(str(error)) from error
    return name, edited, before


def _commit(mirror: Path, head: str, file: str, data: bytes, change: Change, before: str | None) -> str:
    repository = pygit2.Repository(str(mirror))
    parent = repository[head].peel(pygit2.Commit)
    index = pygit2.Index()
    index.read_tree(parent.tree)
    index.add(pygit2.IndexEntry(file, repository.create_blob(data), parent.tree[file].filemode))
    signature = pygit2.Signature(*change.author, change.time, 0)
    tree = index.write_tree(repository)
    return str(repository.create_commit(None, signature, signature, change.message(before), tree, [parent.id]))


class _Pushing(mirrors.Callbacks):
    """Hears what the server says of the pushed ref."""

    refused: str | None = None

    def push_update_reference(self, refname: str, message: str | None) -> None:
        """Take note of a refusal."""
        del refname
        self.refused = message


def _push(place: ConfigPlace, commit: str, branch: str) -> None:
    out = _OUT + commit
    repository = pygit2.Repository(str(place.mirror))
    repository.references.create(out, commit, force=True)
    try:
        if urls.parse(place.url).is_local:
            _push_local(place, out, commit, branch)
            return
        refused = _push_remote(place, repository, f"{out}:refs/heads/{branch}", branch)
    finally:
        repository.references.delete(out)
    if refused is None:
        return
    # Servers say in many ways that somebody else was faster. Whether that is so, the branch itself tells.
    before = objects.resolve(place.mirror, f"refs/heads/{place.branch}")
    mirrors.fetch(place.url, place.mirror, [], place.login)
    if objects.resolve(place.mirror, f"refs/heads/{place.branch}") != before:
        raise _Overtaken
    raise refused


def _push_remote(place: ConfigPlace, repository: pygit2.Repository, refspec: str, branch: str) -> SourceError | None:
    """Push, and return the server's refusal. It compares the old value itself, under a lock of its own."""
    callbacks = _Pushing(place.url, place.login)
    remote, proxy = repository.remotes.create_anonymous(place.url), place.login["proxy"] if place.login else None
    try:
        mirrors.calling(place.url, lambda: remote.push([refspec], callbacks=callbacks, proxy=proxy))
    except SourceError as error:
        return error
    if callbacks.refused is None:
        return None
    return SourceError(SourceReason.FORBIDDEN, f"{place.url} refuses the push to {branch}: {callbacks.refused}")


def _push_local(place: ConfigPlace, out: str, commit: str, branch: str) -> None:
    """Bring the commit into a repository on this machine, and move its branch if it is still where we saw it.

    Not by libgit2's own push: over a local path that compares first and overwrites later, so of two that push at once
    one would be lost. The objects come without a ref of their own, which others would see come and go.
    """
    name = f"refs/heads/{branch}"
    try:
        theirs = pygit2.Repository(urls.parse(place.url).path)
        if not theirs.is_bare and branch in (place.branch, theirs.head.shorthand if not theirs.head_is_unborn else ""):
            raise CannotPin(f"{place.url} has a work tree; push to a bare repository, or apply the patch")
        theirs.remotes.create_anonymous(str(place.mirror)).fetch([out])
        reference = theirs.references.get(name)
        if reference is None:
            theirs.references.create(name, commit)
        elif str(reference.target) in {str(parent) for parent in theirs[commit].peel(pygit2.Commit).parent_ids}:
            reference.set_target(commit)  # fails where it was moved since it was read
        else:
            raise _Overtaken
    except (pygit2.GitError, ValueError, OSError) as error:
        if "modified since" in str(error) or "lock" in str(error) or "exists" in str(error):
            raise _Overtaken from error
        raise SourceError(SourceReason.FORBIDDEN, f"{place.url} refuses the push to {branch}: {error}") from error


def _patch(mirror: Path, commit: str) -> str:
    """Return a commit as `git am` reads it."""
    repository = pygit2.Repository(str(mirror))
    found = repository[commit].peel(pygit2.Commit)
    diff = found.parents[0].tree.diff_to_tree(found.tree)
    subject, _, body = found.message.partition("\n")
    author = found.author
    return (
        f"From {commit} Mon Sep 17 00:00:00 2001\nFrom: {author.name} <{author.email}>\n"
        f"Subject: [PATCH] {subject}\n\n{body.strip()}\n---\n\n{diff.patch}--\n"
    )


def resolve_revision(mirror: Path, text: str) -> str | None:
    """Return the commit of a branch, a tag or an abbreviated id in a mirror; None where there is none."""
    for ref in (f"refs/heads/{text}", f"refs/tags/{text}"):
        if commit := objects.resolve(mirror, ref):
            return commit
    try:
        return str(pygit2.Repository(str(mirror)).revparse_single(text).peel(pygit2.Commit).id)
    except (KeyError, ValueError, pygit2.GitError):
        return None


def person(environment: dict[str, str]) -> tuple[str, str] | None:
    """Return the name and address that git would use for a commit of this person; None where git knows none."""
    name, address = environment.get("GIT_AUTHOR_NAME"), environment.get("GIT_AUTHOR_EMAIL")
    try:
        config = pygit2.Config.get_global_config()
        name, address = name or config["user.name"], address or config["user.email"]
    except (KeyError, OSError, pygit2.GitError):
        pass
    return (name, address) if name and address else None
