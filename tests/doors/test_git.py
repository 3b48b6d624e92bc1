"""The door to git, against a real smart-HTTP server and local repositories."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from support.repos import Repo, git
from support.servers import GitServer, serving

from reconciler.config.settings import Credential
from reconciler.errors import SourceError, SourceReason
from reconciler.git import checkout, library, mirror, objects, pktline
from reconciler.git.asking import Asking
from reconciler.git.credentials import Credentials
from reconciler.git.refs import Refs
from reconciler.git.worker import handle
from reconciler.runner.workers import WorkerFailed, WorkerPool

T = TypeVar("T")
TIMEOUT_S = 20.0
MISSING = "0" * 39 + "1"


@pytest.fixture(autouse=True, scope="module")
def _library() -> None:
    library.prepare(TIMEOUT_S)


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    made = Repo(tmp_path / "root" / "app")
    made.commit({"Makefile": "deploy:\n", "src/a.txt": "a"}, "one")
    return made


@pytest.fixture
def server(repo: Repo) -> Iterator[GitServer]:
    with serving(repo.path.parent) as running:
        yield running


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    return tmp_path / "mirrors" / "app.git"


async def in_place(call: Callable[..., T], *arguments: Any) -> T:
    return call(*arguments)


def poll(
    tmp_path: Path, url: str, wanted: list[str], credentials: list[Credential] | None = None, times: int = 1
) -> dict[str, str]:
    async def go() -> dict[str, str]:
        async def ask(request: dict[str, Any], _timeout_s: float) -> dict[str, Any]:
            return await asyncio.to_thread(handle, request)

        refs = Refs(
            Credentials(credentials or []), tmp_path / "mirrors", TIMEOUT_S, Asking(ask, ask, WorkerFailed), in_place
        )
        try:
            found: dict[str, str] = {}
            for _ in range(times):
                found = await refs.poll(url, wanted)
            return found
        finally:
            await refs.close()

    return asyncio.run(go())


def failing(call: Callable[[], object]) -> SourceError:
    with pytest.raises(SourceError) as error:
        call()
    return error.value


# --- polling ----------------------------------------------------------------------------------------------


def test_a_poll_over_http_is_one_small_request_after_the_first(tmp_path: Path, repo: Repo, server: GitServer) -> None:
    found = poll(tmp_path, f"{server.url}/app/.git", ["refs/heads/main"], times=3)
    assert found == {"refs/heads/main": repo.head}
    assert server.requests == ["GET /app/.git/info/refs", *["POST /app/.git/git-upload-pack"] * 3]


def test_what_a_host_speaks_is_asked_once(tmp_path: Path, repo: Repo, server: GitServer) -> None:
    other = Repo(repo.path.parent / "other")
    other.commit()
    git(repo.path.parent, "init", "-q", "-b", "main", "--object-format=sha256", "long")
    long = repo.path.parent / "long"
    git(long, "commit", "-q", "--allow-empty", "-m", "first")

    async def go() -> None:
        refs = Refs(Credentials([]), tmp_path, TIMEOUT_S, Asking(none_asked, none_asked, WorkerFailed), in_place)
        for name, head in (("app", repo.head), ("other", other.head), ("long", git(long, "rev-parse", "HEAD"))):
            assert await refs.poll(f"{server.url}/{name}/.git", ["refs/heads/main"]) == {"refs/heads/main": head}
        await refs.close()

    asyncio.run(go())
    asked = [line.split()[0] + " " + line.split("/")[1] for line in server.requests]
    # The third is no repository of the usual kind, which its answer tells; only then is it asked what it is.
    assert asked == ["GET app", "POST app", "POST other", "POST long", "GET long", "POST long"]


def test_a_poll_asks_for_what_is_wanted_and_nothing_longer(tmp_path: Path, repo: Repo, server: GitServer) -> None:
    git(repo.path, "branch", "main-2")
    git(repo.path, "tag", "-a", "v1", "-m", "v1")
    git(repo.path, "tag", "v2")
    found = poll(tmp_path, f"{server.url}/app/.git", ["refs/heads/main", "refs/tags/", "refs/heads/gone"])
    assert found == {"refs/heads/main": repo.head, "refs/tags/v1": repo.head, "refs/tags/v2": repo.head}


def test_a_server_without_version_2_is_polled_through_libgit2(tmp_path: Path, repo: Repo, server: GitServer) -> None:
    server.speaks_v2 = False
    git(repo.path, "tag", "-a", "v1", "-m", "v1")
    found = poll(tmp_path, f"{server.url}/app/.git", ["refs/heads/main", "refs/tags/"], times=2)
    assert found == {"refs/heads/main": repo.head, "refs/tags/v1": repo.head}


def test_a_local_poll(tmp_path: Path, repo: Repo) -> None:
    assert poll(tmp_path, repo.url, ["refs/heads/main", "refs/heads/gone"]) == {"refs/heads/main": repo.head}
    git(repo.path, "tag", "-a", "v1", "-m", "v1")
    assert poll(tmp_path, repo.url, ["refs/tags/"]) == {"refs/tags/v1": repo.head}


def test_an_empty_answer_is_not_a_deleted_branch(tmp_path: Path, server: GitServer) -> None:
    async def go() -> None:
        refs = Refs(Credentials([]), tmp_path, TIMEOUT_S, Asking(none_asked, none_asked, WorkerFailed), in_place)
        url = f"{server.url}/app/.git"
        await refs.poll(url, ["refs/heads/main"])
        server.answer = ("200 OK", [], b"")
        with pytest.raises(SourceError) as error:
            await refs.poll(url, ["refs/heads/main"])
        assert error.value.reason is SourceReason.PROTOCOL_ERROR
        server.answer = None
        assert await refs.poll(url, ["refs/heads/main"])
        await refs.close()

    asyncio.run(go())


async def none_asked(_request: dict[str, Any], _timeout_s: float) -> dict[str, Any]:
    raise AssertionError("no worker is needed")


@pytest.mark.parametrize(
    ("status", "headers", "body", "reason"),
    [
        ("401 Unauthorized", [], b"", "authentication_failed"),
        ("403 Forbidden", [], b"", "forbidden"),
        ("404 Not Found", [], b"", "not_found"),
        ("429 Too Many Requests", [("Retry-After", "60")], b"", "rate_limited"),
        ("500 Oops", [], b"", "server_error"),
        ("503 Busy", [], b"<html>", "server_error"),
        ("302 Found", [("Location", "http://127.0.0.1:1/app/.git/info/refs")], b"", "redirected"),
        ("418 Teapot", [], b"", "protocol_error"),
    ],
)
def test_an_answer_has_its_named_reason(
    tmp_path: Path, server: GitServer, status: str, headers: list[tuple[str, str]], body: bytes, reason: str
) -> None:
    server.answer = (status, headers, body)
    error = failing(lambda: poll(tmp_path, f"{server.url}/app/.git", ["refs/heads/main"]))
    assert error.reason == reason
    assert server.url in error.message


def test_nobody_there_is_unreachable(tmp_path: Path) -> None:
    error = failing(lambda: poll(tmp_path, "http://127.0.0.1:9/x", ["refs/heads/main"]))
    assert error.reason is SourceReason.UNREACHABLE


def test_a_missing_local_repository_is_not_found(tmp_path: Path) -> None:
    error = failing(lambda: poll(tmp_path, (tmp_path / "nothing").as_uri(), ["refs/heads/main"]))
    assert error.reason is SourceReason.NOT_FOUND


# --- credentials ------------------------------------------------------------------------------------------


def login(tmp_path: Path, server: GitServer, password: str, prefix: str = "/app/") -> list[Credential]:
    (tmp_path / "password").write_text(password + "\n")
    return [Credential(url=server.url + prefix, username="bot", password_file=str(tmp_path / "password"))]


def test_a_password_opens_what_is_below_its_prefix(tmp_path: Path, repo: Repo, server: GitServer, bare: Path) -> None:
    server.password = "canary-4711"
    url = f"{server.url}/app/.git"
    credentials = login(tmp_path, server, "canary-4711")
    assert poll(tmp_path, url, ["refs/heads/main"], credentials) == {"refs/heads/main": repo.head}
    found = asyncio.run(Credentials(credentials).login(url))
    assert found is not None
    assert "canary" not in repr(found)
    assert mirror.fetch(url, bare, [repo.head], found.as_message()) == {"missing": []}
    assert "canary" not in (bare / "config").read_text()


def test_a_wrong_password_is_one_request_and_a_clear_message(tmp_path: Path, server: GitServer) -> None:
    server.password = "right"
    url = f"{server.url}/app/.git"
    error = failing(lambda: poll(tmp_path, url, ["refs/heads/main"], login(tmp_path, server, "wrong")))
    assert error.reason is SourceReason.AUTHENTICATION_FAILED
    assert "wrong" not in error.message
    assert len(server.requests) == 1


def test_a_wrong_password_is_offered_once_in_a_fetch(tmp_path: Path, server: GitServer, bare: Path) -> None:
    server.password = "right"
    found = asyncio.run(Credentials(login(tmp_path, server, "wrong")).login(f"{server.url}/app/.git"))
    assert found is not None
    error = failing(lambda: mirror.fetch(f"{server.url}/app/.git", bare, [], found.as_message()))
    assert error.reason is SourceReason.AUTHENTICATION_FAILED
    assert sum("HTTP_AUTHORIZATION" in headers for headers in server.headers) == 1


def test_no_password_for_another_prefix(tmp_path: Path, server: GitServer) -> None:
    server.password = "right"
    error = failing(
        lambda: poll(tmp_path, f"{server.url}/app/.git", ["refs/heads/main"], login(tmp_path, server, "right", "/ap/"))
    )
    assert "no credential" in error.message
    assert not any("HTTP_AUTHORIZATION" in headers for headers in server.headers)


def test_a_redirect_to_another_host_gets_no_password(tmp_path: Path, repo: Repo, server: GitServer, bare: Path) -> None:
    with serving(repo.path.parent) as evil:
        server.answer = ("302 Found", [("Location", f"{evil.url}/app/.git/info/refs?service=git-upload-pack")], b"")
        url, credentials = f"{server.url}/app/.git", login(tmp_path, server, "canary")
        assert failing(lambda: poll(tmp_path, url, ["refs/heads/main"], credentials)).reason == "redirected"
        found = asyncio.run(Credentials(credentials).login(url))
        assert found is not None
        assert evil.requests == []
        evil.password = "anything"
        error = failing(lambda: mirror.fetch(url, bare, [], found.as_message()))
        assert error.reason is SourceReason.REDIRECTED
        assert not any("HTTP_AUTHORIZATION" in headers for headers in evil.headers)


def test_a_missing_password_file_says_so(tmp_path: Path, server: GitServer) -> None:
    credentials = login(tmp_path, server, "x")
    (tmp_path / "password").unlink()
    error = failing(lambda: poll(tmp_path, f"{server.url}/app/.git", ["refs/heads/main"], credentials))
    assert error.reason is SourceReason.AUTHENTICATION_FAILED
    assert "password cannot be read: No such file" in error.message


# --- fetching ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("over", ["http", "file"])
def test_a_fetch_brings_pins_that_are_no_tips(repo: Repo, server: GitServer, bare: Path, over: str) -> None:
    # one --- two --- three (main)
    one = repo.head
    two = repo.commit()
    repo.commit()
    url = f"{server.url}/app/.git" if over == "http" else repo.url
    assert mirror.fetch(url, bare, [one, two], None) == {"missing": []}
    assert objects.has_commit(bare, two)
    assert objects.resolve(bare, "refs/heads/main") == repo.head


def test_a_missing_pin_is_said_to_be_missing(repo: Repo, bare: Path) -> None:
    assert mirror.fetch(repo.url, bare, [repo.head, MISSING], None) == {"missing": [MISSING]}


def test_a_rewritten_branch_takes_no_pin_away(repo: Repo, bare: Path) -> None:
    # one --- two (pinned)
    #    \--- three (main, after a forced push)
    one = repo.head
    two = repo.commit()
    mirror.fetch(repo.url, bare, [two], None)
    repo.reset(one)
    repo.commit(message="three")
    git(repo.path, "reflog", "expire", "--expire=now", "--all")
    git(repo.path, "gc", "-q", "--prune=now")
    mirror.fetch(repo.url, bare, [], None)
    assert objects.resolve(bare, "refs/heads/main") == repo.head
    git(bare, "gc", "-q", "--prune=now")
    assert objects.has_commit(bare, two)


def test_a_deleted_branch_goes(repo: Repo, bare: Path) -> None:
    git(repo.path, "branch", "old")
    mirror.fetch(repo.url, bare, [], None)
    git(repo.path, "branch", "-D", "old")
    mirror.fetch(repo.url, bare, [], None)
    assert objects.resolve(bare, "refs/heads/old") is None


def test_leftovers_of_a_killed_fetch_are_removed(repo: Repo, bare: Path) -> None:
    mirror.fetch(repo.url, bare, [], None)
    for leftover in (
        "objects/pack/pack_git2_abc",
        "objects/pack/tmp_pack_x",
        "refs/heads/main.lock",
        "packed-refs.lock",
    ):
        (bare / leftover).write_text("half")
    repo.commit()
    mirror.fetch(repo.url, bare, [repo.head], None)
    assert objects.resolve(bare, "refs/heads/main") == repo.head
    assert not [*bare.rglob("*.lock"), *bare.glob("objects/pack/pack_git2_*"), *bare.glob("objects/pack/tmp_*")]


@pytest.mark.parametrize("damage", ["HEAD", "objects", "pack", "half made"])
def test_a_damaged_mirror_is_made_anew(repo: Repo, bare: Path, damage: str) -> None:
    mirror.fetch(repo.url, bare, [repo.head], None)
    if damage == "HEAD":
        (bare / "HEAD").write_text("garbage")
    elif damage == "objects":
        for folder in (bare / "objects").iterdir():
            git(bare, "count-objects")
            os.system(f"rm -rf {folder}")  # noqa: S605 - a folder of the test
    elif damage == "pack":
        for pack in (bare / "objects" / "pack").glob("*.pack"):
            pack.chmod(0o600)
            pack.write_bytes(b"PACK" + b"\0" * 100)
    else:
        for path in (bare / "refs", bare / "objects"):
            os.system(f"rm -rf {path}")  # noqa: S605 - the same
    new = repo.commit()
    assert mirror.fetch(repo.url, bare, [new], None)["missing"] == []
    assert objects.has_commit(bare, new)


def test_only_the_mirrors_of_needed_sources_stay(repo: Repo, tmp_path: Path) -> None:
    mirrors = tmp_path / "mirrors"
    kept = mirrors / library.mirror_name(repo.url)
    mirror.fetch(repo.url, kept, [], None)
    mirror.fetch(repo.url, mirrors / library.mirror_name("https://h/old"), [], None)
    submodule = mirrors / library.mirror_name("https://h/submodule")
    mirror.fetch(repo.url, submodule, [], None)
    mirror.keep(submodule)
    mirror.remove_unneeded(mirrors, [repo.url])
    assert {path.name for path in mirrors.glob("*.git")} == {kept.name, submodule.name}
    os.utime(submodule / mirror.KEPT, (0, 0))
    mirror.remove_unneeded(mirrors, [repo.url])
    assert [path.name for path in mirrors.glob("*.git")] == [kept.name]


def test_a_full_disk_is_said_before_it_is_full(repo: Repo, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "MIN_FREE_BYTES", 1 << 60)
    error = failing(lambda: mirror.fetch(repo.url, bare, [], None))
    assert error.reason is SourceReason.DISK_FULL


def test_a_pack_that_is_too_large_ends_while_it_comes(
    repo: Repo, server: GitServer, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repo.path / "big.bin").write_bytes(os.urandom(500_000))
    repo.commit({})
    monkeypatch.setattr(mirror, "MAX_PACK_BYTES", 100_000)
    error = failing(lambda: mirror.fetch(f"{server.url}/app/.git", bare, [], None))
    assert error.reason is SourceReason.TOO_LARGE
    monkeypatch.undo()
    assert mirror.fetch(f"{server.url}/app/.git", bare, [repo.head], None) == {"missing": []}
    assert not list(bare.glob("objects/pack/pack_git2_*"))


def test_a_disk_that_fills_up_ends_a_fetch_before_it_is_full(
    repo: Repo, server: GitServer, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repo.path / "big.bin").write_bytes(os.urandom(500_000))
    repo.commit({})
    mirror.fetch(repo.url, bare, [], None)
    repo.commit({"more.bin": "x"})
    (repo.path / "more.bin").write_bytes(os.urandom(500_000))
    repo.commit({})
    monkeypatch.setattr(mirror, "LOOK_EVERY_BYTES", 1_000)
    real = mirror.check_space
    looks: list[Path] = []

    def once(folder: Path, needed: int = 0) -> None:
        looks.append(folder)
        real(folder, needed if len(looks) == 1 else 1 << 60)

    monkeypatch.setattr(mirror, "check_space", once)
    error = failing(lambda: mirror.fetch(f"{server.url}/app/.git", bare, [], None))
    assert error.reason is SourceReason.DISK_FULL


# --- reading objects --------------------------------------------------------------------------------------


@pytest.fixture
def fetched(repo: Repo, bare: Path) -> Callable[[], str]:
    def fetch() -> str:
        mirror.fetch(repo.url, bare, [repo.head], None)
        return repo.head

    return fetch


def test_config_files_come_by_object_id(repo: Repo, bare: Path, fetched: Callable[[], str]) -> None:
    repo.commit(
        {"deployments/b.yaml": "b", "deployments/a.yml": "a", "deployments/x.txt": "x", "deployments/d/e.yaml": ""}
    )
    found = objects.config_files(bare, fetched(), "deployments", frozenset())
    assert [(file.name, file.data) for file in found] == [("deployments/a.yml", b"a"), ("deployments/b.yaml", b"b")]
    known = frozenset((file.name, file.blob) for file in found)
    assert [file.data for file in objects.config_files(bare, repo.head, "deployments", known)] == [None, None]


def test_a_symlink_in_the_config_is_not_followed(repo: Repo, bare: Path, fetched: Callable[[], str]) -> None:
    repo.commit({"deployments/a.yaml": "a"})
    (repo.path / "deployments" / "passwd.yaml").symlink_to("/etc/passwd")
    git(repo.path, "add", "-A")
    git(repo.path, "commit", "-qm", "link")
    found = {file.name: file for file in objects.config_files(bare, fetched(), "deployments", frozenset())}
    assert found["deployments/passwd.yaml"].data is None
    assert "symbolic links are not followed" in found["deployments/passwd.yaml"].problem


def test_a_huge_config_file_is_not_read(repo: Repo, bare: Path, fetched: Callable[[], str]) -> None:
    repo.commit({"deployments/a.yaml": "# " + "x" * 300_000})
    (file,) = objects.config_files(bare, fetched(), "deployments", frozenset())
    assert file.data is None
    assert "expected at most" in file.problem


def test_a_config_commit_without_the_directory(bare: Path, fetched: Callable[[], str]) -> None:
    commit = fetched()
    error = failing(lambda: objects.config_files(bare, commit, "deployments", frozenset()))
    assert "has no directory deployments" in error.message
    error = failing(lambda: objects.config_files(bare, commit, "Makefile", frozenset()))
    assert "is not a directory" in error.message


def test_the_commits_between(repo: Repo, bare: Path, fetched: Callable[[], str]) -> None:
    # one --- two --- three (main)
    #    \--- side
    one = repo.head
    git(repo.path, "checkout", "-q", "-b", "side")
    side = repo.commit({"s": "s"}, "side")
    git(repo.path, "checkout", "-q", "main")
    two, three = repo.commit(message="two"), repo.commit(message="three")
    fetched()
    assert [found.subject for found in objects.between(bare, one, three, 10)] == ["three", "two"]
    assert len(objects.between(bare, one, three, 1)) == 1
    assert objects.count_between(bare, one, three) == 2
    assert objects.count_between(bare, side, three) == 2
    assert objects.count_between(bare, MISSING, three) is None
    assert objects.is_ancestor(bare, one, three)
    assert objects.is_ancestor(bare, two, two)
    assert not objects.is_ancestor(bare, side, three)
    assert not objects.is_ancestor(bare, MISSING, three)
    assert objects.commit_time(bare, three) is not None
    assert objects.commit_time(bare, MISSING) is None


def test_a_mirror_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    gone = tmp_path / "gone.git"
    assert not objects.has_commit(gone, MISSING)
    assert objects.resolve(gone, "refs/heads/main") is None
    assert objects.tags(gone, "*") == {}
    assert objects.between(gone, None, MISSING, 5) == []
    assert failing(lambda: objects.config_files(gone, MISSING, ".", frozenset())).reason is SourceReason.NOT_FOUND


# --- checking out -----------------------------------------------------------------------------------------


def test_a_checkout_is_the_tree_with_a_working_git(repo: Repo, bare: Path, tmp_path: Path) -> None:
    git(repo.path, "tag", "-a", "v1.0", "-m", "v1.0")
    first = repo.head
    (repo.path / "run.sh").write_text("#!/bin/sh\n")
    (repo.path / "run.sh").chmod(0o755)
    (repo.path / "link").symlink_to("src/a.txt")
    wanted = repo.commit({"ünï/c.txt": "c"})
    repo.commit()
    mirror.fetch(repo.url, bare, [wanted], None)
    out = tmp_path / "out"

    checkout.checkout(bare, wanted, out)

    assert git(out, "rev-parse", "HEAD") == wanted
    assert git(out, "describe") == f"v1.0-1-g{wanted[:7]}"
    assert git(out, "status", "--porcelain") == ""
    assert git(out, "log", "--format=%H").split() == [wanted, first]
    git(out, "fsck", "--connectivity-only")
    assert os.access(out / "run.sh", os.X_OK)
    assert (out / "link").read_text() == "a"
    assert out.stat().st_mode & 0o777 == 0o700


def test_what_a_deploy_does_to_its_git_never_reaches_the_mirror(repo: Repo, bare: Path, tmp_path: Path) -> None:
    mirror.fetch(repo.url, bare, [repo.head], None)
    out = tmp_path / "out"
    checkout.checkout(bare, repo.head, out)
    git(out, "tag", "evil")
    git(out, "update-ref", "refs/heads/main", repo.head)
    git(out, "commit", "-q", "--allow-empty", "-m", "evil")
    git(out, "gc", "-q", "--prune=now")
    assert objects.resolve(bare, "refs/tags/evil") is None
    assert git(bare, "fsck") == ""


def test_a_checkout_replaces_leftovers_without_following_links(repo: Repo, bare: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "keep").write_text("kept")
    mirror.fetch(repo.url, bare, [repo.head], None)
    out = tmp_path / "out"
    out.symlink_to(canary)
    checkout.checkout(bare, repo.head, out)
    assert not out.is_symlink()
    (out / "src").rename(out / "gone")
    (out / "src").symlink_to(canary)
    (out / "junk").write_text("junk")
    checkout.checkout(bare, repo.head, out)
    assert (out / "src" / "a.txt").read_text() == "a"
    assert not (out / "junk").exists()
    assert [path.name for path in canary.iterdir()] == ["keep"]


def raw_tree(repo: Repo, *entries: tuple[str, str, str]) -> str:
    """Write a tree object byte by byte, as no honest git would, and a commit of it."""
    data = b"".join(f"{mode} {name}".encode() + b"\0" + bytes.fromhex(oid) for mode, name, oid in entries)
    (repo.path / "tree.bin").write_bytes(data)
    tree = git(repo.path, "hash-object", "-t", "tree", "-w", "--literally", "tree.bin")
    commit = git(repo.path, "commit-tree", tree, "-m", "hostile")
    git(repo.path, "update-ref", "refs/heads/hostile", commit)
    return commit


@pytest.mark.parametrize(
    "name",
    [".git", ".GIT", "..", ".", "a/b", "../up", ".git\u200c", "\u200b.git", "\uff0egit", "a\nb", "a\x1b[31mb", ""],
)
def test_a_hostile_name_is_refused_and_nothing_is_written_outside(
    repo: Repo, bare: Path, tmp_path: Path, name: str
) -> None:
    blob = git(repo.path, "rev-parse", "HEAD:src/a.txt")
    commit = raw_tree(repo, ("100644", name, blob))
    before = sorted({"mirrors", *(path.name for path in tmp_path.iterdir())})
    with pytest.raises((checkout.BadTree, SourceError)):
        mirror.fetch(repo.url, bare, [commit], None)
        checkout.checkout(bare, commit, tmp_path / "out" / "checkout")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "out") == before


def test_two_entries_of_one_name_are_refused(repo: Repo, bare: Path, tmp_path: Path) -> None:
    (repo.path / "l").symlink_to("/tmp")  # noqa: S108 - never followed
    git(repo.path, "add", "l")
    link = git(repo.path, "rev-parse", ":l")
    tree = git(repo.path, "rev-parse", "HEAD:src")
    commit = raw_tree(repo, ("120000", "dir", link), ("40000", "dir", tree))
    mirror.fetch(repo.url, bare, [commit], None)
    with pytest.raises(checkout.BadTree, match="two entries named 'dir'"):
        checkout.checkout(bare, commit, tmp_path / "out")


def test_a_tree_bomb_is_refused_before_anything_is_written(repo: Repo, bare: Path, tmp_path: Path) -> None:
    oid, mode = git(repo.path, "rev-parse", "HEAD:src/a.txt"), "100644"
    for _ in range(10):
        data = b"".join(f"{mode} f{number}".encode() + b"\0" + bytes.fromhex(oid) for number in range(10))
        (repo.path / "tree.bin").write_bytes(data)
        oid, mode = git(repo.path, "hash-object", "-t", "tree", "-w", "tree.bin"), "40000"
    commit = git(repo.path, "commit-tree", oid, "-m", "bomb")
    git(repo.path, "update-ref", "refs/heads/bomb", commit)
    mirror.fetch(repo.url, bare, [commit], None)
    with pytest.raises(checkout.BadTree, match="more than 200000 entries"):
        checkout.checkout(bare, commit, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_object_is_corrupt(repo: Repo, bare: Path, tmp_path: Path) -> None:
    mirror.fetch(repo.url, bare, [repo.head], None)
    error = failing(functools.partial(checkout.checkout, bare, MISSING, tmp_path / "out"))
    assert error.reason is SourceReason.CORRUPT


# --- the wire, and workers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [b"", b"0008NAK\n", b"zzzz", b"00", b"0003", b"ffff" + b"x" * 70_000, b"0009hello0000"]
)
def test_what_is_not_an_answer(body: bytes) -> None:
    with pytest.raises(pktline.NotPktLine):
        pktline.refs(body, peel=True)


def test_a_ref_whose_name_is_no_text_is_left_out() -> None:
    oid = b"a" * 40
    body = pktline.encode(oid + b" refs/tags/v\xff1\n") + pktline.encode(oid + b" refs/tags/v1\n") + pktline.FLUSH
    assert pktline.refs(body, peel=True) == {"refs/tags/v1": "a" * 40}


def test_no_refs_is_an_answer() -> None:
    assert pktline.refs(b"0000", peel=True) == {}


@pytest.mark.parametrize("body", [b"<html>", b"001e# service=git-upload-pack\n0000", b"", b"000eversion 1\n0000"])
def test_what_is_not_version_2(body: bytes) -> None:
    assert pktline.capabilities(body) is None


def test_a_worker_answers_and_dies_of_its_deadline(tmp_path: Path, repo: Repo) -> None:
    async def go() -> None:
        pool = WorkerPool("reconciler.git.worker", ["5"], 1)
        ask = Asking(pool.ask, pool.ask, WorkerFailed)
        request = {
            "op": "fetch",
            "url": repo.url,
            "mirror": str(tmp_path / "m.git"),
            "pins": [repo.head],
            "login": None,
        }
        assert await ask(request, TIMEOUT_S) == {"ok": True, "retire": False, "missing": []}
        blocked = mirror.locked(tmp_path / "m.git")
        with blocked, pytest.raises(SourceError) as error:
            await ask(request, 0.5)
        assert error.value.reason is SourceReason.TIMEOUT
        assert await ask(request, TIMEOUT_S) == {"ok": True, "retire": False, "missing": []}
        with pytest.raises(SourceError) as gone:
            await ask({**request, "url": (tmp_path / "nothing").as_uri()}, TIMEOUT_S)
        assert gone.value.reason is SourceReason.NOT_FOUND
        await pool.close()

    asyncio.run(go())


def test_a_worker_that_is_killed_is_replaced() -> None:
    async def go() -> None:
        pool = WorkerPool("reconciler.git.worker", ["5"], 1)
        assert (await pool.ask({"op": "ping"}, TIMEOUT_S))["pong"]
        (worker,) = pool._all
        worker.process.kill()
        with pytest.raises(WorkerFailed, match="died"):
            await pool.ask({"op": "ping"}, TIMEOUT_S)
        assert (await pool.ask({"op": "ping"}, TIMEOUT_S))["pong"]
        await pool.close()

    asyncio.run(go())


# --- collecting -------------------------------------------------------------------------------------------


def packs_of(bare: Path) -> list[Path]:
    return list((bare / "objects" / "pack").glob("*.pack"))


def loose_of(bare: Path) -> int:
    return int(git(bare, "count-objects").split()[0])


def test_a_scattered_mirror_becomes_one_pack_without_what_nothing_leads_to(repo: Repo, bare: Path) -> None:
    # one --- two --- ... --- n (main);  one --- lost (pinned once);  one --- rolled (of the history)
    one = repo.head
    git(repo.path, "tag", "-a", "v1", "-m", "v1")
    lost = repo.commit({"lost.txt": "lost\n" * 1000})
    mirror.fetch(repo.url, bare, [lost], None)
    repo.reset(one)
    rolled = repo.commit({"rolled.txt": "rolled"})
    mirror.fetch(repo.url, bare, [rolled], None)
    repo.reset(one)
    for _ in range(mirror.MAX_PACKS):
        repo.commit()
        mirror.fetch(repo.url, bare, [], None)
    assert mirror.is_scattered(bare)
    before = git(bare, "for-each-ref").splitlines()

    mirror.collect(bare, [rolled, MISSING])

    assert not mirror.is_scattered(bare)
    assert len(packs_of(bare)) == 1
    assert loose_of(bare) == 0
    assert objects.has_commit(bare, rolled)
    assert not objects.has_commit(bare, lost)
    assert git(bare, "for-each-ref").splitlines() == [line for line in before if lost not in line]
    git(bare, "fsck", "--full", "--strict")
    assert sorted(path.name for path in bare.parent.iterdir()) == ["app.git", "app.lock"]
    new = repo.commit()
    assert mirror.fetch(repo.url, bare, [new], None) == {"missing": []}


def test_a_collection_that_was_killed_is_done_again(repo: Repo, bare: Path) -> None:
    mirror.fetch(repo.url, bare, [repo.head], None)
    (bare.parent / ".collected-app.git").mkdir()
    (bare.parent / ".collected-app.git" / "half").write_text("half")
    mirror.collect(bare, [repo.head])
    mirror.collect(bare, [repo.head])  # nothing new: the same pack again
    assert len(packs_of(bare)) == 1
    git(bare, "fsck", "--full", "--strict")


def test_a_reader_finds_everything_while_its_mirror_is_collected(repo: Repo, bare: Path, tmp_path: Path) -> None:
    mirror.fetch(repo.url, bare, [repo.head], None)
    out = tmp_path / "out"
    checkout.checkout(bare, repo.head, out)
    mirror.collect(bare, [repo.head])
    git(out, "fsck", "--full")
    assert git(out, "log", "--format=%H").split() == [repo.head]


def test_few_packs_are_left_alone(repo: Repo, bare: Path) -> None:
    mirror.fetch(repo.url, bare, [], None)
    assert not mirror.is_scattered(bare)
    assert not mirror.is_scattered(bare.parent / "none.git")
