"""Trees that no honest git would write, and what a directory holds, for comparing."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from support.repos import Repo, git


def raw_tree(repo: Repo, *entries: tuple[str, str | bytes, str]) -> str:
    """Write a tree object byte by byte; return its id. Each entry is a mode, a name and an object."""
    data = b"".join(
        mode.encode() + b" " + (name.encode() if isinstance(name, str) else name) + b"\0" + bytes.fromhex(oid)
        for mode, name, oid in entries
    )
    (repo.path / "tree.bin").write_bytes(data)
    tree = git(repo.path, "hash-object", "-t", "tree", "-w", "--literally", "tree.bin")
    (repo.path / "tree.bin").unlink()
    return tree


def commit_tree(repo: Repo, tree: str, branch: str = "hostile") -> str:
    """Commit a tree on a branch of its own."""
    commit = git(repo.path, "commit-tree", tree, "-m", "hostile")
    git(repo.path, "update-ref", f"refs/heads/{branch}", commit)
    return commit


def blob(repo: Repo, text: str) -> str:
    """Write a blob."""
    (repo.path / "blob.bin").write_text(text)
    oid = git(repo.path, "hash-object", "-w", "blob.bin")
    (repo.path / "blob.bin").unlink()
    return oid


def contents(root: Path) -> dict[str, tuple[str, bool, bytes]]:
    """Return what lies below a directory, its `.git` apart: kind, whether it is executable, and content."""
    found = {}
    for folder, names, files in os.walk(root):
        if Path(folder) == root:
            names[:] = [name for name in names if name != ".git"]
        for name in [*names, *files]:
            path = Path(folder) / name
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                entry = ("link", False, os.fsencode(path.readlink()))
            elif stat.S_ISDIR(mode):
                entry = ("folder", False, b"")
            elif stat.S_ISREG(mode):
                entry = ("file", bool(mode & 0o100), path.read_bytes())
            else:
                entry = ("other", False, b"")
            found[str(path.relative_to(root))] = entry
    return found
