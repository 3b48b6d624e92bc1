"""Middlewares: errors as application/problem+json (RFC 9457), the Host check, what every answer carries, the count."""

from __future__ import annotations

import ipaddress
import json
import time
from http import HTTPStatus

from aiohttp import web

from reconciler.events import HttpAnswered
from reconciler.web.face import Face
from reconciler.web.listening import Handler

PROBLEM = "application/problem+json"
_METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS"})
_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
_FIRST_ERROR = 400


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> web.Response:
    """Return an error as a problem document."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return web.Response(status=status, text=json.dumps(body) + "\n", content_type=PROBLEM, headers=headers)


@web.middleware
async def as_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn HTTP errors into problem documents."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < _FIRST_ERROR:
            raise
        allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        detail = error.reason
        if detail == HTTPStatus(error.status).phrase:
            detail = {404: "there is nothing here", 405: "another method is expected"}.get(error.status, detail)
        return problem(error.status, detail, allow)


def told(face: Face) -> object:
    """Return the middleware that tells of every answer; by the route's template, so strangers mint no series."""

    @web.middleware
    async def tell(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.perf_counter()
        status = 500
        try:
            response = await handler(request)
            status = response.status
            if not response.prepared:
                response.headers.update(_HEADERS)
            return response
        finally:
            resource = request.match_info.route.resource
            method = request.method if request.method in _METHODS else "other"
            handler_name = resource.canonical if resource is not None else "none"
            face.listener.hear(HttpAnswered(handler_name, method, status, time.perf_counter() - began))

    return tell


def host_checked(face: Face) -> object:
    """Return the middleware that refuses requests for other hosts: a web page elsewhere must not read what is here.

    A page on a name that its owner points at our address (DNS rebinding) asks under that name. Addresses, names
    without a dot, and those of the settings cannot be such names.
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        # A webhook is proven by its signature, under whatever name its forge knows us.
        is_hook = request.path.startswith("/webhook/")
        if not is_hook and not _is_ours(request.headers.get("Host", ""), face.hosts):
            return problem(421, "this host name is not one of `hosts` in the settings")
        return await handler(request)

    return check


def _is_ours(host: str, names: frozenset[str]) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    name = name.strip("[]").lower().rstrip(".")
    if "." not in name and ":" not in name:
        return True
    if name in names or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
