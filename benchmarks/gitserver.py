"""A git server for benchmarks, in a process of its own: `git http-backend` behind kept connections; counts bytes.

python -m benchmarks.gitserver FOLDER PORT [CERTIFICATE KEY]
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys

from aiohttp import web

carried = 0


async def git(request: web.Request) -> web.Response:
    """Answer as git does."""
    global carried  # noqa: PLW0603 - one process, one count
    body = await request.read()
    env = {
        "PATH": os.environ["PATH"],
        "GIT_PROJECT_ROOT": sys.argv[1],
        "GIT_HTTP_EXPORT_ALL": "1",
        "REQUEST_METHOD": request.method,
        "PATH_INFO": request.path,
        "QUERY_STRING": request.query_string,
        "CONTENT_TYPE": request.headers.get("Content-Type", ""),
        "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }
    if "Content-Encoding" in request.headers:
        env["HTTP_CONTENT_ENCODING"] = request.headers["Content-Encoding"]
    process = await asyncio.create_subprocess_exec(
        "git", "http-backend", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=env
    )
    out, _ = await process.communicate(body)
    head, _, answer = out.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
    carried += len(body) + len(answer)
    status = int(headers.pop("Status", "200").split()[0])
    return web.Response(status=status, headers=headers, body=answer)


async def count(_: web.Request) -> web.Response:
    """Tell how many bytes of bodies were carried so far."""
    return web.Response(text=str(carried))


if __name__ == "__main__":
    app = web.Application(client_max_size=1 << 30, handler_args={"auto_decompress": False})
    app.router.add_get("/count", count)
    app.router.add_route("*", "/{path:.*}", git)
    context = None
    if len(sys.argv) > 3:  # noqa: PLR2004 - with a certificate
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(sys.argv[3], sys.argv[4])
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[2]), access_log=None, print=None, ssl_context=context)
