"""Git over http(s), protocol version 2: one kept session for all servers, one bounded answer a command.

What a host speaks is asked once: of the first of its repositories. Another one is then asked its question at once, and
for its capabilities only where the answer is odd. Redirects are never followed, and credentials go nowhere else.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar

import aiohttp
from yarl import URL

from reconciler.errors import SourceError, SourceReason
from reconciler.git import pktline
from reconciler.git.credentials import Login

T = TypeVar("T")
MAX_ANSWER_BYTES = 4 * 1024 * 1024
MAX_CONNECTIONS = 64
MAX_CONNECTIONS_PER_HOST = 16
_HEADERS = {"Git-Protocol": "version=2", "User-Agent": "git/reconciler", "Accept-Encoding": "identity"}
_POST = {
    **_HEADERS,
    "Content-Type": "application/x-git-upload-pack-request",
    "Accept": "application/x-git-upload-pack-result",
}
_STATUS = {
    401: SourceReason.AUTHENTICATION_FAILED,
    403: SourceReason.FORBIDDEN,
    404: SourceReason.NOT_FOUND,
    410: SourceReason.NOT_FOUND,
    429: SourceReason.RATE_LIMITED,
}
_REDIRECTS = range(300, 400)
_SERVER_ERRORS = range(500, 600)
_USUAL_FORMAT = "sha1"
_ODD = (SourceReason.PROTOCOL_ERROR, SourceReason.SERVER_ERROR)  # what git answers where it is another format


class NotVersion2(Exception):  # noqa: N818 - named as what it is
    """The server does not speak protocol version 2."""


class GitHttp:
    """Sends commands of protocol version 2."""

    def __init__(self) -> None:
        self._formats: dict[str, str] = {}  # object formats of repositories that speak version 2, by URL
        self._hosts: set[str] = set()  # that have such a repository
        self._session: aiohttp.ClientSession | None = None
        self._authorities: dict[tuple[str, int], ssl.SSLContext] = {}

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def command(
        self, url: str, build: Callable[[str], bytes], read: Callable[[bytes], T], login: Login | None
    ) -> T:
        """Return what `read` makes of the answer to the request that `build` makes for an object format.

        Raises SourceError, or NotVersion2.
        """
        host = url.split("/", 3)[2]
        if url not in self._formats and host in self._hosts:
            try:
                answer = read(await self._post(url, build(_USUAL_FORMAT), login))
            except pktline.NotPktLine:
                pass  # perhaps this one is another kind of repository
            except SourceError as error:
                if error.reason not in _ODD:
                    raise
            else:
                self._formats[url] = _USUAL_FORMAT
                return answer
        if url not in self._formats:
            advertised = await self._exchange("GET", f"{url}/info/refs?service=git-upload-pack", None, login)
            capabilities = pktline.capabilities(advertised)
            if capabilities is None:
                raise NotVersion2
            self._formats[url] = capabilities.get("object-format", _USUAL_FORMAT)
            self._hosts.add(host)
        try:
            return read(await self._post(url, build(self._formats[url]), login))
        except pktline.NotPktLine as error:
            self._forget(url, host)
            raise SourceError(SourceReason.PROTOCOL_ERROR, f"{url}: {error}") from error
        except SourceError:
            self._forget(url, host)
            raise

    def _forget(self, url: str, host: str) -> None:
        """Ask again from the beginning next time: the server changed, or told us something wrong."""
        self._formats.pop(url, None)
        self._hosts.discard(host)

    async def _post(self, url: str, body: bytes, login: Login | None) -> bytes:
        return await self._exchange("POST", f"{url}/git-upload-pack", body, login)

    async def _exchange(self, method: str, address: str, body: bytes | None, login: Login | None) -> bytes:
        headers = _HEADERS if body is None else _POST
        if login and login.password is not None:
            pair = f"{login.username or 'git'}:{login.password}".encode()
            headers = {**headers, "Authorization": "Basic " + base64.b64encode(pair).decode()}
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None),  # who asks has a deadline
                connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, limit_per_host=MAX_CONNECTIONS_PER_HOST),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        try:
            async with self._session.request(
                method,
                URL(address, encoded=True),
                data=body,
                headers=headers,
                allow_redirects=False,
                ssl=self._trust(login),
                proxy=login.proxy if login else None,
            ) as response:
                _check_status(response.status, address, response.headers, has_login=login is not None)
                return await _read_bounded(response, address)
        except aiohttp.ClientError as error:
            reason = SourceReason.UNREACHABLE
            if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ClientResponseError):
                reason = SourceReason.PROTOCOL_ERROR
            raise SourceError(reason, f"{address}: {str(error) or type(error).__name__}") from error

    def _trust(self, login: Login | None) -> ssl.SSLContext | bool:
        """Return the certificate authorities to trust: those of the login's file as it is now, or the machine's."""
        if login is None or not login.ca_file:
            return True
        try:
            key = (login.ca_file, Path(login.ca_file).stat().st_mtime_ns)
            if key not in self._authorities:
                # One object for all requests: connections are kept by it.
                self._authorities = {kept: held for kept, held in self._authorities.items() if kept[0] != key[0]}
                self._authorities[key] = ssl.create_default_context(cafile=login.ca_file)
            return self._authorities[key]
        except (OSError, ssl.SSLError) as error:
            why = getattr(error, "strerror", None) or "it holds no certificate"
            message = f"the certificate authority {login.ca_file} cannot be read: {why}"
            raise SourceError(SourceReason.AUTHENTICATION_FAILED, message) from error


def _check_status(status: int, address: str, headers: Mapping[str, str], *, has_login: bool) -> None:
    if status == 200:  # noqa: PLR2004 - the one good answer
        return
    if status in _REDIRECTS:
        target = headers.get("Location", "another place").partition("/info/refs")[0]
        raise SourceError(SourceReason.REDIRECTED, f"{address} redirects; write {target} instead, if you trust it")
    after = _retry_after_s(headers.get("Retry-After", ""))
    wait = f", and asks us to wait for {after:.0f} s" if after is not None else ""
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
