"""Submodules: checked out where that is asked for, from allowed places only, and never outside."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.repos import Repo, git, target, targets
from support.world import World

LISTS = '.PHONY: deploy\ndeploy:\n\t@cat lib/data lib/inner/data > "$(SITE)/$(RECONCILER_TARGET)" 2>/dev/null || true\n'
ALLOW = ("-c", "protocol.file.allow=always")


class Nested(World):
    """An application with a submodule that has a submodule."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, makefile=LISTS)
        self.inner = Repo(root / "git" / "inner")
        self.inner.commit({"data": "inner\n"})
        self.lib = Repo(root / "git" / "lib")
        self.lib.commit({"data": "lib\n"})
        git(self.lib.path, *ALLOW, "submodule", "add", "-q", "../inner", "inner")
        self.lib.commit({}, "add inner")
        git(self.app.path, *ALLOW, "submodule", "add", "-q", str(self.lib.path), "lib")
        self.both = self.app.commit({}, "add lib")

    def shown(self, name: str) -> str:
        file = self.product.site / name
        return file.read_text() if file.exists() else ""


@pytest.fixture
def world(tmp_path: Path) -> Nested:
    return Nested(tmp_path)


def test_they_are_checked_out_only_where_that_is_asked_for(world: Nested) -> None:
    entries = (
        target("with", world.app.url, world.both, submodules="true"),
        target("without", world.app.url, world.both),
    )
    world.config.pin(targets(*entries))
    assert world.product.once() == 0
    assert world.shown("with") == "lib\ninner\n"
    assert world.shown("without") == ""


def test_the_commit_of_the_tree_counts_and_not_the_newest(world: Nested) -> None:
    world.lib.commit({"data": "newer\n"})
    world.pin(world.both, submodules="true")
    assert world.product.once() == 0
    assert world.shown("api") == "lib\ninner\n"


def test_a_commit_that_is_gone_and_a_repository_that_is_gone_are_told(world: Nested) -> None:
    git(world.app.path, "update-index", "--cacheinfo", f"160000,{'d' * 40},lib")
    git(world.app.path, "commit", "-q", "-m", "lost")
    world.pin(world.app.head, submodules="true", retry="{limit: 0}")
    assert world.product.once() == 1
    message = world.product.history("api")[0]["message"]
    assert "has no commit dddddddddd for the submodule lib" in message


@pytest.mark.parametrize(
    ("path", "url", "words"),
    [
        ("lib", "ext::sh -c touch% /tmp/pwned", "the url"),
        ("lib", "http://git.example.com/x", "the url"),
        ("lib", "--upload-pack=x", "the url"),
        ("../lib", "../lib", "cannot be used"),
        ("/lib", "../lib", "cannot be used"),
        ("-lib", "../lib", "cannot be used"),
        ("lib/../../x", "../lib", "cannot be used"),
    ],
)
def test_hostile_entries_are_refused(world: Nested, path: str, url: str, words: str) -> None:
    commit = world.app.commit({".gitmodules": f'[submodule "lib"]\n\tpath = {path}\n\turl = {url}\n'})
    world.pin(commit, submodules="true", retry="{limit: 0}")
    assert world.product.once() == 1
    deploy = world.product.history("api")[0]
    assert (deploy["status"], deploy["reason"]) == ("failed", "bad_tree")
    assert words in deploy["message"]


def test_an_included_file_is_not_read(world: Nested) -> None:
    commit = world.app.commit({".gitmodules": "[include]\n\tpath = /etc/passwd\n"})
    world.pin(commit, submodules="true", retry="{limit: 0}")
    assert world.product.once() == 1
    assert "includes other files" in world.product.history("api")[0]["message"]


def test_a_loop_of_submodules_ends(tmp_path: Path) -> None:
    world = World(tmp_path)
    git(world.app.path, *ALLOW, "submodule", "add", "-q", str(world.app.path), "self")
    commit = world.app.commit({}, "itself")
    for _ in range(6):  # each names the one before, so the nesting grows
        subprocess.run(["git", "-C", str(world.app.path / "self"), "fetch", "-q"], check=True)
        git(world.app.path / "self", "checkout", "-q", commit)
        commit = world.app.commit({}, "deeper")
    world.pin(commit, submodules="true", retry="{limit: 0}")
    assert world.product.once() == 1
    assert "nested more than" in world.product.history("api")[0]["message"]
