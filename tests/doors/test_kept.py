"""Kept trees: after whatever a deploy did, the next one sees exactly its commit, and nothing outside was touched."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from support.repos import Repo, git
from support.trees import contents

from reconciler.git import kept, library, mirror
from reconciler.git.checkout import checkout

FILES = 1_100
Change = Callable[[Path], object]
IDENTITY = ("-c", "user.name=t", "-c", "user.email=t@localhost")


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """Return a repository that is large enough to be kept."""
    library.prepare(20)
    repo = Repo(tmp_path_factory.mktemp("seed") / "app")
    (repo.path / "run.sh").write_text("#!/bin/sh\n")
    (repo.path / "run.sh").chmod(0o755)
    (repo.path / "link").symlink_to("d0/f0.txt")
    files: dict[str, str | None] = {f"d{number % 10}/f{number}.txt": f"{number}\n" for number in range(FILES)}
    repo.commit(
        {
            **files,
            "a/b/c.txt": "c",
            "a/b/d.txt": "d",
            "build/kept.txt": "k",
            ".gitignore": "build/\n*.o\n",
            ".gitattributes": "*.txt text\n",
        }
    )
    git(repo.path, "add", "-f", "build/kept.txt")
    git(repo.path, "commit", "-q", "--amend", "--no-edit")
    return repo


class Bench:
    """A mirror, the place of a kept tree, and a deploy's folder."""

    def __init__(self, root: Path, seed: Repo) -> None:
        shutil.copytree(seed.path, root / "app", symlinks=True)
        self.root, self.path = root, root / "app"
        self.mirror, self.kept, self.tree = root / "mirrors" / "app.git", root / "trees" / "api", root / "checkout"
        self.first = git(self.path, "rev-parse", "HEAD")
        self.canary = root / "canary"
        self.canary.mkdir()
        (self.canary / "keep").write_text("kept")

    def commit(self, change: Change) -> str:
        change(self.path)
        git(self.path, "add", "-A")
        git(self.path, "commit", "-q", "-m", "change")
        return git(self.path, "rev-parse", "HEAD")

    def deploy(self, commit: str, mess: Change = lambda _: None) -> None:
        """Check out, let the deploy do what it does, and give the tree back."""
        mirror.fetch(self.path.as_uri(), self.mirror, [commit], None)
        kept.check_out(self.mirror, commit, self.tree, self.kept)
        assert git(self.tree, "rev-parse", "HEAD") == commit
        mess(self.tree)
        kept.give_back(self.kept, self.tree)

    def prove(self, commit: str) -> bool:
        """Check out, and compare with a fresh checkout; return whether the kept tree was used."""
        mirror.fetch(self.path.as_uri(), self.mirror, [commit], None)
        before = self.kept / "tree" / "d0" / "f0.txt"
        inode = before.lstat().st_ino if before.exists() else None
        kept.check_out(self.mirror, commit, self.tree, self.kept)
        fresh = self.root / "fresh"
        checkout(self.mirror, commit, fresh)
        assert contents(self.tree) == contents(fresh)
        assert git(self.tree, "rev-parse", "HEAD") == commit
        assert git(self.tree, "status", "--porcelain", "--ignored") == ""
        assert git(self.tree, "ls-files", "-s") == git(fresh, "ls-files", "-s")
        git(self.tree, "fsck", "--connectivity-only")
        assert (self.canary / "keep").read_text() == "kept"
        assert [path.name for path in self.canary.iterdir()] == ["keep"]
        used = (self.tree / "d0" / "f0.txt").lstat().st_ino == inode
        shutil.rmtree(fresh)
        return used


@pytest.fixture
def bench(tmp_path: Path, seed: Repo) -> Bench:
    return Bench(tmp_path, seed)


def one_change(path: Path) -> None:
    (path / "d1" / "f1.txt").write_text("changed\n")


# --- what a deploy may leave ------------------------------------------------------------------------------


def quietly_changed(tree: Path) -> None:
    """Change a file without its size or its time telling."""
    file = tree / "d2" / "f2.txt"
    times = file.stat()
    file.write_text("X\n")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def hard_linked(tree: Path) -> None:
    """Put another name of a file outside in the place of one that will be written."""
    (tree / "d1" / "f1.txt").unlink()
    os.link(tree.parent / "canary" / "keep", tree / "d1" / "f1.txt")


def folder_for_file(tree: Path) -> None:
    (tree / "d1" / "f1.txt").unlink()
    (tree / "d1" / "f1.txt").mkdir()
    (tree / "d1" / "f1.txt" / "x").write_text("x")


def deep(tree: Path) -> None:
    os.chdir(tree)
    for _ in range(3_000):
        Path("x").mkdir()
        os.chdir("x")
    Path("end").write_text("end")
    os.chdir("/")


def special(tree: Path) -> None:
    os.mkfifo(tree / "fifo")
    with socket.socket(socket.AF_UNIX) as one:
        os.chdir(tree)
        one.bind("socket")
        os.chdir("/")


def repository_within(tree: Path) -> None:
    git(tree / "d3", "init", "-q")
    git(tree / "d3", "add", "-A")
    git(tree / "d3", *IDENTITY, "commit", "-qm", "x")
    (tree / "d3" / "junk.txt").write_text("hidden from who asks the outer one")


def git_points_elsewhere(tree: Path) -> None:
    shutil.rmtree(tree / ".git")
    (tree / ".git").symlink_to(tree.parent / "canary")


def settings_in_git(tree: Path) -> None:
    git(tree, "config", "core.worktree", str(tree.parent / "canary"))
    git(tree, "config", "core.attributesFile", str(tree / "my.attributes"))
    (tree / "my.attributes").write_text("* text eol=crlf\n")
    (tree / ".git" / "info").mkdir(exist_ok=True)
    (tree / ".git" / "info" / "exclude").write_text("*\n")
    (tree / ".git" / "info" / "attributes").write_text("* text eol=crlf\n")
    (tree / "junk.txt").write_text("x")


def assumed_unchanged(tree: Path) -> None:
    git(tree, "update-index", "--assume-unchanged", "d4/f4.txt")
    (tree / "d4" / "f4.txt").write_text("not what it was\n")


def both(*steps: Change) -> Change:
    def change(tree: Path) -> None:
        for step in steps:
            step(tree)

    return change


def gone(name: str = ".") -> Change:
    """Remove a file or a folder."""

    def change(tree: Path) -> None:
        path = tree / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

    return change


def linked(name: str, target: str) -> Change:
    """Put a link in the place of something; `target` is relative to the test's folder, or absolute."""

    def change(tree: Path) -> None:
        gone(name)(tree)
        (tree / name).symlink_to(tree.parent / target)

    return change


def committed(tree: Path) -> None:
    git(tree, "add", "-A")
    git(tree, *IDENTITY, "commit", "-qm", "x")


def write(name: str, text: str = "x") -> Change:
    def mess(tree: Path) -> None:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)

    return mess


MESSES: dict[str, Change] = {
    "nothing": lambda _: None,
    "junk": write("junk/deep/er.txt"),
    "an empty folder": lambda tree: (tree / "empty" / "er").mkdir(parents=True),
    "ignored junk": write("x.o"),
    "ignored junk beside a file of the tree": write("build/out.bin"),
    "junk in a folder of the tree": write("a/b/junk.txt"),
    "a changed file": write("d5/f5.txt", "changed"),
    "a change of the file that the next commit changes": write("d1/f1.txt", "mine"),
    "a quiet change": quietly_changed,
    "a change that git was told to overlook": assumed_unchanged,
    "an executable bit": lambda tree: (tree / "d6" / "f6.txt").chmod(0o755),
    "no executable bit": lambda tree: (tree / "run.sh").chmod(0o644),
    "a removed file": gone("d7/f7.txt"),
    "a removed folder": gone("a"),
    "a folder in place of a file": folder_for_file,
    "a file in place of a folder": both(gone("a"), write("a")),
    "a link in place of a folder": linked("d1", "canary"),
    "a link in place of a folder that is not touched": linked("a", "canary"),
    "a link in place of a file": linked("d1/f1.txt", "canary/keep"),
    "a link that points elsewhere": linked("link", "canary"),
    "another name of a file outside": hard_linked,
    "a repository within": repository_within,
    "a file named .git": write("a/.git", "gitdir: /nowhere"),
    "a pipe named .git": lambda tree: os.mkfifo(tree / "a" / ".git"),
    "a link named .git": lambda tree: (tree / "a" / ".git").symlink_to(tree.parent / "canary"),
    "no index": gone(".git/index"),
    "a damaged index": lambda tree: (tree / ".git" / "index").write_bytes(b"garbage" * 100),
    "no .git": gone(".git"),
    ".git points elsewhere": git_points_elsewhere,
    "settings in .git": settings_in_git,
    "a commit": both(write("new.txt"), committed),
    "staged junk": both(write("new.txt"), lambda tree: git(tree, "add", "-A")),
    "a folder that may not be written": both(write("ro/x/y"), lambda tree: (tree / "ro" / "x").chmod(0o500)),
    "fifo and socket": special,
    "folders without end": deep,
    "attributes of its own": write("d8/.gitattributes", "* text eol=crlf\n"),
    "a pipe in place of a file": both(gone("d1/f1.txt"), lambda tree: os.mkfifo(tree / "d1" / "f1.txt")),
    "odd names": lambda tree: [(tree / name).write_text("x") for name in ("a\nb", "-rf", "*", "é", "x y")],
    "a name that is no text": lambda tree: Path(os.fsdecode(bytes(tree) + b"/\xff\xfe")).write_text("x"),
}
# These leave nothing that could be trusted, or could change how other files are written.
ODD: dict[str, Change] = {
    "other attributes": write(".gitattributes", "* text eol=crlf\n"),
    "nothing at all": gone(),
    "a link in place of everything": lambda tree: linked(tree.name, str(tree.parent / "canary"))(tree.parent),
    "a file in place of everything": lambda tree: both(gone(tree.name), write(tree.name))(tree.parent),
}


@pytest.mark.parametrize("name", MESSES)
def test_whatever_a_deploy_left_the_next_one_sees_its_commit(bench: Bench, name: str) -> None:
    bench.deploy(bench.first, MESSES[name])
    assert bench.prove(bench.commit(one_change)), "the kept tree was not used"


@pytest.mark.parametrize("name", ODD)
def test_what_cannot_be_trusted_is_made_afresh(bench: Bench, name: str) -> None:
    bench.deploy(bench.first, ODD[name])
    assert not bench.prove(bench.commit(one_change))


def test_the_same_commit_again_is_cleaned_too(bench: Bench) -> None:
    bench.deploy(bench.first, MESSES["junk"])
    assert bench.prove(bench.first)


def test_forward_and_back_many_times(bench: Bench) -> None:
    commits = [bench.first, *(bench.commit(change) for change in (CHANGES["a folder becomes a link"], one_change))]
    for number, commit in enumerate([*commits, *commits[::-1], commits[2], commits[0]]):
        bench.deploy(commit, list(MESSES.values())[number])
    assert bench.prove(commits[1])


# --- what a commit may change -----------------------------------------------------------------------------

CHANGES: dict[str, Change] = {
    "a changed file": one_change,
    "new folders": write("n/e/w/file.txt"),
    "a removed file": gone("d1/f1.txt"),
    "a removed folder": gone("a"),
    "an executable bit": lambda path: (path / "d1" / "f1.txt").chmod(0o755),
    "a file becomes a folder": folder_for_file,
    "a folder becomes a file": both(gone("a"), write("a")),
    "a folder becomes a link": linked("a", "d1"),
    "a folder becomes a link to a place outside": linked("a", "canary"),
    "a link becomes a folder": both(gone("link"), write("link/evil")),
    "a file becomes a link": linked("run.sh", "/etc/passwd"),
    "names that are no text": lambda path: Path(os.fsdecode(bytes(path) + b"/\xff")).write_text("x"),
    "everything": lambda path: [file.write_text("new") for file in path.glob("d*/*")],
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_kind_of_change_is_brought_forward_and_back(bench: Bench, name: str) -> None:
    commit = bench.commit(CHANGES[name])
    bench.deploy(bench.first)
    bench.prove(commit)
    kept.give_back(bench.kept, bench.tree)
    bench.prove(bench.first)


@pytest.mark.parametrize("mess", ["a link in place of a folder", "a folder in place of a file", "a removed folder"])
@pytest.mark.parametrize("name", [name for name in CHANGES if "folder" in name or "link" in name])
def test_changes_meet_messes(bench: Bench, name: str, mess: str) -> None:
    commit = bench.commit(CHANGES[name])
    bench.deploy(bench.first, MESSES[mess])
    assert bench.prove(commit)


@pytest.mark.parametrize(
    "change",
    [
        write(".gitattributes", "* text eol=crlf\n"),
        lambda path: git(path, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},sub"),
    ],
    ids=["attributes", "a submodule"],
)
def test_some_changes_want_a_fresh_tree(bench: Bench, change: Change) -> None:
    change(bench.path)
    git(bench.path, "add", "--ignore-removal", "." if (bench.path / ".gitattributes").exists() else "run.sh")
    git(bench.path, "commit", "-qm", "change")
    bench.deploy(bench.first)
    assert not bench.prove(git(bench.path, "rev-parse", "HEAD"))


def test_a_small_tree_is_not_kept(bench: Bench) -> None:
    small = bench.commit(both(*(gone(f"d{number}") for number in range(1, 10))))
    bench.deploy(bench.first)
    assert (bench.kept / "tree").is_dir()
    bench.deploy(small)
    assert not bench.kept.exists()


def test_a_tree_that_was_not_given_back_is_not_missed(bench: Bench) -> None:
    bench.deploy(bench.first)
    mirror.fetch(bench.path.as_uri(), bench.mirror, [bench.first], None)
    kept.check_out(bench.mirror, bench.first, bench.tree, bench.kept)  # and its daemon died
    shutil.rmtree(bench.tree)
    assert not bench.prove(bench.commit(one_change))


def test_pointers_of_git_lfs_are_left_alone(bench: Bench) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "4" * 64 + "\nsize 12345\n"
    attributes = "*.bin filter=lfs diff=lfs merge=lfs -text\n"
    first = bench.commit(both(write(".gitattributes", attributes), write("x.bin", pointer)))
    second = bench.commit(write("y.bin", pointer))
    bench.deploy(first)
    assert bench.prove(second)
    assert (bench.tree / "x.bin").read_text() == (bench.tree / "y.bin").read_text() == pointer
