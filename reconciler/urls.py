"""Repository URLs: what is allowed, and when two of them name the same Source.

Allowed are https, ssh, the scp form (`git@host:path`), http and local repositories where the settings say
so. Everything else that git understands (ext::, fd::, options in disguise) is refused before anything
connects. Threats S3 and S4: a URL never carries a password, and never begins with a dash.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace

MAX_URL_LENGTH = 2_000
_DEFAULT_PORTS = {"https": 443, "http": 80, "ssh": 22}
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,252}[a-z0-9])?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_SCP = re.compile(r"(?:([^@:/]+)@)?([^@:/]+):(?!/)(.+)")
# `$` and the backtick as well: RECONCILER_REPO reaches make, which expands variables as code.
_UNSAFE = re.compile(r"[\x00-\x20\x7f-\x9f\\$`\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class RepoUrl:
    """A checked repository URL. `str()` gives its normal form, the identity of a Source."""

    scheme: str  # https, http, ssh or file
    host: str
    port: int | None
    path: str  # begins with a slash
    user: str | None = None  # ssh only

    def __str__(self) -> str:
        """Return the normal form, which every transport also accepts."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        return f"{self.scheme}://{user}{host}{port}{self.path}"

    @property
    def is_local(self) -> bool:
        """Whether it names a repository on this machine's disk."""
        return self.scheme == "file"

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse(text: str) -> RepoUrl:
    """Return the checked URL; raise ValueError with what is wrong and what was expected."""
    if not text or len(text) > MAX_URL_LENGTH:
        raise ValueError(f"expected a repository URL of 1 to {MAX_URL_LENGTH} characters")
    if text.startswith("-"):
        raise ValueError("a URL cannot begin with a dash")
    if _UNSAFE.search(text):
        raise ValueError("a URL cannot hold spaces, control characters, backslashes, dollar signs or backticks")
    if text.startswith("/"):
        return _local(text)
    scheme = _SCHEME.match(text)
    if scheme:
        return _with_scheme(scheme[1].lower(), text[scheme.end() :])
    scp = _SCP.fullmatch(text)
    if scp and "::" not in text:
        return _remote("ssh", scp[1], scp[2], None, "/" + scp[3])
    raise ValueError("expected https://HOST/PATH, ssh://HOST/PATH or USER@HOST:PATH")


def parse_prefix(text: str) -> RepoUrl:
    """Return the checked prefix of URLs, such as https://HOST/ or https://HOST/PATH; raise ValueError."""
    scheme = _SCHEME.match(text)
    bare_host = scheme is not None and not text[scheme.end() :].partition("/")[2].strip("/")
    if not bare_host:
        return parse(text)
    return replace(parse(text.rstrip("/") + "/x"), path="/")


def covers(prefix: str, url: str) -> bool:
    """Whether `url` lies at or below `prefix`, compared by whole path segments."""
    base = prefix.rstrip("/")
    return url == base or url.startswith(base + "/")


def refusal(url: RepoUrl, *, allow_local: bool, allow_http: bool) -> str | None:
    """Return why the settings do not allow this URL, or None where they do."""
    if url.is_local and not allow_local:
        return "a local repository; set allow_local_repos: true in the daemon's settings to use it"
    if url.scheme == "http" and not allow_http and not url.is_loopback:
        return "plain http to another host; use https, or set allow_http: true in the daemon's settings"
    return None


def _with_scheme(scheme: str, rest: str) -> RepoUrl:
    if scheme == "file":
        host, slash, path = rest.partition("/")
        if host not in ("", "localhost") or not slash:
            raise ValueError("expected file:///ABSOLUTE/PATH")
        return _local("/" + path)
    if scheme not in _DEFAULT_PORTS:
        raise ValueError(f"unknown scheme {scheme!r}; expected https, ssh, http or file")
    if "?" in rest or "#" in rest:
        raise ValueError("a repository URL has no query and no fragment")
    authority, slash, path = rest.partition("/")
    if not slash or not path.strip("/"):
        raise ValueError(f"expected {scheme}://HOST/PATH, found no path")
    user, at, host_port = authority.rpartition("@")
    if at and (scheme != "ssh" or ":" in user):
        raise ValueError("a URL carries no user information; put credentials into the daemon's settings")
    host, port = _split_port(host_port)
    return _remote(scheme, user or None, host, port, "/" + path)


def _split_port(text: str) -> tuple[str, int | None]:
    host, bracket, tail = text.rpartition("]")
    if bracket:
        host, port = host.removeprefix("["), tail.removeprefix(":") if tail else None
    else:
        host, colon, digits = text.partition(":")
        port = digits if colon else None
    if port is None:
        return host, None
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65_536:  # noqa: PLR2004 - TCP ports
        raise ValueError(f"expected a port from 1 to 65535, found {port!r}")
    return host, int(port)


def _remote(scheme: str, user: str | None, host: str, port: int | None, path: str) -> RepoUrl:
    host = host.lower()
    if not _HOST.fullmatch(host):
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError(f"expected a host name, found {host!r}") from None
    if user is not None and not _USER.fullmatch(user):
        raise ValueError(f"expected a user name, found {user!r}")
    if path.lstrip("/").startswith("-"):
        raise ValueError("a repository's path cannot begin with a dash")
    port = None if port == _DEFAULT_PORTS[scheme] else port
    return RepoUrl(scheme, host, port, "/" + path.strip("/"), user)


def _local(path: str) -> RepoUrl:
    normal = "/" + "/".join(part for part in path.split("/") if part not in ("", "."))
    if ".." in normal.split("/") or normal == "/":
        raise ValueError("expected an absolute path without ..")
    return RepoUrl("file", "", None, normal)


def commit_page(url: RepoUrl, commit: str) -> str | None:
    """Return the forge's page of a commit; None for a local repository. Forges differ in one word."""
    if url.is_local or "." not in url.host:
        return None
    path = url.path.removesuffix(".git")
    if url.host == "ssh.dev.azure.com":
        organisation, project, name = ([*path.removeprefix("/v3/").split("/"), "", ""])[:3]
        return f"https://dev.azure.com/{organisation}/{project}/_git/{name}/commit/{commit}"
    word = {"bitbucket.org": "commits", "gitlab.com": "-/commit"}.get(url.host, "commit")
    port = f":{url.port}" if url.port and url.scheme in ("http", "https") else ""
    scheme = url.scheme if url.scheme == "http" else "https"
    return f"{scheme}://{url.host}{port}{path}/{word}/{commit}"
