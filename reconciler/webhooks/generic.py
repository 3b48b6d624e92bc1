"""Anything that can send a POST: the path names the Source, Standard Webhooks or a bearer token proves the sender.

The body may be empty or anything; of a JSON object `ref` and `commit` are read where they stand. For programs that
can only sign as GitHub does, X-Hub-Signature-256 is accepted as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from reconciler.webhooks import github, signing
from reconciler.webhooks.delivery import Delivery, Malformed, Provider, Push, Reading, look, push, tip
from reconciler.webhooks.identity import Identity, by_path, identify


def proves(delivery: Delivery, secret: bytes) -> bool:
    """Whether the caller knows the secret; the first kind of proof that was sent counts."""
    if "webhook-signature" in delivery.headers:
        return signing.standard(delivery, secret)
    if "x-hub-signature-256" in delivery.headers:
        return github.proves(delivery, secret)
    return signing.bearer(delivery, secret)


def source(name: str) -> Identity:
    """Return what a path names: a URL, or the last segments of one. Raises Malformed."""
    text = unquote(name)
    found = identify(text) if ":" in text else by_path(text)
    if found is None:
        raise Malformed("expected /webhook/generic/ and a repository's URL, or the end of its path")
    return found


def read_named(name: str, body: bytes) -> Push:
    """Return the push to the Source that the path names; what the body says beside that is optional."""
    try:
        said: Any = json.loads(body) if body else None
    except (ValueError, RecursionError):
        said = None
    return push(frozenset({source(name)}), tip(look(said, "ref"), look(said, "commit")))


def _reads(_: Delivery, __: Mapping[str, Any]) -> Reading:
    raise Malformed("expected /webhook/generic/ and a repository's URL, or the end of its path")


GENERIC = Provider("generic", proves, _reads, ("webhook-id",))
