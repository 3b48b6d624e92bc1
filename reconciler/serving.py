"""The HTTP listeners: the private one, and one for webhooks alone where the settings ask for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from reconciler import clock
from reconciler.differences import differences
from reconciler.doors import Doors
from reconciler.errors import SettingsError
from reconciler.events import Warned
from reconciler.hooking import Hooks
from reconciler.model import Deploy
from reconciler.report.metrics import Metrics
from reconciler.runner import output
from reconciler.runner.output import Piece
from reconciler.shapes import CommitsView, TargetView
from reconciler.snapshot import Snapshot
from reconciler.web import app
from reconciler.web.face import Face
from reconciler.web.listening import Server
from reconciler.wishes import Wish, grant


class Serving:
    """Serves what is known, and takes wishes and webhooks. `woken` is called with the targets of a wish."""

    def __init__(
        self,
        doors: Doors,
        hooks: Hooks,
        metrics: Metrics,
        snapshot: Callable[[], Snapshot],
        health: tuple[Callable[[], str | None], Callable[[], str | None]],
        woken: Callable[[Sequence[str]], None],
    ) -> None:
        self._doors = doors
        self._woken = woken
        alive, ready = health
        self._face = Face(
            snapshot=snapshot,
            metrics=metrics.render,
            alive=alive,
            ready=ready,
            history=lambda target, limit, before: doors.db(doors.store.history, target, limit, before),
            deploy=lambda deploy_id: doors.db(doors.store.deploy, deploy_id),
            log=self._log,
            piece=self._piece,
            commits=self._commits,
            wish=self._wish,
            token=self._token,
            hooks=hooks,
            listener=doors.listener,
            hosts=frozenset(host.lower() for host in doors.settings.hosts),
        )
        self._servers: list[Server] = []

    async def start(self) -> tuple[str, str | None]:
        """Begin to listen; return the addresses, that of the webhooks' own listener second. Raises SettingsError."""
        settings = self._doors.settings
        if settings.api_token_file is not None and not self._token():
            raise SettingsError(f"api_token_file: {settings.api_token_file} cannot be read, or is empty")
        own = settings.webhook_address
        private = Server(app.private(self._face, with_hooks=own is None))
        address = await self._listen(private, settings.listen_address, "listen")
        if own is None:
            return address, None
        return address, await self._listen(Server(app.public(self._face)), own, "webhook_listen")

    async def _listen(self, server: Server, address: tuple[str, int], key: str) -> str:
        try:
            await server.start(*address)
        except OSError as error:
            host, port = address
            raise SettingsError(
                f"{key}: {host}:{port} cannot be used: {error.strerror}; choose another address"
            ) from error
        self._servers.append(server)
        return server.address

    async def stop(self) -> None:
        """Stop listening and close what is open."""
        await asyncio.gather(*(server.stop() for server in self._servers))

    def _token(self) -> bytes | None:
        file = self._doors.settings.api_token_file
        if file is None:
            return None
        try:
            return Path(file).read_bytes().strip()
        except OSError as error:
            message = f"api_token_file: {file} cannot be read: {error.strerror}"
            self._doors.listener.hear(Warned("api.token_unreadable", message))
            return None

    def _folder(self, deploy: Deploy) -> Path:
        return self._doors.state.log_of(deploy.target, deploy.id)

    async def _log(self, deploy: Deploy) -> str:
        return await asyncio.to_thread(output.read_all, self._folder(deploy))

    async def _piece(self, deploy: Deploy, offset: int) -> Piece | None:
        return await asyncio.to_thread(output.read, self._folder(deploy), offset)

    async def _commits(self, target: TargetView) -> CommitsView:
        return await self._doors.git(differences, self._doors.state.mirrors, target)

    async def _wish(self, target: str, wish: Wish, by: str) -> str:
        words = await self._doors.db(grant, self._doors.store, target, wish, by, clock.now())
        self._woken([target])
        return words
