"""The command as cron, CI and people use it: `run --once` and the verbs that read, as processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.product import Product
from support.repos import MAKEFILE, git, target, targets
from support.world import World

FAIL = ".PHONY: deploy\ndeploy:\n\t@echo broken; exit 3\n"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_pin_is_deployed_and_an_unchanged_one_is_not_again(world: World) -> None:
    world.pin(world.app.first)
    done = world.product.run("run", "--once")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^api +in_sync +[0-9a-f]{10} +[0-9a-f]{10} ", done.stdout, re.MULTILINE)
    assert world.product.deployed("api") == [world.app.first]
    assert world.product.once() == 0
    assert world.product.deployed("api") == [world.app.first]


def test_a_deployed_b_failed_back_to_a_deploys_a_again(world: World) -> None:
    # A --- B (its deploy fails)
    a = world.app.first
    b = world.app.release(FAIL)
    world.pin(a)
    assert world.product.once() == 0
    world.pin(b, retry="{limit: 0}")
    assert world.product.once() == 1
    assert world.product.status()["api"]["decision"]["reason"] == "stalled"
    world.pin(a)
    assert world.product.once() == 0
    assert world.product.deployed("api") == [a, a]
    assert [deploy["status"] for deploy in world.product.history("api")] == ["succeeded", "failed", "succeeded"]


def test_an_earlier_commit_is_deployed_when_it_is_pinned(world: World) -> None:
    # first --- second; the pin moves forward, then back
    second = world.app.release()
    for commit in (world.app.first, second, world.app.first):
        world.pin(commit)
        assert world.product.once() == 0
    assert world.product.deployed("api") == [world.app.first, second, world.app.first]


def test_a_pin_that_no_branch_holds_any_more_stays_deployable(world: World) -> None:
    # first --- gone (pinned once)
    #      \--- main, after a forced push
    gone = world.app.release()
    world.pin(gone)
    assert world.product.once() == 0
    world.app.reset(world.app.first)
    kept = world.app.commit({"new.txt": "x"})
    world.pin(kept)
    assert world.product.once() == 0
    world.pin(gone)
    assert world.product.once() == 0
    assert world.product.deployed("api") == [gone, kept, gone]


def test_a_changed_spec_at_the_same_commit_is_a_new_version(world: World) -> None:
    world.pin(world.app.first)
    world.product.once()
    world.pin(world.app.first, env="{LEVEL: '2'}")
    world.product.once()
    world.pin(world.app.first, env="{LEVEL: '2'}", timeout="10m", labels="{team: a}")
    world.product.once()
    assert len(world.product.deployed("api")) == 2


def test_dependencies_are_deployed_first_within_one_run(world: World) -> None:
    makefile = '.PHONY: deploy\ndeploy:\n\techo "$(RECONCILER_TARGET)" >> "$(SITE)/order"\n'
    commit = world.app.release(makefile)
    world.config.pin(
        targets(
            target("a-web", world.app.url, commit, depends_on="[b-api]"),
            target("b-api", world.app.url, commit, depends_on="[c-db]"),
            target("c-db", world.app.url, commit),
        )
    )
    assert world.product.once() == 0
    assert world.product.deployed("order") == ["c-db", "b-api", "a-web"]


def test_what_depends_on_a_failure_waits_and_says_for_whom(world: World) -> None:
    broken = world.app.release(FAIL)
    world.config.pin(
        targets(
            target("db", world.app.url, broken),
            target("api", world.app.url, world.app.first, depends_on="[db]"),
        )
    )
    assert world.product.once() == 1
    assert world.product.status()["api"]["decision"] == {
        "kind": "wait",
        "reason": "dependency",
        "until": None,
        "message": "waits for db to be in sync",
        "rule": 7,
    }
    assert world.product.deployed("api") == []


def test_an_automatic_rollback_is_shown_as_what_it_is(world: World) -> None:
    broken = world.app.release(FAIL)
    world.pin(world.app.first)
    world.product.once()
    world.pin(broken, on_failure="rollback", retry="{limit: 0}")
    assert world.product.once() == 1
    view = world.product.status()["api"]
    assert view["decision"]["reason"] == "rolled_back"
    assert (view["desired"], view["attempted"], view["deployed"]) == (broken, broken, world.app.first)
    assert [(d["cause"], d["status"]) for d in world.product.history("api")] == [
        ("new_version", "succeeded"),
        ("new_version", "failed"),
        ("rollback", "succeeded"),
    ]
    assert world.product.once() == 1
    assert len(world.product.history("api")) == 3


def test_a_failed_deploy_is_retried_by_later_runs_up_to_its_limit(world: World) -> None:
    world.pin(world.app.release(FAIL), retry="{limit: 2, backoff: 0s}")
    for _ in range(5):
        assert world.product.once() == 1
    assert [d["cause"] for d in world.product.history("api")] == ["new_version", "retry", "retry"]
    assert world.product.status()["api"]["decision"]["reason"] == "stalled"


def test_a_branch_is_followed_without_a_pin(world: World) -> None:
    text = targets(target("ci", world.app.url, None, follow="main"))
    world.config.pin(text)
    assert world.product.once() == 0
    world.app.release()
    newest = world.app.release()
    assert world.product.once() == 0
    assert world.product.deployed("ci") == [world.app.first, newest]


def test_beside_a_pin_a_branch_is_only_watched(world: World) -> None:
    world.pin(world.app.first, follow="main")
    world.app.release()
    world.app.release()
    world.product.once()
    assert world.product.status()["api"]["behind"] == 2
    assert world.product.deployed("api") == [world.app.first]


def test_a_commit_of_a_fork_is_not_trusted(world: World) -> None:
    # first (main) --- fork
    git(world.app.path, "checkout", "-q", "-b", "fork")
    fork = world.app.release()
    git(world.app.path, "checkout", "-q", "main")
    world.pin(fork, within="main")
    assert world.product.once() == 1
    view = world.product.status()["api"]
    assert view["decision"]["reason"] == "untrusted"
    assert "is not reachable from main" in view["decision"]["message"]
    git(world.app.path, "merge", "-q", "fork")
    assert world.product.once() == 0
    assert world.product.deployed("api") == [fork]


def test_a_secret_reaches_the_step_and_nothing_else(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    with_secret = World(tmp_path, f"secrets_dir: {secrets}\n")
    makefile = '.PHONY: deploy\ndeploy:\n\techo "$$TOKEN" > "$(SITE)/token"; echo "the token is $$TOKEN"\n'
    commit = with_secret.app.release(makefile)
    with_secret.pin(commit, secrets="{TOKEN: api-token}")
    assert with_secret.product.once() == 1
    assert "secret api-token is missing" in with_secret.product.status()["api"]["decision"]["message"]
    (secrets / "api-token").write_text("canary-31337\n")
    assert with_secret.product.once() == 0
    assert (with_secret.product.site / "token").read_text() == "canary-31337\n"
    assert "the token is ***" in with_secret.product.run("logs", "api").stdout
    for path in with_secret.product.state.rglob("*"):
        if path.is_file():
            assert b"canary-31337" not in path.read_bytes(), path


# --- what bad input gets ----------------------------------------------------------------------------------


def test_a_bad_entry_keeps_its_last_good_version_across_restarts(world: World) -> None:
    world.pin_both(world.app.first)
    assert world.product.once() == 0
    second = world.app.release()
    world.config.pin(targets(target("api", world.app.url, "nonsense"), target("web", world.app.url, second)))
    done = world.product.run("run", "--once")
    assert done.returncode == 1
    assert "deployments/all.yaml:4:5: targets.api.commit: expected a full commit id" in done.stderr
    views = world.product.status()
    assert views["api"]["decision"]["reason"] == "in_sync"
    assert views["api"]["deployed"] == world.app.first
    assert "expected a full commit id" in views["api"]["config"]["error"]
    assert views["web"]["deployed"] == second
    assert world.product.deployed("api") == [world.app.first]


def test_a_broken_file_touches_no_other_file(world: World) -> None:
    world.config.pin(targets(target("api", world.app.url, world.app.first)), "deployments/a.yaml")
    world.config.pin(targets(target("web", world.app.url, world.app.first)), "deployments/b.yaml")
    world.product.once()
    second = world.app.release()
    world.config.commit(
        {"deployments/a.yaml": "targets: [", "deployments/b.yaml": targets(target("web", world.app.url, second))}
    )
    assert world.product.once() == 1
    assert world.product.deployed("web") == [world.app.first, second]
    assert world.product.status()["api"]["deployed"] == world.app.first


@pytest.mark.parametrize("name", [b"\xff.yaml", b"a\nb.yaml", b"\x1b[31m.yaml"], ids=["no text", "newline", "escape"])
def test_a_hostile_file_name_touches_no_other_file(world: World, name: bytes) -> None:
    world.pin(world.app.first)
    text = targets(target("web", world.app.url, world.app.first))
    Path(os.fsdecode(os.fsencode(world.config.path / "deployments") + b"/" + name)).write_text(text)
    git(world.config.path, "add", "-A")
    git(world.config.path, "commit", "-qm", "odd")
    done = world.product.run("run", "--once")
    assert done.returncode == 1
    assert "a file name with bytes that are no text" in done.stderr
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr
    assert world.product.deployed("api") == [world.app.first]


def test_odd_bytes_in_history_and_refs_are_survived(world: World) -> None:
    git(world.app.path, "-c", "i18n.commitEncoding=nonsense", "commit", "-q", "--allow-empty", "-m", "x")
    raw = git(world.app.path, "cat-file", "commit", "HEAD").encode() + b"\n\xff\xfe subject\n"
    (world.app.path / "raw").write_bytes(raw.replace(b"author Test", b"author \xff\xfeT"))
    odd = git(world.app.path, "hash-object", "-t", "commit", "-w", "--literally", "raw")
    git(world.app.path, "update-ref", "refs/heads/main", odd)
    packed = f"{odd} refs/tags/".encode() + b"v\xff1\n"
    (world.app.path / ".git" / "packed-refs").write_bytes(packed)
    world.pin(world.app.first, follow="main")
    assert world.product.once() == 0
    world.config.pin(
        targets(target("api", world.app.url, odd), target("ci", world.app.url, None, follow="{tag: 'v*'}"))
    )
    world.product.once()
    assert world.product.deployed("api") == [world.app.first, odd]
    assert "Traceback" not in world.product.run("diff", "api").stderr


def test_a_config_without_its_directory_keeps_what_was_and_says_so(world: World) -> None:
    world.pin(world.app.first)
    world.product.once()
    shutil.rmtree(world.config.path / "deployments")
    world.config.commit({"README": "x"})
    done = world.product.run("run", "--once")
    assert done.returncode == 1
    assert "has no directory deployments" in done.stderr
    assert world.product.status()["api"]["decision"]["reason"] == "in_sync"


def test_a_vanished_target_is_unmanaged_and_not_undeployed(world: World) -> None:
    world.pin_both(world.app.first)
    world.product.once()
    world.config.pin(targets(target("web", world.app.url, world.app.first)))
    assert world.product.once() == 0
    assert set(world.product.status()) == {"web"}
    assert world.product.deployed("api") == [world.app.first]


def test_a_pin_that_does_not_exist_is_held_with_the_reason(world: World) -> None:
    world.pin("0" * 39 + "1")
    assert world.product.once() == 1
    view = world.product.status()["api"]
    assert (view["decision"]["kind"], view["decision"]["reason"]) == ("hold", "unresolved")
    assert "commit_not_found" in view["decision"]["message"]
    assert view["conditions"] == {"ready": False, "reconciling": False, "stalled": True}


def test_a_rewound_config_branch_is_followed_or_refused_as_asked(world: World, tmp_path: Path) -> None:
    # one --- two, then the branch goes back to one
    second = world.app.release()
    one = world.pin(world.app.first)
    world.pin(second)
    (tmp_path / "strict").mkdir()
    strict = Product(tmp_path / "strict", world.config.url)
    strict.env["RECONCILER_CONFIG_REPO__FAST_FORWARD_ONLY"] = "true"
    assert strict.once() == 0
    assert world.product.once() == 0
    world.config.reset(one)
    assert world.product.once() == 0
    assert world.product.deployed("api") == [second, world.app.first]
    done = strict.run("run", "--once")
    assert done.returncode == 1
    assert "was rewound or rewritten" in done.stderr
    assert strict.deployed("api") == [second]


# --- exit codes and messages ------------------------------------------------------------------------------


def test_wrong_settings_are_78(world: World, tmp_path: Path) -> None:
    world.product.settings.write_text("state_dri: /x\n")
    done = world.product.run("run", "--once")
    assert done.returncode == 78
    assert "state_dri: unknown key; did you mean state_dir?" in done.stderr
    world.product.settings.write_text(f"state_dir: {tmp_path / 'x'}\n")
    done = world.product.run("run", "--once")
    assert done.returncode == 78
    assert "config_repo.url: is missing" in done.stderr
    assert world.product.run("run", "--config", "/nonexistent").returncode == 78


def test_usage_is_2(world: World) -> None:
    assert world.product.run("status", "--nonsense").returncode == 2
    done = world.product.run("status")
    assert done.returncode == 2
    assert "nothing ever ran here" in done.stderr
    world.pin(world.app.first)
    world.product.once()
    done = world.product.run("why", "apu")
    assert done.returncode == 2
    assert "there is no target 'apu'; did you mean api?" in done.stderr
    assert world.product.run("logs", "nothing").returncode == 2


def test_a_config_repository_that_cannot_be_read_is_2(world: World) -> None:
    shutil.rmtree(world.config.path)
    done = world.product.run("run", "--once")
    assert done.returncode == 2
    assert "the config repository cannot be read: not_found" in done.stderr


def test_no_output_is_a_traceback(world: World) -> None:
    bad_url = ("run", "--once", "--config-repo", "ext::x")
    for arguments in (("status",), bad_url, ("validate", "/nonexistent"), ("logs", "x")):
        done = world.product.run(*arguments)
        assert "Traceback" not in done.stderr
        assert done.returncode in (2, 78)


# --- the verbs that read ----------------------------------------------------------------------------------


def test_status_in_every_form(world: World) -> None:
    world.pin(world.app.first)
    world.product.once()
    view = world.product.status()["api"]
    assert {
        "name",
        "repo",
        "desired",
        "attempted",
        "deployed",
        "decision",
        "conditions",
        "last_deploy",
        "behind",
        "config",
    } <= view.keys()
    assert view["repo"] == world.app.url
    assert view["decision"].keys() >= {"kind", "reason", "until", "message"}
    assert view["conditions"] == {"ready": True, "reconciling": False, "stalled": False}
    assert view["last_deploy"].keys() == {"id", "status", "reason", "exit_code", "started_at", "finished_at"}
    assert (view["last_deploy"]["id"], view["last_deploy"]["exit_code"]) == ("api.1", 0)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", view["last_deploy"]["finished_at"])
    assert view["config"] == {
        "commit": world.config.head,
        "file": "deployments/all.yaml",
        "line": 2,
        "error": None,
    }
    assert world.product.run("status", "-o", "name").stdout == "api\n"
    assert "name: api" in world.product.run("status", "-o", "yaml").stdout
    assert "deployments/all.yaml:2" in world.product.run("status", "-o", "wide").stdout
    assert world.product.run("status", "api").returncode == 0


def test_status_says_when_nobody_acts(world: World) -> None:
    world.pin(world.app.release(FAIL))
    world.product.once()
    assert "no daemon runs on" in world.product.run("status").stderr
    with world.product.daemon():
        assert "no daemon runs on" not in world.product.run("status").stderr


def test_plan_says_what_would_happen_and_does_nothing(world: World) -> None:
    world.pin(world.app.first)
    done = world.product.run("plan")
    assert done.returncode == 1
    assert "new_version" in done.stdout
    assert "is the first version" in done.stdout
    assert world.product.deployed("api") == []
    world.product.once()
    assert world.product.run("plan").returncode == 0


def test_why_names_the_rule_and_what_changes_it(world: World) -> None:
    world.pin(world.app.release(FAIL), retry="{limit: 0}")
    world.product.once()
    said = world.product.run("why", "api").stdout
    assert "api: hold, stalled:" in said
    assert "5: no request, desired = last attempted, failures > limit" in said
    assert "reconciler logs api.1" in said
    assert "deployments/all.yaml:2 at config commit" in said


def test_history_logs_and_diff(world: World) -> None:
    world.pin(world.app.first)
    world.product.once()
    second = world.app.release(FAIL)
    world.pin(second)
    world.product.once()
    shown = world.product.run("history", "api").stdout
    assert re.search(r"api\.2 +failed .*exit_code: make deploy exited with 2", shown)
    assert "broken" in world.product.run("logs", "api").stdout
    assert world.product.run("logs", "api.1", "-f").stdout.startswith("==> make deploy  (20")
    done = world.product.run("diff", "api")
    assert done.returncode == 1
    assert done.stdout.startswith(f"+ {second[:10]} ")
    assert done.stdout.endswith(" Test: release\n")


def test_a_log_does_not_drive_the_terminal(world: World) -> None:
    world.pin(world.app.release(".PHONY: deploy\ndeploy:\n\t@printf '\\033[31mred\\n'\n"))
    world.product.once()
    assert "\\x1b[31mred" in world.product.run("logs", "api").stdout
    assert "\x1b[31mred" in world.product.run("logs", "api", "--raw").stdout


def test_validate(world: World, tmp_path: Path) -> None:
    world.pin(world.app.first)
    path = world.config.path / "deployments"
    done = world.product.run("validate", str(path))
    assert (done.returncode, done.stderr) == (0, "1 target in 1 file: all valid\n")
    (path / "b.yaml").write_text("targets:\n  b: {comit: x}\n  b: {}\n")
    done = world.product.run("validate", str(path))
    assert done.returncode == 1
    assert f"{path}/b.yaml:2:7: targets.b.comit: unknown key; did you mean commit?" in done.stderr
    assert "a duplicate key" in done.stderr
    assert world.product.run("validate", str(path / "all.yaml")).returncode == 0
    assert world.product.run("validate", str(tmp_path / "nothing")).returncode == 2


def test_init_makes_a_repository_that_works(world: World, tmp_path: Path) -> None:
    made = tmp_path / "fresh"
    run = [sys.executable, "-m", "reconciler"]
    subprocess.run([*run, "init", str(made)], check=True, capture_output=True)
    assert world.product.run("validate", str(made / "deployments")).returncode == 0
    assert git(made, "status", "--porcelain") == ""
    assert world.product.run("run", "--once", "--config-repo", made.as_uri()).returncode == 0
    again = subprocess.run([*run, "init", str(made)], check=False, capture_output=True, text=True)
    assert again.returncode == 1
    assert "is not empty" in again.stderr
    schema = subprocess.run([*run, "schema"], check=True, capture_output=True, text=True).stdout
    assert json.loads(schema) == json.loads((made / "deployments.schema.json").read_text())
    versions = subprocess.run([*run, "version"], check=True, capture_output=True, text=True).stdout
    assert re.search(r"^libgit2 \d", versions, re.MULTILINE)
    for shell in ("bash", "zsh", "fish"):
        script = subprocess.run([*run, "completion", shell], check=True, capture_output=True, text=True).stdout
        assert "_RECONCILER_COMPLETE" in script


def test_a_large_tree_is_kept_and_clean_for_the_next_deploy(world: World) -> None:
    messy = MAKEFILE + "\ttest ! -e junk && touch junk && echo x >> d0/f0.txt\n"
    many: dict[str, str | None] = {f"d{number % 10}/f{number}.txt": "x\n" for number in range(1_100)}
    first = world.app.commit({**many, "Makefile": messy})
    world.pin(first)
    assert world.product.once() == 0
    tree = world.product.state / "trees" / "api" / "tree"
    inode = (tree / "d1" / "f1.txt").stat().st_ino
    second = world.app.release()
    world.pin(second)
    assert world.product.once() == 0
    assert world.product.deployed("api") == [first, second]
    assert (tree / "d1" / "f1.txt").stat().st_ino == inode
    assert list((world.product.state / "runs").iterdir()) == []
