"""Deliveries as the providers send them: payloads with the fields around the ones that count, and signatures."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

SECRET = b"It's a Secret to Everybody"
SIGNING = b"whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef")
AFTER = "9fceb02d0ae598e95dc970b74767f19372d61af8"
BEFORE = "27150bb926efb202d4d8ec1da6557b320428b463"
GONE = "0" * 40

Headers = dict[str, str]
Sign = Callable[["Sent", bytes], Headers]


@dataclass(frozen=True, slots=True)
class Sent:
    """One request as it goes over the wire."""

    provider: str
    headers: Headers
    body: bytes
    source: str | None = None

    @property
    def path(self) -> str:
        return f"/webhook/{self.provider}" + (f"/{self.source}" if self.source else "")

    def with_headers(self, headers: Mapping[str, str]) -> Sent:
        return replace(self, headers={**self.headers, **headers})

    def without(self, *names: str) -> Sent:
        return replace(self, headers={key: value for key, value in self.headers.items() if key.lower() not in names})

    def signed(self, secret: bytes = SECRET) -> Sent:
        return self.with_headers(SIGN[self.provider](self, secret))

    def form(self) -> Sent:
        """Return it form-encoded, as GitHub and Gitea do on request. Signed after that, not before."""
        body = urlencode({"payload": self.body.decode()}).encode()
        return replace(self, body=body).with_headers({"Content-Type": "application/x-www-form-urlencoded"})


def _hex(body: bytes, secret: bytes) -> str:
    return hmac.new(secret, body, hashlib.sha256).hexdigest()


def standard(sent: Sent, secret: bytes, at: str = "1795208400") -> Headers:
    key = base64.b64decode(secret.removeprefix(b"whsec_")) if secret.startswith(b"whsec_") else secret
    number = "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W"
    signature = hmac.new(key, f"{number}.{at}.".encode() + sent.body, hashlib.sha256).digest()
    return {
        "webhook-id": number,
        "webhook-timestamp": at,
        "webhook-signature": "v1," + base64.b64encode(signature).decode(),
    }


def _gitlab(sent: Sent, secret: bytes) -> Headers:
    return standard(sent, secret) if secret.startswith(b"whsec_") else {"X-Gitlab-Token": secret.decode()}


def _basic(_: Sent, secret: bytes) -> Headers:
    return {"Authorization": "Basic " + base64.b64encode(b"hooks:" + secret).decode()}


SIGN: Mapping[str, Sign] = {
    "github": lambda sent, secret: {"X-Hub-Signature-256": "sha256=" + _hex(sent.body, secret)},
    "gitlab": _gitlab,
    "gitea": lambda sent, secret: {"X-Gitea-Signature": _hex(sent.body, secret)},
    "forgejo": lambda sent, secret: {"X-Forgejo-Signature": _hex(sent.body, secret)},
    "gogs": lambda sent, secret: {"X-Gogs-Signature": _hex(sent.body, secret)},
    "bitbucket": lambda sent, secret: {"X-Hub-Signature": "sha256=" + _hex(sent.body, secret)},
    "bitbucket-server": lambda sent, secret: {"X-Hub-Signature": "sha256=" + _hex(sent.body, secret)},
    "azure": _basic,
    "generic": standard,
}

_COMMIT = {"id": AFTER, "message": "Warmer greeting\n", "timestamp": "2026-11-20T10:00:00Z", "added": [], "removed": []}
_PERSON = {"login": "ada", "name": "Ada", "email": "ada@example.com", "id": 7}


def _send(provider: str, headers: Headers, payload: Any, source: str | None = None) -> Sent:
    return Sent(provider, {"Content-Type": "application/json", **headers}, json.dumps(payload).encode(), source)


def github_like(
    provider: str, url: str, ref: str = "refs/heads/main", after: str = AFTER, event: str = "push", number: str = "d-1"
) -> Sent:
    """Return a push of GitHub, Gitea, Forgejo or Gogs."""
    name = {"github": "GitHub", "gitea": "Gitea", "forgejo": "Forgejo", "gogs": "Gogs"}[provider]
    page = url.removesuffix(".git")
    payload: dict[str, Any] = {
        "ref": ref,
        "before": BEFORE,
        "after": after,
        "created": False,
        "deleted": after == GONE,
        "forced": False,
        "compare_url": f"{page}/compare/a...b",
        "commits": [_COMMIT],
        "head_commit": _COMMIT,
        "repository": {
            "id": 35129377,
            "name": page.rpartition("/")[2],
            "full_name": "acme/api",
            "private": True,
            "owner": _PERSON,
            "html_url": page,
            "clone_url": url,
            "ssh_url": "git@git.example.com:acme/api.git",
            "default_branch": "main",
        },
        "pusher": _PERSON,
        "sender": _PERSON,
    }
    if event == "ping":
        payload = {"zen": "Keep it logically awesome.", "hook_id": 1, "repository": payload["repository"]}
    headers = {f"X-{name}-Event": event, f"X-{name}-Delivery": number}
    if provider in ("gitea", "forgejo"):  # both also pretend to be GitHub
        headers |= {"X-GitHub-Event": event, "X-GitHub-Delivery": number, "X-Gogs-Event": event}
    return _send(provider, headers, payload)


def gitlab(url: str, ref: str = "refs/heads/main", after: str = AFTER, kind: str = "push", number: str = "d-1") -> Sent:
    page = url.removesuffix(".git")
    payload = {
        "object_kind": kind,
        "event_name": kind,
        "before": BEFORE,
        "after": after,
        "ref": ref,
        "checkout_sha": None if after == GONE else after,
        "user_name": "Ada",
        "project_id": 15,
        "project": {
            "id": 15,
            "name": "api",
            "web_url": page,
            "git_ssh_url": "git@git.example.com:acme/api.git",
            "git_http_url": url,
            "path_with_namespace": "acme/api",
            "default_branch": "main",
        },
        "commits": [_COMMIT],
        "total_commits_count": 1,
        "repository": {"name": "api", "url": "git@git.example.com:acme/api.git", "homepage": page},
    }
    event = {"push": "Push Hook", "tag_push": "Tag Push Hook"}.get(kind, "Note Hook")
    return _send("gitlab", {"X-Gitlab-Event": event, "Idempotency-Key": number}, payload)


def bitbucket(url: str, ref: str = "refs/heads/main", after: str = AFTER, number: str = "d-1") -> Sent:
    kind = "tag" if ref.startswith("refs/tags/") else "branch"
    new = {"type": kind, "name": ref.split("/", 2)[2], "target": {"type": "commit", "hash": after, "date": "2026"}}
    payload = {
        "actor": {"display_name": "Ada", "type": "user"},
        "repository": {
            "type": "repository",
            "full_name": "acme/api",
            "links": {"html": {"href": url.removesuffix(".git")}, "self": {"href": "https://api.bitbucket.org/2.0/x"}},
            "is_private": True,
        },
        "push": {"changes": [{"new": None if after == GONE else new, "old": new, "truncated": False, "commits": []}]},
    }
    headers = {"X-Event-Key": "repo:push", "X-Hook-UUID": "{1}", "X-Request-UUID": number, "X-Attempt-Number": "1"}
    return _send("bitbucket", headers, payload)


def bitbucket_server(url: str, ref: str = "refs/heads/main", after: str = AFTER, number: str = "d-1") -> Sent:
    payload = {
        "eventKey": "repo:refs_changed",
        "date": "2026-11-20T10:00:00+0000",
        "actor": {"name": "ada", "emailAddress": "ada@example.com", "id": 1},
        "repository": {
            "slug": "api",
            "id": 84,
            "name": "api",
            "project": {"key": "ACME", "id": 84, "public": False, "type": "NORMAL"},
            "links": {
                "clone": [{"href": url, "name": "http"}, {"href": "ssh://git@git.example.com:7999/acme/api.git"}],
                "self": [{"href": url.removesuffix(".git") + "/browse"}],
            },
        },
        "changes": [
            {
                "ref": {"id": ref, "displayId": "main", "type": "BRANCH"},
                "refId": ref,
                "fromHash": BEFORE,
                "toHash": after,
                "type": "DELETE" if after == GONE else "UPDATE",
            }
        ],
    }
    return _send("bitbucket-server", {"X-Event-Key": "repo:refs_changed", "X-Request-Id": number}, payload)


def azure(url: str, ref: str = "refs/heads/main", after: str = AFTER, number: str = "d-1") -> Sent:
    payload = {
        "subscriptionId": "00000000-0000-0000-0000-000000000000",
        "notificationId": 3,
        "id": number,
        "eventType": "git.push",
        "publisherId": "tfs",
        "message": {"text": "Ada pushed updates"},
        "resource": {
            "commits": [{"commitId": after, "comment": "Warmer greeting"}],
            "refUpdates": [{"name": ref, "oldObjectId": BEFORE, "newObjectId": after}],
            "repository": {
                "id": "278d5cd2-584d-4b63-824a-2ba458937249",
                "name": "api",
                "project": {"name": "acme", "state": "wellFormed"},
                "defaultBranch": "refs/heads/main",
                "remoteUrl": url,
            },
            "pushId": 14,
        },
        "createdDate": "2026-11-20T10:00:00Z",
    }
    return _send("azure", {}, payload)


def generic(url: str, ref: str = "refs/heads/main", after: str = AFTER, number: str = "d-1") -> Sent:
    del number  # Standard Webhooks numbers it when it is signed
    return _send("generic", {}, {"ref": ref, "commit": after}, source=url)


def push(provider: str, url: str, **more: Any) -> Sent:
    """Return an unsigned push of any provider."""
    makers: Mapping[str, Callable[..., Sent]] = {
        "gitlab": gitlab,
        "bitbucket": bitbucket,
        "bitbucket-server": bitbucket_server,
        "azure": azure,
        "generic": generic,
    }
    return makers[provider](url, **more) if provider in makers else github_like(provider, url, **more)
