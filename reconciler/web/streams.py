"""Following a log: server-sent events whose ids are offsets, so a reader that was cut off goes on where it was."""

from __future__ import annotations

import asyncio
import codecs
import json

from aiohttp import web

from reconciler import views
from reconciler.lifecycle import LIVE
from reconciler.model import Deploy
from reconciler.web.face import Face

LOOK_EVERY_S = 0.25
BEAT_EVERY_S = 15.0  # a comment, so that proxies and dead readers are noticed
WRITE_TIMEOUT_S = 30.0
CLOSING: web.AppKey[asyncio.Event] = web.AppKey("closing", asyncio.Event)


async def follow(face: Face, request: web.Request, deploy: Deploy) -> web.StreamResponse:
    """Send the log from `Last-Event-ID` on until the deploy has ended, the reader leaves, or the daemon stops."""
    last_id = request.headers.get("Last-Event-ID", "")
    offset = int(last_id) if last_id.isascii() and last_id.isdigit() and len(last_id) < 16 else 0  # noqa: PLR2004
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    response.headers["X-Accel-Buffering"] = "no"
    await response.prepare(request)
    closing = request.app[CLOSING]
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    silent_s = 0.0
    while True:
        # The status is read before the output: what was written until the end is then sent too.
        deploy = await face.deploy(deploy.id) or deploy
        while (piece := await face.piece(deploy, offset)) is not None:
            skipped = f"\n… {piece.skipped} bytes left out …\n" if piece.skipped else ""
            offset, silent_s = piece.next_offset, 0.0
            await _send(response, skipped + decoder.decode(piece.data), str(offset))
        if deploy.status not in LIVE:
            await _send(response, json.dumps(views.deploy_view(deploy)), str(offset), event="end")
            break
        if closing.is_set():
            break
        silent_s += LOOK_EVERY_S
        if silent_s >= BEAT_EVERY_S:
            silent_s = 0.0
            await _write(response, ": still running\n\n")
        try:
            async with asyncio.timeout(LOOK_EVERY_S):
                await closing.wait()
        except TimeoutError:
            continue
    await response.write_eof()
    return response


async def _send(response: web.StreamResponse, text: str, event_id: str, event: str | None = None) -> None:
    if not text:
        return
    # All line ends of the protocol; a reader joins the data lines with newlines again.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    head = f"event: {event}\n" if event else ""
    body = "".join(f"data: {line}\n" for line in lines)
    await _write(response, f"{head}id: {event_id}\n{body}\n")


async def _write(response: web.StreamResponse, text: str) -> None:
    async with asyncio.timeout(WRITE_TIMEOUT_S):
        await response.write(text.encode())
