"""Listening, with bounds: how many connections, how many from one address, and how long one may dawdle.

A connection is idle until a whole request has arrived on it, and again after the answer. Where a bound is reached, the
oldest idle connection makes room for the new one; first those on which nothing was ever asked, so clients that hold
connections open push out each other and not those who ask something.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import chain
from typing import cast

from aiohttp import web

MAX_CONNECTIONS = 512
MAX_PER_ADDRESS = 256  # behind a proxy everybody has one address
HEAD_TIMEOUT_S = 15.0  # for the first request's head, and between requests
BODY_TIMEOUT_S = 10.0
LINGER_S = 2.0  # what is still read of a body that nobody wanted
CLOSE_WAIT_S = 1.0  # for answers that are being sent when the daemon stops
_BACKLOG = 1_024

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gate:
    """Counts connections and closes idle ones where there are too many."""

    def __init__(self) -> None:
        self._silent: OrderedDict[asyncio.BaseTransport, str] = OrderedDict()  # nothing was asked on them yet
        self._kept: OrderedDict[asyncio.BaseTransport, str] = OrderedDict()  # something was, and was answered
        self._address: dict[asyncio.BaseTransport, str] = {}
        self._count: dict[str, int] = {}

    def enter(self, transport: asyncio.Transport) -> bool:
        """Admit a new connection; False where all others are busy."""
        address = str((transport.get_extra_info("peername") or ("",))[0])
        if self._count.get(address, 0) >= MAX_PER_ADDRESS and not self._push_out(address):
            return False
        if len(self._address) >= MAX_CONNECTIONS and not self._push_out(None):
            return False
        self._address[transport] = address
        self._count[address] = self._count.get(address, 0) + 1
        self._silent[transport] = address
        return True

    def leave(self, transport: asyncio.BaseTransport) -> None:
        """Forget a connection that is closed."""
        address = self._address.pop(transport, None)
        self.busy(transport)
        if address is not None:
            self._count[address] -= 1
            if not self._count[address]:
                del self._count[address]

    def busy(self, transport: asyncio.BaseTransport | None) -> None:
        """Note that a whole request has arrived."""
        if transport is not None:
            self._silent.pop(transport, None)
            self._kept.pop(transport, None)

    def idle(self, transport: asyncio.BaseTransport | None) -> None:
        """Note that the answer is made."""
        if transport is not None and transport in self._address:
            self._kept[transport] = self._address[transport]

    def _push_out(self, address: str | None) -> bool:
        for transport, held_by in chain(self._silent.items(), self._kept.items()):
            if address in (None, held_by):
                self.leave(transport)
                cast("asyncio.Transport", transport).abort()
                return True
        return False


class _Guarded(asyncio.Protocol):
    """Passes everything on to aiohttp's protocol, if the gate lets the connection in."""

    def __init__(self, gate: Gate, inner: asyncio.Protocol) -> None:
        self._gate = gate
        self._inner = inner
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not self._gate.enter(cast("asyncio.Transport", transport)):
            cast("asyncio.Transport", transport).abort()
            return
        self._transport = cast("asyncio.Transport", transport)
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._gate.leave(self._transport)
            self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._transport is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._transport is not None else None

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


class TooLarge(web.HTTPRequestEntityTooLarge):
    """A body beyond its bound."""


GATE: web.AppKey[Gate] = web.AppKey("gate", Gate)


async def read_body(request: web.Request, limit: int) -> bytes:
    """Return the raw body, at most `limit` bytes and BODY_TIMEOUT_S seconds of it. Raises HTTP errors 413 and 408."""
    if (request.content_length or 0) > limit:
        raise TooLarge(limit, request.content_length or 0)
    if request.content.is_eof():  # the whole of it came with the head
        data = request.content.read_nowait()
        if len(data) > limit:
            raise TooLarge(limit, len(data))
        request.app[GATE].busy(request.transport)
        return data
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.content.iter_any():
                size += len(chunk)
                if size > limit:
                    raise TooLarge(limit, size)
                chunks.append(chunk)
    except TimeoutError:
        raise web.HTTPRequestTimeout(reason="the body did not arrive in time") from None
    request.app[GATE].busy(request.transport)
    return b"".join(chunks)


@web.middleware
async def count_busy(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Keep the gate informed: a request without a body is whole when it gets here."""
    gate = request.app[GATE]
    if not request.body_exists:
        gate.busy(request.transport)
    try:
        return await handler(request)
    finally:
        gate.idle(request.transport)


class Server:
    """An HTTP server on one address."""

    def __init__(self, app: web.Application) -> None:
        app[GATE] = Gate()
        self._gate = app[GATE]
        # Signatures are over the bytes that were sent, and a small body that unpacks to a large one helps nobody.
        self._runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=CLOSE_WAIT_S,
            keepalive_timeout=HEAD_TIMEOUT_S,
            lingering_time=LINGER_S,
            auto_decompress=False,
        )
        self._server: asyncio.Server | None = None
        self.address = ""

    async def start(self, host: str, port: int) -> None:
        """Begin to listen. Raises OSError where the address is taken."""
        await self._runner.setup()
        inner = self._runner.server
        assert inner is not None  # noqa: S101 - setup made it
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Guarded(self._gate, inner()), host, port, reuse_address=True, backlog=_BACKLOG
        )
        bound = self._server.sockets[0].getsockname()
        shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        self.address = f"{shown}:{bound[1]}"

    async def stop(self) -> None:
        """Stop listening and close what is open."""
        if self._server is not None:
            self._server.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(3 * CLOSE_WAIT_S):
                await self._runner.cleanup()
