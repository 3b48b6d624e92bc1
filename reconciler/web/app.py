"""Which path leads where: the private application, and the one that takes webhooks and nothing else."""

from __future__ import annotations

import asyncio

from aiohttp import web

from reconciler.web import openapi, pages, streams
from reconciler.web.api import ApiHandlers
from reconciler.web.face import Face
from reconciler.web.hooks import HookHandlers
from reconciler.web.listening import count_busy
from reconciler.web.pages import PageHandlers
from reconciler.web.problems import as_problems, host_checked, told


def _application(face: Face, *, checked: bool) -> web.Application:
    middlewares = [told(face), as_problems, *([host_checked(face)] if checked else []), count_busy]
    app = web.Application(middlewares=middlewares)  # type: ignore[arg-type] # aiohttp's own decorator loses the type
    closing = app[streams.CLOSING] = asyncio.Event()

    async def close(_: web.Application) -> None:
        closing.set()

    app.on_shutdown.append(close)
    return app


def private(face: Face, *, with_hooks: bool) -> web.Application:
    """Return the application with API, pages and metrics; with webhooks where they have no listener of their own."""
    app = _application(face, checked=True)
    api = ApiHandlers(face, with_hooks=with_hooks)
    for operation in openapi.OPERATIONS:
        add = app.router.add_get if operation.method == "GET" else app.router.add_post  # a GET answers HEAD as well
        add(operation.path, getattr(api, operation.handler))
    app.router.add_get("/openapi.json", api.openapi)
    page = PageHandlers(face)
    app.router.add_get("/", page.overview)
    app.router.add_get("/targets/{name}", page.target)
    app.router.add_get("/deploys/{id}", page.deploy)
    app.router.add_get("/favicon.svg", page.favicon)
    for name in pages.STATIC:
        app.router.add_get(f"/static/{name}", page.static)
    if with_hooks:
        _add_hooks(app, face)
    return app


def public(face: Face) -> web.Application:
    """Return the application that takes webhooks and nothing else."""
    app = _application(face, checked=False)  # what asks here is a forge, under whatever name it knows us by
    _add_hooks(app, face)
    return app


def _add_hooks(app: web.Application, face: Face) -> None:
    hooks = HookHandlers(face)
    app.router.add_post("/webhook/generic/{source:.+}", hooks.generic)
    app.router.add_post("/webhook/{provider}", hooks.provider)
