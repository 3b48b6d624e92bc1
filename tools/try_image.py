"""Run the Dockerfile's steps and its entry point without a container engine: in folders made by debootstrap.

    sudo python tools/try_image.py [FOLDER]

The base image is Debian trixie with its own Python instead of python:3.13-slim-trixie; everything else is the
Dockerfile, line by line. The result then runs as it would in a container: user 10001, read-only root, one volume,
tini as PID 1.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
MIRROR = "http://deb.debian.org/debian"
PACKAGES = "python3,python3-venv,ca-certificates"
HOST_FILES = ("/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf")
PASSED = ("PIP_CERT", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy")


def sh(*command: str | Path, **env: str) -> str:
    """Run a command, show what it is, and return what it printed."""
    done = subprocess.run(
        [*map(str, command)], stdout=subprocess.PIPE, text=True, check=False, env={**os.environ, **env}
    )
    if done.returncode:
        sys.exit(f"{shlex.join(map(str, command))}: exit code {done.returncode}\n{done.stdout[-3000:]}")
    return done.stdout


def base(folder: Path) -> None:
    """Make the base image, once."""
    if not (folder / "usr" / "bin" / "python3").exists():
        sh("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "trixie", folder, MIRROR)
    (folder / "usr" / "local" / "bin" / "python").unlink(missing_ok=True)
    (folder / "usr" / "local" / "bin" / "python").symlink_to("/usr/bin/python3")
    for file in filter(os.path.exists, HOST_FILES):
        (folder / file[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder / file[1:])


class Stage:
    """One stage of the build."""

    def __init__(self, folder: Path, origin: Path) -> None:
        self.folder = folder
        self.directory = "/"
        self.env: dict[str, str] = {}
        self.user = "0:0"
        self.entry: list[str] = []
        shutil.rmtree(folder, ignore_errors=True)
        sh("cp", "-a", origin, folder)

    def run(self, script: str) -> None:
        """Do what RUN does."""
        inherited = {name: os.environ[name] for name in PASSED if name in os.environ}
        variables = [f"{key}={value}" for key, value in ({"PATH": PATH} | inherited | self.env).items()]
        where = f"cd {shlex.quote(self.directory)} && {script}"
        sh("chroot", f"--userspec={self.user}", self.folder, "/usr/bin/env", "-i", *variables, "/bin/sh", "-c", where)

    def copy(self, words: list[str], stages: dict[str, Stage]) -> None:
        """Do what COPY does."""
        origin = ROOT
        if words[0].startswith("--from="):
            origin = stages[words.pop(0).partition("=")[2]].folder
        *sources, target = words
        into = self.folder / os.path.join(self.directory, target).lstrip("/")  # noqa: PTH118 - an absolute target wins
        for source in sources:
            found = origin / source.lstrip("/")
            place = into / found.name if target.endswith("/") else into
            place = into if found.is_dir() else place
            (place if found.is_dir() else place.parent).mkdir(parents=True, exist_ok=True)
            sh("cp", "-aT", found, place / found.name if place.is_dir() and not found.is_dir() else place)


PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def build(work: Path) -> Stage:
    """Run every step of the Dockerfile; return its last stage."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    stages: dict[str, Stage] = {}
    for line in filter(str.strip, lines):
        word, _, rest = line.strip().partition(" ")
        print(f"{word} {rest[:100]}", flush=True)  # noqa: T201 - the progress of the build
        if word == "FROM":
            name = rest.partition(" AS ")[2] or "last"
            stage = stages[name] = Stage(work / name, work / "base")
        elif word == "RUN":
            stage.run(rest)
        elif word == "COPY":
            stage.copy(shlex.split(rest), stages)
        elif word == "ENV":
            for pair in shlex.split(rest):
                key, _, value = pair.partition("=")
                stage.env[key] = value.replace("$PATH", PATH)
        elif word == "USER":
            stage.user = rest
        elif word == "WORKDIR":
            stage.directory = rest
            (stage.folder / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif word == "ENTRYPOINT":
            stage.entry = json.loads(rest)
    return stages["last"]


def start(stage: Stage, work: Path, *arguments: str) -> str:
    """Run the entry point as a container would."""
    volume = work / "volume"
    volume.mkdir(exist_ok=True)
    sh("chown", "10001:10001", volume)
    root = shlex.quote(str(stage.folder))
    variables = shlex.join(f"{key}={value}" for key, value in ({"PATH": PATH} | stage.env).items())
    script = (
        f"mount --bind {root} {root} && mount -o remount,ro,bind {root} && mount -t tmpfs tmpfs {root}/tmp && "  # noqa: S108 - its own
        f"mount --bind {shlex.quote(str(volume))} {root}/var/lib/reconciler && mount -t proc proc {root}/proc && "
        f"exec chroot --userspec={stage.user} {root} /usr/bin/env -i {variables} "
        f"{shlex.join([*stage.entry, *arguments])}"
    )
    return sh("unshare", "--mount", "--pid", "--fork", "/bin/sh", "-c", script)


def main() -> None:
    """Build it and try it."""
    work = Path(sys.argv[1] if len(sys.argv) > 1 else "/var/tmp/reconciler-image")  # noqa: S108 - needs much room
    work.mkdir(parents=True, exist_ok=True)
    base(work / "base")
    stage = build(work)
    for arguments in (("version",), ("demo", "--once"), ("validate", "--help")):
        said = start(stage, work, *arguments)
        print(f"--- {' '.join([*stage.entry, *arguments])}\n{said}", flush=True)  # noqa: T201 - the result
    size = sh("du", "-sm", "--exclude=proc", stage.folder / "opt").split()[0]
    print(f"the Dockerfile's steps work; /opt has {size} MiB")  # noqa: T201 - the result


if __name__ == "__main__":
    main()
