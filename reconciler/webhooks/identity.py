"""Which repository a URL names, whatever way it is written: https, ssh and scp forms are one.

Scheme, user and port are left out, `.git` and letter case as well (forges ignore both): two repositories that differ
in nothing else are rare, and cost one poll too many. Azure DevOps writes one repository in three ways.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

MAX_LENGTH = 2_000
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://([^/?#]*)([^?#]*)")
_SCP = re.compile(r"(?:[^@:/]+@)?([^@:/]+):(?!/)([^?#]+)")
_PORT = re.compile(r":[0-9]*$")
_AZURE = "dev.azure.com"


@dataclass(frozen=True, slots=True)
class Identity:
    """Host and path of a repository, in lower case. Without a host it is any repository whose path ends so."""

    host: str | None
    path: str


@lru_cache(maxsize=1_024)  # deliveries name the same few repositories again and again
def identify(text: str) -> Identity | None:
    """Return the identity of a URL; None for what is none."""
    if not 0 < len(text) <= MAX_LENGTH:
        return None
    if text.startswith("/"):
        return _identity("", text)
    if match := _URL.match(text):
        return _identity(_PORT.sub("", match[1].rpartition("@")[2]), match[2])
    if match := _SCP.fullmatch(text):
        return _identity(match[1], match[2])
    return None


def by_path(text: str) -> Identity | None:
    """Return the identity of any repository whose path ends with these segments."""
    found = _identity("", text) if 0 < len(text) <= MAX_LENGTH else None
    return found and Identity(None, found.path)


def identities(candidates: Iterable[str]) -> frozenset[Identity]:
    """Return the identities of those candidates that are URLs."""
    return frozenset(found for text in candidates if (found := identify(text)))


def _identity(host: str, path: str) -> Identity | None:
    host = host.lower().rstrip(".")
    parts = [part for part in unquote(path).lower().split("/") if part not in ("", ".")]
    if not parts:
        return None
    parts[-1] = parts[-1].removesuffix(".git") or parts[-1]
    if host.endswith(".visualstudio.com"):
        host, parts = _AZURE, [host.partition(".")[0], *parts]
    if host.removeprefix("ssh.") == _AZURE:
        host = _AZURE
        parts = [part for part in parts if part not in ("_git", "v3", "defaultcollection")]
    return Identity(host, "/".join(parts))


class Index:
    """The watched Sources by identity: which of them a delivery means."""

    def __init__(self, urls: Iterable[str]) -> None:
        self._exact: dict[Identity, set[str]] = {}
        self._by_path: dict[str, set[str]] = {}
        for url in urls:
            known = identify(url)
            if known is None:
                continue
            self._exact.setdefault(known, set()).add(url)
            parts = known.path.split("/")
            for start in range(len(parts)):
                self._by_path.setdefault("/".join(parts[start:]), set()).add(url)

    def matching(self, wanted: Iterable[Identity]) -> frozenset[str]:
        """Return the Sources that one of the identities names."""
        found: set[str] = set()
        for one in wanted:
            found |= self._by_path.get(one.path, set()) if one.host is None else self._exact.get(one, set())
        return frozenset(found)
