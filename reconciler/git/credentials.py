"""Credentials: bound to a URL prefix in the daemon's settings, read from their files at each use.

Nothing here is ever sent to a URL outside its prefix, and no value stands in an argument list, a log or an
error message. A GitHub App proves itself with its key and gets a token for an hour, which is kept until shortly before
it expires.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp

from reconciler import urls
from reconciler.config.settings import Credential, GitHubApp
from reconciler.errors import SourceError, SourceReason

TOKEN_USER = "x-access-token"  # noqa: S105 - a user name; forges take any beside a token
APP_PROOF_S = 300  # how long a proof of the app is valid; GitHub allows ten minutes
APP_TOKEN_S = 3_000.0  # how long an installation's token is used; GitHub gives an hour
APP_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Login:
    """How to authenticate for one URL. `repr` shows no secret."""

    prefix: str
    username: str | None = None
    password: str | None = None
    ssh_key_file: str | None = None
    ca_file: str | None = None
    known_hosts_file: str | None = None
    proxy: str | None = None

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
        self._tokens: dict[str, tuple[str, float]] = {}  # of GitHub Apps, by installation, and until when to use them

    async def login(self, url: str) -> Login | None:
        """Return the login for a Source's URL, the longest prefix first.

        Raises SourceError where a file is gone, or GitHub refuses an app.
        """
        for prefix, credential in self._prefixes:
            if urls.covers(prefix, url):
                return await self._login(prefix, credential)
        return None

    async def _login(self, prefix: str, credential: Credential) -> Login:
        username, password = credential.username, None
        if secret_file := credential.password_file or credential.token_file:
            password = _read(secret_file)
        if credential.github_app is not None:
            password = await self._app_token(prefix, credential.github_app, credential)
        if credential.token_file or credential.github_app:
            username = username or TOKEN_USER
        return Login(
            prefix,
            username,
            password,
            credential.ssh_key_file,
            credential.ca_file,
            credential.known_hosts_file,
            credential.proxy,
        )

    async def _app_token(self, prefix: str, app: GitHubApp, credential: Credential) -> str:
        key = f"{prefix} {app.app_id} {app.installation_id}"
        token, until = self._tokens.get(key, ("", 0.0))
        if until <= time.monotonic():
            token = await _ask_for_token(prefix, app, credential)
            self._tokens[key] = token, time.monotonic() + APP_TOKEN_S
        return token


async def _ask_for_token(prefix: str, app: GitHubApp, credential: Credential) -> str:
    """Return a token of an app's installation. Source: docs.github.com, "Generating an installation access token"."""
    import jwt  # noqa: PLC0415 - with its cryptography five megabytes, which only GitHub's apps need

    now = int(time.time())
    claims = {"iat": now - 60, "exp": now + APP_PROOF_S, "iss": app.app_id}  # GitHub's clock may be behind ours
    refused = SourceReason.AUTHENTICATION_FAILED
    try:
        proof = jwt.encode(claims, _read(app.private_key_file), algorithm="RS256")
    except (jwt.PyJWTError, ValueError, TypeError):
        raise SourceError(refused, f"{app.private_key_file} is no RSA private key in PEM form") from None
    base = urls.parse_prefix(prefix)
    host = f"{base.host}:{base.port}" if base.port else base.host
    api = "https://api.github.com" if base.host == "github.com" else f"{base.scheme}://{host}/api/v3"
    address = f"{api}/app/installations/{app.installation_id}/access_tokens"
    headers = {"Authorization": f"Bearer {proof}", "Accept": "application/vnd.github+json"}
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=APP_TIMEOUT_S)) as session,
            session.post(address, headers=headers, allow_redirects=False, proxy=credential.proxy) as answer,
        ):
            if answer.status != 201:  # noqa: PLR2004 - created
                raise SourceError(refused, f"{address} answered {answer.status}: is the app installed there?")
            return str((await answer.json())["token"])
    except (aiohttp.ClientError, TimeoutError, KeyError, ValueError) as error:
        raise SourceError(SourceReason.UNREACHABLE, f"{address}: {str(error) or type(error).__name__}") from error


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise SourceError(
            SourceReason.AUTHENTICATION_FAILED, f"the credential file {path} cannot be read: {why}"
        ) from error
