"""Checking a commit out with what belongs to it: its own tree, and submodules where the target asks for them.

A large tree is kept between two deploys of a target, as far as the disk has room for it.

Every submodule is looked at before anything is written: its URL goes through the rules of the settings, its credential
is that of its own prefix, and it comes from a mirror as everything else does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconciler.doors import Doors
from reconciler.errors import SourceError, SourceReason
from reconciler.git import kept
from reconciler.git.checkout import BadTree
from reconciler.git.library import mirror_name
from reconciler.removing import remove
from reconciler.spec import Target
from reconciler.text import short

MAX_SUBMODULE_DEPTH = 4


@dataclass(frozen=True, slots=True)
class Tree:
    """A commit that is checked out somewhere, and where it came from."""

    source: str
    mirror: Path
    commit: str
    place: Path


def observing(target: str) -> str:
    """Return the purpose of an observer's tree; no target can have this name."""
    return f"{target}.observe"


class Trees:
    """Makes trees, by worker processes."""

    def __init__(self, doors: Doors) -> None:
        self._settings = doors.settings
        self._ask = doors.ask
        self._credentials = doors.credentials
        self._mirrors = doors.state.mirrors
        self._kept = doors.state.trees

    async def check_out(self, tree: Tree, target: Target, purpose: str) -> None:
        """Check a tree out, and where the target asks for it what the tree names as submodules, and what those name.

        `purpose` is the name under which it may be kept. Raises BadTree, SourceError.
        """
        try:
            await self._check_out(tree, target, str(self._kept / purpose))
        except SourceError as error:
            if error.reason is not SourceReason.DISK_FULL or not await asyncio.to_thread(self._drop_all):
                raise
            await self._check_out(tree, target, str(self._kept / purpose))

    async def give_back(self, place: Path, purpose: str) -> None:
        """Keep a tree for the next time, if it is worth that."""
        await asyncio.to_thread(kept.give_back, self._kept / purpose, place)

    async def keep_only(self, targets: Iterable[str]) -> None:
        """Keep nothing for other targets than these."""
        names = {*targets}
        names |= {observing(name) for name in names}
        for folder in await asyncio.to_thread(lambda: list(self._kept.iterdir())):
            if folder.name not in names:
                await asyncio.to_thread(remove, folder)

    def _drop_all(self) -> bool:
        """Give the room of all kept trees back to the disk; False where there were none."""
        found = list(self._kept.iterdir())
        for folder in found:
            remove(folder)
        return bool(found)

    async def _check_out(self, tree: Tree, target: Target, kept_at: str | None, depth: int = 0) -> None:
        found = await self._submodules(tree) if target.submodules else []
        if found and depth >= MAX_SUBMODULE_DEPTH:
            raise BadTree("tree_too_large", f"submodules are nested more than {MAX_SUBMODULE_DEPTH} levels deep")
        where = {"mirror": str(tree.mirror), "commit": tree.commit, "destination": str(tree.place)}
        await self._ask({"op": "checkout", "kept": kept_at, **where}, target.timeout_s)
        for one in found:
            place = tree.place / one["path"]
            await asyncio.to_thread(_require_real, tree.place, place)
            mirror = await self._fetch_submodule(one)
            await self._check_out(Tree(one["url"], mirror, one["commit"], place), target, None, depth + 1)

    async def _submodules(self, tree: Tree) -> list[dict[str, Any]]:
        """Return path, URL and commit of what a tree names. Raises BadTree for a URL that the settings do not allow."""
        settings = self._settings
        question = {"op": "submodules", "mirror": str(tree.mirror), "commit": tree.commit, "url": tree.source}
        allowed = {"allow_local": settings.allow_local_repos, "allow_http": settings.allow_http}
        found: list[dict[str, Any]] = (await self._ask({**question, **allowed}, settings.git_timeout_s))["found"]
        return found

    async def _fetch_submodule(self, found: dict[str, Any]) -> Path:
        url, commit = found["url"], found["commit"]
        login = await self._credentials.login(url)
        mirror = self._mirrors / mirror_name(url)
        request: dict[str, Any] = {"op": "fetch", "url": url, "mirror": str(mirror), "pins": [commit], "keep": True}
        request["login"] = login.as_message() if login else None
        if (await self._ask(request, self._settings.git_timeout_s))["missing"]:
            message = f"{url} has no commit {short(commit)} for the submodule {found['path']}"
            raise SourceError(SourceReason.COMMIT_NOT_FOUND, message)
        return mirror


def _require_real(root: Path, place: Path) -> None:
    """Raise BadTree where a folder between `root` and `place` is a link: nothing is written outside."""
    for folder in place.parents:
        if folder == root:
            return
        if folder.is_symlink():
            raise BadTree("bad_tree", f"a submodule lies behind the link {folder.name}")
