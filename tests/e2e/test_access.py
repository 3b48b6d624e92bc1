"""Ways to a repository: proxies, authorities, apps; and what happens when access is taken away."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from support.needs import need_program
from support.product import Product
from support.proxies import proxying
from support.repos import Application, Config, target, targets
from support.servers import GitServer, serving


class Place:
    """An application and a config repository behind one server."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.app = Application(root / "git" / "app")
        self.config = Config(root / "git" / "config")

    def pin(self, server: str, commit: str | None, **keys: str) -> None:
        self.config.pin(targets(target("api", f"{server}/app/.git", commit, **keys)))

    def product(self, server: str, settings: str) -> Product:
        return Product(self.root, f"{server}/config/.git", settings)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def server(place: Place) -> Iterator[GitServer]:
    with serving(place.root / "git") as server:
        yield server


def test_a_proxy_is_used_for_polls_and_fetches(place: Place) -> None:
    outside = "https://git.invalid"  # no name server knows it: whatever comes from there came through the proxy
    with serving(place.root / "git", make_certificate(place.root)) as server:
        port = int(server.url.rpartition(":")[2])
        with proxying(("127.0.0.1", port)) as proxy:
            place.pin(outside, place.app.first)
            credential = f"{{url: {outside}/, proxy: '{proxy.url}', ca_file: {place.root}/ca.pem}}"
            product = place.product(outside, f"credentials: [{credential}]\n")
            assert product.once() == 0, product.run("run", "--once").stderr
            assert product.deployed("api") == [place.app.first]
            assert set(proxy.asked) == {"git.invalid:443"}
            assert len(proxy.asked) >= 2


def make_certificate(folder: Path) -> Path:
    need_program("openssl", "openssl")
    file = folder / "server.pem"
    subject = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1,DNS:git.invalid")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    key, certificate = folder / "key.pem", folder / "ca.pem"
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    file.write_text(key.read_text() + certificate.read_text())
    return file


def test_an_authority_of_ones_own_counts_for_its_prefix_and_for_nothing_else(place: Place) -> None:
    certificate = make_certificate(place.root)
    with serving(place.root / "git", certificate) as server:
        place.pin(server.url, place.app.first)
        trusting = f"credentials: [{{url: {server.url}/, ca_file: {place.root}/ca.pem}}]\n"
        product = place.product(server.url, trusting)
        assert product.once() == 0, product.run("run", "--once").stderr
        assert product.deployed("api") == [place.app.first]
        refusing = Place(place.root / "other")
        other = Product(refusing.root, f"{server.url}/config/.git")
        assert other.once() == 2
        assert "certificate" in other.run("run", "--once").stderr.lower()


def test_a_github_app_proves_itself_and_its_token_is_used(place: Place, server: GitServer) -> None:
    need_program("openssl", "openssl")
    key = place.root / "app.pem"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    public = subprocess.run(
        ["openssl", "rsa", "-in", key, "-pubout"], check=True, capture_output=True, text=True
    ).stdout
    asked: list[dict[str, Any]] = []

    def answer(environ: dict[str, Any]) -> str | None:
        proof = environ["HTTP_AUTHORIZATION"].removeprefix("Bearer ")
        asked.append(jwt.decode(proof, public, algorithms=["RS256"]))
        assert environ["PATH_INFO"] == "/api/v3/app/installations/678/access_tokens"
        return "ghs_canary"

    server.app, server.user, server.password = answer, "x-access-token", "ghs_canary"
    place.pin(server.url, place.app.first)
    app = f'{{app_id: "12345", installation_id: "678", private_key_file: {key}}}'
    product = place.product(server.url, f"credentials: [{{url: {server.url}/, github_app: {app}}}]\n")
    assert product.once() == 0, product.run("run", "--once").stderr
    assert product.deployed("api") == [place.app.first]
    assert [claims["iss"] for claims in asked] == ["12345"]
    server.app = None
    refused = product.run("run", "--once")
    assert refused.returncode == 2
    assert "is the app installed there?" in refused.stderr
    assert "ghs_canary" not in refused.stderr
    key.write_text("no key")
    assert "is no RSA private key" in product.run("run", "--once").stderr
    for file in product.state.rglob("*"):
        if file.is_file():
            assert b"ghs_canary" not in file.read_bytes(), file


def test_access_that_was_taken_away_takes_the_mirror_away_and_comes_back(place: Place, server: GitServer) -> None:
    other = Config(place.root / "local")
    other.pin(targets(target("api", f"{server.url}/app/.git", None, follow="main", interval="200ms")))
    product = Product(place.root, other.url, "forget_after: 2s\n")
    with product.daemon() as daemon:
        daemon.wait_in_sync("api", place.app.first)
        mirrors = list((product.state / "mirrors").glob("*.git"))
        assert any("git-" in mirror.name for mirror in mirrors)
        ours = next(mirror for mirror in mirrors if "local" not in mirror.name and "scratch" not in mirror.name)
        server.answer = ("403 Forbidden", [], b"")
        daemon.wait_for(lambda: not ours.exists(), "the mirror to be removed")
        daemon.wait_reason("api", "unresolved")
        view = daemon.target("api")
        assert "forbidden" in view["decision"]["message"]
        assert view["deployed"] == place.app.first
        assert len(product.history("api")) == 1
        server.answer = None
        daemon.wait_in_sync("api", place.app.first)
        assert ours.exists()
    assert any(line["event"] == "source.forgotten" for line in product.log_lines())
    assert len(product.history("api")) == 1


def test_a_source_that_is_not_asked_any_more_is_not_forgotten(place: Place, server: GitServer) -> None:
    other = Config(place.root / "local")
    url = f"{server.url}/app/.git"
    other.pin(targets(target("api", url, None, follow="main", interval="200ms")))
    product = Product(place.root, other.url, "forget_after: 2s\n")
    with product.daemon() as daemon:
        daemon.wait_in_sync("api", place.app.first)
        server.answer = ("403 Forbidden", [], b"")
        daemon.wait_for(lambda: daemon.metric(f'reconciler_poll_consecutive_failures{{repo="{url}"}}') >= 1, "a 403")
        other.pin(targets(target("api", url, place.app.first)))  # pinned to what is there: nothing is asked any more
        daemon.wait_for(lambda: daemon.metric(f'reconciler_poll_consecutive_failures{{repo="{url}"}}') == 0, "rest")
        polls = f'reconciler_polls_total{{repo="{other.url}",result="unchanged"}}'
        before = daemon.metric(polls)
        daemon.wait_for(lambda: daemon.metric(polls) >= before + 4, "longer than forget_after")
        assert daemon.target("api")["decision"]["reason"] == "in_sync"
    assert not any(line["event"] == "source.forgotten" for line in product.log_lines())


def test_a_dead_server_and_a_missing_branch_take_nothing_away(place: Place, server: GitServer) -> None:
    other = Config(place.root / "local")
    other.pin(targets(target("api", f"{server.url}/app/.git", None, follow="main", interval="200ms")))
    product = Product(place.root, other.url, "forget_after: 1s\n")
    with product.daemon() as daemon:
        daemon.wait_in_sync("api", place.app.first)
        failures = "reconciler_poll_consecutive_failures"
        url = f'{failures}{{repo="{server.url}/app/.git"}}'
        server.answer = ("503 Service Unavailable", [("Retry-After", "1")], b"")
        daemon.wait_for(lambda: daemon.metric(url) >= 2, "failures")
        source = next(one for one in _sources(daemon) if one["url"].endswith("/app/.git"))
        assert source["reason"] == "server_error"
        assert "asks us to wait for 1 s" in source["message"]
        server.answer = None
        daemon.wait_for(lambda: daemon.metric(url) == 0, "a good poll")
        other.pin(targets(target("api", f"{server.url}/app/.git", None, follow="gone", interval="200ms")))
        daemon.wait_reason("api", "unresolved")
        daemon.wait_for(lambda: daemon.metric(url) >= 3, "failures for longer than a second")
    assert not any(line["event"] == "source.forgotten" for line in product.log_lines())


def _sources(daemon: Any) -> list[dict[str, Any]]:
    import json  # noqa: PLC0415

    found: list[dict[str, Any]] = json.loads(daemon.get("/api/v1/sources"))["sources"]
    return found


def test_many_sources_of_a_dead_host_wait_together_and_others_are_not_late(place: Place, server: GitServer) -> None:
    other = Config(place.root / "local")
    dead = "http://127.0.0.1:1"
    entries = [target(f"dead-{index}", f"{dead}/r{index}", None, follow="main", interval="1s") for index in range(20)]
    healthy = target("api", f"{server.url}/app/.git", None, follow="main", interval="200ms")
    other.pin(targets(*entries, healthy))
    product = Product(place.root, other.url)
    with product.daemon() as daemon:
        daemon.wait_in_sync("api", place.app.first)
        commits = [place.app.release() for _ in range(3)]
        daemon.wait_in_sync("api", commits[-1])
        polls = "reconciler_polls_total"
        daemon.wait_for(
            lambda: daemon.metric(f'{polls}{{repo="{server.url}/app/.git",result="unchanged"}}') >= 15, "many polls"
        )
        asked = [daemon.metric(f'{polls}{{repo="{dead}/r{index}",result="error"}}') for index in range(20)]
        assert sum(asked) < 60  # each at its start, then the breaker
