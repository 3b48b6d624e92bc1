"""kill -9 of the daemon at every point at which it changes something, then recovery.

After each run: the target is in sync, exactly one successful deploy is recorded, the database holds no live deploy,
no process of any deploy is left, and the effect was made at most once more often than the daemon was killed.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.crashing import run_once, settings_of
from support.repos import Application, Config, target, targets

from reconciler.model import DeployStatus
from reconciler.runner import deploys
from reconciler.store import Store

MAKEFILE = '.PHONY: deploy\ndeploy:\n\t@sleep 0.02; echo "$(RECONCILER_COMMIT)" >> "$(SITE)/api"\n'
PARTS = 6  # how many tests share the points, so that they run beside each other


class World:
    """Two repositories that never change, and a fresh state directory and site for each schedule."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.app = Application(root / "app", MAKEFILE)
        self.config = Config(root / "config")
        self.config.pin(targets(target("api", self.app.url, self.app.first, retry="{backoff: 0s, limit: 9}")))
        self.count = 0

    def survive(self, schedule: Sequence[int]) -> list[str]:
        """Kill the daemon at each point of `schedule` in turn, let it recover, check the world; return the points."""
        self.count += 1
        ground = self.root / f"run{self.count}"
        (ground / "site").mkdir(parents=True)
        os.environ["SITE"] = str(ground / "site")
        settings = settings_of(self.config.url, ground / "state")
        for point in schedule:
            if run_once(settings, point) == 0:
                break  # it ended before that point
        report = ground / "points"
        assert run_once(settings, None, report) == 0, schedule
        self.check(ground, len(schedule), schedule)
        names = report.read_text().splitlines()
        shutil.rmtree(ground)
        return names

    def check(self, ground: Path, kills: int, schedule: Sequence[int]) -> None:
        store = Store.open_to_read(ground / "state" / "reconciler.db")
        observed = store.targets()["api"].observed
        history = store.history("api", 100)
        assert observed.deployed is not None, schedule
        assert observed.deployed.commit == self.app.first, schedule
        assert [deploy.status for deploy in history].count(DeployStatus.SUCCEEDED) == 1, schedule
        assert store.live_deploys() == [], schedule
        store.close()
        raw = sqlite3.connect(ground / "state" / "reconciler.db")
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",), schedule
        assert raw.execute("SELECT COUNT(*) FROM leases WHERE holder IS NOT NULL").fetchone() == (0,), schedule
        raw.close()
        effects = (ground / "site" / "api").read_text().split()
        assert set(effects) == {self.app.first}, schedule
        assert 1 <= len(effects) <= 1 + kills, schedule
        assert list((ground / "state" / "runs").iterdir()) == [], schedule
        site = f"SITE={ground / 'site'}".encode()
        left = [pid for pid in deploys._processes() if site in deploys._environment(pid) and pid != os.getpid()]
        workers = [pid for pid in left if b"reconciler.git.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert set(left) <= {*workers, *_family()}, schedule


def _family() -> set[int]:
    """Return this process and those above it: their environment may hold our SITE."""
    found, pid = set(), os.getpid()
    while pid > 1:
        found.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("SITE", "")
    return World(tmp_path)


def test_there_are_points_of_every_kind(world: World) -> None:
    names = world.survive([])
    assert len(names) >= 40
    for kind in (
        "sql BEGIN",
        "sql COMMIT",
        "sql INSERT INTO leases",
        "sql UPDATE deploys SET",
        "subprocess.Popen",
        "before wait",
        "after wait",
        "before tell",
        "os.rename",
        "os.rmdir",
        "os.mkdir",
    ):
        assert any(name.startswith(kind) for name in names), kind


@pytest.mark.parametrize("part", range(PARTS))
def test_a_kill_at_any_point_is_survived(world: World, part: int) -> None:
    total = len(world.survive([]))
    for point in range(1 + part, total + 1, PARTS):
        world.survive([point])


def _chance() -> random.Random:
    """Return dice that SEED replays."""
    seed = int(os.environ.get("SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"replay with SEED={seed}")  # noqa: T201 - the report of a failure holds it
    return random.Random(seed)


@pytest.mark.torture
@pytest.mark.parametrize("part", range(8))
def test_a_kill_at_any_pair_of_points_is_survived(world: World, part: int) -> None:
    """All ordered pairs; PAIRS=n tries n of them, drawn with SEED."""
    total = len(world.survive([]))
    pairs = [(one, two) for one in range(1, total + 1) for two in range(1, total + 1)]
    chosen = _chance().sample(pairs, min(len(pairs), int(os.environ.get("PAIRS", len(pairs)))))
    for pair in chosen[part::8]:
        world.survive(pair)


@pytest.mark.torture
@pytest.mark.parametrize("part", range(8))
def test_kills_at_random_triples_are_survived(world: World, part: int) -> None:
    """TRIPLES=n changes how many."""
    chance = _chance()
    total = len(world.survive([]))
    triples = [[chance.randint(1, total) for _ in range(3)] for _ in range(int(os.environ.get("TRIPLES", "400")))]
    for triple in triples[part::8]:
        world.survive(triple)
