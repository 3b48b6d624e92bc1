"""A worker process: one git operation at a time, asked for and answered as lines of JSON.

It exists to be killed: libgit2's time limits count single reads only, so a server that drips a byte a second
would hold a thread for ever. The daemon gives each request a deadline and kills the process that misses it.
Its memory is limited, and it ends when its input does, in the middle of a fetch too.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import queue
import resource
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reconciler.errors import SourceError, SourceReason
from reconciler.git import checkout, kept, library, mirror, packs, pinning, submodules

MEMORY_LIMIT = 3 * 1024**3  # address space; packs are mapped into it


def _fetch(request: dict[str, Any]) -> dict[str, Any]:
    folder = Path(request["mirror"])
    anew = bool(request.get("anew"))
    answer = mirror.fetch(request["url"], folder, request["pins"], request["login"], anew=anew)
    if request.get("keep"):
        mirror.keep(folder)
    return answer


def _unpack(request: dict[str, Any]) -> dict[str, Any]:
    pack = base64.b64decode(request["pack"])
    try:
        packs.unpack(Path(request["mirror"]), pack, request["heads"], request["tags"], request["pins"])
    except packs.NotUsable as error:
        return {"unusable": str(error)}
    return {"unusable": None}


def _refs(request: dict[str, Any]) -> dict[str, Any]:
    scratch = Path(request["mirror"])
    return {"refs": mirror.list_refs(request["url"], request["prefixes"], request["login"], scratch)}


def _checkout(request: dict[str, Any]) -> dict[str, Any]:
    where = Path(request["mirror"]), request["commit"], Path(request["destination"])
    if request.get("kept"):
        kept.check_out(*where, Path(request["kept"]))
    else:
        checkout.checkout(*where)
    return {}


def _collect(request: dict[str, Any]) -> dict[str, Any]:
    mirror.collect(Path(request["mirror"]), request["commits"])
    return {}


def _submodules(request: dict[str, Any]) -> dict[str, Any]:
    allowed = {"allow_local": request["allow_local"], "allow_http": request["allow_http"]}
    return {"found": submodules.find(Path(request["mirror"]), request["commit"], request["url"], **allowed)}


def _pin(request: dict[str, Any]) -> dict[str, Any]:
    mirror_folder = Path(request["mirror"])
    place = pinning.ConfigPlace(request["url"], request["branch"], request["path"], mirror_folder, request["login"])
    name, address = request["author"]
    change = pinning.Change(
        target=request["target"], commit=request["commit"], author=(name, address), time=request["time"]
    )
    try:
        return pinning.pin(place, change, request["branch"]).as_message()
    except pinning.CannotPin as error:
        return {"problem": str(error)}


_OPERATIONS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "fetch": _fetch,
    "unpack": _unpack,
    "refs": _refs,
    "checkout": _checkout,
    "collect": _collect,
    "submodules": _submodules,
    "pin": _pin,
    "ping": lambda _: {"pong": True},
}


@contextmanager
def _home(login: dict[str, Any] | None) -> Iterator[Path | None]:
    """Yield an empty folder for what libgit2 wants to find at home; None where nothing is put there."""
    if not login or not login["known_hosts_file"]:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="reconciler-") as home:
        yield Path(home)


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to one request: `ok`, or `reason` and `message`. `retire` asks for another process after it."""
    stained = False
    try:
        with _home(request.get("login")) as home:
            stained = library.use_login(request.get("login"), home)
            answer = _OPERATIONS[request["op"]](request)
    except SourceError as error:
        # libgit2 keeps what it has read of a damaged mirror: nobody else shall see it.
        retire = stained or error.reason is SourceReason.CORRUPT
        return {"ok": False, "retire": retire, "reason": error.reason, "message": error.message}
    except checkout.BadTree as error:
        return {"ok": False, "reason": error.reason, "message": str(error)}
    except MemoryError:
        return {"ok": False, "retire": True, "reason": "too_large", "message": "the worker's memory limit was reached"}
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "disk_full" if full else "protocol_error"
        return {"ok": False, "retire": True, "reason": reason, "message": f"{error.filename}: {error.strerror}"}
    return {"ok": True, "retire": stained, **answer}


def main() -> None:
    """Serve requests until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    # Longer than the daemon's own deadline: whoever is late is killed, and named as late.
    library.prepare(2 * float(sys.argv[1]))
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            requests.put(line)
        os._exit(0)  # the daemon is gone: nobody wants the answer

    threading.Thread(target=listen, daemon=True).start()
    while True:
        answer = handle(json.loads(requests.get()))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
