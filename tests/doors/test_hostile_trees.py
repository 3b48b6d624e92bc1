"""A dozen hostile trees, on every way to a checkout: refused or harmless, and nothing outside is ever written."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from support.repos import Repo, git
from support.trees import blob, commit_tree, contents, raw_tree

from reconciler.errors import SourceError
from reconciler.git import kept, library, mirror
from reconciler.git.checkout import BadTree, checkout

FILES = 1_100
EVIL = "evil\n"


class World:
    """A repository that is large enough to be kept, a canary outside, and what hostile trees are made of."""

    def __init__(self, root: Path) -> None:
        library.prepare(20)
        self.repo = Repo(root / "app")
        self.canary = root / "canary"
        self.canary.mkdir()
        (self.canary / "keep").write_text("kept")
        files: dict[str, str | None] = {f"d{number % 10}/f{number}.txt": f"{number}\n" for number in range(FILES)}
        self.good = self.repo.commit({**files, "Makefile": "deploy:\n", "dir/x.txt": "x"})
        self.mirror, self.kept, self.tree = root / "mirrors" / "app.git", root / "trees" / "api", root / "checkout"
        self.evil = blob(self.repo, EVIL)
        (self.repo.path / "l").symlink_to(self.canary)
        git(self.repo.path, "add", "l")
        self.link = git(self.repo.path, "rev-parse", ":l")
        self.file_link = blob(self.repo, str(self.canary / "keep"))

    def with_entries(self, *entries: tuple[str, str | bytes, str]) -> str:
        """Return a commit of the good tree with these entries at its end."""
        lines = git(self.repo.path, "ls-tree", self.good).splitlines()
        honest = [(line.split()[0].lstrip("0"), line.split("\t")[1], line.split()[2]) for line in lines]
        return commit_tree(self.repo, raw_tree(self.repo, *honest, *entries))

    def tree_of(self, *entries: tuple[str, str | bytes, str]) -> str:
        return raw_tree(self.repo, *entries)

    def fetch(self, *commits: str) -> None:
        mirror.fetch(self.repo.path.as_uri(), self.mirror, commits, None)


def bomb(world: World) -> str:
    oid, mode = world.evil, "100644"
    for _ in range(10):
        oid, mode = raw_tree(world.repo, *((mode, f"f{number}", oid) for number in range(10))), "40000"
    return world.with_entries(("40000", "bomb", oid))


def abyss(world: World) -> str:
    oid = raw_tree(world.repo, ("100644", "f", world.evil))
    for _ in range(150):
        oid = raw_tree(world.repo, ("40000", "d", oid))
    return world.with_entries(("40000", "abyss", oid))


TREES: dict[str, Callable[[World], str]] = {
    "a link and a folder of one name": lambda w: w.with_entries(
        ("120000", "two", w.link), ("40000", "two", w.tree_of(("100644", "evil", w.evil)))
    ),
    "a folder and a link of one name": lambda w: w.with_entries(
        ("40000", "two", w.tree_of(("100644", "evil", w.evil))), ("120000", "two", w.link)
    ),
    "a link in place of a folder": lambda w: w.with_entries(("120000", "zz", w.link)),
    "a link and a file of one name": lambda w: w.with_entries(
        ("120000", "two", w.file_link), ("100644", "two", w.evil)
    ),
    "a name with a slash": lambda w: w.with_entries(("120000", "zz", w.link), ("100644", "zz/evil", w.evil)),
    "a way up": lambda w: w.with_entries(("40000", "..", w.tree_of(("100644", "evil", w.evil)))),
    "a file in .git": lambda w: w.with_entries(("40000", ".git", w.tree_of(("100755", "config", w.evil)))),
    ".git in disguise": lambda w: w.with_entries(("40000", ".g\u200cit", w.tree_of(("100755", "config", w.evil)))),
    "an absolute name": lambda w: w.with_entries(("100644", f"{w.canary}/evil", w.evil)),
    "a bomb of trees": bomb,
    "an abyss of trees": abyss,
    "entries out of order": lambda w: w.with_entries(("120000", "aa", w.link)),
    "a huge name": lambda w: w.with_entries(("100644", "n" * 5_000, w.evil)),
}


def fresh(world: World, commit: str) -> None:
    checkout(world.mirror, commit, world.tree)


def over_leftovers(world: World, commit: str) -> None:
    """What another deploy left lies where the tree is to go, links to the canary among it."""
    world.tree.mkdir()
    for name in ("zz", "two", "dir", "bomb", "abyss"):
        (world.tree / name).symlink_to(world.canary)
    checkout(world.mirror, commit, world.tree)


def over_a_link(world: World, commit: str) -> None:
    world.tree.symlink_to(world.canary)
    checkout(world.mirror, commit, world.tree)


def brought_forward(world: World, commit: str) -> None:
    kept.check_out(world.mirror, world.good, world.tree, world.kept)
    kept.give_back(world.kept, world.tree)
    kept.check_out(world.mirror, commit, world.tree, world.kept)


def brought_forward_after_a_mess(world: World, commit: str) -> None:
    """The deploy before put links to the canary wherever the tree may write."""
    kept.check_out(world.mirror, world.good, world.tree, world.kept)
    for name in ("zz", "two", "bomb", "abyss"):
        (world.tree / name).symlink_to(world.canary)
    (world.tree / "dir").rename(world.tree / "moved")
    (world.tree / "dir").symlink_to(world.canary)
    kept.give_back(world.kept, world.tree)
    kept.check_out(world.mirror, commit, world.tree, world.kept)


def below_another_tree(world: World, commit: str) -> None:
    """As a submodule is."""
    checkout(world.mirror, world.good, world.tree)
    checkout(world.mirror, commit, world.tree / "dir")


WAYS = (fresh, over_leftovers, over_a_link, brought_forward, brought_forward_after_a_mess, below_another_tree)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__.replace("_", " "))
@pytest.mark.parametrize("name", TREES)
def test_nothing_is_written_outside(tmp_path: Path, name: str, way: Callable[[World, str], None]) -> None:
    world = World(tmp_path)
    commit = TREES[name](world)
    with suppress(SourceError):  # a fetch may refuse such objects already
        world.fetch(world.good, commit)
    before = contents(tmp_path / "canary")
    outside = {path.name for path in tmp_path.iterdir()}
    refused = False
    try:
        way(world, commit)
    except (BadTree, SourceError):
        refused = True
    assert contents(tmp_path / "canary") == before
    new = {path.name for path in tmp_path.iterdir()} - outside
    assert new <= {"mirrors", "trees", "checkout"}
    assert refused is (name != "a link in place of a folder")
    # And a good commit afterwards is what it should be.
    world.fetch(world.good)
    kept.check_out(world.mirror, world.good, world.tree, world.kept)
    assert git(world.tree, "status", "--porcelain", "--ignored") == ""
    assert contents(tmp_path / "canary") == before
