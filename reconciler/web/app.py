"""The private listener: health, metrics, and the read side of the API."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from reconciler import __version__, views
from reconciler.model import Deploy
from reconciler.snapshot import Snapshot

MAX_HISTORY = 200
_CLOSE_WAIT_S = 1.0  # for answers that are being sent when the daemon stops


@dataclass(frozen=True, slots=True)
class Face:
    """What the pages are made from; the composition root fills it in."""

    snapshot: Callable[[], Snapshot]
    metrics: Callable[[str], tuple[bytes, str]]
    alive: Callable[[], str | None]  # why the loop does not turn, or None
    ready: Callable[[], str | None]  # why the daemon is not ready, or None
    history: Callable[[str, int], Awaitable[list[Deploy]]]
    deploy: Callable[[str], Awaitable[Deploy | None]]
    log: Callable[[Deploy], Awaitable[str]]


class Listener:
    """An HTTP server on one address."""

    def __init__(self, app: web.Application) -> None:
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_CLOSE_WAIT_S)
        self.address = ""

    async def start(self, host: str, port: int) -> None:
        """Begin to listen. Raises OSError where the address is taken."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, reuse_address=True)
        await site.start()
        bound = self._runner.addresses[0]
        shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        self.address = f"{shown}:{bound[1]}"

    async def stop(self) -> None:
        """Stop listening and close what is open."""
        await self._runner.cleanup()


def build(face: Face) -> web.Application:
    """Return the application of the private listener."""
    app = web.Application(client_max_size=1024 * 1024, middlewares=[_problems])
    handlers = _Handlers(face)
    app.add_routes(
        [
            web.get("/", handlers.index),
            web.get("/healthz", handlers.healthz),
            web.get("/readyz", handlers.readyz),
            web.get("/metrics", handlers.metrics),
            web.get("/api/v1/targets", handlers.targets),
            web.get("/api/v1/targets/{name}", handlers.target),
            web.get("/api/v1/targets/{name}/deploys", handlers.deploys),
            web.get("/api/v1/deploys/{id}", handlers.deploy),
            web.get("/api/v1/deploys/{id}/log", handlers.log),
            web.get("/api/v1/sources", handlers.sources),
        ]
    )
    return app


class _Handlers:
    def __init__(self, face: Face) -> None:
        self._face = face

    async def index(self, _: web.Request) -> web.Response:
        links = {path: f"/api/v1/{path}" for path in ("targets", "sources")}
        return _json({"reconciler": __version__, **links, "metrics": "/metrics", "health": "/healthz"})

    async def healthz(self, _: web.Request) -> web.Response:
        return _health(self._face.alive())

    async def readyz(self, _: web.Request) -> web.Response:
        return _health(self._face.ready())

    async def metrics(self, request: web.Request) -> web.Response:
        body, content_type = self._face.metrics(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def targets(self, _: web.Request) -> web.Response:
        return _json(views.targets_view(self._face.snapshot()))

    async def target(self, request: web.Request) -> web.Response:
        return _json(views.target_view(self._face.snapshot(), self._known_target(request)))

    async def deploys(self, request: web.Request) -> web.Response:
        found = await self._face.history(self._known_target(request), MAX_HISTORY)
        return _json({"deploys": [views.deploy_view(deploy) for deploy in found]})

    async def deploy(self, request: web.Request) -> web.Response:
        return _json(views.deploy_view(await self._known_deploy(request)))

    async def log(self, request: web.Request) -> web.Response:
        return web.Response(text=await self._face.log(await self._known_deploy(request)))

    async def sources(self, _: web.Request) -> web.Response:
        return _json(views.sources_view(self._face.snapshot()))

    def _known_target(self, request: web.Request) -> str:
        name = request.match_info["name"]
        if name not in self._face.snapshot().entries:
            raise web.HTTPNotFound(reason="there is no target of this name")
        return name

    async def _known_deploy(self, request: web.Request) -> Deploy:
        deploy = await self._face.deploy(request.match_info["id"])
        if deploy is None:
            raise web.HTTPNotFound(reason="there is no deploy of this id")
        return deploy


def _health(problem: str | None) -> web.Response:
    return web.Response(status=503 if problem else 200, text=f"{problem or 'ok'}\n")


def _json(data: Mapping[str, Any]) -> web.Response:
    return web.Response(text=json.dumps(data, indent=2) + "\n", content_type="application/json")


@web.middleware
async def _problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turn errors into application/problem+json (RFC 9457)."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:  # noqa: PLR2004 - redirects are answers
            raise
        body = {"type": "about:blank", "title": error.reason, "status": error.status}
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return web.Response(
            status=error.status, text=json.dumps(body), content_type="application/problem+json", headers=headers
        )
