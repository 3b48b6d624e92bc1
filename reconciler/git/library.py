"""libgit2, made safe before its first use: version gate, no configuration of the machine, time limits."""

from __future__ import annotations

import hashlib
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import pygit2
from pygit2.enums import ConfigLevel

from reconciler.errors import SourceError, SourceReason, StateError

# 1.9.7 is the first libgit2 without the command injection and credential leaks of 2026 (CVE-2026-5917,
# CVE-2026-53583 to 53587).
OLDEST_LIBGIT2 = (1, 9, 7)
TAGS = "refs/tags/"
PIN_REFS = "refs/reconciler/pins/"  # ours, in every mirror: they keep commits alive


def prepare(timeout_s: float) -> None:
    """Configure libgit2 for this process. `timeout_s` bounds each connect and each read, not a whole fetch.

    Raises StateError where the library is too old to be trusted.
    """
    found = tuple(int(part) for part in pygit2.LIBGIT2_VERSION.split(".")[:3])
    if found < OLDEST_LIBGIT2:
        wanted = ".".join(str(part) for part in OLDEST_LIBGIT2)
        raise StateError(
            f"libgit2 {pygit2.LIBGIT2_VERSION} has known holes; install pygit2 with libgit2 {wanted} or newer"
        )
    for level in (ConfigLevel.SYSTEM, ConfigLevel.XDG, ConfigLevel.GLOBAL):
        pygit2.settings.search_path[level] = ""
    pygit2.settings.server_connect_timeout = round(timeout_s * 1000)
    pygit2.settings.server_timeout = round(timeout_s * 1000)
    pygit2.settings.mwindow_mapped_limit = 512 * 1024 * 1024


def use_login(login: dict[str, Any] | None, home: Path | None) -> bool:
    """Let libgit2 use the host keys and the certificate authority of a login; True where this process is stained.

    An authority cannot be taken away again, so a process that has a stranger's one is not used for other hosts. `home`
    is an empty folder for host keys, which the caller removes after the operation. Raises SourceError where a file
    cannot be read.
    """
    hosts = login["known_hosts_file"] if login else None
    if hosts and home is not None:
        (home / ".ssh").mkdir(mode=0o700, exist_ok=True)
        try:
            shutil.copyfile(hosts, home / ".ssh" / "known_hosts")
        except OSError as error:
            message = f"the host keys {hosts} cannot be read: {error.strerror}"
            raise SourceError(SourceReason.HOST_KEY_MISMATCH, message) from error
        pygit2.settings.homedir = str(home)
    authority = login["ca_file"] if login else None
    if authority:
        pygit2.settings.set_ssl_cert_locations(authority, None)
    return bool(hosts or authority)


def mirror_name(url: str) -> str:
    """Return the folder of a Source's mirror: readable, unique, and safe as a file name."""
    slug = "".join(char if char.isalnum() and char.isascii() else "-" for char in url.rpartition("/")[2])[:40]
    return f"{slug.strip('-') or 'repo'}-{hashlib.sha256(url.encode()).hexdigest()[:16]}.git"


def versions() -> dict[str, str]:
    """Return the versions of pygit2 and libgit2."""
    return {"pygit2": metadata.version("pygit2"), "libgit2": pygit2.LIBGIT2_VERSION}
