"""Gitea, Forgejo and Gogs: one payload, and HMAC-SHA256 in a header of their name (bare hex), or as GitHub sends it.

Source: modules/webhook and services/webhook/deliver.go of Gitea; forgejo.org, "Webhooks"; gogs.io, "Webhooks".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reconciler.webhooks import github, signing
from reconciler.webhooks.delivery import Delivery, Irrelevant, Malformed, Provider, Reading


def _provider(name: str, *families: str) -> Provider:
    """Return the provider whose headers may carry one of these names; the first one that was sent counts."""

    def first(delivery: Delivery, what: str) -> str | None:
        return next((header for family in families if (header := f"x-{family}-{what}") in delivery.headers), None)

    def proves(delivery: Delivery, secret: bytes) -> bool:
        header = first(delivery, "signature")
        if header is not None:
            return signing.hex_digest(delivery, secret, header)
        return github.proves(delivery, secret)

    def reads(delivery: Delivery, payload: Mapping[str, Any]) -> Reading:
        header = first(delivery, "event")
        event = delivery.header(header) if header else None
        if event is None:
            raise Malformed(f"expected the header X-{families[0].title()}-Event, once")
        return github.read_push(payload) if event == "push" else Irrelevant(event)

    return Provider(name, proves, reads, tuple(f"x-{family}-delivery" for family in families))


FORGEJO = _provider("forgejo", "forgejo", "gitea", "gogs")
GITEA = _provider("gitea", "gitea", "gogs")
GOGS = _provider("gogs", "gogs")
