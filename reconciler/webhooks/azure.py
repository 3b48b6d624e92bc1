"""Azure DevOps service hooks: nothing is signed; the secret is the password of Basic authentication, or a bearer token.

Source: learn.microsoft.com, "Webhooks with Azure DevOps" and "Service hooks events: git.push".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reconciler.webhooks import signing
from reconciler.webhooks.delivery import (
    Delivery,
    Irrelevant,
    Malformed,
    Provider,
    Reading,
    items,
    look,
    push,
    texts,
    tip,
)
from reconciler.webhooks.identity import identities


def proves(delivery: Delivery, secret: bytes) -> bool:
    """Whether the caller knows the secret."""
    return signing.basic(delivery, secret) or signing.bearer(delivery, secret)


def reads(_: Delivery, payload: Mapping[str, Any]) -> Reading:
    """Return what Azure DevOps says."""
    event = look(payload, "eventType")
    if not isinstance(event, str):
        raise Malformed("expected eventType")
    if event != "git.push":
        return Irrelevant(event)
    repository = look(payload, "resource", "repository")
    tips: dict[str, str] = {}
    for update in items(look(payload, "resource", "refUpdates")):
        tips |= tip(look(update, "name"), look(update, "newObjectId"))
    return push(identities(texts(*(look(repository, key) for key in ("remoteUrl", "sshUrl", "webUrl")))), tips)


AZURE = Provider("azure", proves, reads, (), id_in_body="id")
