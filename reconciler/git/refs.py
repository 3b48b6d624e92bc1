"""Polling: which commit each wanted ref of a Source has, for one small request.

Over http(s) that is one `ls-refs` of protocol version 2 with a prefix per wanted ref: the answer does not grow
with the repository. libgit2 speaks version 0 only, in which every ref is sent each time; it is the fallback for
odd servers, remembered per Source. Over ssh it is the same request on a kept connection (`ssh.py`), and a local
repository is read directly.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp

from reconciler import urls
from reconciler.errors import SourceError, SourceReason
from reconciler.git import objects, pktline
from reconciler.git.credentials import Credentials, Login
from reconciler.git.mirror import SCRATCH
from reconciler.git.ssh import SshPolls

MAX_ANSWER_BYTES = 4 * 1024 * 1024
_HEADERS = {"Git-Protocol": "version=2", "User-Agent": "git/reconciler", "Accept-Encoding": "identity"}
_STATUS = {
    401: SourceReason.AUTHENTICATION_FAILED,
    403: SourceReason.FORBIDDEN,
    404: SourceReason.NOT_FOUND,
    410: SourceReason.NOT_FOUND,
    429: SourceReason.RATE_LIMITED,
}
_REDIRECTS = range(300, 400)
_SERVER_ERRORS = range(500, 600)

Blocking = Callable[..., Awaitable[Any]]  # runs a blocking function in the thread for git objects
Ask = Callable[[dict[str, Any], float], Awaitable[dict[str, Any]]]  # asks a worker process


class Refs:
    """Asks servers for refs. One HTTP session for all Sources; what a server speaks is remembered."""

    def __init__(self, credentials: Credentials, mirrors: Path, timeout_s: float, ask: Ask, blocking: Blocking) -> None:
        self._credentials = credentials
        self._mirrors = mirrors
        self._timeout_s = timeout_s
        self._ask = ask
        self._blocking = blocking
        self._object_formats: dict[str, str] = {}  # of servers that speak version 2, by URL
        self._odd: set[str] = set()  # URLs that need the fallback
        self._session: aiohttp.ClientSession | None = None
        self._ssh = SshPolls(timeout_s)

    async def close(self) -> None:
        """Close the connections."""
        await self._ssh.close()
        if self._session is not None:
            await self._session.close()

    async def poll(self, url: str, wanted: Sequence[str]) -> dict[str, str]:
        """Return full ref names to commits, tags peeled; a wanted ref that does not exist is left out.

        `wanted` holds full names, or prefixes that end with a slash. Raises SourceError; never takes longer
        than the git timeout.
        """
        parsed = urls.parse(url)
        login = await self._credentials.login(url)
        try:
            async with asyncio.timeout(self._timeout_s):
                if parsed.is_local:
                    found: dict[str, str] = await self._blocking(objects.local_refs, parsed.path, wanted)
                elif parsed.scheme == "ssh":
                    found = await self._ssh.poll(parsed, wanted, login)
                elif url not in self._odd:
                    found = await self._poll_http(url, wanted, login)
                else:
                    found = await self._poll_fallback(url, wanted, login)
        except TimeoutError:
            message = f"{url} gave no answer within {self._timeout_s:g} s"
            raise SourceError(SourceReason.TIMEOUT, message) from None
        names = frozenset(wanted)
        prefixes = tuple(name for name in wanted if name.endswith("/"))
        return {name: commit for name, commit in found.items() if name in names or name.startswith(prefixes or "\0")}

    async def _poll_fallback(self, url: str, wanted: Sequence[str], login: Login | None) -> dict[str, str]:
        request = {
            "op": "refs",
            "url": url,
            "prefixes": list(wanted),
            "login": login.as_message() if login else None,
            "mirror": str(self._mirrors / SCRATCH),
        }
        answer = await self._ask(request, self._timeout_s)
        found: dict[str, str] = answer["refs"]
        return found

    async def _poll_http(self, url: str, wanted: Sequence[str], login: Login | None) -> dict[str, str]:
        if url not in self._object_formats:
            body = await self._exchange("GET", f"{url}/info/refs?service=git-upload-pack", None, login)
            capabilities = pktline.capabilities(body)
            if capabilities is None:
                self._odd.add(url)
                return await self._poll_fallback(url, wanted, login)
            self._object_formats[url] = capabilities.get("object-format", "sha1")
        request = pktline.ls_refs(self._object_formats[url], wanted)
        try:
            body = await self._exchange("POST", f"{url}/git-upload-pack", request, login)
            return pktline.refs(body)
        except (pktline.NotPktLine, SourceError) as error:
            # Ask again from the beginning next time: the server changed, or told us something wrong.
            self._object_formats.pop(url, None)
            if isinstance(error, SourceError):
                raise
            raise SourceError(SourceReason.PROTOCOL_ERROR, f"{url}: {error}") from error

    async def _exchange(self, method: str, address: str, body: bytes | None, login: Login | None) -> bytes:
        headers = dict(_HEADERS)
        if body is not None:
            headers["Content-Type"] = "application/x-git-upload-pack-request"
            headers["Accept"] = "application/x-git-upload-pack-result"
        if login and login.password is not None:
            pair = f"{login.username or 'git'}:{login.password}".encode()
            headers["Authorization"] = "Basic " + base64.b64encode(pair).decode()
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._timeout_s),
                connector=aiohttp.TCPConnector(limit=64, limit_per_host=8),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        try:
            async with self._session.request(
                method,
                address,
                data=body,
                headers=headers,
                allow_redirects=False,
                ssl=_trust(login),
                proxy=login.proxy if login else None,
            ) as response:
                _check_status(response.status, address, response.headers, has_login=login is not None)
                return await _read_bounded(response, address)
        except aiohttp.ClientError as error:
            reason = SourceReason.UNREACHABLE
            if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ClientResponseError):
                reason = SourceReason.PROTOCOL_ERROR
            raise SourceError(reason, f"{address}: {str(error) or type(error).__name__}") from error


def _trust(login: Login | None) -> ssl.SSLContext | bool:
    return ssl.create_default_context(cafile=login.ca_file) if login and login.ca_file else True


def _check_status(status: int, address: str, headers: Mapping[str, str], *, has_login: bool) -> None:
    if status == 200:  # noqa: PLR2004 - the one good answer
        return
    if status in _REDIRECTS:
        target = headers.get("Location", "another place").partition("/info/refs")[0]
        raise SourceError(SourceReason.REDIRECTED, f"{address} redirects; write {target} instead, if you trust it")
    after = _retry_after_s(headers.get("Retry-After", ""))
    wait = f", and asks us to wait for {after:g} s" if after is not None else ""
    if status in _SERVER_ERRORS:
        raise SourceError(SourceReason.SERVER_ERROR, f"{address} answered {status}{wait}", retry_after_s=after)
    reason = _STATUS.get(status, SourceReason.PROTOCOL_ERROR)
    hint = wait if reason is SourceReason.RATE_LIMITED else ""
    if reason is SourceReason.AUTHENTICATION_FAILED:
        hint = (
            "; the credential in the settings is refused" if has_login else "; the settings have no credential for it"
        )
    raise SourceError(reason, f"{address} answered {status}{hint}", retry_after_s=after)


def _retry_after_s(text: str) -> float | None:
    """Return the seconds of a Retry-After header: a number, or a date (RFC 9110)."""
    if text.isascii() and text.isdigit() and len(text) < 10:  # noqa: PLR2004 - more than centuries
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


async def _read_bounded(response: aiohttp.ClientResponse, address: str) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            raise SourceError(SourceReason.TOO_LARGE, f"{address} answered with more than {MAX_ANSWER_BYTES} bytes")
        chunks.append(chunk)
    return b"".join(chunks)
