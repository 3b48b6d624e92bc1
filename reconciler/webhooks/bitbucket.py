"""Bitbucket Cloud and Bitbucket Data Center: `sha256=` in X-Hub-Signature, for Data Center also Basic authentication.

Cloud names no clone URL, older Data Centers name no URL at all: their project and slug then select every watched
repository whose path ends so. Source: support.atlassian.com and confluence.atlassian.com, "Event payload".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reconciler.webhooks import signing
from reconciler.webhooks.delivery import (
    Delivery,
    Irrelevant,
    Malformed,
    Ping,
    Provider,
    Reading,
    items,
    look,
    push,
    texts,
    tip,
)
from reconciler.webhooks.identity import by_path, identities

_CLOUD_HOST = "https://bitbucket.org/"


def proves(delivery: Delivery, secret: bytes) -> bool:
    """Whether Bitbucket signed it."""
    return signing.hex_digest(delivery, secret, "x-hub-signature", b"sha256=")


def _proves_server(delivery: Delivery, secret: bytes) -> bool:
    if "x-hub-signature" in delivery.headers:
        return proves(delivery, secret)
    return signing.basic(delivery, secret)


def _event(delivery: Delivery) -> str:
    event = delivery.header("x-event-key")
    if event is None:
        raise Malformed("expected the header X-Event-Key, once")
    return event


def reads_cloud(delivery: Delivery, payload: Mapping[str, Any]) -> Reading:
    """Return what Bitbucket Cloud says."""
    event = _event(delivery)
    if event != "repo:push":
        return Irrelevant(event)
    repository = look(payload, "repository")
    named = texts(look(repository, "links", "html", "href"))
    named += [_CLOUD_HOST + name for name in texts(look(repository, "full_name"))]
    tips: dict[str, str] = {}
    for change in items(look(payload, "push", "changes")):
        new = look(change, "new")
        kind = {"branch": "refs/heads/", "tag": "refs/tags/"}.get(str(look(new, "type")), "")
        tips |= tip(f"{kind}{look(new, 'name')}", look(new, "target", "hash"))
    return push(identities(named), tips)


def reads_server(delivery: Delivery, payload: Mapping[str, Any]) -> Reading:
    """Return what Bitbucket Data Center says."""
    event = _event(delivery)
    if event == "diagnostics:ping" or payload.get("test") is True:
        return Ping()
    if event not in ("repo:refs_changed", "mirror:repo_synchronized"):
        return Irrelevant(event)
    repository = look(payload, "repository")
    found = identities(texts(*(look(link, "href") for link in items(look(repository, "links", "clone")))))
    if not found:
        names = texts(look(repository, "project", "key"), look(repository, "slug"))
        path = by_path("/".join(names)) if len(names) == 2 else None  # noqa: PLR2004 - project and slug
        found = frozenset({path} if path else set())
    tips: dict[str, str] = {}
    for change in items(look(payload, "changes")):
        tips |= tip(look(change, "ref", "id"), look(change, "toHash"))
    return push(found, tips)


BITBUCKET = Provider("bitbucket", proves, reads_cloud, ("x-request-uuid",))
BITBUCKET_SERVER = Provider("bitbucket-server", _proves_server, reads_server, ("x-request-id",))
