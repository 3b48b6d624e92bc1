"""Policy of targets, end to end: what is followed, who is trusted, secrets that change, drift that is healed."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pyrage
import pytest
from support.needs import need_program
from support.repos import git, target, targets
from support.servers import serving
from support.world import World

SHOWS_SECRET = (
    '.PHONY: deploy\ndeploy:\n\t@echo "$${#TOKEN} $(RECONCILER_COMMIT)" >> $(SITE)/api; echo "it is $$TOKEN"\n'
)
OBSERVED = (
    '.PHONY: deploy deployed-commit\ndeploy:\n\t@echo "$(RECONCILER_COMMIT)" > $(SITE)/now; '
    'echo "$(RECONCILER_COMMIT)" >> "$(SITE)/api"\ndeployed-commit:\n\t@echo looking; cat $(SITE)/now\n'
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# --- follow -----------------------------------------------------------------------------------------------


def test_the_highest_version_of_a_range_is_deployed_and_pre_releases_are_not(world: World) -> None:
    app = world.app
    commits = {}
    for tag in ("v1.2.0", "v1.10.0", "v1.9.0", "v2.0.0", "v1.11.0-rc.1", "other"):
        commits[tag] = app.release()
        git(app.path, "tag", tag)
    entry = target("api", app.url, None, follow='{semver: "^1.2", prefix: v}')
    beside = target("pinned", app.url, app.first, follow='{semver: "2.x", prefix: v}')
    none = target("none", app.url, None, follow='{semver: "^9", prefix: v}')
    world.config.pin(targets(entry, beside, none))
    world.product.once()
    status = world.product.status()
    assert status["api"]["deployed"] == commits["v1.10.0"]
    assert status["pinned"]["behind"] == 4
    assert "4 behind v2.x" in world.product.run("status").stdout
    assert "a tag vX.Y.Z within ^9" in status["none"]["decision"]["message"]
    commits["v1.10.1"] = app.release()
    git(app.path, "tag", "-a", "-m", "annotated", "v1.10.1")
    world.product.once()
    assert world.product.deployed("api") == [commits["v1.10.0"], commits["v1.10.1"]]


def test_a_target_that_follows_with_a_test_step_is_a_small_ci(world: World) -> None:
    makefile = '.PHONY: test\ntest:\n\t@echo "$(RECONCILER_COMMIT)" >> $(SITE)/tested; test ! -e broken\n'
    world.app.release(makefile)
    world.config.pin(
        targets(target("api", world.app.url, None, follow="main", steps="[{make: test}]", retry="{limit: 0}"))
    )
    assert world.product.once() == 0
    world.app.commit({"broken": "x"})
    assert world.product.once() == 1
    why = world.product.run("why", "api").stdout
    assert "stalled" in why
    world.app.commit({"broken": None})
    assert world.product.once() == 0
    assert len(world.product.deployed("tested")) == 3


# --- trust ------------------------------------------------------------------------------------------------


def signing(world: World, name: str) -> tuple[str, ...]:
    need_program("ssh-keygen", "openssh-client")
    key = world.product.root / name
    if not key.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    return ("-c", "gpg.format=ssh", "-c", f"user.signingkey={key}")


def trusting(root: Path, more: str = "") -> World:
    world = World(root, f"key_sets: {{release-keys: {{allowed_signers_file: {root}/allowed}}}}\n{more}")
    signing(world, "ada")
    (root / "allowed").write_text(f"ada@example.com {(root / 'ada.pub').read_text()}")
    return world


def sign(world: World, repo: Path, name: str) -> str:
    git(repo, *signing(world, name), "commit", "-q", "--amend", "--no-edit", "-S")
    return git(repo, "rev-parse", "HEAD")


def test_only_commits_of_trusted_signers_are_deployed_and_the_signer_is_shown(tmp_path: Path) -> None:
    world = trusting(tmp_path)
    unsigned = world.app.release()
    world.pin(unsigned, signed_by="[release-keys]")
    assert world.product.once() == 1
    assert "is not signed" in world.product.status()["api"]["decision"]["message"]
    world.app.release()
    eves = sign(world, world.app.path, "eve")
    world.pin(eves, signed_by="[release-keys]")
    assert world.product.once() == 1
    decision = world.product.status()["api"]["decision"]
    assert decision["reason"] == "untrusted"
    assert "SSH key SHA256:" in decision["message"]
    world.app.release()
    adas = sign(world, world.app.path, "ada")
    world.pin(adas, signed_by="[release-keys]")
    assert world.product.once() == 0
    assert world.product.deployed("api") == [adas]
    world.pin(adas, signed_by="[others]")
    assert world.product.once() == 1
    assert "no key set" in world.product.status()["api"]["decision"]["message"]


def test_a_config_commit_must_be_signed_where_that_is_asked_for(tmp_path: Path) -> None:
    world = trusting(tmp_path)
    url = world.config.url
    world.product.settings.write_text(
        world.product.settings.read_text().replace(f"url: '{url}'", f"url: '{url}', signed_by: [release-keys]")
    )
    world.pin(world.app.first)
    sign(world, world.config.path, "ada")
    assert world.product.once() == 0
    second = world.app.release()
    world.pin(second)
    assert world.product.once() == 1
    assert "is not signed" in world.product.run("status").stderr
    assert world.product.status()["api"]["desired"] == world.app.first
    sign(world, world.config.path, "ada")
    assert world.product.once() == 0
    assert world.product.deployed("api") == [world.app.first, second]


# --- secrets ----------------------------------------------------------------------------------------------


# Stands in for the program sops, which neither Debian nor PyPI has: a file whose values are base64.
SOPS = """#!{python}
import base64, json, sys
print(json.dumps({{key: base64.b64decode(value).decode() for key, value in json.load(sys.stdin).items()}}))
"""


@pytest.mark.parametrize("place", ["a file", "a file of the target", "age", "sops"])
def test_secrets_of_every_place_reach_the_step_and_nothing_else(tmp_path: Path, place: str) -> None:
    canary = "correct-horse-battery-staple"
    identity = pyrage.x25519.Identity.generate()
    (tmp_path / "identity").write_text(f"{identity}\n")
    folder = tmp_path / "secrets"
    (folder / "api").mkdir(parents=True)
    world = World(tmp_path, f"age_identity_file: {tmp_path}/identity\nsecrets_dir: {folder}\n", SHOWS_SECRET)
    encrypted = world.config.path / "secrets"
    encrypted.mkdir()
    programs = tmp_path / "bin"
    programs.mkdir()
    if place == "a file":
        (folder / "api-token").write_text(canary)
    elif place == "a file of the target":
        (folder / "api" / "api-token").write_text(canary)
    elif place == "age":
        (encrypted / "api-token.age").write_bytes(pyrage.encrypt(canary.encode(), [identity.to_public()]))
    else:
        hidden = base64.b64encode(canary.encode()).decode()
        (encrypted / "all.sops.yaml").write_text(json.dumps({"api-token": hidden}))
        (programs / "sops").write_text(SOPS.format(python=sys.executable))
        (programs / "sops").chmod(0o755)
    world.pin(world.app.first, secrets="{TOKEN: api-token}")
    done = world.product.run("run", "--once", PATH=f"{programs}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    assert world.product.deployed("api") == [str(len(canary)), world.app.first]
    assert "it is ***" in world.product.run("logs", "api").stdout
    for path in world.product.state.rglob("*"):
        if path.is_file():
            assert canary.encode() not in path.read_bytes(), path
    shown = [done.stdout, done.stderr]
    shown += [
        world.product.run(*verb).stdout for verb in (("status", "-o", "json"), ("history", "api"), ("why", "api"))
    ]
    assert not [text for text in shown if canary in text]


def test_a_changed_secret_is_a_new_version_only_where_that_is_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    world = World(tmp_path, f"secrets_dir: {folder}\n", SHOWS_SECRET)
    (folder / "token").write_text("first")
    world.config.pin(
        targets(
            target("api", world.app.url, world.app.first, secrets="{TOKEN: token}", redeploy_on_secret_change="true"),
            target("web", world.app.url, world.app.first, secrets="{TOKEN: token}"),
        )
    )
    assert world.product.once() == 0
    (folder / "token").write_text("rotated")
    assert world.product.once() == 0
    assert world.product.once() == 0
    assert [deploy["cause"] for deploy in world.product.history("api")] == ["new_version", "new_version"]
    assert len(world.product.history("web")) == 1
    (folder / "token").unlink()
    assert world.product.once() == 1
    assert "secret token is missing" in world.product.status()["web"]["decision"]["message"]


# --- drift ------------------------------------------------------------------------------------------------


def test_drift_is_seen_shown_and_healed(tmp_path: Path) -> None:
    world = World(tmp_path, makefile=OBSERVED)
    world.pin(world.app.first, observe="{make: deployed-commit, every: 1s}")
    with world.product.daemon() as daemon:
        daemon.wait_in_sync("api", world.app.first)
        daemon.wait_for(
            lambda: daemon.metric('reconciler_observations_total{result="same",target="api"}') >= 1, "a look at it"
        )
        (world.product.site / "now").write_text("b" * 40 + "\n")  # somebody deployed something else by hand
        daemon.wait_for(lambda: len(world.product.deployed("api")) == 2, "the healing deploy")
        daemon.wait_in_sync("api", world.app.first)
        assert daemon.target("api")["drift"] is None
    causes = [deploy["cause"] for deploy in world.product.history("api")]
    assert causes == ["new_version", "drift"]
    assert "bbbbbbbbbb was seen instead of" in world.product.history("api")[1]["cause_message"]
    assert any(line["event"] == "target.observed" and line["result"] == "drift" for line in world.product.log_lines())


def test_drift_that_stays_is_healed_no_more_often_than_it_is_looked_for(tmp_path: Path) -> None:
    stuck = '.PHONY: deploy deployed-commit\ndeploy:\n\t@echo x >> "$(SITE)/api"\ndeployed-commit:\n\t@echo bbbbbbbb\n'
    world = World(tmp_path, makefile=stuck)
    world.pin(world.app.first, observe="{make: deployed-commit, every: 1h}")
    world.product.once()
    world.product.once()
    assert world.product.deployed("api") == ["x"]
    decision = world.product.status()["api"]["decision"]
    assert decision["reason"] == "backoff"
    assert "bbbbbbbb was seen instead of" in decision["message"]


def test_a_dry_run_observes_nothing(tmp_path: Path) -> None:
    looks = '.PHONY: deploy look\ndeploy:\n\t@echo x >> "$(SITE)/api"\n'
    looks += 'look:\n\t@echo x >> "$(SITE)/looked"; echo bbbbbbbb\n'
    world = World(tmp_path, makefile=looks)
    world.pin(world.app.first, observe="{make: look, every: 1h}")
    world.product.once()
    assert world.product.run("plan").returncode == 0
    assert world.product.deployed("looked") == []
    world.product.once()
    assert world.product.deployed("looked") == ["x"]


def test_an_observer_that_fails_is_no_drift(tmp_path: Path) -> None:
    broken = '.PHONY: deploy deployed-commit\ndeploy:\n\t@echo x >> "$(SITE)/api"\ndeployed-commit:\n\t@exit 3\n'
    world = World(tmp_path, makefile=broken)
    world.pin(world.app.first, observe="{make: deployed-commit, every: 1s}")
    assert world.product.once() == 0
    assert world.product.once() == 0
    assert world.product.deployed("api") == ["x"]
    said = world.product.run("run", "--once").stderr
    assert "make deployed-commit exited with 2" in said
    assert not list((world.product.state / "runs").iterdir())


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"build": {"commit": "HEAD"}}', "in_sync"),
        (b'{"build": {"commit": "SHORT"}}', "in_sync"),
        (b'{"build": {"commit": "cccccccccccc"}}', "backoff"),
        (b'{"build": {}}', "in_sync"),
        (b"<html>", "in_sync"),
        (b'{"build": {"commit": "main"}}', "in_sync"),
    ],
)
def test_an_http_address_can_say_what_is_deployed(tmp_path: Path, body: bytes, reason: str) -> None:
    world = World(tmp_path)
    commit = world.app.first.encode()
    with serving(tmp_path / "git") as server:
        world.pin(world.app.first, observe=f'{{url: "{server.url}/version", json: /build/commit, every: 1h}}')
        server.answer = ("200 OK", [], body.replace(b"HEAD", commit).replace(b"SHORT", commit[:9]))
        world.product.once()
        world.product.once()
        assert world.product.status()["api"]["decision"]["reason"] == reason
        server.answer = ("302 Found", [("Location", "/elsewhere")], b"")
        world.product.once()
        assert world.product.status()["api"]["decision"]["reason"] == reason
