"""Deliveries in, polls moved forward: the only thing that a webhook can do.

Secrets are read from their files at each delivery, so a rotation needs no restart. A delivery never waits for
anything: it is verified, matched with the watched Sources, and answered.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler.config.settings import WebhookSecrets
from reconciler.events import Listener, Warned, WebhookReceived
from reconciler.polling import Poller
from reconciler.webhooks.delivery import Delivery, Malformed, Ping, Provider, Push, Result
from reconciler.webhooks.identity import Index
from reconciler.webhooks.providers import PROVIDERS, read, verify

MAX_REMEMBERED = 10_000  # numbers of deliveries, to see repetitions
COMPLAIN_EVERY_S = 60.0  # refused deliveries are counted each, and told of so often
_ANSWERS = {
    Result.ACCEPTED: (202, "accepted"),
    Result.UNMATCHED: (202, "accepted"),  # the same: a stranger's repository is nobody's business
    Result.DUPLICATE: (202, "accepted"),
    Result.PING: (200, "pong"),
    Result.IGNORED: (200, "ignored: nothing was pushed"),
    Result.UNAUTHENTICATED: (401, "the signature is missing or wrong; compare the secret with the forge's"),
    Result.MALFORMED: (400, "the payload cannot be read"),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the sender is told."""

    status: int
    text: str


class Hooks:
    """Receives deliveries for every provider that has a secret."""

    def __init__(
        self,
        secrets: Mapping[str, WebhookSecrets],
        poller: Poller,
        sources_of: Callable[[Iterable[str]], set[str]],
        listener: Listener,
    ) -> None:
        """`sources_of` tells the Sources of targets: the generic door may name one of those instead."""
        self._secrets = secrets
        self._sources_of = sources_of
        self._poller = poller
        self._listener = listener
        self._index, self._generation = Index(()), -1
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._files: dict[str, tuple[tuple[int, int, int], bytes]] = {}
        self._complained: dict[str, float] = {}  # by event and provider: when

    def is_on(self, provider: str) -> bool:
        """Whether a provider has a secret."""
        return provider in self._secrets

    def receive(self, provider: str, source: str | None, headers: Mapping[str, Sequence[str]], body: bytes) -> Answer:
        """Verify a delivery, move polls forward, and return the answer. Never raises, never waits."""
        began = time.perf_counter()
        result, text = self._receive(PROVIDERS[provider], source, Delivery(headers, body))
        self.count(provider, result, time.perf_counter() - began)
        status, usual = _ANSWERS[result]
        return Answer(status, text or usual)

    def count(self, provider: str, result: Result, duration_s: float = 0.0) -> None:
        """Tell of a delivery; those that are refused not each, or strangers would fill the log."""
        self._listener.hear(WebhookReceived(provider, result, duration_s))
        refused = result in (Result.UNAUTHENTICATED, Result.MALFORMED, Result.TOO_LARGE)
        if refused:
            message = f"a delivery for {provider} was refused: {result}; more of them are only counted for a while"
            self._complain("webhook.refused", provider, message)

    def _complain(self, event: str, provider: str, message: str) -> None:
        now = time.monotonic()
        if now - self._complained.get(event + provider, -COMPLAIN_EVERY_S) >= COMPLAIN_EVERY_S:
            self._complained[event + provider] = now
            self._listener.hear(Warned(event, message))

    def _receive(self, provider: Provider, source: str | None, delivery: Delivery) -> tuple[Result, str]:
        if not verify(provider, delivery, self._read_secrets(provider.name)):
            return Result.UNAUTHENTICATED, ""
        try:
            reading, number = read(provider, delivery, source)
        except Malformed as error:
            return Result.MALFORMED, str(error)
        if isinstance(reading, Push):
            if number is not None and self._was_seen(provider.name, number):
                return Result.DUPLICATE, ""
            return self._poke(reading), ""
        return (Result.PING if isinstance(reading, Ping) else Result.IGNORED), ""

    def _poke(self, push: Push) -> Result:
        if self._generation != self._poller.generation:
            self._generation, self._index = self._poller.generation, Index(self._poller.states)
        found = self._index.matching(push.repositories)
        if not found:
            found = frozenset(self._sources_of(one.path for one in push.repositories if one.host is None))
        for url in found:
            self._poller.announce(url, push.tips)
        return Result.ACCEPTED if found else Result.UNMATCHED

    def _was_seen(self, provider: str, number: str) -> bool:
        key = (provider, number)
        if key in self._seen:
            self._seen.move_to_end(key)
            return True
        self._seen[key] = None
        if len(self._seen) > MAX_REMEMBERED:
            self._seen.popitem(last=False)
        return False

    def _read_secrets(self, provider: str) -> Iterable[bytes]:
        """Yield the secrets as their files have them now; what did not change is not read again."""
        for file in self._secrets[provider].secret_files:
            try:
                found = os.stat(file)  # noqa: PTH116 - on the hot path, and Path is slow
                state = (found.st_mtime_ns, found.st_size, found.st_ino)
                known = self._files.get(file)
                if known is None or known[0] != state:
                    known = self._files[file] = (state, Path(file).read_bytes().strip(b"\r\n"))
                yield known[1]
            except OSError as error:
                message = f"the secret file {file} of webhooks.{provider} cannot be read: {error.strerror}"
                self._complain("webhook.secret_unreadable", provider, message)
