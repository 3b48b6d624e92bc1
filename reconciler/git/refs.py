"""Asking servers: which commit each wanted ref of a Source has, for one small request; and for what is new since.

Over http(s) a poll is one `ls-refs` of protocol version 2 with a prefix per wanted ref: the answer does not grow with
the repository. libgit2 speaks version 0 only, in which every ref is sent each time; it is the fallback for odd servers,
remembered per Source. Over ssh it is the same request on a kept connection (`ssh.py`), and a local repository is read
directly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from reconciler import urls
from reconciler.errors import SourceError, SourceReason
from reconciler.git import objects, pktline
from reconciler.git.credentials import Credentials, Login
from reconciler.git.http import GitHttp, NotVersion2
from reconciler.git.library import TAGS
from reconciler.git.mirror import SCRATCH

if TYPE_CHECKING:
    from reconciler.git.ssh import SshPolls

T = TypeVar("T")
# Why a small fetch is given up for a whole one. All other reasons hold for that one as well.
_TRY_WHOLE = frozenset({SourceReason.PROTOCOL_ERROR, SourceReason.TOO_LARGE, SourceReason.SERVER_ERROR})

Blocking = Callable[..., Awaitable[Any]]  # runs a blocking function in the thread for git objects
Ask = Callable[[dict[str, Any], float], Awaitable[dict[str, Any]]]  # asks a worker process


@dataclass(frozen=True, slots=True)
class Increment:
    """What a server sent that was new: a pack, and the tags that it has now (their own ids, not peeled)."""

    pack: bytes
    tags: dict[str, str]


class Refs:
    """Asks servers. One HTTP session for all Sources; what a server speaks is remembered."""

    def __init__(self, credentials: Credentials, mirrors: Path, timeout_s: float, ask: Ask, blocking: Blocking) -> None:
        self._credentials = credentials
        self._mirrors = mirrors
        self._timeout_s = timeout_s
        self._ask = ask
        self._blocking = blocking
        self._odd: set[str] = set()  # URLs that need the fallback
        self._http = GitHttp()
        self._ssh: SshPolls | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._ssh is not None:
            await self._ssh.close()
        await self._http.close()

    async def poll(self, url: str, wanted: Sequence[str]) -> dict[str, str]:
        """Return full ref names to commits, tags peeled; a wanted ref that does not exist is left out.

        `wanted` holds full names, or prefixes that end with a slash. Raises SourceError; never takes longer
        than the git timeout.
        """
        found, _ = await self._bounded(url, wanted)
        return found

    async def poll_with_tags(self, url: str, wanted: Sequence[str]) -> tuple[dict[str, str], dict[str, str] | None]:
        """Return what `poll` does, and all tags (not peeled), where one request tells both; else None for those."""
        if not url.startswith("http") or url in self._odd:
            return await self.poll(url, wanted), None
        try:
            found, names = await self._bounded(url, [*wanted, TAGS])
        except SourceError as error:
            if error.reason is SourceReason.TOO_LARGE:  # it is the tags that are too many
                return await self.poll(url, wanted), None
            raise
        tags = {name: target for name, target in names.items() if name.startswith(TAGS)}
        return _wanted(found, wanted), None if url in self._odd else tags

    async def _bounded(self, url: str, wanted: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
        login = await self._credentials.login(url)
        try:
            async with asyncio.timeout(self._timeout_s):
                found, names = await self._poll(url, wanted, login)
        except TimeoutError:
            raise _late(url, self._timeout_s) from None
        return _wanted(found, wanted), names

    async def _poll(
        self, url: str, wanted: Sequence[str], login: Login | None
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Return refs, peeled to commits and not."""
        if url.startswith("http") and url not in self._odd:
            try:
                return await self._http.command(url, lambda kind: pktline.ls_refs(kind, wanted), _both, login)
            except NotVersion2:
                self._odd.add(url)
        parsed = urls.parse(url)
        if parsed.is_local:
            local: dict[str, str] = await self._blocking(objects.local_refs, parsed.path, wanted)
            return local, {}
        if parsed.scheme == "ssh":
            if self._ssh is None:
                from reconciler.git.ssh import SshPolls  # noqa: PLC0415 - ten megabytes that many never need

                self._ssh = SshPolls(self._timeout_s)
            return await self._ssh.poll(parsed, wanted, login), {}
        request = {
            "op": "refs",
            "url": url,
            "prefixes": list(wanted),
            "login": login.as_message() if login else None,
            "mirror": str(self._mirrors / SCRATCH),
        }
        found: dict[str, str] = (await self._ask(request, self._timeout_s))["refs"]
        return found, {}

    async def increment(
        self, url: str, wants: Iterable[str], haves: Iterable[str], tags: dict[str, str] | None
    ) -> Increment | None:
        """Return what leads from the commits `haves` to `wants`, where that is little.

        `tags` are the server's, where a poll has just told them. None where only a whole fetch will do: in a worker, by
        libgit2. Raises SourceError for what would end that one as well.
        """
        if not url.startswith("http") or url in self._odd:
            return None
        login = await self._credentials.login(url)
        wanted, held = sorted(wants), sorted(haves)
        sending = asyncio.ensure_future(self._pack(url, wanted, held, login) if wanted else _given(b""))
        listing = asyncio.ensure_future(self._tags(url, login) if tags is None else _given(tags))
        try:
            async with asyncio.timeout(self._timeout_s):
                pack, listed = await asyncio.gather(sending, listing)
        except TimeoutError:
            raise _late(url, self._timeout_s) from None
        except NotVersion2:
            return None
        except SourceError as error:
            if error.reason in _TRY_WHOLE:
                return None
            raise
        finally:  # where one failed, nobody waits for the other
            sending.cancel()
            listing.cancel()
        return Increment(pack, listed)

    async def _pack(self, url: str, wants: Sequence[str], haves: Sequence[str], login: Login | None) -> bytes:
        return await self._http.command(url, lambda kind: pktline.fetch(kind, wants, haves), pktline.pack, login)

    async def _tags(self, url: str, login: Login | None) -> dict[str, str]:
        found = await self._http.command(url, lambda kind: pktline.ls_refs(kind, [TAGS]), _both, login)
        return found[1]


async def _given(value: T) -> T:
    return value


def _both(body: bytes) -> tuple[dict[str, str], dict[str, str]]:
    peeled = pktline.refs(body, peel=True)
    return peeled, pktline.refs(body, peel=False) if b" peeled:" in body else peeled


def _wanted(found: dict[str, str], wanted: Sequence[str]) -> dict[str, str]:
    """Return those of `found` that were asked for: a prefix also matches longer names."""
    names = frozenset(wanted)
    prefixes = tuple(name for name in wanted if name.endswith("/"))
    return {name: commit for name, commit in found.items() if name in names or name.startswith(prefixes or "\0")}


def _late(url: str, timeout_s: float) -> SourceError:
    return SourceError(SourceReason.TIMEOUT, f"{url} gave no answer within {timeout_s:g} s")
