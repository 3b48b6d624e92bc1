"""What we rely on in git, libgit2 and pygit2. A failure here says that a workaround can go, or that one is needed."""

from __future__ import annotations

import inspect
from pathlib import Path

import pygit2
import pytest
from pygit2.enums import CheckoutStrategy, ConfigLevel
from support.repos import Repo, git
from support.servers import serving

from reconciler.git import library, mirror


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    made = Repo(tmp_path / "root" / "app")
    made.commit({"a.txt": "a"})
    return made


def test_libgit2_is_new_enough() -> None:
    library.prepare(5)
    assert tuple(map(int, pygit2.LIBGIT2_VERSION.split("."))) >= library.OLDEST_LIBGIT2


def test_prepared_libgit2_reads_no_configuration_of_the_machine(tmp_path: Path) -> None:
    library.prepare(5)
    for level in (ConfigLevel.SYSTEM, ConfigLevel.XDG, ConfigLevel.GLOBAL):
        assert pygit2.settings.search_path[level] == ""
    repository = pygit2.init_repository(str(tmp_path / "x"))
    assert "user.name" not in repository.config


def test_a_missing_certificate_check_accepts_every_host_key() -> None:
    # The default of pygit2; ours therefore has the method.
    assert "certificate_check" in vars(mirror.Callbacks)


def test_libgit2_writes_through_a_link_that_an_earlier_checkout_left(repo: Repo, tmp_path: Path) -> None:
    # Why a checkout is always made in a fresh directory: commit one has a link, commit two a file below its name.
    outside = tmp_path / "outside"
    outside.mkdir()
    (repo.path / "dir").symlink_to(outside)
    git(repo.path, "add", "-A")
    git(repo.path, "commit", "-qm", "link")
    link = repo.head
    (repo.path / "dir").unlink()
    below = repo.commit({"dir/evil": "x"})
    git(tmp_path, "clone", "-q", "--bare", repo.url, "m.git")
    repository = pygit2.Repository(str(tmp_path / "m.git"))
    work = tmp_path / "work"
    work.mkdir()
    for commit in (link, below):
        repository.checkout_tree(  # type: ignore[no-untyped-call]
            repository[commit], directory=str(work), strategy=CheckoutStrategy.FORCE
        )
    assert (outside / "evil").exists()


def test_libgit2_runs_no_hook_and_no_filter_of_a_repository(repo: Repo, tmp_path: Path) -> None:
    hook = repo.path / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    repo.commit({".gitattributes": "* filter=evil\n"})
    git(repo.path, "config", "filter.evil.smudge", f"touch {tmp_path}/ran; cat")
    (tmp_path / "work").mkdir()
    repository = pygit2.Repository(str(repo.path))
    repository.checkout_tree(  # type: ignore[no-untyped-call]
        repository[repo.head], directory=str(tmp_path / "work"), strategy=CheckoutStrategy.FORCE
    )
    assert (tmp_path / "work" / "a.txt").exists()
    assert not (tmp_path / "ran").exists()


def test_libgit2_follows_redirects_whatever_the_repository_says(repo: Repo, tmp_path: Path) -> None:
    # Why our callbacks compare hosts. When this fails, the configuration key works and the comparison may go.
    library.prepare(5)
    with serving(repo.path.parent) as real, serving(repo.path.parent) as front:
        location = f"{real.url}/app/.git/info/refs?service=git-upload-pack"
        front.answer = ("302 Found", [("Location", location)], b"")
        repository = pygit2.init_repository(str(tmp_path / "m.git"), bare=True)
        repository.config["http.followRedirects"] = "false"
        repository.remotes.create_anonymous(f"{front.url}/app/.git").fetch(["+refs/heads/*:refs/heads/*"])
        assert real.requests


def test_libgit2_receives_every_ref_and_speaks_no_version_2(repo: Repo, tmp_path: Path) -> None:
    # Why polls speak version 2 themselves.
    library.prepare(5)
    for number in range(50):
        git(repo.path, "branch", f"b{number}")
    with serving(repo.path.parent) as server:
        scratch = pygit2.init_repository(str(tmp_path / "m.git"), bare=True)
        heads = scratch.remotes.create_anonymous(f"{server.url}/app/.git").list_heads()
        assert len(heads) >= 50
        assert not any("HTTP_GIT_PROTOCOL" in headers for headers in server.headers)


def test_pygit2_offers_no_deadline() -> None:
    # Why fetches run in processes that can be killed: there is a limit a read, none a fetch.
    assert "timeout" not in inspect.signature(pygit2.Remote.fetch).parameters


def test_a_default_server_refuses_a_bare_commit_id_to_libgit2(repo: Repo, tmp_path: Path) -> None:
    # Why all branches and tags are fetched.
    library.prepare(5)
    first = repo.head
    repo.commit()
    with serving(repo.path.parent) as server:
        scratch = pygit2.init_repository(str(tmp_path / "m.git"), bare=True)
        with pytest.raises(pygit2.GitError):
            scratch.remotes.create_anonymous(f"{server.url}/app/.git").fetch([first])


def test_a_stale_lock_blocks_its_ref(repo: Repo, tmp_path: Path) -> None:
    # Why leftovers are removed before a fetch.
    library.prepare(5)
    bare = tmp_path / "m.git"
    repository = pygit2.init_repository(str(bare), bare=True)
    (bare / "refs" / "heads" / "main.lock").write_text("")
    with pytest.raises(pygit2.GitError, match="lock"):
        repository.remotes.create_anonymous(repo.url).fetch(["+refs/heads/*:refs/heads/*"])


def test_objects_fetched_by_another_process_are_seen_by_an_open_repository(repo: Repo, tmp_path: Path) -> None:
    bare = tmp_path / "m.git"
    git(tmp_path, "clone", "-q", "--bare", repo.url, str(bare))
    opened = pygit2.Repository(str(bare))
    newer = repo.commit()
    assert opened.get(newer) is None
    git(bare, "fetch", "-q", repo.url, "+refs/heads/*:refs/heads/*")
    assert opened.get(newer) is not None


def test_the_same_content_author_and_time_make_the_same_commit(tmp_path: Path) -> None:
    # What the example's pins rest on.
    from reconciler.cli.demo import example_files, make_application  # noqa: PLC0415

    commits = make_application(tmp_path / "hello")
    text = "".join(example_files().values())
    assert commits[1] in text
    assert commits[2] in text
