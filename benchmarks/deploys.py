"""From a new commit that is known to the first command of its recipe, beside git and make in a script.

    python -m benchmarks.deploys

Ours begins when the poll has its answer and holds all of fetching, deciding, recording, checking out and supervising.
The script does `git fetch`, `git worktree add` and `make`, and nothing else. Both over http from one real server.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.scrape import git
from benchmarks.webhooks import free_port, server
from reconciler.config.settings import load
from reconciler.daemon import Daemon
from reconciler.events import DeployFinished, Event, GitOperation
from reconciler.report.logs import configure

ROUNDS = 30
PAUSE_S = 0.8  # between releases: they do not come in step with what the daemon does afterwards
MAKEFILE = '.PHONY: deploy\ndeploy:\n\t@date +%s%N > "{file}"\n'


class Ear:
    """Hears when the newest poll had its answer, and waits for deploys to end."""

    def __init__(self) -> None:
        self.asked_at = 0
        self.ended = asyncio.Event()

    def hear(self, event: Event) -> None:
        """Note the time."""
        if isinstance(event, GitOperation) and event.operation == "ls_remote":
            self.asked_at = time.time_ns()
        if isinstance(event, DeployFinished):
            self.ended.set()


def release(app: Path, number: int) -> str:
    """Commit one changed file of a small repository; return the commit."""
    (app / "file0").write_text(f"{number}\n")
    git(app, "commit", "-qam", f"release {number}")
    return git(app, "rev-parse", "HEAD")


async def ours(root: Path, url: str, app: Path, stamp: Path) -> list[float]:
    """Return milliseconds from known to first command."""
    settings = load(
        (
            f"config_repo: {{url: {root}/config, interval: 1h}}\nallow_local_repos: true\nstate_dir: {root}/state\n"
            "listen: 127.0.0.1:0\nlog: {level: error}\n"
        ).encode(),
        "reconciler.yaml",
        {},
        {},
    )
    configure(settings.log)
    daemon, ear, times = Daemon(settings), Ear(), []
    daemon.hear_also(ear)
    running = asyncio.create_task(daemon.run())
    for number in range(ROUNDS + 3):
        if number:
            release(app, number)
            daemon.poller.poke(url, "api")
        await ear.ended.wait()
        ear.ended.clear()
        times.append((int(stamp.read_text()) - ear.asked_at) / 1e6)  # noqa: ASYNC240 - nothing else runs now
        await asyncio.sleep(PAUSE_S)
    daemon.stop()
    await running
    return times[3:]


def scripted(root: Path, url: str, app: Path, stamp: Path) -> list[float]:
    """Return milliseconds of the script."""
    mirror, times = root / "mirror", []
    git(root, "clone", "-q", "--mirror", url, str(mirror))
    for number in range(ROUNDS):
        commit = release(app, 1000 + number)
        tree = root / f"tree{number}"
        began = time.time_ns()
        git(mirror, "fetch", "-q", "origin")
        git(mirror, "worktree", "add", "--detach", str(tree), commit)
        subprocess.run(["make", "-s", "deploy"], cwd=tree, check=True)
        times.append((int(stamp.read_text()) - began) / 1e6)
        git(mirror, "worktree", "remove", "--force", str(tree))
        time.sleep(PAUSE_S)
    return times


def on(place: Path, work: Callable[[Path, str, Path, Path], list[float]]) -> list[float]:
    """Run one of both in a world of its own."""
    with tempfile.TemporaryDirectory(dir=place) as name:
        root, port = Path(name), free_port()
        app, stamp = root / "git" / "app", root / "stamp"
        app.mkdir(parents=True)
        git(app, "init", "-q", "-b", "main")
        (app / "Makefile").write_text(MAKEFILE.format(file=stamp))
        for number in range(20):
            (app / f"file{number}").write_text(f"{number}\n" * 50)
        git(app, "add", "-A")
        git(app, "commit", "-qm", "first")
        url = f"http://127.0.0.1:{port}/app/.git"
        config = root / "config"
        (config / "deployments").mkdir(parents=True)
        git(config, "init", "-q", "-b", "main")
        (config / "deployments" / "a.yaml").write_text(
            f"targets:\n  api: {{repo: '{url}', follow: main, interval: 1h}}\n"
        )
        git(config, "add", "-A")
        git(config, "commit", "-qm", "pins")
        command = [sys.executable, "-m", "benchmarks.gitserver", str(root / "git"), str(port)]
        with server(command, port, 0):
            return work(root, url, app, stamp)


def main() -> None:
    """Measure and print."""
    for name, place in (("disk", Path(tempfile.gettempdir())), ("tmpfs", Path("/dev/shm"))):  # noqa: S108 - asked for
        mine = on(place, lambda *where: asyncio.run(ours(*where)))
        script = on(place, scripted)
        ratio = statistics.median(mine) / statistics.median(script)
        print(f"known commit to first command, small repository, {name}")
        for who, times in (("reconciler", mine), ("git and make", script)):
            print(f"  {who:<14} {statistics.median(times):7.1f} ms in the middle, {max(times):7.1f} ms at most")
        print(f"  ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
