"""Logs: one line an event, a dotted noun with fields; console on a terminal, logfmt otherwise, JSON on request.

Never a traceback with local variables and never a control character: values of the world outside (commit
subjects, error texts of servers) end up here.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from reconciler.config.settings import Log
from reconciler.events import (
    ConfigLoaded,
    ConfigRejected,
    DaemonStarted,
    DaemonStopping,
    Decided,
    DeployFinished,
    DeployStarted,
    Event,
    GitOperation,
    PassFailed,
    PollFinished,
    TargetObserved,
    Warned,
    WebhookReceived,
)
from reconciler.model import DeployStatus, Hold
from reconciler.text import one_line, short


def _one_line_values(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: one_line(value) if isinstance(value, str) else value for key, value in event.items()}


class _Count:
    """Counts lines by level on their way out."""

    def __init__(self) -> None:
        self.lines = dict.fromkeys(LEVELS, 0)

    def __call__(self, _: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        level = event.get("level", "")
        self.lines[level] = self.lines.get(level, 0) + 1
        return event


LEVELS = ("debug", "info", "warning", "error", "critical")
_COUNT = _Count()  # a process has one log


def written() -> dict[str, int]:
    """Return how many lines of each level this process has logged."""
    return dict(_COUNT.lines)


def configure(log: Log, stream: TextIO = sys.stderr) -> None:
    """Send structlog's events to `stream`, and those of libraries (warnings and worse) with them."""
    kind = log.format
    if kind == "auto":
        kind = "console" if stream.isatty() else "logfmt"
    renderers: dict[str, Any] = {
        "console": structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
        ),
        "logfmt": structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        "json": structlog.processors.JSONRenderer(),
    }
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _one_line_values,
            _COUNT,
            renderers[kind],
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[log.level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)


class _Forward(logging.Handler):
    """What libraries log becomes one of our lines, without the traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        fields = {"error": repr(error)} if error else {}
        structlog.get_logger().log(record.levelno, f"library.{record.name}", message=record.getMessage(), **fields)


class LogListener:
    """Writes events as log lines; every line of one deploy carries its id."""

    def __init__(self) -> None:
        self._log = structlog.get_logger().bind()

    def hear(self, event: Event) -> None:
        """Write one line."""
        match event:
            case DeployStarted() | DeployFinished():
                self._deploy(event)
            case PollFinished():
                self._poll(event)
            case Decided(target, decision, rule):
                level = self._log.warning if isinstance(decision, Hold) else self._log.info
                level(
                    "target.decided",
                    target=target,
                    decision=decision.kind,
                    reason=str(decision.reason),
                    rule=rule,
                    message=decision.message,
                )
            case ConfigLoaded(commit, targets, problems):
                self._log.info("config.loaded", commit=short(commit), targets=targets, problems=len(problems))
                for problem in problems:
                    self._log.warning("config.problem", problem=problem)
            case ConfigRejected(commit, message):
                self._log.error("config.rejected", commit=short(commit), message=message)
            case GitOperation(operation, duration_s):
                self._log.debug("git.operation", operation=operation, duration_s=round(duration_s, 3))
            case _:
                self._daemon(event)

    def _daemon(self, event: Event) -> None:
        match event:
            case DaemonStarted(version, state_dir, listen, webhook_listen):
                own = {"webhook_listen": webhook_listen} if webhook_listen else {}
                self._log.info("daemon.started", version=version, state_dir=state_dir, listen=listen, **own)
            case WebhookReceived(provider, result):
                self._log.debug("webhook.received", provider=provider, result=str(result))
            case DaemonStopping(running, drain_timeout_s):
                self._log.info("daemon.stopping", running=running, drain_timeout_s=drain_timeout_s)
            case TargetObserved(target, result, message):
                level = self._log.debug if result == "same" else self._log.warning
                level("target.observed", target=target, result=result, message=message)
            case Warned(name, message):
                self._log.warning(name, message=message)
            case PassFailed(error, next_in_s):
                self._log.error("pass.failed", error=error, next_in_s=next_in_s)

    def _poll(self, event: PollFinished) -> None:
        fields: dict[str, Any] = {"source": event.url, "result": event.result, "trigger": event.trigger}
        if event.result == "error":
            self._log.warning(
                "source.polled",
                **fields,
                reason=event.reason,
                message=event.message,
                failures=event.failures,
                next_in_s=round(event.next_in_s, 1),
            )
        else:
            level = self._log.info if event.result == "changed" else self._log.debug
            level("source.polled", **fields, duration_s=round(event.duration_s, 3))

    def _deploy(self, event: DeployStarted | DeployFinished) -> None:
        deploy = event.deploy
        fields: dict[str, Any] = {"deploy": deploy.id, "target": deploy.target, "commit": short(deploy.version.commit)}
        if isinstance(event, DeployStarted):
            self._log.info("deploy.started", **fields, reason=str(deploy.cause), message=deploy.message)
            return
        outcome = event.outcome
        good = outcome.status is DeployStatus.SUCCEEDED
        if outcome.reason:
            fields |= {"reason": str(outcome.reason), "message": outcome.message}
        (self._log.info if good else self._log.error)(
            "deploy.finished", **fields, status=str(outcome.status), duration_s=round(event.duration_s, 3)
        )
