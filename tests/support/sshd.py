"""A real ssh server: OpenSSH's own, on a port of its own, with keys of its own, for the user who runs the tests."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.needs import need, need_program

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
PATIENCE_S = 20.0


def make_key(file: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    return file


class SshServer:
    """Serves every repository below `root` to whoever has the user's key. Notes connections and commands."""

    def __init__(self, root: Path, folder: Path) -> None:
        need(os.access(SSHD, os.X_OK), "sshd", "sudo apt-get install openssh-server")
        need_program("ssh-keygen", "openssh-client")
        self.root, self.folder = root, folder
        folder.mkdir(mode=0o700)
        self.host_key = make_key(folder / "host")
        self.user_key_file = make_key(folder / "user")
        self.known_hosts = folder / "known_hosts"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, version_2: bool = True) -> None:
        shutil.copy(self.user_key_file.with_suffix(".pub"), self.folder / "authorized")
        wrapper = self.folder / "wrapper"
        wrapper.write_text(
            f'#!/bin/sh\necho "$SSH_ORIGINAL_COMMAND" >> {self.folder}/commands\n'
            "export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'\n"
            'exec sh -c "$SSH_ORIGINAL_COMMAND"\n'
        )
        wrapper.chmod(0o755)
        (self.folder / "config").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {self.host_key}\nPidFile {self.folder}/pid\n"
            f"AuthorizedKeysFile {self.folder}/authorized\nForceCommand {wrapper}\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nMaxStartups 100\n"
            + ("AcceptEnv GIT_PROTOCOL\n" if version_2 else "")
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        command = [SSHD, "-D", "-E", str(self.folder / "log"), "-f", str(self.folder / "config")]
        self.process = subprocess.Popen(command)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.05)
        self.trust()

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None

    def trust(self, key: Path | None = None) -> None:
        """Write our host key (or another one) into known_hosts."""
        line = (key or self.host_key).with_suffix(".pub").read_text()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {line}")

    @property
    def connections(self) -> int:
        return (self.folder / "log").read_text().count("Accepted publickey")

    @property
    def commands(self) -> list[str]:
        file = self.folder / "commands"
        return file.read_text().splitlines() if file.exists() else []

    def url(self, name: str) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{self.root}/{name}"


@contextmanager
def ssh_serving(root: Path, folder: Path, *, version_2: bool = True) -> Iterator[SshServer]:
    server = SshServer(root, folder)
    server.start(version_2=version_2)
    try:
        yield server
    finally:
        server.stop()
