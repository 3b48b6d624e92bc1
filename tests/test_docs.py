"""The commands of the documentation do what it says: every `sh` block is run against a real daemon."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from support.hooks import SECRET
from support.needs import need_program
from support.product import Daemon
from support.repos import target, targets
from support.world import World

from reconciler.cli import cli
from reconciler.config import settings as settings_module

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
SH = [
    (page.name, number, block)
    for page in PAGES
    for number, block in enumerate(re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL))
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Daemon]]:
    root = tmp_path_factory.mktemp("docs")
    (root / "hook").write_bytes(SECRET)
    (root / "token").write_text("let me in")
    world = World(root, f"api_token_file: {root}/token\nwebhooks: {{generic: {{secret_files: [{root}/hook]}}}}\n")
    names = ("api", "api-production")
    world.config.pin(targets(*(target(name, world.app.url, world.app.first) for name in names)))
    programs = root / "bin"
    programs.mkdir()
    command = programs / "reconciler"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m reconciler "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    with world.product.daemon() as daemon:
        for name in names:
            daemon.wait_in_sync(name, world.app.first)
        yield world, daemon


@pytest.mark.parametrize(("page", "number", "block"), SH, ids=[f"{page}-{number}" for page, number, _ in SH])
def test_the_commands_of_a_page_work(
    place: tuple[World, Daemon], page: str, number: int, block: str, tmp_path: Path
) -> None:
    del page, number  # they are in the test's name
    need_program("curl", "curl")
    world, daemon = place
    root = world.product.root
    script = block.replace("127.0.0.1:8080", str(daemon.address())).replace("/etc/reconciler/hook", str(root / "hook"))
    (tmp_path / "token").write_text("let me in")
    done = subprocess.run(
        ["sh", "-euc", script],
        cwd=tmp_path,
        env={
            **world.product.env,
            "PATH": f"{root}/bin:{os.environ['PATH']}",
            "STATE_DIR": str(world.product.state),
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"status": 4' not in done.stdout, done.stdout
    assert '"detail"' not in done.stdout, done.stdout


@pytest.mark.parametrize("page", ["install.md", "credentials.md", "webhooks.md"])
def test_the_settings_of_a_page_are_valid(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    blocks = re.findall(r"^( *)```yaml\n(.*?)^\1```", text, re.MULTILINE | re.DOTALL)
    assert blocks
    for indent, block in blocks:
        data = "\n".join(line.removeprefix(indent) for line in block.splitlines())
        settings_module.load(data.encode(), page, {}, {})


def test_there_are_commands_to_run() -> None:
    assert {page for page, _, _ in SH} >= {"api.md", "install.md", "operation.md", "webhooks.md"}


def test_verbs_in_the_documentation_exist() -> None:
    verbs = set(cli.list_commands(click.Context(cli)))
    for page in (*PAGES, ROOT / "README.md"):
        for verb in re.findall(r"`reconciler ([a-z]+)", page.read_text()):
            assert verb in verbs, f"{page.name}: {verb}"
