"""Rules, dashboard and metrics, with the real promtool and a real Prometheus that scrapes a real daemon."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.hooks import SECRET, push
from support.needs import need_program
from support.product import PATIENCE_S, Daemon, Product
from support.repos import MAKEFILE, Application, Config, target, targets

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "monitoring"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"] for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "grafana" / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
FAIL = ".PHONY: deploy\ndeploy:\n\texit 3\n"
SLOW = ".PHONY: deploy\ndeploy:\n\tsleep 1000\n"


def promtool(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    need_program("promtool", "prometheus")
    return subprocess.run(["promtool", *arguments], input=text, capture_output=True, text=True, check=False)


# --- rules ------------------------------------------------------------------------------------------------


def test_the_rules_are_sound() -> None:
    done = promtool("check", "rules", str(MONITORING / "rules.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_do_what_they_say() -> None:
    done = promtool("test", "rules", str(MONITORING / "rules.test.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_has_a_case_that_fires_and_one_that_is_silent() -> None:
    cases = yaml.safe_load((MONITORING / "rules.test.yaml").read_text())["tests"]
    alerts = [test for case in cases for test in case.get("alert_rule_test", ())]
    expressions = {test["expr"] for case in cases for test in case.get("promql_expr_test", ())}
    for rule in RULES:
        if "record" in rule:
            assert rule["record"] in expressions, rule["record"]
            continue
        mine = [test for test in alerts if test["alertname"] == rule["alert"]]
        assert any(test.get("exp_alerts") for test in mine), rule["alert"]
        # Where there is no empty case, a series that must stay silent stands beside the firing one.
        silent = any(not test.get("exp_alerts") for test in mine)
        assert silent or rule["alert"] in ("ReconcilerDeployFailed", "ReconcilerTargetStalled"), rule["alert"]


@pytest.mark.parametrize("rule", [rule for rule in RULES if "alert" in rule], ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    annotations = rule["annotations"]
    page, _, section = annotations["runbook_url"].partition("#")
    assert section == rule["alert"].lower()
    assert f"## {rule['alert']}\n" in (ROOT / page).read_text()
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert "{{" in annotations["summary"]


# --- dashboard --------------------------------------------------------------------------------------------


def test_the_committed_dashboard_is_the_generated_one() -> None:
    script = "import sys; sys.path.insert(0, 'tools'); import dashboard; sys.stdout.write(dashboard.text())"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == (MONITORING / "grafana" / "dashboard.json").read_text(), "run tools/dashboard.py"


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: str(panel["title"]))
def test_a_panel_is_complete(panel: dict[str, Any]) -> None:
    assert len(panel["description"]) > 5
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"]["uid"] == "${datasource}"
    assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    for query in panel["targets"]:
        expression = query["expr"]
        assert 'job="$job"' in expression
        for counter in re.findall(r"\w+_total\b", expression):
            wrapped = re.search(rf"(rate|increase|changes)\(\s*{counter}\{{[^}}]*\}}\[", expression)
            assert wrapped, f"{counter} is a counter: {expression}"


def test_panels_do_not_overlap() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        mine = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert not mine & cells, panel["title"]
        cells |= mine


# --- against the real ones --------------------------------------------------------------------------------


class Prometheus:
    """A running Prometheus that scrapes one daemon every second."""

    def __init__(self, folder: Path, scraped: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        rules = MONITORING / "rules.yaml"
        (folder / "prometheus.yml").write_text(
            f"global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{rules}']\n"
            f"scrape_configs: [{{job_name: reconciler, static_configs: [{{targets: ['{scraped}']}}]}}]\n"
        )
        self.process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/tsdb",
                f"--web.listen-address={self.address}",
                "--log.level=error",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def query(self, expression: str) -> list[dict[str, Any]]:
        url = f"http://{self.address}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            data = json.loads(answer.read())
        assert data["status"] == "success", data
        found: list[dict[str, Any]] = data["data"]["result"]
        return found

    def wait_for(self, expression: str) -> list[dict[str, Any]]:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                if found := self.query(expression):
                    return found
            except OSError:
                pass
            assert time.monotonic() < deadline, f"no data for {expression}"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Product, Daemon, Prometheus]]:
    """Play a history: good twice, bad until stalled, rolled back, suspended, running, a dead source, a bad entry."""
    need_program("prometheus", "prometheus")
    root = tmp_path_factory.mktemp("history")
    app, config = Application(root / "app", MAKEFILE), Config(root / "config")
    (root / "secret").write_bytes(SECRET)
    product = Product(root, config.url, f"webhooks: {{gitlab: {{secret_files: [{root}/secret]}}}}\n")
    broken, slow = app.release(FAIL), app.release(SLOW)
    fine = app.release(MAKEFILE)

    def pin(good: str, rolled: str) -> None:
        config.pin(
            targets(
                target("good", app.url, good, labels="{env: production}"),
                target("bad", app.url, broken, retry="{limit: 2, backoff: 100ms}", labels="{env: production}"),
                target("rolled", app.url, rolled, on_failure="rollback", retry="{limit: 0}"),
                target("frozen", app.url, app.first, suspend="true"),
                target("slow", app.url, slow),
                target("lost", (root / "nowhere").as_uri(), app.first),
            )
        )

    pin(app.first, app.first)
    with product.daemon() as daemon:
        prometheus = Prometheus(root, str(daemon.address()))
        try:
            daemon.wait_in_sync("good", app.first)
            daemon.wait_in_sync("rolled", app.first)
            prometheus.wait_for('reconciler_deploys_total{target="good", result="succeeded"} == 1')
            pin(fine, broken)
            assert daemon.post(push("gitlab", config.url, after=config.head).signed()).status == 202
            assert daemon.post(push("gitlab", config.url)).status == 401
            daemon.wait_in_sync("good", fine)
            daemon.wait_reason("rolled", "rolled_back")
            daemon.wait_reason("bad", "stalled")
            daemon.wait_reason("slow", "running")
            prometheus.wait_for('reconciler_target_held{target="rolled", reason="rolled_back"} == 1')
            prometheus.wait_for('changes(reconciler_deploy_last_success_timestamp_seconds{target="good"}[7d]) == 1')
            yield product, daemon, prometheus
        finally:
            prometheus.process.kill()
            prometheus.process.wait()


def test_what_the_daemon_exports_is_well_formed(history: tuple[Product, Daemon, Prometheus]) -> None:
    done = promtool("check", "metrics", text=history[1].get("/metrics"))
    assert done.returncode == 0, done.stdout + done.stderr


VARIABLES = {"$job": "reconciler", "$target": ".*", "$environment": ".*", "$__rate_interval": "1m", "$__interval": "1m"}
QUERIES = [(panel["title"], query["expr"]) for panel in PANELS for query in panel["targets"]]


@pytest.mark.parametrize(("title", "expression"), QUERIES, ids=[title for title, _ in QUERIES])
def test_a_query_of_the_dashboard_returns_data(
    history: tuple[Product, Daemon, Prometheus], title: str, expression: str
) -> None:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert history[2].wait_for(expression), title


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.get("alert") or rule["record"]))
def test_the_expression_of_a_rule_finds_its_metrics(
    history: tuple[Product, Daemon, Prometheus], rule: dict[str, Any]
) -> None:
    known = {sample["metric"]["__name__"] for sample in history[2].query('{__name__=~"reconciler_.*|up"}')}
    used = set(re.findall(r"\b(?:reconciler_[a-z_0-9]+|up)\b(?!:)", rule["expr"])) - {"reconciler"}
    assert used
    assert used <= known | {"reconciler_deploy_lead_time_seconds_bucket"}, used - known


EXPECTED = {
    'sum by (result) (reconciler_deploys_total{target="good"}) > 0': {"succeeded": 2.0},
    'sum by (result) (reconciler_deploys_total{target="bad"}) > 0': {"failed": 3.0},
    'sum by (result) (reconciler_deploys_total{target="rolled"}) > 0': {"succeeded": 2.0, "failed": 1.0},
    'sum by (target) (reconciler_deploy_retries_total{target="bad"})': {"bad": 2.0},
    "sum by (target) (reconciler_rollbacks_total) > 0": {"rolled": 1.0},
    "sum by (target) (reconciler_target_in_sync) > 0": {"good": 1.0},
    "sum by (target) (reconciler_target_suspended) > 0": {"frozen": 1.0},
    "sum by (target) (reconciler_target_stalled) > 0": {"bad": 1.0, "rolled": 1.0, "lost": 1.0},
    "sum by (target) (reconciler_deploy_running_start_timestamp_seconds) > 0 < bool 0": {"slow": 0.0},
    "sum by (reason) (reconciler_target_held) > 0": {
        "stalled": 1.0,
        "rolled_back": 1.0,
        "suspended": 1.0,
        "running": 1.0,
        "unresolved": 1.0,
    },
    "sum by (environment) (reconciler_target_info)": {"production": 2.0, "": 4.0},
    "reconciler_deploys_running": {"": 1.0},
    "sum by (result) (reconciler_webhook_requests_total) > 0": {"accepted": 1.0, "unauthenticated": 1.0},
    "count by (target) (reconciler_target_deployed_commit_timestamp_seconds)": {"good": 1.0, "rolled": 1.0},
}


@pytest.mark.parametrize(("expression", "expected"), EXPECTED.items(), ids=EXPECTED.keys())
def test_values_are_those_of_the_history(
    history: tuple[Product, Daemon, Prometheus], expression: str, expected: dict[str, float]
) -> None:
    found = {}
    for sample in history[2].wait_for(expression):
        labels = {
            key: value
            for key, value in sample["metric"].items()
            if key in ("result", "target", "reason", "environment")
        }
        found["".join(labels.values())] = float(sample["value"][1])
    assert found == expected


def test_the_dead_source_and_the_stalled_target_alert(history: tuple[Product, Daemon, Prometheus]) -> None:
    failing = history[2].wait_for("reconciler_poll_consecutive_failures > 0")
    assert [sample["metric"]["repo"].endswith("/nowhere") for sample in failing] == [True]
    history[2].wait_for('count(ALERTS{alertname="ReconcilerTargetStalled"}) == 3')
    alerting = history[2].query('ALERTS{alertname="ReconcilerTargetStalled"}')
    assert {sample["metric"]["target"] for sample in alerting} == {"bad", "rolled", "lost"}


def test_series_are_few_for_many_targets(tmp_path: Path) -> None:
    app, config = Application(tmp_path / "app"), Config(tmp_path / "config")
    names = [f"t{number}" for number in range(100)]
    config.pin(targets(*(target(name, f"{app.url}-{index % 50}", app.first) for index, name in enumerate(names))))
    product = Product(tmp_path, config.url)
    textfile = tmp_path / "reconciler.prom"
    product.run("run", "--once", "--textfile", str(textfile))
    lines = [line for line in textfile.read_text().splitlines() if not line.startswith("#")]
    per_target = [line for line in lines if 'target="t7"' in line]
    per_source = [line for line in lines if '-7"' in line]
    assert len(per_target) < 80
    assert len(per_source) < 10
    assert len(lines) < 100 * 80 + 50 * 10 + 300


def test_a_textfile_needs_once(tmp_path: Path) -> None:
    product = Product(tmp_path, "/nothing")
    done = product.run("run", "--textfile", str(tmp_path / "x"))
    assert done.returncode == 2
    assert "goes with --once" in done.stderr
