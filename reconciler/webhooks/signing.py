"""How providers prove that a delivery is theirs. Everything is compared as bytes, in constant time.

Only one signature header counts: where it was sent twice, nobody can tell which one a proxy would have checked.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

from reconciler.webhooks.delivery import Delivery

STANDARD_PREFIX = b"whsec_"
_MAX_SIGNATURES = 8  # Standard Webhooks sends several while a secret is rotated


def _same(given: bytes | None, expected: bytes) -> bool:
    return given is not None and hmac.compare_digest(given, expected)


def hex_digest(delivery: Delivery, secret: bytes, header: str, prefix: bytes = b"") -> bool:
    """Whether a header holds the hex HMAC-SHA256 of the body."""
    expected = hmac.new(secret, delivery.body, hashlib.sha256).hexdigest().encode()
    return _same(delivery.raw(header), prefix + expected)


def plain_token(delivery: Delivery, secret: bytes, header: str) -> bool:
    """Whether a header holds the secret itself."""
    return _same(delivery.raw(header), secret)


def standard(delivery: Delivery, secret: bytes) -> bool:
    """Whether the headers hold a signature of Standard Webhooks: `v1,` and the base64 of an HMAC-SHA256.

    The timestamp is signed but not compared with the clock: a replay costs at most one poll, and a wrong clock would
    cost every delivery.
    """
    identity, sent_at = delivery.raw("webhook-id"), delivery.raw("webhook-timestamp")
    signatures = delivery.raw("webhook-signature")
    if identity is None or sent_at is None or signatures is None:
        return False
    key = secret
    if secret.startswith(STANDARD_PREFIX):
        try:
            key = base64.b64decode(secret.removeprefix(STANDARD_PREFIX), validate=True)
        except binascii.Error:
            return False
    signed = b".".join((identity, sent_at, delivery.body))
    expected = b"v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest())
    found = [_same(given, expected) for given in signatures.split(b" ")[:_MAX_SIGNATURES]]
    return any(found)


def basic(delivery: Delivery, secret: bytes) -> bool:
    """Whether Basic authentication holds the secret as its password, or as `user:password`."""
    scheme, _, encoded = (delivery.raw("authorization") or b"").partition(b" ")
    if scheme.lower() != b"basic":
        return False
    try:
        pair = base64.b64decode(encoded.strip(), validate=True)
    except binascii.Error:
        return False
    return _same(pair, secret) or _same(pair.partition(b":")[2], secret)


def bearer(delivery: Delivery, secret: bytes) -> bool:
    """Whether a bearer token is the secret."""
    scheme, _, token = (delivery.raw("authorization") or b"").partition(b" ")
    return scheme.lower() == b"bearer" and _same(token.strip(), secret)
