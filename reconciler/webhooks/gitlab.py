"""GitLab: the secret itself in X-Gitlab-Token, or the signing token (`whsec_…`) of GitLab 19 as Standard Webhooks.

A `whsec_` secret is only ever a key: its plain form in a header proves nothing. Source: docs.gitlab.com, "Webhooks";
gitlab merge requests 230944 and 231325.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reconciler.webhooks import signing
from reconciler.webhooks.delivery import Delivery, Irrelevant, Malformed, Provider, Reading, look, push, texts, tip
from reconciler.webhooks.identity import identities

_PUSHES = ("push", "tag_push")


def proves(delivery: Delivery, secret: bytes) -> bool:
    """Whether GitLab sent it."""
    if secret.startswith(signing.STANDARD_PREFIX):
        return signing.standard(delivery, secret)
    return signing.plain_token(delivery, secret, "x-gitlab-token")


def reads(_: Delivery, payload: Mapping[str, Any]) -> Reading:
    """Return what GitLab says; system hooks name the event in another key."""
    event = look(payload, "object_kind") or look(payload, "event_name")
    if not isinstance(event, str):
        raise Malformed("expected object_kind or event_name")
    if event not in _PUSHES:
        return Irrelevant(event)
    project = look(payload, "project")
    named = texts(*(look(project, key) for key in ("git_http_url", "git_ssh_url", "web_url", "http_url", "ssh_url")))
    return push(identities(named), tip(look(payload, "ref"), look(payload, "after")))


GITLAB = Provider("gitlab", proves, reads, ("idempotency-key", "webhook-id", "x-gitlab-event-uuid"))
