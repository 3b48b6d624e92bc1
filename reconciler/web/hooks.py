"""The doors for webhooks. What comes through them is only ever a reason to poll."""

from __future__ import annotations

from aiohttp import web

from reconciler.web.face import Face
from reconciler.web.listening import TooLarge, read_body
from reconciler.web.problems import problem
from reconciler.webhooks.delivery import Result

MAX_BODY = 1024 * 1024
_FIRST_ERROR = 400


class HookHandlers:
    """Handlers of /webhook/."""

    def __init__(self, face: Face) -> None:
        self._face = face

    async def provider(self, request: web.Request) -> web.Response:
        """Take a delivery of a provider."""
        return await self._receive(request, request.match_info["provider"], None)

    async def generic(self, request: web.Request) -> web.Response:
        """Take a delivery for the Source that the path names."""
        # As it was sent: a URL in the path keeps its own escapes.
        raw = request.rel_url.raw_path.partition("/webhook/generic/")[2]
        return await self._receive(request, "generic", raw or request.match_info["source"])

    async def _receive(self, request: web.Request, provider: str, source: str | None) -> web.Response:
        hooks = self._face.hooks
        if not hooks.is_on(provider):
            return problem(404, "no webhook of this name is on; it needs a secret in the settings")
        try:
            body = await read_body(request, MAX_BODY)
        except TooLarge:
            hooks.count(provider, Result.TOO_LARGE)
            return problem(413, f"expected at most {MAX_BODY} bytes; the next poll sees what was pushed")
        headers: dict[str, list[str]] = {}
        for name, value in request.headers.items():
            headers.setdefault(name.lower(), []).append(value)
        answer = hooks.receive(provider, source, headers, body)
        if answer.status >= _FIRST_ERROR:
            return problem(answer.status, answer.text)
        return web.json_response({"result": answer.text}, status=answer.status)
