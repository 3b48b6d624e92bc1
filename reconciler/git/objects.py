"""Reading local objects: what a mirror holds. No network, no work tree, nothing is written.

Every function opens the mirror afresh (0.1 ms), so that a mirror that was repaired or made anew meanwhile is
seen as it is. Blocking: the shell calls these in a thread of their own.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pygit2
from pygit2.enums import SortMode

from reconciler.config.yamltree import MAX_BYTES
from reconciler.errors import SourceError, SourceReason
from reconciler.git.library import PIN_REFS
from reconciler.text import is_text, safe

MAX_CONFIG_FILES = 5_000
MAX_COUNTED = 10_000  # commits that `behind` counts
_YAML = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """One file of the config repository, by object id. `data` is None where `problem` says why."""

    name: str
    blob: str
    data: bytes | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class CommitInfo:
    """A commit as people see it."""

    commit: str
    author: str
    when: datetime
    subject: str


def _open(mirror: Path) -> pygit2.Repository | None:
    try:
        return pygit2.Repository(str(mirror))
    except pygit2.GitError:
        return None


def has_commit(mirror: Path, commit: str) -> bool:
    """Whether the mirror holds a commit of this id."""
    repository = _open(mirror)
    if repository is None:
        return False
    try:
        return isinstance(repository.get(commit), pygit2.Commit)
    except (pygit2.GitError, ValueError):
        return False


def resolve(mirror: Path, ref: str) -> str | None:
    """Return the commit of a full ref name in the mirror, tags peeled; None where it does not exist."""
    repository = _open(mirror)
    if repository is None:
        return None
    try:
        return str(repository.lookup_reference(ref).peel(pygit2.Commit).id)
    except (KeyError, ValueError, pygit2.GitError):
        return None


def standing(mirror: Path) -> tuple[int, int] | None:
    """Return what tells this mirror from another one at its place; None where there is none. Costs one look."""
    try:
        found = mirror.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def tips(mirror: Path, most: int) -> list[str]:
    """Return commits that the mirror holds with all that leads to them: of our own refs, the newest first."""
    repository = _open(mirror)
    if repository is None:
        return []
    names = [name for name in repository.references if name.startswith((PIN_REFS, "refs/heads/")) and is_text(name)]
    names.sort(key=lambda name: not name.startswith(PIN_REFS))
    found: dict[str, datetime] = {}
    for name in names[: 8 * most]:
        with suppress(KeyError, ValueError, pygit2.GitError):
            commit = repository.lookup_reference(name).peel(pygit2.Commit)
            found[str(commit.id)] = _when(commit)
    return sorted(found, key=lambda commit: found[commit], reverse=True)[:most]


def tags(mirror: Path, pattern: str) -> dict[str, tuple[str, datetime]]:
    """Return the tags that match `pattern`: name to commit and its time."""
    repository = _open(mirror)
    found: dict[str, tuple[str, datetime]] = {}
    if repository is None:
        return found
    for ref in repository.references:
        name = ref.removeprefix("refs/tags/")
        if name == ref or not is_text(name) or not fnmatch.fnmatchcase(name, pattern):
            continue
        try:
            commit = repository.lookup_reference(ref).peel(pygit2.Commit)
        except (pygit2.GitError, ValueError):
            continue  # a tag of a tree or a blob
        found[name] = (str(commit.id), _when(commit))
    return found


def config_files(mirror: Path, commit: str, path: str, known: frozenset[tuple[str, str]]) -> list[ConfigFile]:
    """Return the YAML files of `path` at `commit`; the data of files in `known` (name, blob) is left out.

    Raises SourceError where the commit or the directory cannot be read.
    """
    repository = _open(mirror)
    try:
        if repository is None:
            raise KeyError(commit)
        root = repository[commit].peel(pygit2.Tree)
        tree: pygit2.Object = root if path == "." else root[path]
    except KeyError:
        message = f"config commit {commit[:10]} has no directory {path}"
        raise SourceError(SourceReason.NOT_FOUND, message) from None
    except (pygit2.GitError, ValueError) as error:
        raise SourceError(SourceReason.CORRUPT, f"config commit {commit[:10]} cannot be read: {error}") from error
    if not isinstance(tree, pygit2.Tree):
        raise SourceError(SourceReason.NOT_FOUND, f"{path} is not a directory in config commit {commit[:10]}")
    entries = sorted(
        (entry for entry in tree if (entry.name or "").endswith(_YAML)), key=lambda entry: entry.name or ""
    )
    if len(entries) > MAX_CONFIG_FILES:
        raise SourceError(SourceReason.TOO_LARGE, f"{path} holds more than {MAX_CONFIG_FILES} YAML files")
    prefix = "" if path == "." else f"{path}/"
    return [_config_file(repository, prefix + (entry.name or ""), entry, known) for entry in entries]


def _config_file(
    repository: pygit2.Repository, name: str, entry: pygit2.Object, known: frozenset[tuple[str, str]]
) -> ConfigFile:
    blob = str(entry.id)
    shown = name.encode("utf-8", "replace").decode()
    if not name.isprintable() or shown != name:
        return ConfigFile(safe(shown), blob, None, "a file name with bytes that are no text")
    if entry.filemode not in (pygit2.enums.FileMode.BLOB, pygit2.enums.FileMode.BLOB_EXECUTABLE):
        return ConfigFile(name, blob, None, "not a regular file; symbolic links are not followed")
    if (name, blob) in known:
        return ConfigFile(name, blob, None)
    try:
        size = repository.odb.read_header(entry.id)[1]
        if size > MAX_BYTES:
            return ConfigFile(name, blob, None, f"a file of {size} bytes; expected at most {MAX_BYTES}")
        return ConfigFile(name, blob, repository[entry.id].read_raw())
    except (KeyError, pygit2.GitError) as error:
        raise SourceError(SourceReason.CORRUPT, f"{name} cannot be read from the mirror: {error}") from error


def is_ancestor(mirror: Path, old: str, new: str) -> bool:
    """Whether `old` is `new` or one of its ancestors."""
    if old == new:
        return True
    repository = _open(mirror)
    try:
        return repository is not None and repository.descendant_of(new, old)
    except (pygit2.GitError, KeyError, ValueError):
        return False


def between(mirror: Path, old: str | None, new: str, limit: int) -> list[CommitInfo]:
    """Return the commits that `new` has and `old` has not, the newest first, at most `limit` of them."""
    repository = _open(mirror)
    if repository is None:
        return []
    try:
        walker = repository.walk(new, SortMode.TOPOLOGICAL | SortMode.TIME)
        if old:
            walker.hide(old)
    except (KeyError, ValueError, pygit2.GitError):
        return []
    found: list[CommitInfo] = []
    for commit in walker:
        if len(found) >= limit:
            break
        # Raw bytes: what others wrote need not be what its encoding header says.
        subject = commit.raw_message.partition(b"\n")[0].decode(errors="replace")
        author = commit.author.raw_name.decode(errors="replace")
        found.append(CommitInfo(str(commit.id), author, _when(commit), subject))
    return found


def count_between(mirror: Path, old: str, new: str) -> int | None:
    """Return how many commits `new` has that `old` has not; None where that cannot be told."""
    repository = _open(mirror)
    if repository is None:
        return None
    try:
        walker = repository.walk(new, SortMode.NONE)
        walker.hide(old)
        return sum(1 for _, _commit in zip(range(MAX_COUNTED), walker, strict=False))
    except (KeyError, ValueError, pygit2.GitError):
        return None


def signature(mirror: Path, commit: str) -> tuple[bytes, str] | None:
    """Return what of a commit was signed, and the signature; None where it is not signed, or not there."""
    repository = _open(mirror)
    try:
        found = repository[commit].peel(pygit2.Commit) if repository else None
        armoured, payload = found.gpg_signature if found else (None, None)
    except (KeyError, ValueError, pygit2.GitError):
        return None
    return (payload, armoured.decode(errors="replace")) if armoured and payload else None


def blob(mirror: Path, commit: str, path: str, most: int) -> tuple[str, bytes] | None:
    """Return id and content of a regular file at a commit; None where there is none, or one of over `most` bytes."""
    repository = _open(mirror)
    try:
        entry = repository[commit].peel(pygit2.Tree)[path] if repository else None
        regular = entry and entry.filemode in (pygit2.enums.FileMode.BLOB, pygit2.enums.FileMode.BLOB_EXECUTABLE)
        if repository is None or entry is None or not regular or repository.odb.read_header(entry.id)[1] > most:
            return None
        return str(entry.id), repository[entry.id].read_raw()
    except (KeyError, ValueError, pygit2.GitError):
        return None


def names(mirror: Path, commit: str, path: str) -> list[str]:
    """Return the names in a directory at a commit; none where there is no such directory."""
    repository = _open(mirror)
    try:
        tree = repository[commit].peel(pygit2.Tree)[path] if repository else None
        return [entry.name or "" for entry in tree] if isinstance(tree, pygit2.Tree) else []
    except (KeyError, ValueError, pygit2.GitError):
        return []


def commit_time(mirror: Path, commit: str) -> datetime | None:
    """Return when a commit was made; None where the mirror does not hold it."""
    found = between(mirror, None, commit, 1)
    return found[0].when if found else None


def local_refs(path: str, refs: Sequence[str]) -> dict[str, str]:
    """Return full ref names to peeled commits of a repository on this machine. Raises SourceError."""
    try:
        repository = pygit2.Repository(path)
    except pygit2.GitError as error:
        raise SourceError(SourceReason.NOT_FOUND, f"{path} is no git repository that this user may read") from error
    found = {}
    for ref in refs:
        names = (
            [name for name in repository.references if name.startswith(ref) and is_text(name)]
            if ref.endswith("/")
            else [ref]
        )
        for name in names:
            try:
                found[name] = str(repository.lookup_reference(name).peel(pygit2.Commit).id)
            except (KeyError, ValueError, pygit2.GitError):
                continue
    return found


def _when(commit: pygit2.Commit) -> datetime:
    try:
        return datetime.fromtimestamp(commit.commit_time, UTC)
    except (OverflowError, OSError, ValueError):
        return datetime.fromtimestamp(0, UTC)  # a hostile time
