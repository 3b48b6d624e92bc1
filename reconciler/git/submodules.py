"""Which submodules a commit has, and where they come from. Runs in a worker process; nothing is fetched here.

URLs go through the same rules as every other one: what the settings do not allow is refused, relative ones are relative
to the repository that names them, and credentials are found by prefix.
"""

from __future__ import annotations

import posixpath
import tempfile
from pathlib import Path
from typing import Any

import pygit2
from pygit2.enums import FileMode

from reconciler import urls
from reconciler.errors import SourceError, SourceReason
from reconciler.git.checkout import BadTree

MAX_SUBMODULES = 50
MAX_FILE = 64 * 1024
FILE = ".gitmodules"


def find(mirror: Path, commit: str, source: str, *, allow_local: bool, allow_http: bool) -> list[dict[str, Any]]:
    """Return path, URL and commit of each submodule of a commit.

    Raises BadTree for a `.gitmodules` that cannot be trusted, SourceError where the commit cannot be read.
    """
    try:
        repository = pygit2.Repository(str(mirror))
        tree = repository[commit].peel(pygit2.Tree)
        if FILE not in tree:
            return []
        entry = tree[FILE]
        if entry.filemode not in (FileMode.BLOB, FileMode.BLOB_EXECUTABLE):
            raise BadTree("bad_tree", f"{FILE} is not a regular file")
        named = _named(repository[entry.id].read_raw())
        found = []
        for path, url in named.items():
            if path in tree and tree[path].filemode == FileMode.COMMIT:  # others are named and not there
                address = _resolved(source, url, allow_local=allow_local, allow_http=allow_http)
                found.append({"path": path, "url": address, "commit": str(tree[path].id)})
    except (pygit2.GitError, KeyError, ValueError) as error:
        raise SourceError(SourceReason.CORRUPT, f"the submodules of {commit[:10]} cannot be read: {error}") from error
    if len(found) > MAX_SUBMODULES:
        raise BadTree("tree_too_large", f"the tree has more than {MAX_SUBMODULES} submodules")
    return found


def _named(data: bytes) -> dict[str, str]:
    """Return the URLs of `.gitmodules` by path."""
    if len(data) > MAX_FILE:
        raise BadTree("tree_too_large", f"{FILE} has more than {MAX_FILE} bytes")
    if b"include" in data.lower():
        raise BadTree("bad_tree", f"{FILE} includes other files, or looks like it")
    with tempfile.NamedTemporaryFile(prefix="reconciler-") as file:
        file.write(data)
        file.flush()
        config = pygit2.Config(file.name)
        values: dict[str, dict[str, str]] = {}
        for item in config:
            section, _, rest = item.name.partition(".")
            name, _, key = rest.rpartition(".")
            if section == "submodule" and key in ("path", "url"):
                values.setdefault(name, {})[key] = item.value or ""
    named = {}
    for found in values.values():
        path, url = found.get("path", ""), found.get("url", "")
        if (
            not path
            or not url
            or path.startswith(("/", "-"))
            or posixpath.normpath(path) != path
            or ".." in path.split("/")
        ):
            raise BadTree("bad_tree", f"{FILE} has an entry whose path or url cannot be used")
        named[path] = url
    return named


def _resolved(source: str, url: str, *, allow_local: bool, allow_http: bool) -> str:
    """Return the checked URL of a submodule."""
    if url.startswith(("./", "../")):
        base = urls.parse(source)
        prefix = str(base).removesuffix(base.path)
        url = prefix + posixpath.normpath(posixpath.join(base.path, url))
    try:
        parsed = urls.parse(url)
        if refused := urls.refusal(parsed, allow_local=allow_local, allow_http=allow_http):
            raise ValueError(refused)
    except ValueError as error:
        raise BadTree("bad_tree", f"a submodule has the url {url!r}: {error}") from None
    return str(parsed)
