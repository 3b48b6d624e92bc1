"""Pins are commits: moved by verbs and by the daemon, with every other byte of the file as it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.product import Product
from support.repos import Application, Config, git, target, targets
from support.servers import serving

COMMENTED = """\
# production
targets:
  api:   # the front door
    repo: {repo}
    commit: {commit}   # pinned by ada
  staging: {{repo: {repo}, commit: {commit}}}
"""


class Desk:
    """A bare config repository that can be pushed to, an application, and the product between them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.app = Application(root / "app")
        self.work = Config(root / "work")
        self.work.pin(COMMENTED.format(repo=self.app.url, commit=self.app.first))
        git(root, "clone", "-q", "--bare", str(self.work.path), "config.git")
        self.bare = root / "config.git"
        self.product = Product(root, self.bare.as_uri())
        self.env = {"GIT_AUTHOR_NAME": "Ada", "GIT_AUTHOR_EMAIL": "ada@example.com"}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.product.run(*arguments, **self.env)

    def file(self, branch: str = "main") -> str:
        return git(self.bare, "show", f"{branch}:deployments/all.yaml") + "\n"

    def push(self, yaml: str) -> None:
        self.work.pin(yaml)
        git(self.work.path, "push", "-q", "-f", str(self.bare), "main")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_pin_is_one_line_of_one_commit_with_trailers(desk: Desk) -> None:
    second = desk.app.release()
    before = desk.file()
    done = desk.run("pin", "api", "main", "--push", "-m", "Warmer greeting for all.")
    assert done.returncode == 0, done.stderr
    assert f"api: {desk.app.first[:10]} -> {second[:10]} in deployments/all.yaml; pushed" in done.stdout
    assert desk.file() == before.replace(f"    commit: {desk.app.first}   # pinned", f"    commit: {second}   # pinned")
    said = git(desk.bare, "log", "-1", "--format=%an <%ae>%n%B", "main")
    assert said.splitlines() == [
        "Ada <ada@example.com>",
        f"Pin api to {second[:10]}",
        "",
        "Warmer greeting for all.",
        "",
        "Reconciler-Target: api",
        f"Reconciler-From: {desk.app.first}",
        f"Reconciler-To: {second}",
    ]
    assert git(desk.bare, "show", "--format=", "--numstat", "main").split()[:2] == ["1", "1"]
    trailers = git(desk.bare, "log", "-1", "--format=%(trailers:key=Reconciler-To,valueonly)", "main")
    assert trailers.strip() == second


@pytest.mark.parametrize("revision", ["main", "v1.0", "short", "full"])
def test_branches_tags_and_abbreviations_become_full_ids(desk: Desk, revision: str) -> None:
    second = desk.app.release()
    git(desk.app.path, "tag", "-a", "-m", "x", "v1.0")
    name = {"short": second[:8], "full": second}.get(revision, revision)
    assert desk.run("pin", "staging", name, "--push").returncode == 0
    assert f"staging: {{repo: {desk.app.url}, commit: {second}}}" in desk.file()


def test_without_push_it_is_a_patch_that_git_applies(desk: Desk) -> None:
    second = desk.app.release()
    done = desk.run("pin", "api", "main")
    assert "nothing is pushed without --push" in done.stderr
    assert git(desk.bare, "rev-parse", "main") == desk.work.head
    subprocess.run(["git", "am", "-q"], cwd=desk.work.path, input=done.stdout, text=True, check=True, env=_person())
    assert f"commit: {second}   # pinned by ada" in (desk.work.path / "deployments" / "all.yaml").read_text()
    assert git(desk.work.path, "log", "-1", "--format=%an %s") == f"Ada Pin api to {second[:10]}"


def _person() -> dict[str, str]:
    import os  # noqa: PLC0415

    return {**os.environ, "GIT_COMMITTER_NAME": "Bob", "GIT_COMMITTER_EMAIL": "bob@example.com"}


def test_a_branch_for_a_review_leaves_the_config_branch_alone(desk: Desk) -> None:
    second = desk.app.release()
    assert desk.run("pin", "api", "main", "--push-branch", "pin-api").returncode == 0
    assert second in desk.file("pin-api")
    assert second not in desk.file()


def test_what_cannot_be_pinned_is_said(desk: Desk) -> None:
    assert "No such option" in desk.run("pin", "api", "main", "--server", "x").stderr
    for arguments, code, words in (
        (("pin", "api", "nowhere"), 2, "has no branch, tag or commit nowhere"),
        (("pin", "other", "main"), 2, "declares other"),
        (("pin", "api", "f" * 40), 2, "has no branch, tag or commit"),
        (("rollback", "api"), 2, "nothing ever ran"),
    ):
        done = desk.run(*arguments)
        assert done.returncode == code, (arguments, done.stderr)
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    same = desk.run("pin", "api", desk.app.first, "--push")
    assert same.returncode == 0
    assert "pinned to" in same.stderr
    work = Product(desk.root, desk.work.url)
    desk.app.release()
    refused = work.run("pin", "api", "main", "--push", **desk.env)
    assert refused.returncode == 1
    assert "bare repository" in refused.stderr


@pytest.mark.parametrize("over", ["file", "http"])
def test_pins_that_are_pushed_at_once_all_land(desk: Desk, over: str) -> None:
    names = [f"t{index}" for index in range(6)]
    desk.push(targets(*(target(name, desk.app.url, desk.app.first) for name in names)))
    second = desk.app.release()
    with serving(desk.root) as server:
        url = desk.bare.as_uri() if over == "file" else f"{server.url}/config.git"
        product = Product(desk.root, url)
        command = [sys.executable, "-m", "reconciler", "pin", "--config", str(product.settings), "--push"]
        pushing = [
            subprocess.Popen(
                [*command, name, "main"],
                env={**product.env, **desk.env},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            for name in names
        ]
        for process in pushing:
            _, said = process.communicate(timeout=60)
            assert process.returncode == 0, said
    assert desk.file().count(second) == len(names)
    subjects = git(desk.bare, "log", "--format=%s", "main").splitlines()
    assert sum(subject.startswith("Pin ") for subject in subjects) == len(names)


def test_promote_takes_what_is_deployed(desk: Desk) -> None:
    second = desk.app.release()
    desk.run("pin", "staging", "main", "--push")
    assert desk.product.once() == 0
    done = desk.run("promote", "staging", "api", "--push")
    assert done.returncode == 0, done.stderr
    assert desk.product.once() == 0
    assert desk.product.status()["api"]["deployed"] == second
    assert "Promoted from staging." in git(desk.bare, "log", "-1", "--format=%B", "main")


def test_rollback_takes_what_ran_before(desk: Desk) -> None:
    desk.product.once()
    second = desk.app.release()
    desk.run("pin", "api", "main", "--push")
    desk.product.once()
    done = desk.run("rollback", "api", "--push")
    assert done.returncode == 0, done.stderr
    assert "Rolled back to deploy api.1." in git(desk.bare, "log", "-1", "--format=%B", "main")
    assert desk.product.once() == 0
    assert desk.product.status()["api"]["deployed"] == desk.app.first
    assert desk.run("rollback", "api", "api.2", "--push").returncode == 0
    desk.product.once()
    assert desk.product.deployed("api") == [desk.app.first, second, desk.app.first, second]
    assert "no deploy api.9" in desk.run("rollback", "api", "api.9").stderr


# --- by the daemon ----------------------------------------------------------------------------------------

WRITING = """\
targets:
  api:   # written by the daemon
    repo: {repo}
    follow: {{branch: main, write: true}}
"""


def test_the_daemon_writes_the_pin_that_it_deploys(desk: Desk) -> None:
    desk.push(WRITING.format(repo=desk.app.url))
    assert desk.product.once() == 0
    assert f"    commit: {desk.app.first}\n    repo:" in desk.file()
    assert "# written by the daemon" in desk.file()
    second = desk.app.release()
    assert desk.product.once() == 0
    assert desk.product.deployed("api") == [desk.app.first, second]
    assert desk.file().count(second) == 1
    log = git(desk.bare, "log", "--format=%an %s", "main").splitlines()
    assert log[:2] == [f"reconciler Pin api to {second[:10]}", f"reconciler Pin api to {desk.app.first[:10]}"]
    assert desk.product.once() == 0
    assert git(desk.bare, "rev-list", "--count", "main") == str(len(log))


def test_a_running_daemon_writes_pins_as_commits_come(desk: Desk) -> None:
    desk.push(WRITING.format(repo=desk.app.url).replace("repo:", "interval: 1s\n    repo:"))
    with desk.product.daemon() as daemon:
        daemon.wait_in_sync("api", desk.app.first)
        newest = desk.app.release()
        daemon.wait_in_sync("api", newest)
        daemon.wait_for(lambda: newest in desk.file(), "the pin")


def test_a_pin_that_cannot_be_written_is_told_and_does_not_loop(desk: Desk) -> None:
    desk.push(WRITING.format(repo=desk.app.url))
    hook = desk.bare / "hooks" / "update"
    hook.write_text("#!/bin/sh\necho no; exit 1\n")
    hook.chmod(0o755)
    (desk.bare / "objects").chmod(0o755)
    desk.work.pin(f"targets:\n  api: {{repo: {desk.app.url}, follow: {{branch: main, write: true}}}}\n")
    git(desk.work.path, "push", "-q", "-f", str(desk.bare), "main", check=False)
    hook.unlink()
    git(desk.work.path, "push", "-q", "-f", str(desk.bare), "main")
    done = desk.product.run("run", "--once")
    assert "pin.not_written" in done.stderr
    assert "written on one line" in done.stderr
