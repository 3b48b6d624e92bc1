"""The socket in the state directory through which local verbs wake the daemon.

A wish is written to the store first; the socket only says that there is one, and whose Sources to poll. A wish that
is made while no daemon runs waits in the store for the next one.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

NAME = "wake.sock"
MAX_MESSAGE_BYTES = 65_536
TIMEOUT_S = 5.0


@contextmanager
def _address(folder: Path) -> Iterator[str]:
    """Yield a short path of the socket: the kernel takes 107 bytes, and state directories may be deep."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{NAME}"
    finally:
        os.close(descriptor)


async def listen(folder: Path, woken: Callable[[Sequence[str]], None]) -> asyncio.Server:
    """Call `woken` with the targets of every message, until the returned server is closed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, ValueError, TimeoutError):
            async with asyncio.timeout(TIMEOUT_S):
                names = json.loads(await reader.readline())["targets"]
                woken([str(name) for name in names])
                writer.write(b"ok\n")
                await writer.drain()
        writer.close()

    (folder / NAME).unlink(missing_ok=True)  # a dead daemon's; the state directory's lock is ours
    with _address(folder) as address:
        return await asyncio.start_unix_server(serve, address, limit=MAX_MESSAGE_BYTES)


def wake(folder: Path, targets: Sequence[str]) -> bool:
    """Wake the daemon of a state directory; False where none listens."""
    with socket.socket(socket.AF_UNIX) as connection, _address(folder) as address:
        connection.settimeout(TIMEOUT_S)
        try:
            connection.connect(address)
            connection.sendall(json.dumps({"targets": list(targets)}).encode() + b"\n")
            return connection.recv(16) == b"ok\n"
        except OSError:
            return False
