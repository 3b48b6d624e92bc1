"""A kept tree: brought forward to a commit where checking it out anew would cost far more. In a worker process.

A large tree is not thrown away after its deploy but moved aside, with a copy of its index, which no deploy ever sees.
For the next deploy it is moved back, proved to be exactly the tree of the last commit, and then changed where the two
commits differ. The proof believes nothing that a deploy could have written: `.git` is made anew, the index is our copy,
and what it says of each file (size, times, inode) is trusted as far as git trusts it.

libgit2 writes through links (threat S1) and through other names of a file, so nothing is written over: first whatever
does not belong is removed, then every path that is to change, and only then is anything written, into real folders.
Anything odd is NotKept, after which a fresh checkout follows.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pygit2
from pygit2.enums import CheckoutStrategy, DiffOption, FileMode

from reconciler.errors import ReconcilerError
from reconciler.git.checkout import MAX_BYTES, MAX_ENTRIES, Size, checkout, make_git, measure
from reconciler.git.mirror import check_space
from reconciler.removing import remove

KEEP_FROM = 1_000  # entries; below, a fresh checkout costs little and nothing has to be proved
MAX_CHANGES = 5_000  # paths; beyond, a fresh checkout is as cheap
TREE, INDEX, COMMIT = "tree", "index", "commit"
# Of a tree object: mode, name and id of each entry.
_ENTRY = re.compile(rb"([0-7]{5,6}) ([^\0]+)\0(.{20})", re.DOTALL)
_NAME = re.compile(rb"[0-7]{5,6} ([^\0]+)\0.{20}", re.DOTALL)
_FOLDER = b"40000 "
_ATTRIBUTES = ".gitattributes"  # say how files are written: where they change, unchanged files may have to as well


class NotKept(ReconcilerError):  # noqa: N818 - named as what it is
    """There is no kept tree, or it cannot be trusted or brought forward."""


def check_out(mirror: Path, commit: str, destination: Path, kept: Path) -> None:
    """Make `destination` the tree of `commit`, by way of what is kept where that helps. Raises BadTree, SourceError."""
    check_space(destination.parent)
    try:
        size = _bring_forward(kept, mirror, commit, destination)
    except NotKept:
        size = checkout(mirror, commit, destination)
    with suppress(OSError):  # no deploy fails because its tree cannot be kept
        if size.entries >= KEEP_FROM and not size.has_submodules:
            kept.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copy2(destination / ".git" / INDEX, kept / INDEX)
            (kept / COMMIT).write_text(json.dumps([commit, size.entries, size.bytes]), encoding="ascii")
        else:
            remove(kept)


def _bring_forward(kept: Path, mirror: Path, commit: str, destination: Path) -> Size:
    """Make `destination`, which does not exist, the tree of `commit`. Raises NotKept, BadTree."""
    try:
        before, entries, size = json.loads((kept / COMMIT).read_text(encoding="ascii"))
        (kept / COMMIT).unlink()  # whatever happens now, this tree is not that commit any more
        if (kept / TREE).is_symlink():
            raise NotKept("what is kept is a link")
        remove(destination)
        (kept / TREE).rename(destination)
        remove(destination / ".git")
        make_git(mirror, destination, pygit2.Repository(str(mirror)))
        shutil.copy2(kept / INDEX, destination / ".git" / INDEX)  # with its time, by which younger changes are told
        repository = pygit2.Repository(str(destination))
        with ThreadPoolExecutor(1) as beside:  # libgit2 looks at files while we look at names; both only look
            looking = beside.submit(_spoilt, repository)
            ours = pygit2.Repository(str(destination))
            old, new = (ours[name].peel(pygit2.Commit) for name in (before, commit))
            strays, known = _strays(os.fsencode(destination), old.tree.id, ours)
            added = measure(ours, new.tree, known)
            changed = _paths(old.tree.diff_to_tree(new.tree)) | looking.result()
        for stray in strays:
            remove(Path(os.fsdecode(stray)))
        # From here on every folder is real, and of the old tree.
        if added.has_submodules or entries + added.entries > MAX_ENTRIES or size + added.bytes > MAX_BYTES:
            raise NotKept("only a fresh checkout can tell whether this is too large")
        _change(repository, destination, commit, changed)
    except (pygit2.GitError, KeyError, ValueError, OSError) as error:
        raise NotKept(str(error)) from error
    return Size(len(repository.index) + len(known), size + added.bytes)


def give_back(kept: Path, destination: Path) -> None:
    """Keep a tree for the next deploy, where it was noted, whatever the last one made of it; else keep nothing."""
    with suppress(OSError):
        remove(kept / TREE)
        if (kept / COMMIT).exists() and not destination.is_symlink():
            destination.rename(kept / TREE)
        else:
            remove(kept)


def _spoilt(repository: pygit2.Repository) -> set[str]:
    """Return the paths of the index that are missing, or not as they were written."""
    return _paths(repository.index.diff_to_workdir(DiffOption.INCLUDE_TYPECHANGE | DiffOption.SKIP_BINARY_CHECK))


def _strays(path: bytes, tree: pygit2.Oid, repository: pygit2.Repository) -> tuple[list[bytes], set[pygit2.Oid]]:
    """Return what lies in a directory that its tree has not got by that name and kind; and all trees of the tree.

    Files that are missing or changed are not looked for. libgit2 does not see everything that may be left: no empty
    folder, no pipe, and no ignored file in a folder that is ignored and has files of the tree all the same.
    """
    strays: list[bytes] = []
    trees: set[pygit2.Oid] = set()
    pending = [(path, tree)]
    while pending:
        folder, oid = pending.pop()
        trees.add(oid)
        data = repository.odb.read(oid)[1]
        names = set(_NAME.findall(data))
        expected = dict(_folders(data)) if _FOLDER in data else {}
        with os.scandir(folder) as listing:
            found = list(listing)
        files = {entry.name for entry in found if entry.is_file(follow_symlinks=False)}
        if expected or len(files) < len(found):
            files |= {entry.name for entry in found if entry.is_symlink()}
            folders = {entry.name for entry in found if entry.is_dir(follow_symlinks=False)}
            others = {entry.name for entry in found} - files - folders
            if folder is path:
                folders.remove(b".git")  # ours
            odd = others | (folders - expected.keys()) | (files & expected.keys())
            strays += [folder + b"/" + name for name in odd]
            pending += [(folder + b"/" + name, expected[name]) for name in folders & expected.keys()]
        strays += [folder + b"/" + name for name in files - names]
    return strays, trees


def _folders(data: bytes) -> Iterator[tuple[bytes, pygit2.Oid]]:
    """Yield names and ids of the trees in a tree object."""
    for mode, name, oid in _ENTRY.findall(data):
        if mode + b" " == _FOLDER:
            yield name, pygit2.Oid(raw=oid)


def _paths(difference: pygit2.Diff) -> set[str]:
    return {delta.new_file.path for delta in difference.deltas}


def _change(repository: pygit2.Repository, root: Path, commit: str, changed: set[str]) -> None:
    """Make the changed paths as the new commit has them."""
    new, index = repository[commit].peel(pygit2.Commit), repository.index
    tree = new.tree
    if len(changed) > MAX_CHANGES:
        raise NotKept("too much changes")
    if any(Path(path).name == _ATTRIBUTES for path in changed):
        raise NotKept("what changes may change how other files are written")
    for path in sorted(changed, reverse=True):  # what is in a folder before the folder
        _unlink(root, path)
    there = {path for path in changed if path in tree and tree[path].filemode != FileMode.TREE}
    for path in changed - there:
        if path in index:
            index.remove(path)
    if there:
        strategy = CheckoutStrategy.FORCE | CheckoutStrategy.DISABLE_PATHSPEC_MATCH | CheckoutStrategy.NO_REFRESH
        repository.checkout_tree(new, strategy=strategy, paths=sorted(there))  # type: ignore[no-untyped-call]
    else:
        index.write()
    repository.set_head(new.id)
    is_right = all(index[path].id == tree[path].id and index[path].mode == tree[path].filemode for path in there)
    if not is_right or any(path in index for path in changed - there):
        raise NotKept("the index did not become what it should")


def _unlink(root: Path, path: str) -> None:
    """Remove a file, and folders that are empty then. Every folder above it is real: that was proved."""
    place = root / path
    with suppress(FileNotFoundError, NotADirectoryError):
        place.unlink()
    for folder in place.parents:
        if folder == root:
            return
        try:
            folder.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return
