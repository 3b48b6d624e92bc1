"""Wishes of people, through the store and the socket, with a daemon and without one."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.world import World

SLOW = '.PHONY: deploy\ndeploy:\n\t@echo "$(LEVEL)" >> "$(SITE)/api"; test -z "$(SLOW)" || sleep 1000\n'


class Deep(World):
    """A world so deep that the socket's path is too long for the kernel."""

    def __init__(self, root: Path) -> None:
        deep = root / ("d" * 60) / ("e" * 60)
        deep.mkdir(parents=True)
        super().__init__(deep, makefile=SLOW)

    def pin_first(self, **keys: str) -> str:
        return self.pin(self.app.first, **keys)


@pytest.fixture
def world(tmp_path: Path) -> Deep:
    return Deep(tmp_path)


def test_a_request_deploys_again_once_with_its_variables(world: Deep) -> None:
    world.pin_first(env="{LEVEL: one}")
    with world.product.daemon() as daemon:
        daemon.wait_in_sync("api", world.app.first)
        done = world.product.run("reconcile", "api", "--env", "LEVEL=two")
        assert (done.returncode, done.stdout) == (0, "requested: api\n")
        daemon.wait_for(lambda: len(world.product.deployed("api")) == 2, "the requested deploy")
        daemon.wait_in_sync("api", world.app.first)
    assert world.product.deployed("api") == ["one", "two"]
    history = world.product.history("api")
    assert [deploy["cause"] for deploy in history] == ["new_version", "requested"]
    assert history[1]["requested_by"]


def test_a_request_without_a_daemon_waits_for_the_next_run(world: Deep) -> None:
    world.pin_first()
    world.product.once()
    assert "the next one will act on it" in world.product.run("reconcile", "api").stdout
    world.product.once()
    world.product.once()
    assert len(world.product.history("api")) == 2


def test_a_window_holds_a_request_unless_it_says_now(world: Deep) -> None:
    world.pin_first(windows='["Mon 00:00-00:01 Pacific/Kiritimati"]')
    world.product.once()
    world.product.run("reconcile", "api")
    assert world.product.once() == 1
    assert world.product.status()["api"]["decision"]["reason"] in ("window", "in_sync")
    world.product.run("reconcile", "api", "--now")
    assert world.product.once() == 0


def test_a_cancelled_deploy_ends_and_the_newest_pin_follows(world: Deep) -> None:
    world.pin_first(env="{SLOW: yes}", retry="{backoff: 1h}")
    with world.product.daemon() as daemon:
        daemon.wait_for(lambda: world.product.run("logs", "api").returncode == 0, "a deploy")
        daemon.wait_reason("api", "running")
        assert world.product.run("cancel", "api").stdout == "cancelling the deploy of api\n"
        daemon.wait_reason("api", "backoff")
        (deploy,) = world.product.history("api")
        assert (deploy["status"], deploy["reason"]) == ("cancelled", "cancelled")
        world.pin_first(env="{LEVEL: next}")
        daemon.wait_in_sync("api", world.app.first)
        done = world.product.run("cancel", "api")
        assert done.returncode == 2
        assert "no deploy of api is running" in done.stderr


def test_suspend_and_resume(world: Deep) -> None:
    world.pin_first()
    world.product.once()
    done = world.product.run("suspend", "api", "--reason", "freeze", "--until", "2h")
    assert done.stdout.startswith("suspended: api until 20")
    world.pin_first(env="{LEVEL: two}")
    with world.product.daemon() as daemon:
        daemon.wait_reason("api", "suspended")
        assert "freeze" in daemon.target("api")["decision"]["message"]
        assert 'reconciler_target_suspended{target="api"} 1.0' in daemon.get("/metrics")
        world.product.run("resume", "api")
        daemon.wait_in_sync("api", world.app.first)


def test_a_suspension_ends_by_itself(world: Deep) -> None:
    world.pin_first()
    world.product.once()
    world.product.run("suspend", "api", "--reason", "short", "--until", "3s")
    world.pin_first(env="{LEVEL: two}")
    with world.product.daemon() as daemon:
        daemon.wait_in_sync("api", world.app.first)
        daemon.wait_for(lambda: len(world.product.history("api")) == 2, "the end of the suspension")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("reconcile", "nope"), "there is no target 'nope'"),
        (("reconcile", "api", "--env", "x"), "expected K=V"),
        (("reconcile", "api", "--env", "LD_PRELOAD=x"), "this variable is the daemon's"),
        (("suspend", "api"), "--reason"),
        (("suspend", "api", "--reason", "x", "--until", "soon"), "expected 2h"),
    ],
)
def test_a_wish_that_cannot_be(world: Deep, arguments: tuple[str, ...], complaint: str) -> None:
    world.pin_first()
    world.product.once()
    done = world.product.run(*arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
