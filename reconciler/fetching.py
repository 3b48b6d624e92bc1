"""Fetching what is new of a Source into its mirror: a little in one request, everything else whole.

The usual case is one commit on top of what is there. Over http(s) a server of protocol version 2 sends it in one
answer, for just the commits that are wanted, however many branches it has. First fetches, large ones, and whatever is
odd go through libgit2, which brings all branches and tags and has a name for every failure. Both end in worker
processes.
"""

from __future__ import annotations

import asyncio
import base64
import gc
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from reconciler import clock, resolving, urls
from reconciler.doors import Doors
from reconciler.events import GitOperation
from reconciler.git import objects
from reconciler.git.library import mirror_name
from reconciler.git.refs import Refs
from reconciler.resolving import Needs

MAX_PER_HOST = 4  # whole fetches at once, half of what is possible: one host cannot hold all
MAX_HAVES = 32  # commits that a server is told of; with the right one of them it sends only what is new


class Fetcher:
    """Fetches."""

    def __init__(self, doors: Doors, refs: Refs) -> None:
        self._doors = doors
        self._refs = refs
        self._hosts: dict[str, asyncio.Semaphore] = {}

    async def fetch(
        self, url: str, needs: Needs, found: Mapping[str, str], tags: dict[str, str] | None, *, anew: bool
    ) -> frozenset[str]:
        """Bring the mirror to `found`, what a poll told of the wanted refs; return the pins that the server lacks.

        `tags` are all of the server's, where the poll told them too. With `anew` the old mirror is thrown away: it is
        damaged. Raises SourceError.
        """
        began = clock.monotonic()
        missing: frozenset[str] = frozenset()
        if anew or not await self._fetch_little(url, needs, found, tags):
            missing = await self._fetch_whole(url, needs, anew=anew)
        self._doors.listener.hear(GitOperation("fetch", clock.monotonic() - began))
        return missing

    async def _fetch_little(
        self, url: str, needs: Needs, found: Mapping[str, str], tags: dict[str, str] | None
    ) -> bool:
        """Return whether all that is wanted came this way."""
        doors, mirrors = self._doors, self._doors.state.mirrors
        heads: dict[str, str | None] = {ref: found.get(ref) for ref in needs.refs if ref.startswith("refs/heads/")}
        wanted = {*found.values(), *needs.pins}
        wants, haves = await doors.git(_gap, mirrors, url, wanted)
        if not haves:
            return False
        increment = await self._refs.increment(url, wants, haves, tags)
        if increment is None:
            return False
        request = {
            "op": "unpack",
            "url": url,
            "mirror": str(mirrors / mirror_name(url)),
            "pack": base64.b64encode(increment.pack).decode(),
            "heads": heads,
            "tags": increment.tags,
            "pins": sorted(needs.pins),
        }
        return (await doors.ask(request, doors.settings.git_timeout_s))["unusable"] is None

    async def _fetch_whole(self, url: str, needs: Needs, *, anew: bool) -> frozenset[str]:
        doors = self._doors
        login = await doors.credentials.login(url)
        request: dict[str, Any] = {
            "op": "fetch",
            "url": url,
            "mirror": str(doors.state.mirrors / mirror_name(url)),
            "pins": sorted(needs.pins),
            "anew": anew,
            "login": login.as_message() if login else None,
        }
        async with self._hosts.setdefault(urls.parse(url).host, asyncio.Semaphore(MAX_PER_HOST)):
            answer = await doors.ask(request, doors.settings.git_timeout_s)
        if answer.get("made_anew"):  # libgit2 reads packs of the old one as long as anything here holds it
            await doors.git(gc.collect)
        return frozenset(answer["missing"])


def _gap(mirrors: Path, url: str, wanted: Iterable[str]) -> tuple[frozenset[str], list[str]]:
    """Return the commits that the mirror lacks, and some that it has."""
    return resolving.missing_pins(mirrors, url, wanted), objects.tips(mirrors / mirror_name(url), MAX_HAVES)
