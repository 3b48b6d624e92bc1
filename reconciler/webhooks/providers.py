"""Every provider by the name that its path and its settings have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from reconciler.webhooks.azure import AZURE
from reconciler.webhooks.bitbucket import BITBUCKET, BITBUCKET_SERVER
from reconciler.webhooks.delivery import Delivery, Provider, Reading, payload
from reconciler.webhooks.generic import GENERIC, read_named
from reconciler.webhooks.gitea import FORGEJO, GITEA, GOGS
from reconciler.webhooks.github import GITHUB
from reconciler.webhooks.gitlab import GITLAB

MAX_ID = 200  # characters
PROVIDERS: Mapping[str, Provider] = {
    provider.name: provider
    for provider in (GITHUB, GITLAB, GITEA, FORGEJO, GOGS, BITBUCKET, BITBUCKET_SERVER, AZURE, GENERIC)
}


def verify(provider: Provider, delivery: Delivery, secrets: Iterable[bytes]) -> bool:
    """Whether one of the secrets proves the delivery; all are tried, so that time tells nothing."""
    proofs = [provider.proves(delivery, secret) for secret in secrets if secret]
    return any(proofs)


def read(provider: Provider, delivery: Delivery, source: str | None) -> tuple[Reading, str | None]:
    """Return what a verified delivery says, and its number where it has one. Raises Malformed.

    `source` is what stands in the path behind the provider's name; only the generic provider has it.
    """
    number = next((value for name in provider.id_headers if (value := delivery.header(name))), None)
    if provider is GENERIC and source is not None:
        return read_named(source, delivery.body), _id(number)
    said = payload(delivery)
    if number is None and provider.id_in_body is not None:
        in_body = said.get(provider.id_in_body)
        number = in_body if isinstance(in_body, str) else None
    return provider.reads(delivery, said), _id(number)


def _id(number: str | None) -> str | None:
    return number if number and len(number) <= MAX_ID else None
