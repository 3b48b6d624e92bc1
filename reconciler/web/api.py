"""The API: what is known as JSON, and wishes written down."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from reconciler import views
from reconciler.config.problems import describe, dotted
from reconciler.errors import CannotTell
from reconciler.model import Deploy
from reconciler.web import openapi, streams
from reconciler.web.face import Face
from reconciler.web.listening import read_body
from reconciler.web.problems import problem
from reconciler.wishes import Cancel, NothingToCancel, Reconcile, Resume, Suspend, Wish

MAX_BODY = 64 * 1024


class ApiHandlers:
    """Handlers of the operations in `openapi.OPERATIONS`, by name."""

    def __init__(self, face: Face, *, with_hooks: bool) -> None:
        self._face = face
        self._document = json.dumps(openapi.document(with_hooks=with_hooks), indent=2)

    # --- reading ------------------------------------------------------------------------------------------

    async def openapi(self, _: web.Request) -> web.Response:
        """Return the description of the API."""
        return web.Response(text=self._document, content_type="application/json")

    async def healthz(self, _: web.Request) -> web.Response:
        """Return whether the loop turns."""
        return _health(self._face.alive())

    async def readyz(self, _: web.Request) -> web.Response:
        """Return whether the daemon is ready."""
        return _health(self._face.ready())

    async def metrics(self, request: web.Request) -> web.Response:
        """Return the metrics in the form that the scraper accepts."""
        body, content_type = self._face.metrics(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def targets(self, request: web.Request) -> web.Response:
        """Return one page of targets."""
        snapshot = self._face.snapshot()
        limit, after = _number(request, "limit", openapi.MAX_PAGE), request.query.get("after", "")
        names = sorted(name for name in snapshot.entries if name > after)
        page = names[: min(limit or openapi.MAX_PAGE, openapi.MAX_PAGE)]
        more = page[-1] if len(page) < len(names) else None
        return _json({**views.targets_view(snapshot, page), "next": more})

    async def target(self, request: web.Request) -> web.Response:
        """Return one target."""
        return _json(views.target_view(self._face.snapshot(), known_target(self._face, request)))

    async def deploys(self, request: web.Request) -> web.Response:
        """Return one page of a target's deploys."""
        name = known_target(self._face, request)
        limit = _number(request, "limit", openapi.MAX_PAGE) or openapi.DEFAULT_DEPLOYS
        found = await self._face.history(name, limit + 1, _number(request, "before", 2**53))
        more = found[limit - 1].fence if len(found) > limit else None
        return _json({"deploys": [views.deploy_view(deploy) for deploy in found[:limit]], "next": more})

    async def commits(self, request: web.Request) -> web.Response:
        """Return the commits between what is deployed and what is desired."""
        view = views.target_view(self._face.snapshot(), known_target(self._face, request))
        return _json(await self._face.commits(view))

    async def deploy(self, request: web.Request) -> web.Response:
        """Return one deploy."""
        return _json(views.deploy_view(await known_deploy(self._face, request)))

    async def log(self, request: web.Request) -> web.StreamResponse:
        """Return what a deploy printed, or follow it."""
        deploy = await known_deploy(self._face, request)
        if "text/event-stream" in request.headers.get("Accept", ""):
            return await streams.follow(self._face, request, deploy)
        return web.Response(text=await self._face.log(deploy))

    async def sources(self, _: web.Request) -> web.Response:
        """Return all Sources."""
        return _json(views.sources_view(self._face.snapshot()))

    async def config(self, _: web.Request) -> web.Response:
        """Return the config commit in force."""
        return _json(views.config_view(self._face.snapshot()))

    # --- wishing ------------------------------------------------------------------------------------------

    async def reconcile(self, request: web.Request) -> web.Response:
        """Poll now, and deploy once more."""
        return await self._wish(request, Reconcile)

    async def suspend(self, request: web.Request) -> web.Response:
        """Start no deploy for a while."""
        return await self._wish(request, Suspend)

    async def resume(self, request: web.Request) -> web.Response:
        """End a suspension."""
        return await self._wish(request, Resume)

    async def cancel(self, request: web.Request) -> web.Response:
        """End the running deploy."""
        return await self._wish(request, Cancel)

    async def _wish(self, request: web.Request, kind: type[Wish]) -> web.Response:
        refused = self._refusal(request)
        if refused is not None:
            return refused
        name = known_target(self._face, request)
        body = await read_body(request, MAX_BODY)
        if body and request.content_type != "application/json":
            return problem(415, "expected application/json")
        try:
            said = json.loads(body) if body else {}
        except (ValueError, RecursionError):
            return problem(400, "expected a JSON object")
        try:
            wish = kind.model_validate(said)
            by = f"{wish.by} (API)" if wish.by else "the API"
            done = await self._face.wish(name, wish, by)
        except ValidationError as error:
            return problem(422, _what_is_wrong(error))
        except NothingToCancel as error:
            return problem(409, str(error))
        except CannotTell as error:
            return problem(404, str(error))
        except ValueError as error:
            return problem(422, f"until: {error}")
        return _json({"done": done}, status=202)

    def _refusal(self, request: web.Request) -> web.Response | None:
        """Return why nothing may be changed; the token is read from its file now, so a rotation is seen at once."""
        expected = self._face.token()
        if not expected:
            return problem(403, "changing things over HTTP needs api_token_file in the settings, and a token in it")
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(
            given.strip().encode("utf-8", "surrogateescape"), expected
        ):
            return None
        return problem(
            401, "expected the API token as a bearer token", {"WWW-Authenticate": 'Bearer realm="reconciler"'}
        )


def known_target(face: Face, request: web.Request) -> str:
    """Return the target that the path names; raise 404 for an unknown one."""
    name = request.match_info["name"]
    if name not in face.snapshot().entries:
        raise web.HTTPNotFound(reason="there is no target of this name")
    return name


async def known_deploy(face: Face, request: web.Request) -> Deploy:
    """Return the deploy that the path names; raise 404 for an unknown one."""
    deploy = await face.deploy(request.match_info["id"])
    if deploy is None:
        raise web.HTTPNotFound(reason="there is no deploy of this id")
    return deploy


def _number(request: web.Request, name: str, most: int) -> int | None:
    text = request.query.get(name)
    if text is None:
        return None
    if text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= most:  # noqa: PLR2004
        return int(text)
    raise web.HTTPBadRequest(reason=f"{name}: expected a whole number from 1 to {most}")


def _what_is_wrong(error: ValidationError) -> str:
    items = error.errors(include_url=False, include_input=False)
    lines = [f"{dotted(item['loc'])}: {describe(item, ())}".removeprefix(": ") for item in items]
    return "; ".join(lines)


def _health(why_not: str | None) -> web.Response:
    return web.Response(status=503 if why_not else 200, text=f"{why_not or 'ok'}\n")


def _json(data: Mapping[str, Any], status: int = 200) -> web.Response:
    return web.Response(text=json.dumps(data, indent=2) + "\n", content_type="application/json", status=status)
