"""The daemon with 10,000 Sources that it polls every minute: processor, memory, and how late polls are.

    python -m benchmarks.sources [SOURCES]

Everything is real but the repositories: the daemon's own process, its store, and a target for each Source (suspended,
so that nothing is deployed). Its mirrors are links to one mirror, as nothing is ever fetched. Nobody scrapes it
meanwhile.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from benchmarks.scrape import git
from benchmarks.webhooks import free_port, server
from reconciler.git import library, mirror

SOURCES, INTERVAL_S, MEASURED_S = 10_000, 60, 120
FILES = 20
LEAST = 0.99


def make_world(root: Path, port: int, sources: int) -> str:
    """Make the config repository and the mirrors; return the commit that every Source has."""
    library.prepare(60)
    app = root / "app"
    app.mkdir()
    git(app, "init", "-q", "-b", "main")
    git(app, "commit", "-q", "--allow-empty", "-m", "first")
    mirrors = root / "state" / "mirrors"
    mirror.fetch(app.as_uri(), root / "one.git", [], None)
    mirrors.mkdir(parents=True)
    config = root / "config"
    (config / "deployments").mkdir(parents=True)
    for number in range(FILES):
        lines = ["targets:"]
        for index in range(number, sources, FILES):
            url = f"http://127.0.0.1:{port}/r{index}"
            (mirrors / library.mirror_name(url)).symlink_to(root / "one.git")
            lines.append(f"  t{index}: {{repo: '{url}', follow: main, interval: {INTERVAL_S}s, suspend: true}}")
        (config / "deployments" / f"{number}.yaml").write_text("\n".join(lines) + "\n")
    git(config, "init", "-q", "-b", "main")
    git(config, "add", "-A")
    git(config, "commit", "-qm", "pins")
    return git(app, "rev-parse", "HEAD")


def used_s(pid: int) -> float:
    """Return the processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    """Return the memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024**2


def asked(port: int) -> dict[str, list[float]]:
    """Return when each repository was asked."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/count", timeout=60) as answer:
        found: dict[str, list[float]] = json.loads(answer.read())
    return found


def scrape(port: int) -> str:
    """Return the daemon's metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text: str = answer.read().decode()
        return text


def lateness(metrics: str) -> tuple[int, str]:
    """Return how many polls there were, and the smallest bound that holds 99 % of their lateness."""
    found = re.findall(r'^reconciler_poll_lateness_seconds_bucket{le="(.*)"} (.*)$', metrics, re.MULTILINE)
    whole = float(found[-1][1])
    return int(whole), next(bound for bound, count in found if float(count) >= LEAST * whole)


def main() -> None:
    """Measure and print."""
    sources = int(sys.argv[1]) if len(sys.argv) > 1 else SOURCES
    with tempfile.TemporaryDirectory() as name:
        root, port, own = Path(name), free_port(), free_port()
        commit = make_world(root, port, sources)
        (root / "reconciler.yaml").write_text(
            f"config_repo: {{url: {root}/config, interval: 1h}}\nallow_local_repos: true\nstate_dir: {root}/state\n"
            f"listen: 127.0.0.1:{own}\nlog: {{level: error}}\n"
        )
        command = [sys.executable, "-m", "benchmarks.manyserver", commit, str(port)]
        with server(command, port, 0):
            log = (root / "log").open("w")
            daemon = subprocess.Popen(
                [sys.executable, "-m", "reconciler", "run", "--config", str(root / "reconciler.yaml")], stderr=log
            )
            try:
                began = time.monotonic()
                while len(asked(port)) < sources:
                    time.sleep(2)
                print(f"{sources} Sources: all polled for the first time after {time.monotonic() - began:.0f} s")
                time.sleep(INTERVAL_S / 2)
                before, began = used_s(daemon.pid), time.monotonic()
                time.sleep(MEASURED_S)
                cpu = (used_s(daemon.pid) - before) / (time.monotonic() - began)
                memory = resident_mib(daemon.pid)
                times, metrics = asked(port), scrape(own)
            finally:
                daemon.terminate()
                daemon.wait()
    count, late = lateness(metrics)
    beyond = 1024 * (memory - 150) / sources
    print(f"  {100 * cpu:.1f} % of a core, {memory:.0f} MiB ({beyond:+.1f} KiB a Source beyond 150 MiB)")
    print(f"  {count} polls, of which 99 % began within {late} s after they were due")
    print(f"  {sum(map(len, times.values()))} requests were counted by the server")


if __name__ == "__main__":
    main()
