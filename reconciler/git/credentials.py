"""Credentials: bound to a URL prefix in the daemon's settings, read from their files at each use.

Nothing here is ever sent to a URL outside its prefix, and no value stands in an argument list, a log or an
error message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reconciler import urls
from reconciler.config.settings import Credential
from reconciler.errors import SourceError, SourceReason

TOKEN_USER = "x-access-token"  # noqa: S105 - a user name; forges take any beside a token


@dataclass(frozen=True, slots=True)
class Login:
    """How to authenticate for one URL. `repr` shows no secret."""

    prefix: str
    username: str | None = None
    password: str | None = None
    ssh_key_file: str | None = None
    ca_file: str | None = None

    def __repr__(self) -> str:
        """Return a text without secrets."""
        return f"Login(prefix={self.prefix!r}, username={self.username!r})"

    def as_message(self) -> dict[str, Any]:
        """Return the form in which a worker gets it, over a pipe."""
        return asdict(self)


class Credentials:
    """Every credential of the settings."""

    def __init__(self, credentials: Sequence[Credential]) -> None:
        prefixes = [(str(urls.parse_prefix(credential.url)).rstrip("/"), credential) for credential in credentials]
        self._prefixes = sorted(prefixes, key=lambda pair: len(pair[0]), reverse=True)

    def login(self, url: str) -> Login | None:
        """Return the login for a Source's URL, the longest prefix first; raise SourceError if a file is gone."""
        for prefix, credential in self._prefixes:
            if urls.covers(prefix, url):
                return _login(prefix, credential)
        return None


def _login(prefix: str, credential: Credential) -> Login:
    password = None
    secret_file = credential.password_file or credential.token_file
    if secret_file:
        password = _read(secret_file)
    username = credential.username or (TOKEN_USER if credential.token_file else None)
    return Login(prefix, username, password, credential.ssh_key_file, credential.ca_file)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise SourceError(
            SourceReason.AUTHENTICATION_FAILED, f"the credential file {path} cannot be read: {why}"
        ) from error
