from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.urls import commit_page, covers, parse, parse_prefix, refusal


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("https://git.example.com/acme/api.git", "https://git.example.com/acme/api.git"),
        ("HTTPS://Git.Example.COM:443/acme/api.git/", "https://git.example.com/acme/api.git"),
        ("https://git.example.com:8443/api", "https://git.example.com:8443/api"),
        ("ssh://git@Git.example.com:22/acme/api.git", "ssh://git@git.example.com/acme/api.git"),
        ("git@git.example.com:acme/api.git", "ssh://git@git.example.com/acme/api.git"),
        ("git.example.com:acme/api", "ssh://git.example.com/acme/api"),
        ("http://127.0.0.1:3000/x", "http://127.0.0.1:3000/x"),
        ("https://[::1]:8080/x", "https://[::1]:8080/x"),
        ("https://[2001:db8::1]/x", "https://[2001:db8::1]/x"),
        ("file:///srv/git/api.git", "file:///srv/git/api.git"),
        ("file://localhost/srv/git/api.git", "file:///srv/git/api.git"),
        ("/srv//git/./api.git/", "file:///srv/git/api.git"),
    ],
)
def test_the_normal_form(text: str, normal: str) -> None:
    assert str(parse(text)) == normal
    assert str(parse(normal)) == normal


HOSTILE = [
    "",
    "-oProxyCommand=touch /tmp/x",
    "--upload-pack=touch /tmp/x",
    "ext::sh -c touch% /tmp/x",
    "ext::sh",
    "fd::17/foo",
    "ftp://example.com/x",
    "git://example.com/x",
    "javascript://example.com/x",
    "https://user:pass@example.com/x",
    "https://user@example.com/x",
    "https://token@example.com:443/x",
    "ssh://git:pass@example.com/x",
    "ssh://-oProxyCommand=x/y",
    "ssh://-x@example.com/y",
    "git@-oProxyCommand=x:y",
    "git@example.com:-x",
    "ssh://example.com/-x",
    "https://example.com",
    "https://example.com/",
    "https:///x",
    "https://exa mple.com/x",
    "https://example.com/x\n",
    "https://example.com/x\x00",
    "https://example.com/\u2028x",
    "https://example.com\\@evil.com/x",
    "https://example.com/x?y=1",
    "https://example.com/x#y",
    "https://example.com:0/x",
    "https://example.com:99999/x",
    "https://example.com:port/x",
    "https://example.com:/x",
    "https://.example.com/x",
    "https://example..-/x",
    "https://[::1/x",
    "https://[zz::1]/x",
    "https://éxample.com/x",
    "file://example.com/x",
    "file://",
    "/",
    "/srv/../etc",
    "./relative",
    "relative/path",
    "../up",
    "~/x",
    "C:\\repo",
    "https://example.com/$(touch x)",
    "https://example.com/`x`",
    "a::b",
    "x" * 3_000,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_url_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("https://Git.example.com/", "https://git.example.com/"),
        ("ssh://git@git.example.com", "ssh://git@git.example.com/"),
        ("https://git.example.com/acme/", "https://git.example.com/acme"),
    ],
)
def test_a_prefix(text: str, normal: str) -> None:
    assert str(parse_prefix(text)) == normal


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_an_error(text: str) -> None:
    try:
        url = parse(text)
    except ValueError:
        return
    assert url.scheme in ("https", "http", "ssh", "file")
    assert parse(str(url)) == url


@pytest.mark.parametrize(
    ("text", "settings", "refused"),
    [
        ("https://example.com/x", {}, False),
        ("git@example.com:x", {}, False),
        ("http://example.com/x", {}, True),
        ("http://example.com/x", {"allow_http": True}, False),
        ("http://localhost:3000/x", {}, False),
        ("http://127.0.0.9/x", {}, False),
        ("http://169.254.169.254/x", {}, True),
        ("file:///x", {}, True),
        ("/x", {}, True),
        ("/x", {"allow_local": True}, False),
    ],
)
def test_what_the_settings_refuse(text: str, settings: dict[str, bool], refused: bool) -> None:
    policy = {"allow_local": False, "allow_http": False, **settings}
    assert (refusal(parse(text), **policy) is not None) is refused


@pytest.mark.parametrize(
    ("prefix", "url", "expected"),
    [
        ("https://h/acme", "https://h/acme/api.git", True),
        ("https://h/acme/", "https://h/acme/api.git", True),
        ("https://h", "https://h/acme", True),
        ("https://h/acme", "https://h/acme", True),
        ("https://h/acme", "https://h/acme-evil/api.git", False),
        ("https://h", "https://h.evil/acme", False),
        ("https://h/acme", "http://h/acme/x", False),
    ],
)
def test_a_prefix_ends_at_a_segment(prefix: str, url: str, expected: bool) -> None:
    assert covers(prefix, url) is expected


@pytest.mark.parametrize(
    ("text", "page"),
    [
        ("https://github.com/acme/api.git", "https://github.com/acme/api/commit/abc"),
        ("git@github.com:acme/api.git", "https://github.com/acme/api/commit/abc"),
        ("ssh://git@git.example.com:2222/acme/api", "https://git.example.com/acme/api/commit/abc"),
        ("https://git.example.com:8443/acme/api", "https://git.example.com:8443/acme/api/commit/abc"),
        ("http://git.example.com/acme/api", "http://git.example.com/acme/api/commit/abc"),
        ("https://gitlab.com/acme/api.git", "https://gitlab.com/acme/api/-/commit/abc"),
        ("git@bitbucket.org:acme/api.git", "https://bitbucket.org/acme/api/commits/abc"),
        ("git@ssh.dev.azure.com:v3/acme/shop/api", "https://dev.azure.com/acme/shop/_git/api/commit/abc"),
        ("https://dev.azure.com/acme/shop/_git/api", "https://dev.azure.com/acme/shop/_git/api/commit/abc"),
        ("ssh://git@localhost/acme/api", None),
        ("/srv/git/api", None),
    ],
)
def test_a_commit_has_a_page_where_its_repository_has_a_forge(text: str, page: str | None) -> None:
    assert commit_page(parse(text), "abc") == page


# --- two hundred hostile ones -----------------------------------------------------------------------------

_SCHEMES = ["ext", "fd", "git", "ftp", "ftps", "gopher", "javascript", "data", "dict", "ldap", "smb", "svn", "telnet"]
_SCHEMES += [
    "git+ssh",
    "ssh+git",
    "https+file",
    "file+https",
    "rsync",
    "transport",
    "helper",
    "HTTPX",
    "ssl",
    "vbscript",
]
_TAILS = ["://h/x", "::sh -c touch% /tmp/pwned", "://-oProxyCommand=touch/x", ":///etc/passwd", "://u:p@h/x"]
_SHELLS = [
    ";touch x",
    "|touch x",
    "$(touch x)",
    "`touch x`",
    "\n--upload-pack=x",
    "\r\nHost: x",
    "\x00",
    "\t",
    " ",
    "\\",
]
_BASES = ["https://h/a", "ssh://git@h/a", "git@h:a", "http://127.0.0.1/a", "/srv/git/a", "file:///srv/git/a"]
_DASHES = ["-u", "--upload-pack=touch", "-oProxyCommand=x", "ssh://-oProxyCommand=x/y", "-h:x", "https://-h/x"]
HOSTILE = (
    [scheme + tail for scheme in _SCHEMES for tail in _TAILS]
    + [base + shell for base in _BASES for shell in _SHELLS]
    + [base + shell + "/b" for base in _BASES[:2] for shell in _SHELLS[:6]]
    + _DASHES
    + [
        "https://",
        "https:///x",
        "https://@/x",
        "https://user:pass@h/x",
        "https://user@h/x",
        "ssh://u:p@h/x",
        "//h/x",
        "h",
    ]
)


def test_of_two_hundred_hostile_urls_only_allowed_schemes_could_reach_a_socket() -> None:
    assert len(HOSTILE) >= 200
    for text in HOSTILE:
        try:
            found = parse(text)
        except ValueError:
            continue
        if refusal(found, allow_local=False, allow_http=False) is None:
            assert found.scheme in ("https", "ssh") or (found.scheme == "http" and found.is_loopback), text
            assert found.host, text
            assert not found.host.startswith("-"), text
            assert not set("\n\r\0 $`\\") & set(str(found)), text
