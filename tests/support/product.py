"""The product as its users have it: the command, as a process."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.hooks import Sent

PATIENCE_S = 30.0  # for things that take milliseconds, on a machine that may be busy


class Product:
    """One config repository, one state directory, one site that deploys write to."""

    def __init__(self, root: Path, config_url: str, settings: str = "", interval: str = "1s") -> None:
        self.root = root
        self.site = root / "site"
        self.site.mkdir(exist_ok=True)
        self.state = root / "state"
        self.settings = root / "reconciler.yaml"
        self.settings.write_text(
            f"config_repo: {{url: '{config_url}', interval: {interval}}}\n"
            f"state_dir: {self.state}\nlisten: 127.0.0.1:0\nallow_local_repos: true\nkill_grace: 1s\n"
            f"pass_env: [PATH, SITE, DEMO_VARIABLE]\nlog: {{format: json}}\n{settings}"
        )
        self.env = {
            key: value for key, value in os.environ.items() if not key.startswith(("RECONCILER_", "COV_CORE", "GIT_"))
        } | {"SITE": str(self.site)}

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a verb with our settings."""
        verb, *rest = arguments
        command = [sys.executable, "-m", "reconciler", verb, "--config", str(self.settings), *rest]
        return subprocess.run(command, env={**self.env, **env}, capture_output=True, text=True, timeout=60, check=False)

    def once(self) -> int:
        """Run once; return the exit code."""
        return self.run("run", "--once").returncode

    def status(self, *names: str) -> dict[str, Any]:
        """Return the targets' views by name."""
        done = self.run("status", "-o", "json", *names)
        assert done.stdout, done.stderr
        return {view["name"]: view for view in json.loads(done.stdout)["targets"]}

    def history(self, target: str) -> list[dict[str, Any]]:
        """Return the deploys of a target, the oldest first."""
        found: list[dict[str, Any]] = json.loads(self.run("history", target, "-o", "json").stdout)["deploys"]
        return found[::-1]

    def deployed(self, target: str) -> list[str]:
        """Return what the site says was deployed, in order: the state of the world."""
        file = self.site / target
        return file.read_text().split() if file.exists() else []

    @contextmanager
    def daemon(self, **env: str) -> Iterator[Daemon]:
        """Run the daemon; stop it at the end, if the test has not."""
        log = (self.root / "daemon.log").open("a")
        process = subprocess.Popen(
            [sys.executable, "-m", "reconciler", "run", "--config", str(self.settings)],
            env={**self.env, **env},
            stdout=log,
            stderr=log,
        )
        log.close()
        daemon = Daemon(self, process)
        try:
            daemon.wait_for(lambda: daemon.address() is not None, "the daemon to listen")
            yield daemon
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(0.5)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGTERM)  # what still runs is cancelled
                try:
                    process.wait(PATIENCE_S)
                finally:
                    process.kill()

    def log_lines(self) -> list[dict[str, Any]]:
        """Return the daemon's log events."""
        text = (self.root / "daemon.log").read_text()
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


@dataclass(frozen=True)
class Answer:
    """What a request was answered with."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Daemon:
    """A running daemon."""

    def __init__(self, product: Product, process: subprocess.Popen[bytes]) -> None:
        self.product = product
        self.process = process
        self._begins = len(product.log_lines())

    def address(self, key: str = "listen") -> str | None:
        for line in self.product.log_lines()[self._begins :]:
            if line["event"] == "daemon.started":
                return str(line[key])
        return None

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}, key: str = "listen"
    ) -> Answer:
        """Send one request over a connection of its own."""
        address = self.address(key)
        assert address is not None
        connection = http.client.HTTPConnection(address, timeout=20)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read().decode())
        finally:
            connection.close()

    def post(self, sent: Sent, key: str = "listen") -> Answer:
        """Send a webhook's delivery."""
        return self.ask("POST", sent.path, sent.body, sent.headers, key)

    def metric(self, line: str) -> float:
        """Return the value of one series of /metrics; 0 where there is none."""
        for found in self.get("/metrics").splitlines():
            if found.startswith(line + " "):
                return float(found.rpartition(" ")[2])
        return 0.0

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self.address()}{path}", timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    def get_error(self, path: str) -> tuple[int, str, str]:
        """Return status, content type and body of an answer that is an error."""
        try:
            text = self.get(path)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["Content-Type"], error.read().decode()
        raise AssertionError(f"{path} is no error: {text}")

    def target(self, name: str) -> dict[str, Any]:
        view: dict[str, Any] = json.loads(self.get(f"/api/v1/targets/{name}"))
        return view

    def wait_for(self, claim: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not claim():
            if self.process.poll() is not None or time.monotonic() > deadline:
                log = (self.product.root / "daemon.log").read_text()
                raise AssertionError(f"waited in vain for {what}; the daemon's log:\n{log}")
            time.sleep(0.02)

    def wait_in_sync(self, name: str, commit: str) -> None:
        def claim() -> bool:
            try:
                view = self.target(name)
            except OSError:
                return False
            return bool(view["deployed"] == commit and view["decision"]["reason"] == "in_sync")

        self.wait_for(claim, f"{name} to be in sync at {commit}")

    def wait_reason(self, name: str, reason: str) -> None:
        def claim() -> bool:
            try:
                return bool(self.target(name)["decision"]["reason"] == reason)
            except OSError:
                return False

        self.wait_for(claim, f"{name} to be {reason}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
