"""Asking a worker process, with its answers and its death turned into the named reasons of a Source."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from reconciler.errors import SourceError, SourceReason
from reconciler.git.checkout import BadTree

RawAsk = Callable[[dict[str, Any], float], Awaitable[dict[str, Any]]]


NETWORK = frozenset({"fetch", "refs", "pin"})  # operations that wait for a server


class Asking:
    """Wraps the `ask` of two pools: of what works here, and of what waits for servers.

    `died` is the pools' exception, with `late` telling a deadline from a crash.
    """

    def __init__(self, here: RawAsk, network: RawAsk, died: type[Exception]) -> None:
        self._here = here
        self._network = network
        self._died = died

    async def __call__(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Return a good answer. Raises SourceError or BadTree."""
        what = request.get("url") or request.get("commit") or request["op"]
        try:
            answer = await (self._network if request["op"] in NETWORK else self._here)(request, timeout_s)
        except self._died as error:
            reason = SourceReason.TIMEOUT if getattr(error, "late", False) else SourceReason.PROTOCOL_ERROR
            raise SourceError(reason, f"{request['op']} of {what}: {error}") from error
        if answer["ok"]:
            return answer
        if answer["reason"] in ("bad_tree", "tree_too_large"):
            raise BadTree(answer["reason"], answer["message"])
        raise SourceError(SourceReason(answer["reason"]), answer["message"])
