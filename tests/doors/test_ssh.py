"""Polling and fetching over real ssh: a kept connection, strict host keys, named reasons."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.product import Product
from support.repos import Application, Config, git, target, targets
from support.sshd import SshServer, make_key, ssh_serving

from reconciler import urls
from reconciler.errors import SourceError, SourceReason
from reconciler.git.credentials import Login
from reconciler.git.ssh import SshPolls

MAIN = "refs/heads/main"


@pytest.fixture
def app(tmp_path: Path) -> Application:
    return Application(tmp_path / "git" / "app")


@pytest.fixture
def server(tmp_path: Path, app: Application) -> Iterator[SshServer]:
    assert app.first
    with ssh_serving(tmp_path / "git", tmp_path / "keys") as server:
        yield server


def login(server: SshServer, key: str | None = None) -> Login:
    hosts = str(server.known_hosts)
    return Login("ssh://git@127.0.0.1", ssh_key_file=key or str(server.user_key_file), known_hosts_file=hosts)


def poll(
    server: SshServer, name: str = "app/.git", *refs: str, times: int = 1, key: str | None = None
) -> dict[str, str]:
    async def go() -> dict[str, str]:
        polls = SshPolls(10.0)
        found: dict[str, str] = {}
        try:
            for _ in range(times):
                found = await polls.poll(urls.parse(server.url(name)), refs or (MAIN,), login(server, key))
        finally:
            await polls.close()
        return found

    return asyncio.run(go())


@pytest.mark.parametrize("version_2", [True, False])
def test_refs_are_told_over_one_kept_connection(tmp_path: Path, app: Application, version_2: bool) -> None:
    git(app.path, "tag", "-a", "-m", "x", "v1")
    with ssh_serving(tmp_path / "git", tmp_path / "keys", version_2=version_2) as server:
        found = poll(server, "app/.git", MAIN, "refs/tags/", times=5)
        assert found[MAIN] == app.head
        assert found["refs/tags/v1"] == app.head
        assert server.connections == 1
        assert len(server.commands) == 5


def reason(server: SshServer, name: str = "app/.git", key: str | None = None) -> SourceReason:
    with pytest.raises(SourceError) as error:
        poll(server, name, key=key)
    return error.value.reason


def test_an_unknown_host_key_connects_to_nothing(server: SshServer) -> None:
    server.trust(make_key(server.folder / "another"))
    assert reason(server) is SourceReason.HOST_KEY_MISMATCH
    server.known_hosts.write_text("")
    assert reason(server) is SourceReason.HOST_KEY_MISMATCH
    server.known_hosts.unlink()
    assert reason(server) is SourceReason.HOST_KEY_MISMATCH
    assert not server.commands


def test_a_wrong_key_and_a_missing_repository_are_told_apart(server: SshServer, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other")
    assert reason(server, key=str(other)) is SourceReason.AUTHENTICATION_FAILED
    assert reason(server, key=str(tmp_path / "gone")) is SourceReason.AUTHENTICATION_FAILED
    (tmp_path / "nonsense").write_text("no key")
    assert reason(server, key=str(tmp_path / "nonsense")) is SourceReason.AUTHENTICATION_FAILED
    assert reason(server, "nowhere") is SourceReason.NOT_FOUND


def test_a_hostile_path_is_an_argument_and_no_command(server: SshServer, tmp_path: Path) -> None:
    assert reason(server, "a;touch,pwned;/b'c") is SourceReason.NOT_FOUND
    assert not list(tmp_path.rglob("pwned"))


def test_a_server_that_is_gone_is_unreachable_and_comes_back(tmp_path: Path, app: Application) -> None:
    with ssh_serving(tmp_path / "git", tmp_path / "keys") as server:
        assert poll(server)[MAIN] == app.head
    assert reason(server) is SourceReason.UNREACHABLE


def test_a_target_is_deployed_from_a_source_over_ssh(server: SshServer, app: Application, tmp_path: Path) -> None:
    config = Config(tmp_path / "git" / "config")
    url = server.url("app/.git")
    config.pin(targets(target("api", url, None, follow="main", interval="1s")))
    keys = f"ssh_key_file: {server.user_key_file}, known_hosts_file: {server.known_hosts}"
    prefix = server.url("").rpartition(str(tmp_path))[0] + "/"
    product = Product(tmp_path, server.url("config/.git"), f"credentials: [{{url: '{prefix}', {keys}}}]\n")
    with product.daemon() as daemon:
        daemon.wait_in_sync("api", app.first)
        second = app.release()
        daemon.wait_in_sync("api", second)
    server.trust(make_key(server.folder / "another"))
    app.release()
    assert product.once() == 2
    assert "host_key_mismatch" in product.run("run", "--once").stderr
