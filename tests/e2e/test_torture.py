"""Two hundred deaths: the daemon, and at times its supervisors with it, killed at random while pins move.

SEED=n replays, ROUNDS=n changes how many.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from support.product import Product
from support.repos import Application, Config, target, targets

from reconciler.runner import deploys

NAMES = ("one", "two", "three")
# A second run of one target beside the first leaves a trace; the lock ends with the process that holds it.
MAKEFILE = """\
.PHONY: deploy
deploy:
\t@flock -n "$(SITE)/$(RECONCILER_TARGET).lock" sleep 0.$$(shuf -i 1-4 -n 1) || echo overlap >> "$(SITE)/overlaps"
\t@(setsid -f sleep 60); echo "$(RECONCILER_COMMIT)" >> "$(SITE)/$(RECONCILER_TARGET)"
"""


@pytest.mark.torture
def test_two_hundred_deaths_leave_no_survivor_and_no_overlap(tmp_path: Path) -> None:
    seed = int(os.environ.get("SEED", random.SystemRandom().randrange(1 << 32)))
    rounds = int(os.environ.get("ROUNDS", "200"))
    print(f"replay with SEED={seed}")  # noqa: T201 - the report of a failure holds it
    chance = random.Random(seed)
    app, config = Application(tmp_path / "app", MAKEFILE), Config(tmp_path / "config")
    commits = [app.first, app.release(), app.release()]
    product = Product(tmp_path, config.url)

    def pin() -> dict[str, str]:
        wanted = {name: chance.choice(commits) for name in NAMES}
        retry = "{backoff: 100ms, limit: 1000}"
        config.pin(targets(*(target(name, app.url, commit, retry=retry) for name, commit in wanted.items())))
        return wanted

    wanted = pin()
    for number in range(rounds):
        with product.daemon() as daemon:
            if chance.random() < 0.7:
                wanted = pin()
            time.sleep(chance.random() * 1.5)
            supervisors = _children(daemon.process.pid) if chance.random() < 0.3 else []
            daemon.kill()
            for pid in supervisors:
                os.kill(pid, signal.SIGKILL)
        assert not (product.site / "overlaps").exists(), number
    with product.daemon() as daemon:
        for name, commit in wanted.items():
            daemon.wait_in_sync(name, commit)
    assert not (product.site / "overlaps").exists()
    site = f"SITE={product.site}".encode()
    assert [pid for pid in deploys._processes() if site in deploys._environment(pid)] == []
    for name, commit in wanted.items():
        assert product.deployed(name)[-1] == commit


def _children(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [child for child in children if b"supervisor.py" in Path(f"/proc/{child}/cmdline").read_bytes()]
