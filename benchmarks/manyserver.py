"""Ten thousand repositories in one small process, for benchmarks: the same refs for each, and when each was asked.

python -m benchmarks.manyserver COMMIT PORT [CERTIFICATE KEY]
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import time

from aiohttp import web

TYPE = "application/x-git-upload-pack-result"
ADVERTISED = (
    b"001e# service=git-upload-pack\n0000000eversion 2\n000cls-refs\n0012fetch=shallow\n0017object-format=sha1\n0000"
)
asked: dict[str, list[float]] = {}


async def advertise(_: web.Request) -> web.Response:
    """Say that version 2 is spoken."""
    return web.Response(body=ADVERTISED, content_type="application/x-git-upload-pack-advertisement")


async def refs(request: web.Request) -> web.Response:
    """Answer an ls-refs, and note when it came."""
    await request.read()
    asked.setdefault(request.match_info["name"], []).append(time.monotonic())
    line = f"{sys.argv[1]} refs/heads/main\n".encode()
    return web.Response(body=b"%04x%s0000" % (len(line) + 4, line), content_type=TYPE)


async def count(_: web.Request) -> web.Response:
    """Tell when each repository was asked."""
    return web.json_response(asked)


async def main() -> None:
    """Serve."""
    app = web.Application()
    app.router.add_get("/count", count)
    app.router.add_get("/{name}/info/refs", advertise)
    app.router.add_post("/{name}/git-upload-pack", refs)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    context = None
    if len(sys.argv) > 3:  # noqa: PLR2004 - with a certificate
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(sys.argv[3], sys.argv[4])
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[2]), ssl_context=context).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
