"""The time of a scrape with 100 targets of 50 Sources, beside a bare registry that has as many series.

python -m benchmarks.scrape
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from benchmarks.webhooks import free_port

TARGETS, SOURCES, SCRAPES = 100, 50, 40
MAKEFILE = ".PHONY: deploy\ndeploy:\n\t@echo deployed\n"


def median_ms(work: Callable[[], object]) -> tuple[float, float]:
    """Return median and slowest time of SCRAPES calls in milliseconds."""
    times = []
    for _ in range(SCRAPES):
        began = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - began))
    times.sort()
    return times[len(times) // 2], times[-1]


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder."""
    identity = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def make_world(root: Path) -> None:
    """Make SOURCES repositories, and a config repository with TARGETS targets of them."""
    entries = []
    for number in range(SOURCES):
        folder = root / f"app{number}"
        folder.mkdir()
        git(folder, "init", "-q", "-b", "main")
        (folder / "Makefile").write_text(MAKEFILE)
        git(folder, "add", "-A")
        git(folder, "commit", "-qm", "first")
        head = git(folder, "rev-parse", "HEAD")
        twins = range(TARGETS // SOURCES)
        entries += [f"  t{number}-{twin}: {{repo: {folder}, commit: {head}}}\n" for twin in twins]
    config = root / "config"
    (config / "deployments").mkdir(parents=True)
    git(config, "init", "-q", "-b", "main")
    (config / "deployments" / "all.yaml").write_text("targets:\n" + "".join(entries))
    git(config, "add", "-A")
    git(config, "commit", "-qm", "pins")


def bare(series: int) -> Callable[[], bytes]:
    """Return what renders a registry of so many gauges with one label."""
    registry = CollectorRegistry()
    gauge = Gauge("bench_series", "As many series.", ["number"], registry=registry)
    for number in range(series):
        gauge.labels(str(number)).set(number)
    return lambda: generate_latest(registry)


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        root, port = Path(folder), free_port()
        make_world(root)
        (root / "reconciler.yaml").write_text(
            f"config_repo: {{url: {root}/config}}\nallow_local_repos: true\nstate_dir: {root}/state\n"
            f"listen: 127.0.0.1:{port}\nlog: {{level: error}}\n"
        )
        command = [sys.executable, "-m", "reconciler", "run", "--config", str(root / "reconciler.yaml")]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

        def get(path: str) -> bytes:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                found: bytes = answer.read()
                return found

        try:
            in_sync = 0
            while in_sync < TARGETS:
                time.sleep(0.5)
                try:
                    views = json.loads(get("/api/v1/targets"))["targets"]
                except OSError:
                    continue
                in_sync = sum(view["decision"]["reason"] == "in_sync" for view in views)
            text = get("/metrics").decode()
            series = sum(not line.startswith("#") for line in text.splitlines())
            middle, slowest = median_ms(lambda: get("/metrics"))
        finally:
            process.terminate()
            process.wait()
    bare_middle, _ = median_ms(bare(series))
    print(f"a scrape with {TARGETS} targets of {SOURCES} Sources: {series} series, {len(text) // 1024} KiB")
    print(f"  reconciler, over HTTP            p50 {middle:6.1f} ms  slowest {slowest:6.1f} ms")
    print(f"  bare registry, in the process    p50 {bare_middle:6.1f} ms")
    print(f"  ratio {middle / bare_middle:.1f}")


if __name__ == "__main__":
    main()
