"""Checking one commit out: exactly its tree, in a fresh directory, with a working `.git`. In a worker process.

Fresh, because libgit2 writes through symbolic links that an earlier checkout or deploy left (threat S1). The
`.git` is the checkout's own: objects are borrowed from the mirror, tags are copied (so `git describe` works),
and whatever a step does to it never reaches the mirror.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

import pygit2
from pygit2.enums import CheckoutStrategy, FileMode

from reconciler.errors import ReconcilerError, SourceError, SourceReason
from reconciler.git.mirror import check_space
from reconciler.removing import remove
from reconciler.text import is_text

MAX_ENTRIES = 200_000
MAX_BYTES = 4 * 1024**3
MAX_DEPTH = 100
_CONFIG = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n"
MAX_PATH = 4_000  # bytes; the kernel's limit is 4,096 with the directory before it


class BadTree(ReconcilerError):  # noqa: N818 - named as what it is
    """A tree that cannot be checked out: `reason` is bad_tree or tree_too_large."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def checkout(mirror: Path, commit: str, destination: Path) -> Size:
    """Make `destination` the tree of `commit`; return what it holds. Raises BadTree or SourceError.

    No lock on the mirror is needed: objects are only ever added to it, and a mirror that is made anew
    meanwhile ends in an error here, never in a wrong tree.
    """
    try:
        source = pygit2.Repository(str(mirror))
        found = source[commit].peel(pygit2.Commit)
        size = measure(source, found.tree)
        check_space(destination.parent, size.bytes)
        remove(destination)
        destination.mkdir(mode=0o700)
        make_git(mirror, destination, source)
        repository = pygit2.Repository(str(destination))
        repository.checkout_tree(repository[commit], strategy=CheckoutStrategy.FORCE)  # type: ignore[no-untyped-call]
        repository.set_head(found.id)
        if repository.index.write_tree() != found.tree.id:
            raise BadTree("bad_tree", f"the index of the checkout is not the tree of {commit}")
    except (pygit2.GitError, KeyError, ValueError) as error:
        raise SourceError(SourceReason.CORRUPT, f"{commit[:10]} cannot be checked out: {error}") from error
    except OSError as error:
        raise SourceError(SourceReason.DISK_FULL, f"{commit[:10]} cannot be checked out: {error.strerror}") from error
    return size


@dataclass(frozen=True, slots=True)
class Size:
    """What a tree holds."""

    entries: int
    bytes: int
    has_submodules: bool = False


def measure(repository: pygit2.Repository, tree: pygit2.Tree, known: Container[pygit2.Oid] = frozenset()) -> Size:
    """Return what a tree holds; raise BadTree for one that is hostile or too large. Trees of `known` are passed over.

    Counts while it walks, so a bomb of nested trees costs no more than its bound.
    """
    entries = size = 0
    has_submodules = False
    pending = [(tree, 0, 0)]
    while pending:
        folder, depth, length = pending.pop()
        if depth > MAX_DEPTH:
            raise BadTree("tree_too_large", f"the tree is nested more than {MAX_DEPTH} levels deep")
        names: set[str] = set()
        last = b""
        for entry in folder:
            entries += 1
            if entries > MAX_ENTRIES:
                raise BadTree("tree_too_large", f"the tree has more than {MAX_ENTRIES} entries")
            name = entry.name or ""
            check_name(name)
            if name in names:
                raise BadTree("bad_tree", f"the tree has two entries named {name!r}")
            names.add(name)
            # git's own order; in another one its programs do not find what is there.
            order = os.fsencode(name) + (b"/" if entry.filemode == FileMode.TREE else b"")
            if order <= last:
                raise BadTree("bad_tree", f"the tree has the entry {name!r} out of order")
            last = order
            path_length = length + len(os.fsencode(name)) + 1
            if path_length > MAX_PATH:
                raise BadTree("tree_too_large", f"the tree has a path of more than {MAX_PATH} bytes")
            has_submodules |= entry.filemode == FileMode.COMMIT
            if entry.filemode == FileMode.TREE and entry.id not in known:
                pending.append((repository[entry.id].peel(pygit2.Tree), depth + 1, path_length))
            size += _bytes_of(repository, entry)
            if size > MAX_BYTES:
                raise BadTree("tree_too_large", f"the tree has more than {MAX_BYTES // 1024**3} GiB")
    return Size(entries, size, has_submodules)


def _bytes_of(repository: pygit2.Repository, entry: pygit2.Object) -> int:
    is_file = entry.filemode not in (FileMode.TREE, FileMode.COMMIT)
    return repository.odb.read_header(entry.id)[1] if is_file else 0


def check_name(name: str) -> None:
    """Raise BadTree for a name that means something else to a file system, or to git."""
    plain = "".join(char for char in unicodedata.normalize("NFKC", name) if unicodedata.category(char) != "Cf")
    if plain.lower() in ("", ".", "..", ".git") or "/" in name or any(ord(char) < 32 for char in name):  # noqa: PLR2004
        raise BadTree("bad_tree", f"the tree has an entry with the forbidden name {name!r}")


def make_git(mirror: Path, destination: Path, source: pygit2.Repository) -> None:
    """Make a `.git` of its own that borrows the mirror's objects and has its tags. As little as git takes for one."""
    git = destination / ".git"
    for folder in (git, git / "objects", git / "objects" / "info", git / "refs"):
        folder.mkdir(mode=0o700)
    (git / "HEAD").write_text("ref: refs/heads/none\n", encoding="ascii")
    (git / "config").write_text(_CONFIG, encoding="ascii")
    (git / "objects" / "info" / "alternates").write_text(f"{mirror}/objects\n", encoding="utf-8")
    lines = ["# pack-refs with: peeled fully-peeled sorted"]
    for name in sorted(ref for ref in source.references if ref.startswith("refs/tags/") and is_text(ref)):
        reference = source.lookup_reference(name)
        lines.append(f"{reference.target} {name}")
        try:
            peeled = reference.peel().id
        except (pygit2.GitError, ValueError):
            continue
        if peeled != reference.target:
            lines.append(f"^{peeled}")
    (git / "packed-refs").write_text("\n".join(lines) + "\n", encoding="utf-8")
