"""GitHub: HMAC-SHA256 in X-Hub-Signature-256; the older SHA-1 header is not accepted.

Source: docs.github.com, "Validating webhook deliveries" and "Webhook events and payloads".
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
    look,
    push,
    texts,
    tip,
)
from reconciler.webhooks.identity import identities


def proves(delivery: Delivery, secret: bytes) -> bool:
    """Whether GitHub signed it."""
    return signing.hex_digest(delivery, secret, "x-hub-signature-256", b"sha256=")


def read_push(payload: Mapping[str, Any]) -> Reading:
    """Return the push of GitHub's payload, which Gitea's family shares."""
    repository = look(payload, "repository")
    named = texts(*(look(repository, key) for key in ("clone_url", "ssh_url", "html_url", "git_url")))
    return push(identities(named), tip(look(payload, "ref"), look(payload, "after")))


def reads(delivery: Delivery, payload: Mapping[str, Any]) -> Reading:
    """Return what GitHub says."""
    event = delivery.header("x-github-event")
    if event is None:
        raise Malformed("expected the header X-GitHub-Event, once")
    if event == "ping":
        return Ping()
    return read_push(payload) if event == "push" else Irrelevant(event)


GITHUB = Provider("github", proves, reads, ("x-github-delivery",))
