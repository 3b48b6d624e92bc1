"""The API, its bounds, and the verbs that use it from elsewhere."""

from __future__ import annotations

import json
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.hooks import SECRET, push
from support.product import Daemon, Product
from support.repos import target, targets
from support.world import World

TOKEN = "let me in"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
TALKS = (
    ".PHONY: deploy\ndeploy:\n\t@echo first line; printf 'caf\\303\\251 \\033[1mbold\\033[0m\\r\\n'; "
    "while ! test -e $(SITE)/go; do sleep 0.02; done; echo last line\n"
)


def tokened(root: Path, more: str = "", makefile: str | None = None) -> World:
    file = root / "token"
    file.write_text(TOKEN + "\n")
    settings = f"api_token_file: {file}\n{more}"
    return World(root, settings) if makefile is None else World(root, settings, makefile)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return tokened(tmp_path)


@pytest.fixture
def running(world: World) -> Iterator[Daemon]:
    world.pin(world.app.first)
    with world.product.daemon() as daemon:
        daemon.wait_in_sync("api", world.app.first)
        yield daemon


def post(daemon: Daemon, path: str, body: object = None, headers: dict[str, str] | None = None) -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    kind = {"Content-Type": "application/json"} if data else {}
    answer = daemon.ask("POST", f"/api/v1/targets/{path}", data, {**kind, **(BEARER if headers is None else headers)})
    return answer.status, answer.text


# --- who may ----------------------------------------------------------------------------------------------


def test_wishes_need_the_token_which_is_read_at_each_use(world: World, running: Daemon) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer guess"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "\xe9"},
    ):
        status, text = post(running, "api/reconcile", headers=headers)
        assert (status, json.loads(text)["status"]) == (401, 401)
    assert running.ask("POST", "/api/v1/targets/api/reconcile").headers["WWW-Authenticate"].startswith("Bearer")
    assert len(world.product.history("api")) == 1
    assert post(running, "api/reconcile")[0] == 202
    running.wait_for(lambda: len(world.product.history("api")) == 2, "the requested deploy")
    (world.product.root / "token").write_text("rotated")
    assert post(running, "api/resume")[0] == 401
    assert post(running, "api/resume", headers={"Authorization": "Bearer rotated"})[0] == 202
    (world.product.root / "token").unlink()
    assert post(running, "api/resume", headers={"Authorization": "Bearer rotated"})[0] == 403


def test_without_a_token_nothing_can_be_changed(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.pin(world.app.first)
    with world.product.daemon() as daemon:
        daemon.wait_in_sync("api", world.app.first)
        status, text = post(daemon, "api/reconcile")
        assert status == 403
        assert "api_token_file" in json.loads(text)["detail"]


def test_every_address_but_loopback_needs_a_token(world: World) -> None:
    world.pin(world.app.first)
    done = world.product.run("run", "--listen", "0.0.0.0:0", RECONCILER_API_TOKEN_FILE=str(world.product.root / "none"))
    assert done.returncode == 78
    assert "api_token_file" in done.stderr
    without = World(world.product.root / "other")
    done = without.product.run("run", "--listen", "0.0.0.0:0")
    assert done.returncode == 78
    assert "api_token_file is required" in done.stderr


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 421),
        ("evil.example:8080", 421),
        ("127.0.0.1.evil.example", 421),
        ("deploys.example", 200),
        ("Deploys.Example:443", 200),
        ("localhost:8080", 200),
        ("app.localhost", 200),
        ("reconciler:8080", 200),
        ("127.0.0.1", 200),
        ("[::1]:8080", 200),
        ("", 200),
    ],
)
def test_only_our_own_names_are_answered(host: str, status: int, hosts_daemon: Daemon) -> None:
    assert hosts_daemon.ask("GET", "/api/v1/targets", headers={"Host": host}).status == status


@pytest.fixture(scope="module")
def hosts_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    world = World(tmp_path_factory.mktemp("hosts"), "hosts: [deploys.example]\n")
    world.pin(world.app.first)
    with world.product.daemon() as daemon:
        daemon.wait_in_sync("api", world.app.first)
        yield daemon


def test_no_other_site_may_read_what_is_here(running: Daemon) -> None:
    answer = running.ask("GET", "/api/v1/targets", headers={"Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert running.ask("OPTIONS", "/api/v1/targets", headers={"Origin": "https://evil.example"}).status == 405
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_webhook_is_taken_under_any_name_and_health_answers_head(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    world = World(tmp_path, f"webhooks: {{github: {{secret_files: [{tmp_path}/secret]}}}}\n")
    world.pin(world.app.first)
    with world.product.daemon() as daemon:
        sent = push("github", world.config.url).signed().with_headers({"Host": "deploys.example"})
        assert daemon.post(sent).status == 202
        assert daemon.ask("GET", "/api/v1/targets", headers={"Host": "deploys.example"}).status == 421
        for path in ("/healthz", "/metrics", "/", "/api/v1/targets"):
            assert daemon.ask("HEAD", path).status == 200


# --- what is said -----------------------------------------------------------------------------------------


def test_wishes_are_checked_and_told_apart(running: Daemon) -> None:
    assert post(running, "none/reconcile")[0] == 404
    assert post(running, "api/cancel")[0] == 409
    assert post(running, "api/reconcile", {"nov": True})[0] == 422
    assert "env.LD_PRELOAD" in post(running, "api/reconcile", {"env": {"LD_PRELOAD": "x"}})[1]
    assert post(running, "api/suspend", {})[0] == 422
    assert post(running, "api/suspend", {"reason": "x", "until": "soon"})[0] == 422
    assert post(running, "api/suspend", [1])[0] == 422
    assert running.ask("POST", "/api/v1/targets/api/suspend", b"{", BEARER).status == 415
    json_type = {**BEARER, "Content-Type": "application/json"}
    assert running.ask("POST", "/api/v1/targets/api/suspend", b"{", json_type).status == 400
    assert running.ask("POST", "/api/v1/targets/api/suspend", b" " * 70_000, json_type).status == 413


def test_a_suspension_over_the_api_is_shown_with_who_and_why(running: Daemon) -> None:
    status, text = post(running, "api/suspend", {"reason": "migration", "until": "2h", "by": "ada"})
    assert (status, json.loads(text)["done"].partition(" until ")[0]) == (202, "suspended: api")
    running.wait_reason("api", "suspended")
    assert "by ada (API)" in running.target("api")["decision"]["message"]
    assert post(running, "api/resume")[0] == 202
    running.wait_reason("api", "in_sync")


def test_pages_of_targets_and_deploys_join_to_the_whole(tmp_path: Path) -> None:
    world = tokened(tmp_path)
    names = [f"t{index}" for index in range(5)]
    world.config.pin(targets(*(target(name, world.app.url, world.app.first) for name in names)))
    with world.product.daemon() as daemon:
        for name in names:
            daemon.wait_in_sync(name, world.app.first)
        for count in (2, 3):
            post(daemon, "t0/reconcile")
            daemon.wait_for(lambda: len(world.product.history("t0")) == count, "the deploy")  # noqa: B023
        found: list[str] = []
        page: dict[str, Any] = {"next": ""}
        while page["next"] is not None:
            page = json.loads(daemon.get(f"/api/v1/targets?limit=2&after={page['next']}"))
            found += [view["name"] for view in page["targets"]]
        assert found == names
        first = json.loads(daemon.get("/api/v1/targets/t0/deploys?limit=2"))
        rest = json.loads(daemon.get(f"/api/v1/targets/t0/deploys?before={first['next']}"))
        assert [deploy["id"] for deploy in first["deploys"] + rest["deploys"]] == ["t0.3", "t0.2", "t0.1"]
        assert rest["next"] is None
        for query in ("limit=0", "limit=x", "limit=1001", "before=-1", "before=99999999999999999999"):
            assert daemon.ask("GET", f"/api/v1/targets/t0/deploys?{query}").status == 400


# --- following a log --------------------------------------------------------------------------------------


def events(text: str) -> list[tuple[str, str, str]]:
    """Return (event, id, data) of a finished stream."""
    found = []
    for block in text.split("\n\n"):
        fields: dict[str, list[str]] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(": ")
            fields.setdefault(name.rstrip(":"), []).append(value)
        if "data" in fields:
            found.append((fields.get("event", ["log"])[0], fields["id"][0], "\n".join(fields["data"])))
    return found


def test_a_log_is_followed_to_its_end_and_taken_up_where_it_broke_off(tmp_path: Path) -> None:
    world = tokened(tmp_path, makefile=TALKS)
    world.pin(world.app.first)
    with world.product.daemon() as daemon:
        daemon.wait_reason("api", "running")
        daemon.wait_for(lambda: "bold" in daemon.get("/api/v1/deploys/api.1/log"), "some output")
        seen: list[str] = []
        stream = {"Accept": "text/event-stream"}
        reader = threading.Thread(
            target=lambda: seen.append(daemon.ask("GET", "/api/v1/deploys/api.1/log", headers=stream).text)
        )
        reader.start()
        time.sleep(0.3)
        assert not seen  # it waits for more
        (world.product.site / "go").touch()
        reader.join(20)
        told = events(seen[0])
        assert told[-1][0] == "end"
        assert json.loads(told[-1][2])["status"] == "succeeded"
        text = "".join(data for event, _, data in told if event == "log")
        assert "first line\ncafé \x1b[1mbold\x1b[0m\n" in text
        assert "last line\n" in text
        again = daemon.ask("GET", "/api/v1/deploys/api.1/log", headers={**stream, "Last-Event-ID": told[0][1]})
        rest = "".join(data for event, _, data in events(again.text) if event == "log")
        assert rest == "".join(data for event, _, data in told[1:] if event == "log")
        for hostile in ("-1", "x", "9" * 30, "é"):
            whole = daemon.ask("GET", "/api/v1/deploys/api.1/log", headers={**stream, "Last-Event-ID": hostile})
            assert whole.status == 200


def test_an_open_stream_does_not_delay_a_stop(tmp_path: Path) -> None:
    world = tokened(tmp_path, makefile=TALKS)
    world.pin(world.app.first)
    with world.product.daemon() as daemon:
        daemon.wait_reason("api", "running")
        host, _, port = str(daemon.address()).rpartition(":")
        readers = [socket.create_connection((host, int(port))) for _ in range(3)]
        for reader in readers:
            reader.sendall(b"GET /api/v1/deploys/api.1/log HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
            assert reader.recv(100).startswith(b"HTTP/1.1 200")
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_for(lambda: world.product.log_lines()[-1]["event"] == "daemon.stopping", "the drain")
        daemon.process.send_signal(signal.SIGTERM)
        daemon.process.wait(20)
        for reader in readers:
            reader.close()
    assert world.product.history("api")[0]["status"] == "cancelled"


# --- verbs, from here and from elsewhere ------------------------------------------------------------------


def test_verbs_say_the_same_over_the_state_directory_and_over_the_api(world: World, running: Daemon) -> None:
    world.pin(world.app.release(".PHONY: deploy\ndeploy:\n\t@echo sorry; exit 3\n"), retry="{limit: 0}")
    running.wait_reason("api", "stalled")
    server = ("--server", f"http://{running.address()}")
    for verb in (
        ("status",),
        ("status", "api", "-o", "wide"),
        ("status", "-o", "json"),
        ("why", "api"),
        ("history", "api"),
        ("history", "api", "-o", "json"),
        ("logs", "api"),
        ("logs", "-f", "api.1"),
        ("diff", "api"),
        ("status", "none"),
        ("logs", "none.7"),
    ):
        here, there = world.product.run(*verb), world.product.run(*verb, *server)
        assert there.returncode == here.returncode, verb
        assert _timeless(there.stdout) == _timeless(here.stdout), verb


def _timeless(text: str) -> list[str]:
    return [line for line in text.splitlines() if " ago)" not in line]


def test_wishes_from_elsewhere_need_the_token_file(world: World, running: Daemon) -> None:
    server = ("--server", str(running.address()))
    refused = world.product.run("suspend", "api", "--reason", "x", *server)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "bearer token" in refused.stderr
    token = ("--token-file", str(world.product.root / "token"))
    done = world.product.run("suspend", "api", "--reason", "maintenance", "--until", "2h", *server, *token)
    assert done.stdout.startswith("suspended: api until 20")
    running.wait_reason("api", "suspended")
    assert world.product.run("resume", "api", *server, *token).stdout == "resumed: api\n"
    assert world.product.run("reconcile", "api", "--now", *server, *token).stdout == "requested: api\n"
    running.wait_for(lambda: len(world.product.history("api")) == 2, "the requested deploy")
    running.wait_in_sync("api", world.app.first)
    assert world.product.run("cancel", "api", *server, *token).returncode == 2
    environment = {"RECONCILER_SERVER": server[1], "RECONCILER_TOKEN_FILE": token[1]}
    assert world.product.run("reconcile", "api", **environment).stdout == "requested: api\n"


def test_a_server_that_is_not_there_is_said(world: World) -> None:
    done = world.product.run("status", "--server", "127.0.0.1:1")
    assert done.returncode == 2
    assert "http://127.0.0.1:1 does not answer" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_watched_status_is_printed_again_when_something_changes(world: World, running: Daemon) -> None:
    product: Product = world.product
    watching = subprocess.Popen(
        [sys.executable, "-m", "reconciler", "status", "-w", "--config", str(product.settings)],
        env=product.env,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    try:
        lines = iter(watching.stdout.readline, "")
        assert next(lines).startswith("TARGET")
        assert "in_sync" in next(lines)
        product.run("suspend", "api", "--reason", "a look")
        assert next(lines).startswith("TARGET")
        assert "suspended" in next(lines)
        running.wait_reason("api", "suspended")
    finally:
        watching.send_signal(signal.SIGINT)
        watching.wait(10)
        watching.stdout.close()
    assert watching.returncode == 130


def test_the_socket_for_local_verbs_is_the_owners_alone(world: World, running: Daemon) -> None:
    assert running.process.poll() is None
    assert stat.S_IMODE((world.product.state).stat().st_mode) == 0o700
