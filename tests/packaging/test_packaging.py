"""What is installed: the unit, the image, the compose file, the wheel. With the programs that judge them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from support.needs import need_program
from support.world import World

from reconciler import __version__
from reconciler.config import settings as settings_module

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "packaging" / "systemd" / "reconciler.service"
TOOLS = Path(sys.executable).parent
MOST_EXPOSED = 30  # tenths, as systemd-analyze counts: 2.0 was measured, 3.0 would be a step back


def run(*command: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **more}
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, env=environment, cwd=ROOT)


# --- image and compose ------------------------------------------------------------------------------------


def test_the_dockerfile_is_clean() -> None:
    done = run(TOOLS / "hadolint", ROOT / "Dockerfile")
    assert done.returncode == 0, done.stdout


def test_the_image_is_small_unprivileged_and_checked() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert text.index("COPY requirements") < text.index("COPY reconciler"), "the lock comes first, for the cache"
    assert "tini" in text
    assert "HEALTHCHECK" in text
    assert text.count("--require-hashes") == 2


def test_the_compose_file_fits_its_schema() -> None:
    done = run(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", ROOT / "compose.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_file_that_compose_mounts_is_there() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    for service in compose["services"].values():
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            if source.startswith("./") and source not in ("./reconciler.yaml", "./api_token"):
                assert (ROOT / source).exists(), source
    assert compose["services"]["reconciler"]["read_only"]


# --- systemd ----------------------------------------------------------------------------------------------


def test_the_unit_is_sound(tmp_path: Path) -> None:
    need_program("systemd-analyze", "systemd")
    unit = tmp_path / "reconciler.service"  # with programs and users that are on this machine
    text = UNIT.read_text().replace("/opt/reconciler/bin/reconciler", shutil.which("true") or "/bin/true")
    unit.write_text(text.replace("=reconciler\n", "=root\n"))
    (tmp_path / "reconciler.service.d").mkdir()
    shutil.copy(UNIT.parent / "reconciler.service.d" / "loosen.conf", tmp_path / "reconciler.service.d")
    done = run("systemd-analyze", "verify", "--man=no", unit)
    complaints = [line for line in done.stderr.splitlines() if "reconciler.service" in line]
    assert not complaints, done.stderr
    assert done.returncode == 0, done.stderr


def test_the_unit_is_hardened() -> None:
    need_program("systemd-analyze", "systemd")
    done = run("systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSED}", UNIT)
    assert done.returncode == 0, done.stdout[-300:]


def test_the_unit_fits_the_daemon() -> None:
    text = UNIT.read_text()
    for line in (
        "Type=notify",
        "KillMode=mixed",
        "RestartPreventExitStatus=78",
        "Delegate=yes",
        "StateDirectory=reconciler",
    ):
        assert f"\n{line}\n" in text
    found = settings_module.load(None, "", {}, {})
    minutes = int(re.findall(r"^TimeoutStopSec=(\d+)min$", text, re.MULTILINE)[0])
    assert minutes * 60 > found.drain_timeout_s + found.kill_grace_s
    assert found.state_dir == "/var/lib/reconciler"


def test_systemd_is_told_ready_alive_and_stopping(tmp_path: Path) -> None:
    """Stand where systemd stands: listen on the socket that the daemon is given."""
    world = World(tmp_path, makefile=".PHONY: deploy\ndeploy:\n\t@env > $(SITE)/env\n")
    world.pin(world.app.first)
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(20)
        with world.product.daemon(NOTIFY_SOCKET=str(address), WATCHDOG_USEC="60000000") as daemon:
            assert "READY=1" in manager.recv(4096).decode()
            heard = {manager.recv(4096).decode() for _ in range(3)}
            assert heard == {"WATCHDOG=1"}  # a second apart, from the scheduler's own tick
            daemon.wait_in_sync("api", world.app.first)
            daemon.process.terminate()
            said = ""
            while "STOPPING=1" not in said:
                said = manager.recv(4096).decode()
    seen = (world.product.site / "env").read_text()
    assert "NOTIFY_SOCKET" not in seen
    assert "WATCHDOG" not in seen


def test_without_systemd_nothing_is_said(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.pin(world.app.first)
    with world.product.daemon(NOTIFY_SOCKET=str(tmp_path / "nobody")) as daemon:
        daemon.wait_in_sync("api", world.app.first)


# --- wheel and sdist --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Build twice from clean copies; return both folders."""
    folders = []
    for name in ("one", "two"):
        copy, out = tmp_path_factory.mktemp(name) / "source", tmp_path_factory.mktemp(f"dist-{name}")
        files = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").stdout.split("\0")
        for file in filter(None, files):
            if (ROOT / file).exists():
                (copy / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / file, copy / file)
        done = subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-d", str(out)],
            cwd=copy,
            env={**os.environ, "SOURCE_DATE_EPOCH": "1763600000"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        folders.append(out)
    return folders


def test_wheel_and_sdist_are_built_the_same_each_time(built: list[Path]) -> None:
    def digests(folder: Path) -> dict[str, str]:
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}

    assert digests(built[0]) == digests(built[1])
    assert len(digests(built[0])) == 2


def test_the_wheel_is_whole(built: list[Path]) -> None:
    wheel = next(built[0].glob("*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "reconciler/py.typed",
        "reconciler/store/sql/queries.sql",
        "reconciler/web/templates/overview.html",
        "reconciler/web/static/page.js",
        "reconciler/cli/example/deployments/hello.yaml",
    ):
        assert needed in names
    assert not [name for name in names if name.startswith(("tests", "tools", "benchmarks"))]
    metadata = next(name for name in names if name.endswith("METADATA"))
    text = zipfile.ZipFile(wheel).read(metadata).decode()
    assert f"Version: {__version__}" in text
    assert "License-Expression: Apache-2.0" in text
    assert "Requires-Python: >=3.11" in text


def test_the_sdist_has_what_a_packager_needs(built: list[Path]) -> None:
    sdist = next(built[0].glob("*.tar.gz"))
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "packaging/systemd/reconciler.service", "pyproject.toml"} <= names


def test_the_wheel_works_in_an_environment_of_its_own(built: list[Path], tmp_path: Path) -> None:
    """Only the dependencies are borrowed, so that nothing is fetched; the package itself comes from the wheel."""
    place = tmp_path / "venv"
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    wheel = next(built[0].glob("*.whl"))
    done = run(
        *(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps", wheel)
    )
    assert done.returncode == 0, done.stderr
    library = next((place / "lib").glob("python*")) / "site-packages"
    (library / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = place / "bin" / "reconciler"
    where = run(python, "-c", "import reconciler; print(reconciler.__file__)", PYTHONSAFEPATH="1")
    assert str(library) in where.stdout
    assert run(command, "version").stdout.startswith(f"reconciler {__version__}\n")
    demo = run(command, "demo", "--once")
    assert demo.returncode == 0, demo.stderr
    assert "hello-production" in demo.stdout
    for shell in ("bash", "zsh", "fish"):
        assert "_RECONCILER_COMPLETE" in run(command, "completion", shell).stdout
