"""Write monitoring/grafana/dashboard.json. The panels stand here, where they can be read; a test compares both."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OUT = Path(__file__).parents[1] / "monitoring" / "grafana" / "dashboard.json"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
T = 'job="$job", target=~"$target"'
ENV = 'on (target) group_left (environment) (reconciler_target_info{environment=~"$environment"})'


@dataclass
class Panel:
    """One panel: what it asks, in which unit, and why somebody would look at it."""

    title: str
    description: str
    expressions: dict[str, str]  # legend to expression
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 7
    red_above: float | None = None
    red_below: float | None = None
    mappings: dict[str, tuple[str, str]] = field(default_factory=dict)  # value to text and colour


ROWS: dict[str, list[Panel]] = {
    "Now": [
        Panel(
            "In sync",
            "Share of the targets that run what their configuration wants; suspended ones do not count.",
            {
                "in sync": f"sum(reconciler_target_in_sync{{{T}}} * {ENV}) / "
                f"count((reconciler_target_in_sync{{{T}}} * {ENV}) unless on (target) "
                "reconciler_target_suspended == 1)"
            },
            "percentunit",
            "stat",
            4,
            5,
            red_below=1,
        ),
        Panel(
            "Stalled",
            "Targets that wait for a person or a new commit.",
            {"stalled": f"sum(reconciler_target_stalled{{{T}}} * {ENV})"},
            "short",
            "stat",
            4,
            5,
            red_above=1,
        ),
        Panel(
            "Suspended",
            "Targets whose deploys somebody suspended.",
            {"suspended": f"sum(reconciler_target_suspended{{{T}}} * {ENV})"},
            "short",
            "stat",
            4,
            5,
        ),
        Panel(
            "Running",
            "Deploys that run now, of how many slots.",
            {
                "running": 'sum(reconciler_deploys_running{job="$job"})',
                "slots": 'sum(reconciler_deploy_slots{job="$job"})',
            },
            "short",
            "stat",
            6,
            5,
        ),
        Panel(
            "Oldest poll",
            "How long ago the source was polled well that was polled well the longest ago, of those that fail.",
            {
                "age": '(max(time() - reconciler_poll_last_success_timestamp_seconds{job="$job"} and '
                'reconciler_poll_consecutive_failures{job="$job"} > 0)) or vector(0)'
            },
            "s",
            "stat",
            6,
            5,
            red_above=600,
        ),
        Panel(
            "Why nothing is started",
            "The reason of each target that is not in sync, over time.",
            {"{{target}}: {{reason}}": f"(reconciler_target_held{{{T}}} * {ENV}) == 1"},
            "short",
            "timeseries",
            12,
        ),
        Panel(
            "Desired and deployed",
            "The commits of every target. Two rows of one target with different commits differ.",
            {"{{target}} {{kind}} {{commit}}": f"reconciler_target_revision_info{{{T}}}"},
            "short",
            "table",
            12,
        ),
        Panel(
            "In sync, over time",
            "When each target ran what its configuration wanted.",
            {"{{target}}": f"reconciler_target_in_sync{{{T}}} * {ENV}"},
            "short",
            "state-timeline",
            24,
            7,
            mappings={"1": ("in sync", "green"), "0": ("differs", "red")},
        ),
    ],
    "Deploys": [
        Panel(
            "Deploys",
            "Deploys that ended, by result.",
            {"{{result}}": f"sum by (result) (increase(reconciler_deploys_total{{{T}}}[$__rate_interval]))"},
        ),
        Panel(
            "Failures and retries",
            "Deploys that failed or took too long, retries and rollbacks.",
            {
                "failed {{target}}": 'sum by (target) (increase(reconciler_deploys_total{result=~"failed|timed_out", '
                f"{T}}}[$__rate_interval]))",
                "retry {{target}}": f"sum by (target) (increase(reconciler_deploy_retries_total{{{T}}}[$__rate_interval]))",
                "rollback {{target}}": f"sum by (target) (increase(reconciler_rollbacks_total{{{T}}}[$__rate_interval]))",
            },
        ),
        Panel(
            "Duration",
            "How long deploys take: half of them, and nearly all.",
            {
                f"p{share}": f"histogram_quantile(0.{share}, sum by (le) "
                f"(increase(reconciler_deploy_duration_seconds_bucket{{{T}}}[1d])))"
                for share in (50, 95)
            },
            "s",
        ),
        Panel(
            "Queue",
            "Time from a wanted version to the start of its deploy, and targets that wait for a slot.",
            {
                "p95 wait": "histogram_quantile(0.95, sum by (le) "
                '(increase(reconciler_deploy_queue_duration_seconds_bucket{job="$job"}[1d])))',
                "queued": 'sum(reconciler_deploys_queued{job="$job"})',
            },
            "s",
        ),
        Panel(
            "Running since",
            "How long each running deploy has been running; empty while none runs.",
            {"{{target}}": f"time() - reconciler_deploy_running_start_timestamp_seconds{{{T}}}"},
            "s",
        ),
        Panel(
            "Last success",
            "How long ago each target was last deployed well.",
            {"{{target}}": f"time() - reconciler_deploy_last_success_timestamp_seconds{{{T}}}"},
            "s",
        ),
    ],
    "Delivery (DORA)": [
        Panel(
            "Deployment frequency",
            "Successful deploys within seven days. Exact: counts changes of a timestamp.",
            {"{{target}}": f"changes(reconciler_deploy_last_success_timestamp_seconds{{{T}}}[7d])"},
            "short",
            "timeseries",
            6,
        ),
        Panel(
            "Lead time",
            "Half of the commits were deployed within this time of being made.",
            {
                "p50": f"histogram_quantile(0.5, sum by (le) (increase(reconciler_deploy_lead_time_seconds_bucket{{{T}}}[7d])))"
            },
            "s",
            "timeseries",
            6,
        ),
        Panel(
            "Change failure rate",
            "Failed and timed out deploys and rollbacks, of all deploys. Incidents are not seen from here.",
            {
                "ratio": '(sum(increase(reconciler_deploys_total{result=~"failed|timed_out", ' + T + "}[7d])) + "
                f"sum(increase(reconciler_rollbacks_total{{{T}}}[7d]))) / "
                'clamp_min(sum(increase(reconciler_deploys_total{result=~"succeeded|failed|timed_out", '
                + T
                + "}[7d])), 1)"
            },
            "percentunit",
            "timeseries",
            6,
        ),
        Panel(
            "Time to restore",
            "Mean time from a first failure to the next success.",
            {
                "mean": f"sum(increase(reconciler_deploy_restore_seconds_sum{{{T}}}[7d])) / "
                f"clamp_min(sum(increase(reconciler_deploy_restore_seconds_count{{{T}}}[7d])), 1)"
            },
            "s",
            "timeseries",
            6,
        ),
    ],
    "Sources": [
        Panel(
            "Polls",
            "Polls of sources, by result.",
            {"{{result}}": 'sum by (result) (rate(reconciler_polls_total{job="$job"}[$__rate_interval]))'},
            "reqps",
        ),
        Panel(
            "What caused polls",
            "The timer should cause most; webhooks make it faster.",
            {"{{trigger}}": 'sum by (trigger) (rate(reconciler_poll_triggers_total{job="$job"}[$__rate_interval]))'},
            "reqps",
        ),
        Panel(
            "Lateness of polls",
            "How long after their time polls begin, nearly all of them; seconds mean that the machine or the servers "
            "cannot keep up.",
            {
                "p99": "histogram_quantile(0.99, sum by (le) "
                '(rate(reconciler_poll_lateness_seconds_bucket{job="$job"}[5m])))'
            },
            "s",
        ),
        Panel(
            "Webhooks",
            "Deliveries by what became of them; unauthenticated ones mean that secrets differ.",
            {
                "{{provider}} {{result}}": "sum by (provider, result) "
                '(rate(reconciler_webhook_requests_total{job="$job"}[$__rate_interval]))'
            },
            "reqps",
        ),
        Panel(
            "Last webhook",
            "When a delivery was last accepted, by provider; a forge may switch a hook off.",
            {"{{provider}}": 'time() - reconciler_webhook_last_accepted_timestamp_seconds{job="$job"}'},
            "s",
            "stat",
        ),
        Panel(
            "Failed polls in a row",
            "By source; anything above zero for long needs somebody.",
            {"{{repo}}": 'reconciler_poll_consecutive_failures{job="$job"}'},
            red_above=3,
        ),
        Panel(
            "Git operations",
            "How long polls, fetches and checkouts take, nearly all of them.",
            {
                "p95 {{operation}}": "histogram_quantile(0.95, sum by (le, operation) "
                '(rate(reconciler_git_operation_duration_seconds_bucket{job="$job"}[5m])))'
            },
            "s",
        ),
        Panel(
            "Configuration",
            "Whether the newest config commit is free of errors, and how many entries are not.",
            {
                "good": 'reconciler_config_last_reload_successful{job="$job"}',
                "bad entries": 'reconciler_config_invalid_entries{job="$job"}',
            },
        ),
    ],
    "The daemon": [
        Panel(
            "Heartbeat age",
            "How long ago the scheduler turned; it turns once a second.",
            {"age": 'time() - reconciler_scheduler_heartbeat_timestamp_seconds{job="$job"}'},
            "s",
            red_above=30,
        ),
        Panel(
            "CPU",
            "Share of a core.",
            {"cpu": 'rate(process_cpu_seconds_total{job="$job"}[$__rate_interval])'},
            "percentunit",
        ),
        Panel("Memory", "Resident memory.", {"memory": 'process_resident_memory_bytes{job="$job"}'}, "bytes"),
        Panel("Open files", "File descriptors.", {"open": 'process_open_fds{job="$job"}'}),
        Panel(
            "Warnings and failed passes",
            "What the daemon complained of.",
            {
                "{{event}}": 'sum by (event) (increase(reconciler_warnings_total{job="$job"}[$__rate_interval]))',
                "failed passes": 'sum(increase(reconciler_passes_failed_total{job="$job"}[$__rate_interval]))',
            },
        ),
        Panel(
            "HTTP",
            "Answers by route and kind.",
            {
                "{{handler}} {{code}}": "sum by (handler, code) "
                '(rate(reconciler_http_request_duration_seconds_count{job="$job"}[$__rate_interval]))'
            },
            "reqps",
        ),
        Panel(
            "Log lines",
            "What the daemon logged, by level.",
            {"{{level}}": 'sum by (level) (rate(reconciler_log_messages_total{job="$job"}[$__rate_interval]))'},
            "logs",
        ),
        Panel(
            "Lost ticks",
            "Turns of the scheduler that came late or were left out.",
            {"lost": 'sum(increase(reconciler_scheduler_missed_runs_total{job="$job"}[$__rate_interval]))'},
        ),
        Panel("Version", "What runs.", {"{{version}}": 'reconciler_build_info{job="$job"}'}, "short", "stat"),
    ],
}


def panel_json(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    """Return one panel as Grafana reads it."""
    steps = [{"color": "green", "value": None}]
    if panel.red_above is not None:
        steps.append({"color": "red", "value": panel.red_above})
    if panel.red_below is not None:
        steps = [{"color": "red", "value": None}, {"color": "green", "value": panel.red_below}]
    mappings = [
        {"type": "value", "options": {value: {"text": text, "color": colour}}}
        for value, (text, colour) in panel.mappings.items()
    ]
    instant = panel.kind in ("table", "stat")
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "mappings": mappings,
                "thresholds": {"mode": "absolute", "steps": steps},
            },
            "overrides": [],
        },
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": expression,
                "legendFormat": legend,
                "instant": instant,
                "range": not instant,
                **({"format": "table"} if panel.kind == "table" else {}),
            }
            for index, (legend, expression) in enumerate(panel.expressions.items())
        ],
    }


def variable(name: str, label: str, query: str, *, many: bool) -> dict[str, Any]:
    """Return a variable that asks Prometheus for its values."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "multi": many,
        "includeAll": many,
        **({"allValue": ".*", "current": {"text": "All", "value": "$__all"}} if many else {}),
    }


def dashboard() -> dict[str, Any]:
    """Return the dashboard."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": y, "w": 24, "h": 1},
            }
        )
        y, x, tallest = y + 1, 0, 0
        for panel in row:
            if x + panel.width > 24:
                x, y, tallest = 0, y + tallest, 0
            panels.append(panel_json(panel, len(panels) + 1, x, y))
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest
    annotations = {
        "name": "Deploys",
        "enable": True,
        "iconColor": "blue",
        "datasource": SOURCE,
        "expr": f"changes(reconciler_deploy_last_run_timestamp_seconds{{{T}}}[$__interval]) > 0",
        "titleFormat": "{{target}} was deployed",
        "step": "60s",
    }
    return {
        "uid": "reconciler",
        "title": "Reconciler",
        "description": "What is out of sync and why, deploys, delivery, sources, and the daemon itself.",
        "tags": ["reconciler", "gitops"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": [annotations]},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
                variable("job", "Job", "label_values(reconciler_build_info, job)", many=False),
                variable(
                    "environment",
                    "Environment",
                    'label_values(reconciler_target_info{job="$job"}, environment)',
                    many=True,
                ),
                variable(
                    "target",
                    "Target",
                    'label_values(reconciler_target_info{job="$job", environment=~"$environment"}, target)',
                    many=True,
                ),
            ]
        },
        "panels": panels,
    }


def text() -> str:
    """Return the dashboard as it is committed."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    OUT.write_text(text(), encoding="utf-8")
