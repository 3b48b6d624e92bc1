"""Checking out the next commit of a large repository, beside `git worktree add` and `git checkout -f`.

    python -m benchmarks.checkouts

50,000 files, of which 5 change between two commits. Ours proves the kept tree clean before it changes anything, which
`git checkout -f` does not. Wall and processor time, in the temporary folder and in memory.
"""

from __future__ import annotations

import random
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.scrape import git
from reconciler.git import kept, library, mirror

FOLDERS, FILES, CHANGED, ROUNDS, SLOW_ROUNDS = 500, 100, 5, 9, 2
BYTES = 4_000


class Times:
    """Wall and processor times of one way, in milliseconds."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def measure(self, work: Callable[[], object]) -> None:
        """Add one round."""
        began, used = time.perf_counter(), _processor_s()
        work()
        self.wall.append(1000 * (time.perf_counter() - began))
        self.cpu.append(1000 * (_processor_s() - used))

    def middle(self) -> tuple[float, float]:
        """Return both medians."""
        return statistics.median(self.wall), statistics.median(self.cpu)


def _processor_s() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


def make(app: Path) -> list[str]:
    """Make the repository with two commits; return them."""
    chance = random.Random(1)  # noqa: S311 - the same files each time
    block = chance.randbytes(1 << 18).hex()
    for folder in range(FOLDERS):
        place = app / f"d{folder % 20}" / f"e{folder}"
        place.mkdir(parents=True)
        for number in range(FILES):
            start = chance.randrange(len(block) - BYTES)
            (place / f"f{number}").write_text(f"{folder} {number}\n{block[start : start + BYTES]}")
    git(app, "init", "-q", "-b", "main")
    git(app, "add", "-A")
    git(app, "commit", "-qm", "first")
    for number in range(CHANGED):
        (app / f"d{number}" / f"e{number}" / "f1").write_text("changed\n")
    git(app, "commit", "-qam", "second")
    return git(app, "rev-list", "--reverse", "HEAD").split()


def compare(root: Path) -> None:
    """Measure the three ways in turn, and print."""
    app, bare, tree, place = root / "app", root / "mirrors" / "app.git", root / "tree", root / "trees" / "api"
    app.mkdir()
    commits = make(app)
    mirror.fetch(app.as_uri(), bare, [], None)
    shutil.rmtree(app)
    ours, forced, added = Times(), Times(), Times()
    kept.check_out(bare, commits[0], tree, place)
    kept.give_back(place, tree)
    git(bare, "worktree", "add", "-q", "--detach", str(root / "worktree"), commits[0])
    for number in range(1, ROUNDS + 1):
        commit = commits[number % 2]
        ours.measure(lambda commit=commit: kept.check_out(bare, commit, tree, place))  # type: ignore[misc]
        kept.give_back(place, tree)
        forced.measure(lambda commit=commit: git(root / "worktree", "checkout", "-qf", commit))  # type: ignore[misc]
    for number in range(SLOW_ROUNDS):
        fresh = root / f"fresh{number}"
        added.measure(lambda fresh=fresh: git(bare, "worktree", "add", "-q", "--detach", str(fresh), commits[1]))  # type: ignore[misc]
        git(bare, "worktree", "remove", "--force", str(fresh))
    mine = ours.middle()
    for name, times in (("reconciler", ours), ("git checkout -f", forced), ("git worktree add", added)):
        wall, cpu = times.middle()
        ratio = (
            "" if times is ours else f"  ours is {mine[0] / wall:.2f} of its time, {mine[1] / cpu:.2f} of its processor"
        )
        print(f"  {name:<17} {wall:8.0f} ms, {cpu:8.0f} ms of processor{ratio}")


def main() -> None:
    """Measure and print."""
    library.prepare(60)
    print(f"the next commit of {FOLDERS * FILES} files, {CHANGED} of them changed")
    for name, where in (("disk", tempfile.gettempdir()), ("tmpfs", "/dev/shm")):  # noqa: S108 - asked for
        print(f" on {name}")
        with tempfile.TemporaryDirectory(dir=where) as root:
            compare(Path(root))


if __name__ == "__main__":
    main()
