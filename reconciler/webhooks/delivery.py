"""The words of a webhook: a delivery as it arrived, and what it turned out to be."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qs

from reconciler.webhooks.identity import Identity

MAX_TIPS = 16  # refs of one push that are waited for
_NO_COMMIT = frozenset("0")
_COMMIT_LENGTHS = (40, 64)
_HEX = frozenset("0123456789abcdef")


class Malformed(ValueError):  # noqa: N818 - says what it is
    """An authentic delivery that cannot be read; the text says what was expected."""


class Result(StrEnum):
    """What became of a delivery: the closed label set of the webhook metrics."""

    ACCEPTED = "accepted"
    PING = "ping"
    IGNORED = "ignored"
    UNMATCHED = "unmatched"
    DUPLICATE = "duplicate"
    UNAUTHENTICATED = "unauthenticated"
    MALFORMED = "malformed"
    TOO_LARGE = "too_large"


@dataclass(frozen=True, slots=True)
class Delivery:
    """Headers by lower-case name, each with every value that was sent, and the raw body."""

    headers: Mapping[str, Sequence[str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """Return a header's value; None where it is missing or was sent more than once."""
        values = self.headers.get(name, ())
        return values[0] if len(values) == 1 else None

    def raw(self, name: str) -> bytes | None:
        """Return a header's value as the bytes that were sent: what signatures are compared as."""
        value = self.header(name)
        return None if value is None else value.encode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Push:
    """Something was pushed. `tips` are the commits that the provider says its refs have now."""

    repositories: frozenset[Identity]
    tips: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ping:
    """The provider tries the hook out."""


@dataclass(frozen=True, slots=True)
class Irrelevant:
    """An event that moves no ref."""

    event: str


Reading = Push | Ping | Irrelevant


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider: how it proves who it is, what it says, and where it numbers its deliveries."""

    name: str
    proves: Callable[[Delivery, bytes], bool]  # for one secret
    reads: Callable[[Delivery, Mapping[str, Any]], Reading]  # raises Malformed
    id_headers: Sequence[str]
    id_in_body: str | None = None


def payload(delivery: Delivery) -> dict[str, Any]:
    """Return the JSON object of a delivery, also of a form whose field `payload` holds it. Raises Malformed."""
    data = delivery.body
    content_type = (delivery.header("content-type") or "").partition(";")[0].strip().lower()
    try:
        if content_type == "application/x-www-form-urlencoded":
            fields = parse_qs(data.decode(), strict_parsing=True, max_num_fields=16)
            data = fields["payload"][0].encode()
        parsed = json.loads(data)
    except (ValueError, KeyError, RecursionError):
        raise Malformed("expected a JSON object, or a form with the field payload") from None
    if not isinstance(parsed, dict):
        raise Malformed("expected a JSON object")
    return parsed


def look(value: Any, *path: str) -> Any:
    """Return what stands at a path of keys; None where the shape is another one."""
    for key in path:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


def texts(*values: Any) -> list[str]:
    """Return those values that are text."""
    return [value for value in values if isinstance(value, str)]


def items(value: Any) -> list[Any]:
    """Return a list's items; none where it is no list."""
    return value if isinstance(value, list) else []


def tip(ref: Any, commit: Any) -> dict[str, str]:
    """Return what a push says of one ref; nothing for a deletion, or for what cannot be a ref and a commit."""
    if not isinstance(ref, str) or not isinstance(commit, str) or not ref.startswith(("refs/heads/", "refs/tags/")):
        return {}
    if len(commit) not in _COMMIT_LENGTHS or not set(commit) <= _HEX or set(commit) == _NO_COMMIT:
        return {}
    return {ref: commit}


def push(identities: frozenset[Identity], tips: Mapping[str, str]) -> Push:
    """Return a push; raise Malformed where no repository is named."""
    if not identities:
        raise Malformed("expected a push that names its repository")
    return Push(identities, dict(list(tips.items())[:MAX_TIPS]))
