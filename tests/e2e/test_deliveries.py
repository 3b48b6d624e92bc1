"""Webhooks against the running daemon: they make it faster, and can do nothing else."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.hooks import AFTER, SECRET, Sent, github_like, push
from support.product import Daemon
from support.repos import git, target, targets
from support.world import World

from reconciler.webhooks.providers import PROVIDERS

ROOT = Path(__file__).parents[2]
NEVER = "1h"  # between polls: what happens here happens because of a webhook
ALL = sorted(PROVIDERS)


def hooked(root: Path, more: str = "", interval: str = NEVER) -> World:
    secret = root / "secret"
    secret.write_bytes(SECRET + b"\n")
    on = ", ".join(f"{name}: {{secret_files: [{secret}]}}" for name in ALL)
    return World(root, f"webhooks: {{{on}}}\n{more}", interval=interval)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return hooked(tmp_path)


def count(daemon: Daemon, provider: str, result: str) -> float:
    return daemon.metric(f'reconciler_webhook_requests_total{{provider="{provider}",result="{result}"}}')


def polls(daemon: Daemon, world: World) -> float:
    return sum(
        daemon.metric(f'reconciler_polls_total{{repo="{world.config.url}",result="{result}"}}')
        for result in ("changed", "unchanged", "error")
    )


def test_a_push_to_the_config_repository_is_deployed_at_once_whoever_tells(world: World) -> None:
    world.pin(world.app.first)
    with world.product.daemon() as daemon:
        daemon.wait_in_sync("api", world.app.first)
        for index, provider in enumerate(ALL):
            commit = world.app.release()
            world.pin(commit)
            sent = push(provider, world.config.url, number=f"d-{index}", after=world.config.head).signed()
            answer = daemon.post(sent)
            assert (answer.status, answer.json) == (202, {"result": "accepted"})
            # The Source of the application is polled because its new pin is missing.
            daemon.wait_in_sync("api", commit)
            assert count(daemon, provider, "accepted") == 1
        assert daemon.metric('reconciler_poll_triggers_total{trigger="webhook"}') >= len(ALL)


def test_what_is_refused_changes_nothing_and_is_counted(world: World) -> None:
    world.pin(world.app.first)
    sent = push("github", world.config.url)
    with world.product.daemon() as daemon:
        daemon.wait_in_sync("api", world.app.first)
        before = polls(daemon, world)
        assert daemon.post(sent).status == 401
        assert daemon.post(sent.signed(b"guess")).status == 401
        assert daemon.post(sent.with_headers({"X-Hub-Signature-256": "sha256=\u00e9"})).status == 401
        assert daemon.post(replace(sent, body=b"{}").signed()).status == 400
        assert daemon.post(replace(sent, body=b" " * (1024 * 1024 + 1)).signed()).status == 413
        assert daemon.post(github_like("github", world.config.url, event="ping").signed()).status == 200
        unmatched = daemon.post(push("github", "https://git.example.com/other", number="d-2").signed())
        assert (unmatched.status, unmatched.json) == (202, {"result": "accepted"})
        assert polls(daemon, world) == before
        results = ("unauthenticated", "malformed", "too_large", "ping", "unmatched")
        assert [count(daemon, "github", result) for result in results] == [3, 1, 1, 1, 1]
        refused = daemon.post(sent)
        assert refused.headers["Content-Type"].startswith("application/problem+json")
        assert "secret" in refused.json["detail"]
        assert daemon.post(replace(sent, provider="unknown")).status == 404
        assert daemon.ask("GET", "/webhook/github").status == 405


def test_a_delivery_that_was_seen_before_costs_nothing(world: World) -> None:
    world.pin(world.app.first)
    with world.product.daemon() as daemon:
        daemon.wait_in_sync("api", world.app.first)
        sent = push("gitlab", world.config.url, after=world.config.head).signed()
        before = polls(daemon, world)
        assert [daemon.post(sent).status for _ in range(20)] == [202] * 20
        daemon.wait_for(lambda: polls(daemon, world) > before, "the poll of the first one")
        assert count(daemon, "gitlab", "duplicate") == 19
        assert polls(daemon, world) == before + 1


def test_a_flood_of_different_deliveries_is_a_poll_or_two(world: World) -> None:
    world.pin(world.app.first)
    with world.product.daemon() as daemon:
        daemon.wait_in_sync("api", world.app.first)
        before = polls(daemon, world)
        for index in range(100):
            daemon.post(push("github", world.config.url, number=f"d-{index}", after=world.config.head).signed())
        assert count(daemon, "github", "accepted") == 100
        assert polls(daemon, world) - before <= 10  # one at once, then at most one a second


def test_a_provider_without_a_secret_is_off_and_a_secret_that_is_gone_proves_nothing(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    world = World(tmp_path, f"webhooks: {{gitea: {{secret_files: [{secret}, {tmp_path}/none]}}}}\n", interval=NEVER)
    world.pin(world.app.first)
    with world.product.daemon() as daemon:
        assert daemon.post(push("github", world.config.url).signed()).status == 404
        assert daemon.post(push("gitea", world.config.url).signed()).status == 202
        secret.write_bytes(b"rotated")  # read at each delivery
        assert daemon.post(push("gitea", world.config.url, number="d-2").signed()).status == 401
        assert daemon.post(push("gitea", world.config.url, number="d-2").signed(b"rotated")).status == 202
        secret.unlink()
        assert daemon.post(push("gitea", world.config.url, number="d-3").signed(b"rotated")).status == 401
    events = [line["event"] for line in world.product.log_lines()]
    assert "webhook.secret_unreadable" in events
    assert "settings.file_unreadable" in events  # at the start already


def test_a_form_is_read_as_well(world: World) -> None:
    world.pin(world.app.first)
    with world.product.daemon() as daemon:
        assert daemon.post(push("github", world.config.url).form().signed()).status == 202
        assert count(daemon, "github", "accepted") == 1


def test_the_listener_for_webhooks_has_webhooks_and_nothing_else(tmp_path: Path) -> None:
    world = hooked(tmp_path, "webhook_listen: 127.0.0.1:0\n")
    world.pin(world.app.first)
    with world.product.daemon() as daemon:
        assert daemon.post(push("github", world.config.url).signed()).status == 404
        assert daemon.post(push("github", world.config.url).signed(), "webhook_listen").status == 202
        for path in ("/", "/metrics", "/healthz", "/api/v1/targets", "/openapi.json"):
            assert daemon.ask("GET", path, key="webhook_listen").status == 404
        assert "/webhook/{provider}" not in daemon.get("/openapi.json")


def test_an_announced_commit_is_looked_for_until_the_server_shows_it(world: World) -> None:
    app = world.app
    world.config.pin(targets(target("api", app.url, None, follow="main", interval=NEVER)))
    with world.product.daemon() as daemon:
        daemon.wait_in_sync("api", app.first)
        commit = git(app.path, "commit-tree", "-p", app.head, "-m", "later", f"{app.head}^{{tree}}")
        sent = push("github", app.url, after=commit).signed()
        assert daemon.post(sent).status == 202
        seen = f'reconciler_polls_total{{repo="{app.url}",result="unchanged"}}'
        daemon.wait_for(lambda: daemon.metric(seen) >= 2, "the daemon to look again")
        git(app.path, "update-ref", "refs/heads/main", commit)
        daemon.wait_in_sync("api", commit)


def test_an_old_delivery_does_not_make_it_look_again(world: World) -> None:
    app = world.app
    world.config.pin(targets(target("api", app.url, None, follow="main", interval=NEVER)))
    newest = app.release()
    with world.product.daemon() as daemon:
        daemon.wait_in_sync("api", newest)
        seen = f'reconciler_polls_total{{repo="{app.url}",result="unchanged"}}'
        before = daemon.metric(seen)
        assert daemon.post(push("github", app.url, after=app.first).signed()).status == 202
        daemon.wait_for(lambda: daemon.metric(seen) == before + 1, "one poll")
        assert daemon.post(push("github", app.url, after=newest, number="d-2").signed()).status == 202
        daemon.wait_for(lambda: daemon.metric(seen) == before + 2, "the next one, and none between")


@pytest.mark.parametrize("name", ["app", "git/app", "api"])
def test_the_generic_door_takes_the_end_of_a_path_or_a_target(world: World, name: str) -> None:
    app = world.app
    world.config.pin(targets(target("api", app.url, None, follow="main", interval=NEVER)))
    with world.product.daemon() as daemon:
        daemon.wait_in_sync("api", app.first)
        commit = app.release()
        answer = daemon.ask("POST", f"/webhook/generic/{name}", headers={"Authorization": f"Bearer {SECRET.decode()}"})
        assert answer.status == 202
        daemon.wait_in_sync("api", commit)


def test_a_commit_that_never_shows_is_warned_of(world: World, tmp_path: Path) -> None:
    """In this process, so that a second is enough for what takes half a minute."""
    world.pin(world.app.first)
    script = tmp_path / "impatient.py"
    script.write_text(
        "import sys\nfrom reconciler import polling\npolling.VISIBLE_WITHIN_S = 1.5\npolling.LOOK_AGAIN_S = 0.3\n"
        "from reconciler.cli import main\nmain()\n"
    )
    log = (world.product.root / "daemon.log").open("a")
    command = [sys.executable, str(script), "run", "--config", str(world.product.settings)]
    process = subprocess.Popen(command, env=world.product.env, stdout=log, stderr=log, cwd=ROOT)
    log.close()
    daemon = Daemon(world.product, process)
    daemon._begins = 0
    try:
        daemon.wait_for(lambda: daemon.address() is not None, "the daemon to listen")
        daemon.wait_in_sync("api", world.app.first)
        assert daemon.post(push("github", world.config.url, after="e" * 40).signed()).status == 202
        daemon.wait_for(
            lambda: any(line["event"] == "webhook.commit_not_visible" for line in world.product.log_lines()),
            "a warning",
        )
        before = polls(daemon, world)
        assert before >= 3
        assert daemon.metric('reconciler_warnings_total{event="webhook.commit_not_visible"}') == 1
    finally:
        process.terminate()
        process.wait(20)


# --- strangers --------------------------------------------------------------------------------------------


def mutated(chance: random.Random, url: str, index: int) -> Sent:
    """Return a delivery with something wrong in it, signed well half of the time."""
    sent = push(chance.choice(ALL), url, number=f"m-{index}")
    body = bytearray(sent.body)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(body) + 1)
        how = chance.randrange(4)
        if how == 0:
            del body[at : at + chance.randrange(1, 40)]
        elif how == 1:
            body[at:at] = chance.randbytes(chance.randrange(1, 12))
        elif how == 2:
            body[at:at] = chance.choice([b"null", b'"', b"{", b"]", b"1e999", b"\\u0000", b"\xff", b'":[{}]'])
        else:
            other = chance.randrange(len(body) + 1)
            body[at:at] = body[other : other + chance.randrange(60)]
    sent = replace(sent, body=bytes(body))
    if chance.random() < 0.1:
        sent = sent.without(chance.choice([name.lower() for name in sent.headers]))
    if chance.random() < 0.1:
        sent = sent.with_headers({"Content-Type": chance.choice(["application/x-www-form-urlencoded", "", "text/x"])})
    return sent.signed() if chance.random() < 0.5 else sent.signed(b"wrong")


def test_ten_thousand_mutated_deliveries_get_only_2xx_and_4xx(world: World) -> None:
    world.pin(world.app.first)
    with world.product.daemon() as daemon:
        daemon.wait_in_sync("api", world.app.first)

        async def send(session: aiohttp.ClientSession, sent: Sent) -> int:
            async with session.post(
                f"http://{daemon.address()}{sent.path}", data=sent.body, headers=sent.headers
            ) as answer:
                return answer.status

        async def flood() -> dict[int, int]:
            found: dict[int, int] = {}
            chance = random.Random(20261120)
            async with aiohttp.ClientSession() as session:
                for start in range(0, 10_000, 100):
                    batch = [mutated(chance, world.config.url, start + index) for index in range(100)]
                    for status in await asyncio.gather(*(send(session, sent) for sent in batch)):
                        found[status] = found.get(status, 0) + 1
            return found

        found = asyncio.run(flood())
        assert sum(found.values()) == 10_000
        assert set(found) <= {200, 202, 400, 401}
        assert found[401] > 1_000
        assert found[400] > 1_000
        assert daemon.target("api")["decision"]["reason"] == "in_sync"


def test_slow_and_silent_clients_leave_good_ones_served(world: World) -> None:
    world.pin(world.app.first)
    with world.product.daemon() as daemon:
        daemon.wait_in_sync("api", world.app.first)
        host, _, port = str(daemon.address()).rpartition(":")
        openers: list[Callable[[socket.socket], Any]] = [
            lambda _: None,
            lambda one: one.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "),
            lambda one: one.sendall(b"POST /webhook/github HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{"),
        ]
        slow: list[socket.socket] = []
        try:
            for index in range(900):  # more than the daemon allows at once
                one = socket.create_connection((host, int(port)), timeout=10)
                slow.append(one)
                openers[index % 3](one)
                if index % 100 == 0:
                    sent = push("github", world.config.url, number=f"d-{index}", after=AFTER).signed()
                    assert daemon.post(sent).status == 202
                    assert daemon.ask("GET", "/healthz").status == 200
            assert daemon.ask("GET", "/metrics").status == 200
        finally:
            for one in slow:
                one.close()


# --- the same end, with and without -----------------------------------------------------------------------


def ending(root: Path, seed: int, hooks: str) -> dict[str, Any]:
    """Walk one history with all webhooks, none, or repeated ones in the wrong order; return where it ends."""
    root.mkdir()
    world = hooked(root, interval="1s")
    chance = random.Random(seed)
    commits = [world.app.first, *(world.app.release() for _ in range(3))]
    sent: list[Sent] = []
    with world.product.daemon() as daemon:
        for step in range(6):
            world.pin_both(chance.choice(commits))
            if chance.random() < 0.5:
                world.app.commit(message=f"step {step}")
            both = (world.config.url, world.app.url)
            head = world.config.head
            sent += [push(chance.choice(ALL), url, number=f"d-{step}{url}", after=head).signed() for url in both]
            if hooks == "all":
                statuses = {daemon.post(one).status for one in sent[-2:]}
                assert statuses == {202}
            elif hooks == "shuffled":
                for one in random.Random(step).choices(sent, k=4):
                    daemon.post(one)
        last = world.config.head

        def settled() -> bool:
            if daemon.ask("GET", "/readyz").status != 200:  # a history without webhooks may be faster than the daemon
                return False
            views = [daemon.target(name) for name in ("api", "web")]
            return all(view["config"]["commit"] == last and view["decision"]["reason"] == "in_sync" for view in views)

        daemon.wait_for(settled, "the end of the history")
        views = json.loads(daemon.get("/api/v1/targets"))["targets"]
    return {
        view["name"]: [commits.index(view[key]) for key in ("desired", "attempted", "deployed")]
        + [view["decision"]["reason"], view["failures"], commits.index(world.product.deployed(view["name"])[-1])]
        for view in views
    }


@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_history_ends_the_same_with_any_webhooks(tmp_path: Path, seed: int) -> None:
    ends = {hooks: ending(tmp_path / hooks, seed, hooks) for hooks in ("none", "all", "shuffled")}
    assert ends["all"] == ends["none"]
    assert ends["shuffled"] == ends["none"]
