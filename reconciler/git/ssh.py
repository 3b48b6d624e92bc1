"""Polling over ssh: one kept connection a host and key, and one `git-upload-pack` a poll.

The host's key must stand in known_hosts; an unknown one connects to nothing. Where a server does not see that protocol
version 2 is wanted, it sends every ref at once (version 0), which is read within the same bounds.
"""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import asyncssh

from reconciler.errors import SourceError, SourceReason
from reconciler.git import pktline
from reconciler.git.credentials import Login
from reconciler.text import is_text
from reconciler.urls import RepoUrl

MAX_ANSWER_BYTES = 16 * 1024 * 1024
KEEP_S = 120.0  # an idle connection is closed after so long
_ADVERTISED = re.compile(rb"([0-9a-f]{40}|[0-9a-f]{64}) ([^\0\n]{1,4096})(?:\0[^\n]*)?\n?")
_NOT_FOUND = ("does not appear to be a git repository", "not found", "does not exist", "no such file")
_FORBIDDEN = ("permission", "denied", "not allowed", "access rights")

Key = tuple[str, int, str, str | None, str | None]


class SshPolls:
    """Asks for refs over connections that are kept."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._connections: dict[Key, asyncssh.SSHClientConnection] = {}
        self._opening: dict[Key, asyncio.Lock] = {}
        self._closers: dict[Key, asyncio.TimerHandle] = {}

    async def poll(self, url: RepoUrl, wanted: Sequence[str], login: Login | None) -> dict[str, str]:
        """Return full ref names to commits, tags peeled. Raises SourceError."""
        key: Key = (
            url.host,
            url.port or 22,
            url.user or (login.username if login else None) or "git",
            login.ssh_key_file if login else None,
            login.known_hosts_file if login else None,
        )
        try:
            connection = await self._connect(key, str(url))
            return await self._ask(connection, url, wanted)
        except asyncssh.HostKeyNotVerifiable as error:
            raise SourceError(SourceReason.HOST_KEY_MISMATCH, f"{url}: {error.reason or 'unknown host key'}") from error
        except asyncssh.PermissionDenied as error:
            raise SourceError(SourceReason.AUTHENTICATION_FAILED, f"{url} refused our key: {error.reason}") from error
        except asyncssh.KeyImportError as error:
            raise SourceError(SourceReason.AUTHENTICATION_FAILED, f"{key[3]} is no key that can be used") from error
        except asyncssh.Error as error:
            self._drop(key)
            raise SourceError(SourceReason.UNREACHABLE, f"{url}: {error.reason or type(error).__name__}") from error
        except OSError as error:
            self._drop(key)
            if error.filename is not None and str(error.filename) == key[3]:
                message = f"the key {key[3]} cannot be read: {error.strerror}"
                raise SourceError(SourceReason.AUTHENTICATION_FAILED, message) from error
            raise SourceError(SourceReason.UNREACHABLE, f"{url}: {error.strerror or error}") from error
        except pktline.NotPktLine as error:
            raise SourceError(SourceReason.PROTOCOL_ERROR, f"{url}: {error}") from error
        except asyncio.CancelledError:
            self._drop(key)  # a connection that let us wait is not kept
            raise

    async def close(self) -> None:
        """Close every connection."""
        for key in list(self._connections):
            self._drop(key)

    async def _connect(self, key: Key, url: str) -> asyncssh.SSHClientConnection:
        async with self._opening.setdefault(key, asyncio.Lock()):
            known = self._connections.get(key)
            if known is None or known.is_closed():
                host, port, user, key_file, known_hosts = key
                known = self._connections[key] = await asyncssh.connect(
                    host,
                    port,
                    username=user,
                    known_hosts=_known_hosts(known_hosts, url),
                    client_keys=[key_file] if key_file else (),
                    config=None,
                    connect_timeout=self._timeout_s,
                    keepalive_interval=15,
                )
            self._keep(key)
            return known

    def _keep(self, key: Key) -> None:
        if key in self._closers:
            self._closers[key].cancel()
        self._closers[key] = asyncio.get_running_loop().call_later(KEEP_S, self._drop, key)

    def _drop(self, key: Key) -> None:
        connection, closer = self._connections.pop(key, None), self._closers.pop(key, None)
        if closer is not None:
            closer.cancel()
        if connection is not None:
            connection.abort()

    async def _ask(
        self, connection: asyncssh.SSHClientConnection, url: RepoUrl, wanted: Sequence[str]
    ) -> dict[str, str]:
        command = f"git-upload-pack {shlex.quote(url.path)}"
        process = await connection.create_process(command, env={"GIT_PROTOCOL": "version=2"}, encoding=None)
        try:
            head = await _advertisement(process.stdout)
            if not head:
                raise await _refusal(process, url)
            capabilities = pktline.capabilities(head)
            if capabilities is None:
                return _advertised(head)
            process.stdin.write(pktline.ls_refs(capabilities.get("object-format", "sha1"), wanted))
            return pktline.refs(await _advertisement(process.stdout), peel=True)
        finally:
            with suppress(OSError, asyncssh.Error):
                process.stdin.write(pktline.FLUSH)
            process.close()


def _known_hosts(file: str | None, url: str) -> str:
    """Return the file of host keys; raise SourceError where there is none, as nothing is trusted then."""
    path = Path(file) if file else Path("~/.ssh/known_hosts").expanduser()
    if not path.is_file():
        raise SourceError(SourceReason.HOST_KEY_MISMATCH, f"{url}: there is no {path} that could have its host key")
    return str(path)


async def _advertisement(stream: asyncssh.SSHReader[bytes]) -> bytes:
    """Return everything up to a flush, within a bound; nothing where the stream ends at once."""
    data = bytearray()
    while len(data) < MAX_ANSWER_BYTES:
        try:
            prefix = await stream.readexactly(4)
            data += prefix
            if prefix == pktline.FLUSH:
                return bytes(data)
            length = int(prefix, 16)
            if length > 4:  # noqa: PLR2004 - the prefix itself
                data += await stream.readexactly(length - 4)
        except asyncio.IncompleteReadError as error:
            if data or error.partial:
                raise pktline.NotPktLine("the answer is cut off") from error
            return b""
        except ValueError as error:
            raise pktline.NotPktLine("the answer is not git's protocol") from error
    raise SourceError(SourceReason.TOO_LARGE, f"the server sent more than {MAX_ANSWER_BYTES} bytes of refs")


async def _refusal(process: asyncssh.SSHClientProcess[bytes], url: RepoUrl) -> SourceError:
    text = (await process.stderr.read(2_000)).decode(errors="replace").strip()
    low = text.lower()
    reason = SourceReason.PROTOCOL_ERROR
    if any(words in low for words in _NOT_FOUND):
        reason = SourceReason.NOT_FOUND
    elif any(words in low for words in _FORBIDDEN):
        reason = SourceReason.FORBIDDEN
    return SourceError(reason, f"{url}: {text or 'git-upload-pack sent nothing'}")


def _advertised(head: bytes) -> dict[str, str]:
    """Return the refs of an advertisement of version 0, tags peeled."""
    found: dict[str, str] = {}
    for line in pktline.lines(head):
        if line is None or line.startswith(b"version "):
            continue
        match = _ADVERTISED.fullmatch(line)
        if not match:
            raise pktline.NotPktLine("the answer holds a line that is not a ref")
        name = match[2].decode(errors="surrogateescape")
        if is_text(name) and name != "capabilities^{}":
            found[name.removesuffix("^{}")] = match[1].decode()  # the peeled line follows the tag's own
    return found
