from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, get_args

import gidgethub.sansio
import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st
from support import hooks
from support.hooks import AFTER, GONE, SECRET, SIGNING, Sent, push

from reconciler.config.settings import Provider as ProviderName
from reconciler.webhooks import generic as generic_module
from reconciler.webhooks.delivery import Delivery, Irrelevant, Malformed, Ping, Push, Reading
from reconciler.webhooks.identity import Identity, Index, by_path, identify
from reconciler.webhooks.providers import PROVIDERS, read, verify

URL = "https://git.example.com/acme/api.git"
HOME = Identity("git.example.com", "acme/api")
ALL = sorted(PROVIDERS)
FORGES = [name for name in ALL if name != "generic"]


def arrived(sent: Sent) -> Delivery:
    return Delivery({name.lower(): [value] for name, value in sent.headers.items()}, sent.body)


def proven(sent: Sent, *secrets: bytes) -> bool:
    return verify(PROVIDERS[sent.provider], arrived(sent), secrets or (SECRET,))


def reading(sent: Sent) -> Reading:
    return read(PROVIDERS[sent.provider], arrived(sent), sent.source)[0]


def number(sent: Sent) -> str | None:
    return read(PROVIDERS[sent.provider], arrived(sent), sent.source)[1]


def pushed(sent: Sent) -> Push:
    found = reading(sent)
    assert isinstance(found, Push)
    return found


def changed(sent: Sent, **keys: Any) -> Sent:
    return replace(sent, body=json.dumps({**json.loads(sent.body), **keys}).encode())


def test_every_provider_of_the_settings_is_there() -> None:
    assert sorted(get_args(ProviderName)) == ALL


# --- who sent it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ALL)
def test_a_signed_delivery_is_proven(provider: str) -> None:
    assert proven(push(provider, URL).signed())


@pytest.mark.parametrize("provider", ALL)
def test_an_unsigned_delivery_is_not(provider: str) -> None:
    assert not proven(push(provider, URL))


@pytest.mark.parametrize("provider", ALL)
def test_a_delivery_signed_with_another_secret_is_not(provider: str) -> None:
    assert not proven(push(provider, URL).signed(b"guess"))


@pytest.mark.parametrize("provider", [name for name in ALL if name not in ("gitlab", "azure")])
def test_a_changed_body_is_not(provider: str) -> None:
    sent = push(provider, URL).signed()
    assert not proven(replace(sent, body=sent.body + b" "))


@pytest.mark.parametrize("provider", ALL)
def test_both_secrets_count_during_a_rotation(provider: str) -> None:
    sent = push(provider, URL).signed(b"the new one")
    assert proven(sent, SECRET, b"the new one")
    assert proven(sent, b"the new one", SECRET)


@pytest.mark.parametrize("provider", ALL)
def test_nothing_is_proven_without_a_secret_or_with_an_empty_one(provider: str) -> None:
    sent = push(provider, URL).signed(b"")
    assert not verify(PROVIDERS[provider], arrived(sent), ())
    assert not verify(PROVIDERS[provider], arrived(sent), (b"",))


@pytest.mark.parametrize("provider", ALL)
def test_a_signature_that_is_no_ascii_is_wrong_and_nothing_else(provider: str) -> None:
    sent = push(provider, URL).signed()
    names = [name for name in sent.headers if name not in push(provider, URL).headers]
    for name in names:
        for value in ("é", "sha256=é", "Basic é", "v1,é", "\udcff\udc80", ""):
            assert not proven(sent.with_headers({name: value}))


@pytest.mark.parametrize("provider", FORGES)
def test_a_header_that_was_sent_twice_proves_nothing(provider: str) -> None:
    sent = push(provider, URL).signed()
    headers = {name.lower(): [value, value] for name, value in sent.headers.items()}
    assert not verify(PROVIDERS[provider], Delivery(headers, sent.body), (SECRET,))


def test_the_example_in_githubs_documentation_is_proven() -> None:
    value = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    delivery = Delivery({"x-hub-signature-256": [value]}, b"Hello, World!")
    assert verify(PROVIDERS["github"], delivery, (SECRET,))


def test_the_older_sha1_signature_of_github_proves_nothing() -> None:
    sent = push("github", URL)
    assert not proven(sent.with_headers({"X-Hub-Signature": "sha1=" + "0" * 40}))


def test_githubs_own_kind_of_library_agrees() -> None:
    sent = push("github", URL).signed()
    headers = {name.lower(): value for name, value in sent.headers.items()}
    event = gidgethub.sansio.Event.from_http(headers, sent.body, secret=SECRET.decode())
    assert event.data["after"] == AFTER
    assert proven(sent)


def test_the_library_of_standard_webhooks_agrees() -> None:
    sent = push("generic", URL)
    at = datetime.now(UTC)
    signature = standardwebhooks.Webhook(SIGNING.decode()).sign("msg_1", at, sent.body.decode())
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": "v1,unknown v1a,other " + signature,
    }
    assert proven(sent.with_headers(headers), SIGNING)
    alone = {**headers, "webhook-signature": signature}
    assert standardwebhooks.Webhook(SIGNING.decode()).verify(sent.body.decode(), alone)


@pytest.mark.parametrize("name", ["gitea", "forgejo"])
def test_gitea_and_forgejo_may_sign_as_github_does(name: str) -> None:
    sent = push(name, URL)
    assert proven(sent.with_headers(hooks.SIGN["github"](sent, SECRET)))
    assert not proven(sent.with_headers({**hooks.SIGN["github"](sent, SECRET), f"X-{name.title()}-Signature": "0"}))


def test_forgejo_may_use_the_headers_of_gitea() -> None:
    sent = replace(push("gitea", URL).signed(), provider="forgejo")
    assert proven(sent)
    assert pushed(sent).tips == {"refs/heads/main": AFTER}


def test_the_signing_token_of_gitlab_is_a_key_and_never_a_password() -> None:
    sent = push("gitlab", URL)
    assert proven(sent.signed(SIGNING), SIGNING)
    assert not proven(sent.with_headers({"X-Gitlab-Token": SIGNING.decode()}), SIGNING)
    assert not proven(sent.signed(SIGNING), b"whsec_no base64!")
    assert proven(sent.signed(SIGNING).signed(), SECRET, SIGNING)


def test_bitbucket_server_may_use_basic_authentication() -> None:
    sent = push("bitbucket-server", URL)
    assert proven(sent.with_headers(hooks.SIGN["azure"](sent, SECRET)))
    assert not proven(sent.with_headers({"Authorization": "Basic !"}))


def test_azure_may_use_a_bearer_token_or_the_whole_pair_as_the_secret() -> None:
    sent = push("azure", URL)
    assert proven(sent.with_headers({"Authorization": "Bearer " + SECRET.decode()}))
    assert proven(sent.signed(b"x"), b"hooks:x")


def test_the_generic_door_takes_a_bearer_token_and_githubs_signature() -> None:
    sent = push("generic", URL)
    assert proven(sent.with_headers({"Authorization": "Bearer " + SECRET.decode()}))
    assert proven(sent.with_headers(hooks.SIGN["github"](sent, SECRET)))
    assert not proven(sent.with_headers({"webhook-signature": "v1,x", "Authorization": "Bearer " + SECRET.decode()}))


# --- what it says -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ALL)
def test_a_push_names_its_repository_and_its_commit(provider: str) -> None:
    found = pushed(push(provider, URL))
    assert HOME in found.repositories
    assert found.tips == {"refs/heads/main": AFTER}


@pytest.mark.parametrize("provider", ALL)
def test_a_tag_is_a_push(provider: str) -> None:
    sent = push(provider, URL, ref="refs/tags/v1.2")
    if provider == "gitlab":
        sent = hooks.gitlab(URL, ref="refs/tags/v1.2", kind="tag_push")
    assert pushed(sent).tips == {"refs/tags/v1.2": AFTER}


@pytest.mark.parametrize("provider", ALL)
def test_a_deleted_branch_is_a_push_that_announces_nothing(provider: str) -> None:
    found = pushed(push(provider, URL, after=GONE))
    assert HOME in found.repositories
    assert found.tips == {}


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        (hooks.github_like("github", URL, event="ping"), Ping),
        (hooks.github_like("github", URL, event="workflow_run"), Irrelevant),
        (hooks.github_like("gitea", URL, event="issues"), Irrelevant),
        (hooks.gitlab(URL, kind="note"), Irrelevant),
        (hooks.bitbucket(URL).with_headers({"X-Event-Key": "pullrequest:created"}), Irrelevant),
        (hooks.bitbucket_server(URL).with_headers({"X-Event-Key": "diagnostics:ping"}), Ping),
        (changed(hooks.bitbucket_server(URL), test=True), Ping),
        (hooks.bitbucket_server(URL).with_headers({"X-Event-Key": "pr:opened"}), Irrelevant),
        (changed(hooks.azure(URL), eventType="git.pullrequest.created"), Irrelevant),
    ],
)
def test_pings_and_other_events_move_nothing(sent: Sent, kind: type) -> None:
    assert isinstance(reading(sent), kind)


@pytest.mark.parametrize(
    "sent",
    [
        push("github", URL).without("x-github-event"),
        push("gogs", URL).without("x-gogs-event"),
        push("bitbucket", URL).without("x-event-key"),
        changed(push("gitlab", URL), object_kind=None, event_name=7),
        changed(push("azure", URL), eventType=None),
        changed(push("github", URL), repository=None),
        changed(push("gitlab", URL), project=["x"]),
        changed(push("bitbucket", URL), repository={"links": 1, "full_name": None}),
        changed(push("bitbucket-server", URL), repository={"links": {"clone": "x"}, "slug": "api"}),
        changed(push("bitbucket-server", URL), repository={"slug": "/", "project": {"key": "."}}),
        changed(push("azure", URL), resource={"repository": {"remoteUrl": "no url"}}),
        replace(push("github", URL), body=b""),
        replace(push("github", URL), body=b"[1]"),
        replace(push("github", URL), body=b"\xff\xfe"),
        replace(push("github", URL), body=b"[" * 100_000),
        replace(push("github", URL), body=b'{"a":' * 100_000),
        replace(push("github", URL).form(), body=b"payload"),
        replace(push("github", URL).form(), body=b"other=1"),
        replace(push("github", URL).form(), body=b"&".join(b"a=1" for _ in range(100))),
        replace(push("generic", URL), source=None),
        replace(push("generic", URL), source="///"),
        replace(push("generic", URL), source="https://"),
        replace(push("generic", URL), source="%3A%3A"),
    ],
)
def test_what_cannot_be_read_is_malformed(sent: Sent) -> None:
    with pytest.raises(Malformed, match="expected"):
        reading(sent)


@pytest.mark.parametrize("provider", ["github", "gitea", "gogs"])
def test_a_form_says_the_same_as_json(provider: str) -> None:
    sent = push(provider, URL)
    assert reading(sent.form()) == reading(sent)
    assert proven(sent.form().signed())
    assert not proven(sent.signed().form())


def test_an_old_bitbucket_server_is_known_by_project_and_slug() -> None:
    sent = changed(push("bitbucket-server", URL), repository={"slug": "Api", "project": {"key": "ACME"}})
    assert pushed(sent).repositories == {Identity(None, "acme/api")}
    assert Index(["https://git.example.com/scm/acme/api.git"]).matching(pushed(sent).repositories)


@pytest.mark.parametrize("provider", FORGES)
def test_a_delivery_has_the_number_that_its_provider_gave_it(provider: str) -> None:
    assert number(push(provider, URL, number="d-7")) == "d-7"


def test_a_missing_or_endless_number_is_none() -> None:
    assert number(push("github", URL).without("x-github-delivery")) is None
    assert number(push("github", URL, number="x" * 1000)) is None
    assert number(changed(push("azure", URL), id=7)) is None
    assert number(push("generic", URL)) is None
    assert number(push("generic", URL).signed()) is not None


def test_the_generic_door_needs_no_body() -> None:
    for body in (b"", b"hello", b"[1]", b"[" * 100_000):
        found = generic_module.read_named(URL, body)
        assert found.repositories == {HOME}
        assert not found.tips


@pytest.mark.parametrize("name", ["api", "acme/api", "Acme/Api.git", URL, "https:%2F%2Fgit.example.com%2Facme%2Fapi"])
def test_the_generic_door_takes_a_url_or_the_end_of_its_path(name: str) -> None:
    assert Index([URL]).matching([generic_module.source(name)]) == {URL}


def test_a_push_of_thousands_of_refs_announces_a_few() -> None:
    updates = [{"name": f"refs/heads/b{index}", "newObjectId": AFTER} for index in range(5_000)]
    sent = changed(push("azure", URL), resource={"repository": {"remoteUrl": URL}, "refUpdates": updates})
    assert len(pushed(sent).tips) == 16


# --- which Source it means --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "https://git.example.com/acme/api",
        "https://git.example.com/acme/api/",
        "https://GIT.Example.COM/Acme/API.git",
        "https://git.example.com:8443/acme/api.git",
        "https://bot:secret@git.example.com/acme/api.git",
        "http://git.example.com./acme//api.git?x=1#y",
        "ssh://git@git.example.com:2222/acme/api.git",
        "git@git.example.com:acme/api.git",
        "git.example.com:acme/api",
        "git://git.example.com/acme/ap%69.git",
    ],
)
def test_every_way_to_write_a_repository_is_one_identity(text: str) -> None:
    assert identify(text) == HOME


@pytest.mark.parametrize(
    "text",
    [
        "https://dev.azure.com/acme/Shop/_git/api",
        "https://acme@dev.azure.com/acme/shop/_git/api",
        "https://acme.visualstudio.com/DefaultCollection/Shop/_git/api",
        "git@ssh.dev.azure.com:v3/acme/Shop/api",
    ],
)
def test_azure_writes_one_repository_in_three_ways(text: str) -> None:
    assert identify(text) == Identity("dev.azure.com", "acme/shop/api")


@pytest.mark.parametrize("text", ["", "x" * 3_000, "no url", "https://host", "https://host/", "https://host/.", "::"])
def test_what_is_no_url_has_no_identity(text: str) -> None:
    assert identify(text) is None


def test_a_repository_named_git_keeps_its_name() -> None:
    assert identify("https://host.example/.git") == Identity("host.example", ".git")


def test_local_repositories_have_an_identity_too() -> None:
    assert identify("/srv/git/app") == identify("file:///srv/git/app") == Identity("", "srv/git/app")


def test_only_whole_segments_match() -> None:
    index = Index(["https://a.example/x/api", "https://b.example/y/api", "https://c.example/my-api", "odd"])
    by_name, by_both = by_path("api"), by_path("y/api")
    assert by_name
    assert by_both
    assert index.matching([by_name]) == {"https://a.example/x/api", "https://b.example/y/api"}
    assert index.matching([by_both]) == {"https://b.example/y/api"}
    assert not index.matching([HOME])


# --- strangers --------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.sampled_from([URL, AFTER, "refs/heads/x"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@given(provider=st.sampled_from(ALL), data=st.data())
def test_no_payload_raises_anything_but_malformed(provider: str, data: st.DataObject) -> None:
    sent = push(provider, URL)
    payload = json.loads(sent.body)
    node: Any = payload
    for _ in range(data.draw(st.integers(0, 4))):  # walk down and replace what is found there
        if not isinstance(node, dict) or not node:
            break
        key = data.draw(st.sampled_from(sorted(node)))
        if data.draw(st.booleans()):
            node[key] = data.draw(JSON)
        node = node[key]
    body = json.dumps(payload).encode()
    try:
        found = reading(replace(sent, body=body))
    except Malformed:
        return
    assert isinstance(found, Push | Ping | Irrelevant)


@given(st.sampled_from(ALL), st.dictionaries(st.text(max_size=20), st.text(max_size=40)), st.binary(max_size=200))
def test_no_headers_and_no_bytes_raise_anything_but_malformed(
    provider: str, headers: dict[str, str], body: bytes
) -> None:
    delivery = Delivery({name.lower(): [value] for name, value in headers.items()}, body)
    assert not verify(PROVIDERS[provider], delivery, (SECRET,))
    try:
        read(PROVIDERS[provider], delivery, "api")
    except Malformed:
        assert provider != "generic"
