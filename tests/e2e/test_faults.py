"""Faults of the machine below: a full disk, a locked or damaged database, a clock that jumps."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.needs import need, need_program
from support.product import Daemon
from support.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def small_disk(world: World) -> Iterator[Path]:
    """A state directory on a disk of 96 MiB of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    world.product.state.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96m,mode=0700", "tmpfs", str(world.product.state)]
    need(subprocess.run(mount, capture_output=True, check=False).returncode == 0, "a tmpfs", "allow mounting")
    yield world.product.state
    subprocess.run(["umount", "-l", str(world.product.state)], check=True)


def is_ready(daemon: Daemon) -> bool:
    try:
        return daemon.get("/readyz") == "ok\n"
    except urllib.error.HTTPError as error:
        error.close()
        return False


def fill(folder: Path) -> Path:
    """Use up every byte of a disk."""
    filler = folder / "filler"
    with filler.open("wb") as file:
        try:
            while True:
                file.write(b"x" * 65_536)
                file.flush()
        except OSError:
            pass
    return filler


def test_a_full_disk_stops_deploys_and_nothing_else_and_recovers_by_itself(world: World, small_disk: Path) -> None:
    world.pin(world.app.first)
    with world.product.daemon() as daemon:
        daemon.wait_in_sync("api", world.app.first)
        assert (small_disk / "ballast").stat().st_size == 4 * 1024 * 1024
        filler = fill(small_disk)
        (small_disk / "ballast").unlink()
        fill(small_disk / "runs").rename(small_disk / "filler2")
        newest = world.app.release()
        world.pin(newest)
        daemon.wait_for(lambda: not is_ready(daemon), "readiness to end")
        assert daemon.get("/healthz") == "ok\n"
        assert daemon.target("api")["deployed"] == world.app.first
        filler.unlink()
        (small_disk / "filler2").unlink()
        daemon.wait_in_sync("api", newest)
        daemon.wait_for(lambda: is_ready(daemon), "readiness to return")
    assert world.product.deployed("api") == [world.app.first, newest]


def test_a_disk_that_fills_up_during_a_deploy_loses_no_result(world: World, small_disk: Path) -> None:
    makefile = (
        '.PHONY: deploy\ndeploy:\n\techo "$(RECONCILER_COMMIT)" >> "$(SITE)/api"; touch "$(SITE)/began"; '
        'while ! test -e "$(SITE)/go"; do sleep 0.05; done\n'
    )
    commit = world.app.release(makefile)
    world.pin(commit)
    with world.product.daemon() as daemon:
        daemon.wait_for((world.product.site / "began").exists, "the recipe to run")
        filler = fill(small_disk)
        (world.product.site / "go").write_text("")
        daemon.wait_in_sync("api", commit)  # the reserve was there for that
        filler.unlink()
    assert world.product.deployed("api") == [commit]
    assert [deploy["status"] for deploy in world.product.history("api")] == ["succeeded"]


def test_a_database_that_somebody_locks_loses_no_result(world: World) -> None:
    makefile = '.PHONY: deploy\ndeploy:\n\ttouch "$(SITE)/began"; while ! test -e "$(SITE)/go"; do sleep 0.05; done\n'
    commit = world.app.release(makefile)
    world.pin(commit)
    with world.product.daemon() as daemon:
        daemon.wait_for((world.product.site / "began").exists, "the recipe to run")
        other = sqlite3.connect(world.product.state / "reconciler.db", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        (world.product.site / "go").write_text("")
        daemon.wait_for(
            lambda: any(line["event"] == "store.failed" for line in world.product.log_lines()), "a write to fail"
        )
        other.execute("ROLLBACK")
        other.close()
        daemon.wait_in_sync("api", commit)
    assert [deploy["status"] for deploy in world.product.history("api")] == ["succeeded"]


def test_a_damaged_database_is_refused_with_what_to_do(world: World) -> None:
    world.pin(world.app.first)
    world.product.once()
    database = world.product.state / "reconciler.db"
    database.write_bytes(b"garbage" * 4096)
    done = world.product.run("run", "--once")
    assert done.returncode == 2
    assert "is damaged" in done.stderr
    assert "restore a backup, or move the file away" in done.stderr
    assert world.product.deployed("api") == [world.app.first]


@pytest.mark.parametrize("jump", ["-1h", "+10y"])
def test_a_clock_that_jumps_neither_stops_nor_floods_it(world: World, jump: str, tmp_path: Path) -> None:
    need_program("faketime", "faketime")
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    need(libraries, "libfaketimeMT.so.1", "sudo apt-get install faketime")
    offset = tmp_path / "offset"
    offset.write_text("+0")
    world.pin(world.app.first)
    env = {
        "LD_PRELOAD": str(libraries[0]),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with world.product.daemon(**env) as daemon:
        daemon.wait_in_sync("api", world.app.first)
        offset.write_text(jump)
        for _ in range(2):
            newest = world.app.release()
            world.pin(newest)
            daemon.wait_in_sync("api", newest)
        polls = [line for line in daemon.get("/metrics").splitlines() if line.startswith("reconciler_polls_total{")]
        before = sum(float(line.split()[-1]) for line in polls)
        time.sleep(3)  # what must not happen has no event to wait for
        polls = [line for line in daemon.get("/metrics").splitlines() if line.startswith("reconciler_polls_total{")]
        assert sum(float(line.split()[-1]) for line in polls) - before < 12
        assert daemon.get("/healthz") == "ok\n"
