"""One daemon, and every bad server at once: each has its name, none makes another late, all heal without a person."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.faults import CASES, ManyFaultsServer
from support.product import Daemon
from support.repos import target, targets
from support.servers import GitServer, serve, serving
from support.world import World

from reconciler.git.library import mirror_name

TIMEOUT_S = 6.0


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, f"git_timeout: {TIMEOUT_S:g}s\n", interval="1s")


@pytest.fixture
def healthy(world: World) -> Iterator[GitServer]:
    with serving(world.product.root / "git") as server:
        yield server


def sources(daemon: Daemon) -> dict[str, dict[str, Any]]:
    return {source["url"]: source for source in json.loads(daemon.get("/api/v1/sources"))["sources"]}


def test_every_bad_server_has_its_reason_and_no_good_one_is_late(world: World, healthy: GitServer) -> None:
    names = {f"bad{number}": case for number, case in enumerate(CASES)}
    for name in names:
        (world.product.root / "git" / name).symlink_to(world.app.path)
    server = ManyFaultsServer(
        world.product.root / "git", {name: (stage, fault) for name, (_, stage, fault, _) in names.items()}
    )
    with serve(server, host="0.0.0.0"):
        port = server.url.rpartition(":")[2]
        urls = {name: f"http://127.0.1.{number + 1}:{port}/{name}/.git" for number, name in enumerate(names)}
        entries = [target(name, url, None, follow="main", suspend="true", interval="1s") for name, url in urls.items()]
        good = target("good", f"{healthy.url}/app/.git", None, follow="main", interval="1s")
        world.config.pin(targets(good, *entries))
        with world.product.daemon() as daemon:
            daemon.wait_in_sync("good", world.app.head)
            found: dict[str, set[str]] = {name: set() for name in names}

            def all_named() -> bool:
                told = sources(daemon)
                for name, url in urls.items():
                    if told.get(url, {}).get("reason"):
                        found[name].add(told[url]["reason"])
                return all(found.values())

            polled = healthy_polls(healthy)
            daemon.wait_for(all_named, "every bad server to have a reason")
            for name, (_, _, _, reasons) in names.items():
                assert found[name] <= {str(reason) for reason in reasons}, names[name][:2]
            # In the middle of it all, what is new of the good one is deployed.
            daemon.wait_in_sync("good", world.app.release())
            gaps = polled()
            assert max(gaps) < TIMEOUT_S, "the good one waited for a bad one"
            server.cases.clear()
            # But for one that asked to be left alone for a century: it is asked again after a quarter of an hour.
            soon = [url for name, url in urls.items() if names[name][0] != "503"]
            daemon.wait_for(lambda: healed(daemon, soon), "every server to be found healed")


def healthy_polls(server: GitServer) -> Any:
    """Watch when the good server is asked; the result returns the seconds between two requests."""
    times = [time.monotonic()]
    stop = threading.Event()

    def watch() -> None:
        seen = len(server.requests)
        while not stop.wait(0.02):
            if len(server.requests) > seen:
                seen = len(server.requests)
                times.append(time.monotonic())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()

    def gaps() -> list[float]:
        stop.set()
        thread.join()
        return [later - earlier for earlier, later in zip(times, [*times[1:], time.monotonic()], strict=True)]

    return gaps


def healed(daemon: Daemon, urls: Iterable[str]) -> bool:
    told = sources(daemon)
    return all(told[url]["reason"] is None and told[url]["last_good_poll"] for url in urls)


def test_a_redirecting_server_learns_no_password(world: World, healthy: GitServer) -> None:
    """Wherever a server that we have a password for leads us, nobody else is told it."""
    healthy.password = "canary-4711"
    (world.product.root / "password").write_text("canary-4711")
    settings = world.product.settings
    settings.write_text(
        settings.read_text()
        + f"credentials: [{{url: '{healthy.url}/', username: bot, password_file: '{world.product.root}/password'}}]\n"
    )
    with serving(world.product.root / "git") as other:
        other.password = "anything"  # it asks for one
        for status in ("301 Moved", "302 Found", "303 See", "307 Temporary", "308 Permanent"):
            healthy.answer = (status, [("Location", f"{other.url}/app/.git/info/refs?service=git-upload-pack")], b"")
            world.config.pin(targets(target("api", f"{healthy.url}/app/.git", world.app.head)))
            assert world.product.once() == 1
            assert "redirect" in world.product.status()["api"]["decision"]["message"]
        assert [headers for headers in other.headers if "HTTP_AUTHORIZATION" in headers] == []
        healthy.answer = None
        assert world.product.once() == 0


# --- the daemon dies in the middle of fetches -------------------------------------------------------------


def size_of(folder: Path) -> int:
    return int(subprocess.run(["du", "-sk", str(folder)], capture_output=True, text=True, check=True).stdout.split()[0])


def die_in_fetches(root: Path, rounds: int) -> None:
    world = World(root, "git_timeout: 30s\n")
    (world.app.path / "data.bin").write_bytes(os.urandom(2_000_000))
    commit = world.app.commit({}, "data")
    fast = threading.Event()
    asked = threading.Event()

    class Slow(GitServer):
        def _git(self, environ: Any, start: Any) -> Any:
            (body,) = super()._git(environ, start)
            if b"PACK" not in body or fast.is_set():
                return [body]
            asked.set()
            return pieces(body)

    def pieces(body: bytes) -> Iterator[bytes]:
        for begin in range(0, len(body), 20_000):
            yield body[begin : begin + 20_000]
            time.sleep(0.02)

    with serve(Slow(world.product.root / "git")) as server:
        url = f"{server.url}/app/.git"
        world.config.pin(targets(target("api", url, commit)))
        mirror = world.product.state / "mirrors" / mirror_name(url)
        largest = 0
        for number in range(rounds):
            asked.clear()
            with world.product.daemon() as daemon:
                daemon.wait_for(asked.is_set, "a fetch to begin")
                time.sleep(0.05 * (number % 10))
                daemon.process.send_signal(signal.SIGKILL)
                daemon.process.wait()
            largest = max(largest, size_of(mirror) if mirror.exists() else 0)
        fast.set()
        with world.product.daemon() as daemon:
            daemon.wait_in_sync("api", commit)
        assert not list(mirror.rglob("*.lock"))
        assert not list(mirror.glob("objects/pack/pack_git2_*"))
        assert largest < 3 * size_of(mirror)
        command = ["git", "-c", "safe.directory=*", "fsck", "--full"]
        subprocess.run(command, cwd=mirror, check=True, capture_output=True)


def test_a_daemon_that_dies_in_fetches_leaves_nothing_that_stays(tmp_path: Path) -> None:
    die_in_fetches(tmp_path, 4)


@pytest.mark.torture
def test_a_daemon_that_dies_a_hundred_times_in_fetches_leaves_nothing_that_stays(tmp_path: Path) -> None:
    die_in_fetches(tmp_path, 100)
