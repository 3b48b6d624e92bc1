"""Long-lived worker processes that answer requests one at a time and are killed when they are late."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

MAX_ANSWER_BYTES = 16 * 1024 * 1024
KEPT_IDLE = 2  # workers that wait for work; what a rush took beyond them is given back
MAX_REQUESTS = 500  # a worker is replaced after so many, so that no leak grows


class WorkerFailed(Exception):  # noqa: N818 - says what happened
    """The worker died or was killed; `late` tells which."""

    def __init__(self, message: str, *, late: bool) -> None:
        super().__init__(message)
        self.late = late


class _Worker:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.requests = 0

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None  # noqa: S101 - opened as pipes below
        assert self.process.stdout is not None  # noqa: S101 - the same
        self.requests += 1
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        await self.process.stdin.drain()
        line = await self.process.stdout.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def end(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


class WorkerPool:
    """At most `size` workers that run `module`; started when they are first needed."""

    def __init__(self, module: str, arguments: Sequence[str], size: int) -> None:
        self._command = [sys.executable, "-m", module, *arguments]
        self._slots = asyncio.Semaphore(size)
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._closed = False

    async def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Return a worker's answer; raise WorkerFailed if it dies, or is not done `timeout_s` seconds later.

        Waiting for a free worker does not count.
        """
        async with self._slots:
            if self._closed:
                raise WorkerFailed("the daemon is stopping", late=False)
            worker = self._idle.pop() if self._idle else await self._spawn()
            try:
                async with asyncio.timeout(timeout_s):
                    answer = await worker.ask(request)
            except TimeoutError:
                await self._discard(worker)
                raise WorkerFailed(f"it took more than {timeout_s:g} s", late=True) from None
            except (ConnectionError, ValueError) as error:
                await self._discard(worker)
                raise WorkerFailed("the worker process died", late=False) from error
            except BaseException:
                await self._discard(worker)
                raise
            tired = worker.requests >= MAX_REQUESTS or len(self._idle) >= KEPT_IDLE
            if tired or answer.get("retire") or worker not in self._all:
                await self._discard(worker)
            else:
                self._idle.append(worker)
            return answer

    async def close(self) -> None:
        """End all workers."""
        self._closed = True
        self._idle.clear()
        for worker in list(self._all):
            await self._discard(worker)

    async def _spawn(self) -> _Worker:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C in the terminal is the daemon's, not theirs
            limit=MAX_ANSWER_BYTES,
            env={key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "LD_"))},
        )
        worker = _Worker(process)
        self._all.add(worker)
        return worker

    async def _discard(self, worker: _Worker) -> None:
        self._all.discard(worker)
        await worker.end()
