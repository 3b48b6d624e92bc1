"""The daemon as a process: pins that move, deploys that break, deaths and stops."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.product import Product
from support.repos import git, target, targets
from support.servers import serving
from support.world import World

from reconciler.git.library import mirror_name

SLOW = (
    ".PHONY: deploy\ndeploy:\n\techo started; while ! test -e $(SITE)/go; do sleep 0.05; done; "
    'echo "$(RECONCILER_COMMIT)" >> "$(SITE)/$(RECONCILER_TARGET)"\n'
)  # goes on once the file exists
FAIL = ".PHONY: deploy\ndeploy:\n\texit 3\n"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_moved_pin_is_deployed_and_then_it_rests(world: World) -> None:
    # first --- second; the pin goes first, second, first
    world.pin(world.app.first)
    with world.product.daemon() as daemon:
        daemon.wait_in_sync("api", world.app.first)
        second = world.app.release()
        world.pin(second)
        daemon.wait_in_sync("api", second)
        world.pin(world.app.first)
        daemon.wait_in_sync("api", world.app.first)
        polls = daemon.get("/metrics").count("\n")
        assert polls > 0
    assert world.product.deployed("api") == [world.app.first, second, world.app.first]
    assert not [line for line in world.product.log_lines() if line["level"] == "error"]


def test_over_http_a_pin_that_is_there_costs_no_request(tmp_path: Path) -> None:
    world = World(tmp_path)
    with serving(tmp_path / "git") as server:
        world.config.pin(targets(target("api", f"{server.url}/app/.git", world.app.first)))
        product = Product(tmp_path, f"{server.url}/config/.git")
        with product.daemon() as daemon:
            daemon.wait_in_sync("api", world.app.first)
            before = sum("/config/" in request for request in server.requests)
            daemon.wait_for(lambda: sum("/config/" in r for r in server.requests) > before + 2, "more polls")
            app = [request for request in server.requests if "/app/" in request]
            assert app == ["GET /app/.git/info/refs", "POST /app/.git/git-upload-pack"]  # the one fetch
            config = [request for request in server.requests if "/config/" in request]
            assert config.count("GET /config/.git/info/refs") <= 3
            world.config.pin(targets(target("api", f"{server.url}/app/.git", newest := world.app.release())))
            daemon.wait_in_sync("api", newest)


def test_a_server_that_dies_and_comes_back_needs_no_person(tmp_path: Path) -> None:
    world = World(tmp_path)
    with serving(tmp_path / "git") as server:
        world.config.pin(targets(target("api", world.app.url, world.app.first)))
        product = Product(tmp_path, f"{server.url}/config/.git")
        with product.daemon() as daemon:
            daemon.wait_in_sync("api", world.app.first)
            server.answer = ("503 Busy", [], b"")

            def source() -> dict[str, object]:
                found = json.loads(daemon.get("/api/v1/sources"))["sources"]
                view: dict[str, object] = next(view for view in found if "/config/" in view["url"])
                return view

            daemon.wait_for(lambda: source()["reason"] == "server_error", "the failure to show")
            assert source()["next_poll"] is not None
            world.config.pin(targets(target("api", world.app.url, newest := world.app.release())))
            server.answer = None
            daemon.wait_in_sync("api", newest)
            assert source()["reason"] is None


def test_a_failing_deploy_is_retried_with_backoff_then_held_until_the_pin_moves(world: World) -> None:
    world.pin(world.app.release(FAIL), retry="{limit: 2, backoff: 100ms}")
    with world.product.daemon() as daemon:
        daemon.wait_reason("api", "stalled")
        view = daemon.target("api")
        assert view["failures"] == 3
        assert view["conditions"]["stalled"]
        world.pin(world.app.first)
        daemon.wait_in_sync("api", world.app.first)
    assert [d["cause"] for d in world.product.history("api")] == ["new_version", "retry", "retry", "new_version"]


def test_a_newer_pin_cancels_where_that_is_asked_for(world: World) -> None:
    world.pin(world.app.release(SLOW), on_change="cancel")
    with world.product.daemon() as daemon:
        daemon.wait_reason("api", "running")
        world.pin(world.app.first, on_change="cancel")
        daemon.wait_in_sync("api", world.app.first)
    assert [(d["status"], d["reason"]) for d in world.product.history("api")] == [
        ("cancelled", "obsolete"),
        ("succeeded", None),
    ]


def test_a_rollback_is_not_cancelled_for_being_another_version(world: World) -> None:
    good, broken, gate = world.app.release(SLOW), world.app.release(FAIL), world.product.site / "go"
    gate.write_text("")
    world.pin(good, on_change="cancel")
    with world.product.daemon() as daemon:
        daemon.wait_in_sync("api", good)
        gate.unlink()
        world.pin(broken, on_failure="rollback", on_change="cancel", retry="{limit: 0}")
        daemon.wait_for(lambda: len(world.product.history("api")) == 3, "the rollback")
        assert world.product.run("resume", "api").returncode == 0  # wakes a pass while it runs
        gate.write_text("")
        daemon.wait_reason("api", "rolled_back")
    assert [(deploy["cause"], deploy["status"]) for deploy in world.product.history("api")] == [
        ("new_version", "succeeded"),
        ("new_version", "failed"),
        ("rollback", "succeeded"),
    ]


def test_read_verbs_work_beside_the_daemon(world: World) -> None:
    world.pin(world.app.release(SLOW))
    with world.product.daemon() as daemon:
        daemon.wait_reason("api", "running")
        follow: list[str] = []
        following = threading.Thread(target=lambda: follow.append(world.product.run("logs", "api", "-f").stdout))
        following.start()
        assert world.product.status()["api"]["decision"]["reason"] == "running"
        assert world.product.run("plan").returncode == 1
        (world.product.site / "go").write_text("")
        daemon.wait_in_sync("api", world.app.head)
        following.join()
        assert follow[0].startswith("==> make deploy  (20")
        assert "started\n" in follow[0]
        assert world.product.run("why", "api").returncode == 0


def test_a_second_daemon_is_refused(world: World) -> None:
    world.pin(world.app.first)
    with world.product.daemon():
        done = world.product.run("run", "--once")
        assert done.returncode == 2
        assert re.search(r"another reconciler runs on .* \(pid \d+ on .*\); stop it first", done.stderr)


def test_a_killed_daemon_leaves_nothing_and_the_next_one_makes_up_for_it(world: World) -> None:
    slow = world.app.release(SLOW)
    world.pin(slow)
    with world.product.daemon() as daemon:
        daemon.wait_for(lambda: "started" in world.product.run("logs", "api").stdout, "the recipe to run")
        daemon.kill()
    (world.product.site / "go").write_text("")
    with world.product.daemon() as daemon:
        daemon.wait_in_sync("api", slow)
    assert [(d["id"], d["status"]) for d in world.product.history("api")] == [
        ("api.1", "abandoned"),
        ("api.3", "succeeded"),
    ]
    assert world.product.deployed("api") == [slow]
    assert list((world.product.state / "runs").iterdir()) == []


def test_a_stop_waits_for_running_deploys(world: World) -> None:
    world.pin(world.app.release(SLOW))
    with world.product.daemon() as daemon:
        daemon.wait_reason("api", "running")
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_for(lambda: "daemon.stopping" in {line["event"] for line in world.product.log_lines()}, "the drain")
        (world.product.site / "go").write_text("")
        assert daemon.process.wait(30) == 0
    assert world.product.history("api")[0]["status"] == "succeeded"


def test_a_second_stop_cancels_and_the_deploy_starts_again_later(world: World) -> None:
    world.pin(world.app.release(SLOW), retry="{backoff: 100ms}")
    with world.product.daemon() as daemon:
        daemon.wait_reason("api", "running")
        daemon.process.send_signal(signal.SIGTERM)
        daemon.wait_for(
            lambda: any(line["event"] == "daemon.stopping" for line in world.product.log_lines()), "the drain"
        )
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(30) == 0
    (deploy,) = world.product.history("api")
    assert (deploy["status"], deploy["reason"]) == ("cancelled", "stopped")
    with world.product.daemon() as daemon:
        daemon.wait_reason("api", "running")
        daemon.kill()


def test_health_readiness_and_the_api(world: World) -> None:
    world.pin(world.app.first)
    with world.product.daemon() as daemon:
        daemon.wait_in_sync("api", world.app.first)
        assert daemon.get("/healthz") == "ok\n"
        assert daemon.get("/readyz") == "ok\n"
        assert json.loads(daemon.get("/api/v1/targets"))["targets"][0]["name"] == "api"
        assert json.loads(daemon.get("/api/v1/targets/api/deploys"))["deploys"][0]["id"] == "api.1"
        assert json.loads(daemon.get("/api/v1/deploys/api.1"))["status"] == "succeeded"
        assert daemon.get("/api/v1/deploys/api.1/log").startswith("==> make deploy")
        for path in ("/api/v1/targets/nope", "/api/v1/deploys/nope", "/nope"):
            code, content_type, body = daemon.get_error(path)
            assert code == 404
            assert content_type.startswith("application/problem+json")
            assert json.loads(body)["status"] == 404
        address = daemon.address()
        assert address is not None
        assert world.product.run("healthcheck", "--listen", address).stdout == "ok\n"
    assert world.product.run("healthcheck", "--listen", address).returncode == 2


def test_not_ready_while_the_config_repository_cannot_be_read(tmp_path: Path) -> None:
    product = Product(tmp_path, (tmp_path / "nothing").as_uri())
    with product.daemon() as daemon:
        daemon.wait_for(lambda: product.log_lines()[-1]["event"], "a log")
        code, _, body = daemon.get_error("/readyz")
        assert code == 503
        assert "the config repository has not been polled yet" in body
        assert daemon.get("/healthz") == "ok\n"


def test_metrics_say_what_happened(world: World) -> None:
    world.pin(world.app.release(FAIL), retry="{limit: 0}", labels="{env: production}")
    with world.product.daemon() as daemon:
        daemon.wait_reason("api", "stalled")
        world.pin(world.app.first, labels="{env: production}")
        daemon.wait_in_sync("api", world.app.first)
        text = daemon.get("/metrics")
    with world.product.daemon() as daemon:
        daemon.wait_in_sync("api", world.app.first)
        again = daemon.get("/metrics")
    for page in (text, again):
        assert 'reconciler_deploys_total{result="failed",target="api"} 1.0' in page
        assert 'reconciler_deploys_total{result="succeeded",target="api"} 1.0' in page
        assert 'reconciler_deploys_total{result="timed_out",target="api"} 0.0' in page
        assert 'reconciler_target_in_sync{target="api"} 1.0' in page
        assert f'reconciler_target_revision_info{{commit="{world.app.first}",kind="deployed",target="api"}} 1.0' in page
        assert 'environment="production"' in page
        assert "_created" not in page
    assert 'reconciler_deploy_restore_seconds_count{target="api"} 1.0' in text


def test_a_removed_target_leaves_the_metrics(world: World) -> None:
    entries = [target(name, world.app.url, world.app.first) for name in ("api", "web")]
    world.config.pin(targets(*entries))
    with world.product.daemon() as daemon:
        daemon.wait_in_sync("web", world.app.first)
        assert 'target="web"' in daemon.get("/metrics")
        world.config.pin(targets(entries[0]))
        daemon.wait_for(lambda: 'target="web"' not in daemon.get("/metrics"), "the series to go")


def test_every_log_line_of_a_deploy_carries_its_id(world: World) -> None:
    world.pin(world.app.first)
    with world.product.daemon() as daemon:
        daemon.wait_in_sync("api", world.app.first)
    lines = [line for line in world.product.log_lines() if line["event"].startswith("deploy.")]
    assert [line["event"] for line in lines] == ["deploy.started", "deploy.finished"]
    assert {line["deploy"] for line in lines} == {"api.1"}


def test_slots_are_never_exceeded(tmp_path: Path) -> None:
    world = World(tmp_path, "max_concurrent_deploys: 2\n")
    makefile = (
        ".PHONY: deploy\ndeploy:\n\t@touch $(SITE)/live.$(RECONCILER_TARGET); "
        "ls $(SITE) | grep -c live >> $(SITE)/counts; sleep 0.3; rm $(SITE)/live.$(RECONCILER_TARGET)\n"
    )
    commit = world.app.release(makefile)
    names = [f"t{number}" for number in range(6)]
    world.config.pin(targets(*(target(name, world.app.url, commit) for name in names)))
    assert world.product.once() == 0
    counts = [int(word) for word in world.product.deployed("counts")]
    assert len(counts) == 6
    assert max(counts) == 2


def test_a_demo_ends_by_itself_twice(tmp_path: Path) -> None:
    product = Product(tmp_path, "/unused")
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "reconciler", "demo", "--once"],
            env=product.env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert re.search(r"^hello-production +in_sync .* 1 behind main$", done.stdout, re.MULTILINE)
        assert "production.txt: Hello, world." in done.stdout


def test_a_mirror_that_is_damaged_deep_within_is_made_anew(world: World) -> None:
    world.pin(world.app.first, follow="main", retry="{backoff: 100ms, max_backoff: 1s, limit: 30}")
    with world.product.daemon() as daemon:
        daemon.wait_in_sync("api", world.app.first)
        mirror = world.product.state / "mirrors" / mirror_name(world.app.url)
        for pack in mirror.glob("objects/pack/*.pack"):
            pack.chmod(0o600)
            data = bytearray(pack.read_bytes())
            for index in range(len(data) // 3, len(data) - 24):
                data[index] ^= 0x55
            pack.write_bytes(data)
        assert world.product.run("reconcile", "api").returncode == 0
        daemon.wait_for(lambda: len(world.product.deployed("api")) == 2, "the deploy to succeed")
        daemon.wait_in_sync("api", world.app.first)
    git(mirror, "-c", "safe.directory=*", "fsck", "--full")
