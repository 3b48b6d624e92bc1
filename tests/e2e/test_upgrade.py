"""A new daemon takes over from an old one: no deploy is lost or repeated, and hardly anybody notices."""

from __future__ import annotations

import http.client
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

from support.hooks import SECRET, push
from support.world import World

from reconciler.store import migrations

SLOW = (
    ".PHONY: deploy\ndeploy:\n\t@while ! test -e $(SITE)/go; do sleep 0.05; done; "
    'echo "$(RECONCILER_COMMIT)" >> "$(SITE)/$(RECONCILER_TARGET)"\n'
)
LONGEST_GAP_S = 1.0  # what the documentation promises; it is a bound of the design, with a wide margin on any machine


class Knocking(threading.Thread):
    """Sends webhooks all the time, each over a connection of its own, and notes when one was answered."""

    def __init__(self, port: int, url: str) -> None:
        super().__init__(daemon=True)
        self.port, self.url = port, url
        self.answered: list[float] = []
        self.refused = 0
        self.done = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.done.is_set():
            number += 1
            sent = push("github", self.url, number=f"k-{number}").signed()
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            try:
                connection.request("POST", sent.path, sent.body, sent.headers)
                if connection.getresponse().status == 202:
                    self.answered.append(time.monotonic())
            except OSError:
                self.refused += 1
            finally:
                connection.close()
            time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_a_new_daemon_takes_over_when_the_old_one_has_drained(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    world = World(tmp_path, f"webhooks: {{github: {{secret_files: [{tmp_path}/secret]}}}}\n", SLOW)
    port = free_port()
    settings = world.product.settings
    settings.write_text(settings.read_text().replace("127.0.0.1:0", f"127.0.0.1:{port}"))
    world.pin(world.app.first)
    with world.product.daemon() as old:
        old.wait_reason("api", "running")
        with (tmp_path / "new.log").open("w") as log:
            new = subprocess.Popen(
                [sys.executable, "-m", "reconciler", "run", "--wait", "--config", str(settings)],
                env=world.product.env,
                stdout=log,
                stderr=log,
            )
        knocking = Knocking(port, world.config.url)
        try:
            old.wait_for(lambda: "waiting for the daemon" in (tmp_path / "new.log").read_text(), "the new one to wait")
            knocking.start()
            old.process.terminate()
            time.sleep(0.5)
            assert old.process.poll() is None, "it drains"
            (world.product.site / "go").touch()
            old.process.wait(20)
            deadline = time.monotonic() + 20
            while "daemon.started" not in (tmp_path / "new.log").read_text() and time.monotonic() < deadline:
                time.sleep(0.02)
            second = world.app.release()
            world.pin(second)
            while len(world.product.deployed("api")) < 2 and time.monotonic() < deadline:
                time.sleep(0.02)
        finally:
            knocking.done.set()
            new.terminate()
            new.wait(20)
    knocking.join()
    assert world.product.deployed("api") == [world.app.first, second]
    assert [deploy["status"] for deploy in world.product.history("api")] == ["succeeded", "succeeded"]
    gap = max(after - before for before, after in zip(knocking.answered, knocking.answered[1:], strict=False))
    assert gap < LONGEST_GAP_S, f"{knocking.refused} were refused, for {gap:.2f} s"


def test_the_state_of_the_schema_before_is_taken_over_with_what_is_deployed(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.pin(world.app.first)
    assert world.product.once() == 0
    _go_back(world.product.state / "reconciler.db")
    refused = world.product.run("status")
    assert refused.returncode == 2
    assert "schema 1" in refused.stderr
    assert world.product.once() == 0
    assert world.product.deployed("api") == [world.app.first]
    assert (world.product.state / "reconciler.db.schema-1").exists()


def _go_back(path: Path) -> None:
    """Make a database what the first schema would hold of it."""
    beside = path.with_name("old.db")
    old, new = sqlite3.connect(beside, isolation_level=None), sqlite3.connect(path)
    for statement in migrations._statements(migrations.scripts()[1]):
        old.execute(statement)
    for name in ("config_head", "entries", "sources", "leases", "deploys", "targets"):
        columns = [row[1] for row in old.execute(f"PRAGMA table_info({name})")]
        rows = new.execute(f"SELECT {', '.join(columns)} FROM {name}").fetchall()
        old.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' * len(columns))})", rows)
    old.execute("INSERT INTO schema_version (version) VALUES (1)")
    old.close()
    new.close()
    beside.replace(path)


def test_a_newer_state_is_refused_with_the_version_that_it_needs(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.pin(world.app.first)
    world.product.once()
    database = sqlite3.connect(world.product.state / "reconciler.db", isolation_level=None)
    database.execute("UPDATE schema_version SET version = 99, program = '9.1.0'")
    database.close()
    done = world.product.run("run", "--once")
    assert done.returncode == 2
    assert "written by reconciler 9.1.0" in done.stderr
    assert "install that version" in done.stderr
