"""The store's reads and writes: every method is one transaction or one query.

One connection, used by one thread at a time (the shell gives the store a thread of its own). The rollback
journal is used and not WAL: SQLite before 3.51.3 can lose commits in WAL mode with two connections, and
read verbs open a second one. `synchronous=FULL`, so what was acknowledged survives a power loss.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Self

from reconciler.config.catalogue import Catalogue, KnownEntry
from reconciler.errors import CannotTell, LeaseLost, StateError
from reconciler.lifecycle import FAILURES, sources_of
from reconciler.model import (
    ConfigHead,
    Deploy,
    DeployStatus,
    Desired,
    Lease,
    Observed,
    Outcome,
    Request,
    SourceState,
    Start,
    StartReason,
    Suspension,
    TargetRecord,
    Version,
)
from reconciler.spec import Target
from reconciler.store import migrations, rows

BUSY_TIMEOUT_S = 5.0


def _queries() -> dict[str, str]:
    text = (resources.files("reconciler.store") / "sql" / "queries.sql").read_text(encoding="utf-8")
    parts = re.split(r"^-- name: ([a-z_]+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))


class Store:
    """The open database."""

    errors = (sqlite3.Error,)  # what a full disk, a foreign lock or damage raises

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._queries = _queries()
        self._specs = rows.Specs()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the database for the daemon: create it, check it, migrate it.

        Raises StateError for a damaged, newer or unusable file, with what to do.
        """
        try:
            connection = _connect(path, "rwc")
            _check(connection)
            _keep_copy(connection, path)
            migrations.migrate(connection)
        except sqlite3.OperationalError as error:
            raise StateError(
                f"the database {path} cannot be used: {error}; free space or rights, then start again"
            ) from error
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # damage reaches SQLite's messages too
            raise StateError(
                f"the database {path} is damaged ({error}); restore a backup, or move the file away: the next start "
                "then takes every target as not deployed yet and deploys it again"
            ) from error
        return cls(connection)

    @classmethod
    def open_to_read(cls, path: Path) -> Self:
        """Open the database for a read verb, beside a running daemon or without one.

        Raises CannotTell where nothing ever ran.
        """
        if not path.exists():
            raise CannotTell(
                f"there is no state in {path.parent}: nothing ever ran here; "
                "start `reconciler run`, or name the right directory with --state-dir"
            )
        try:
            connection = _connect(path, "rw")
            version, known = migrations.current_version(connection), migrations.newest_version()
        except sqlite3.DatabaseError as error:
            raise StateError(f"the database {path} cannot be read: {error}") from error
        if version != known:
            raise CannotTell(
                f"the state in {path.parent} has schema {version}, this program reads {known}; "
                "use the version that the daemon has, or start the daemon of this version once"
            )
        return cls(connection)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def _run(self, name: str, /, **values: object) -> sqlite3.Cursor:
        return self._connection.execute(self._queries[name], values)

    def _changed(self, name: str, /, **values: object) -> bool:
        return self._run(name, **values).rowcount == 1

    # --- configuration ------------------------------------------------------------------------------------

    def config_head(self) -> ConfigHead | None:
        """Return the config commit in force."""
        row = self._run("config_head").fetchone()
        if row is None:
            return None
        return ConfigHead(row["commit_id"], rows.certain_time(row["loaded_at"]), tuple(json.loads(row["problems"])))

    def entries(self) -> dict[str, KnownEntry]:
        """Return every known entry by name."""
        return {row["name"]: rows.entry(row, self._specs) for row in self._run("entries")}

    def save_catalogue(self, catalogue: Catalogue, commit: str, now: datetime) -> None:
        """Make a catalogue the one in force."""
        known = self.entries()
        with self._transaction():
            for name, entry in catalogue.entries.items():
                self._run("declare_target", name=name)
                if known.get(name) != entry:
                    values = rows.entry_values(entry)
                    self._run("save_entry", **values)
                    if entry.target is not None:
                        self._specs.keep(entry.target, values["spec"])
            for name in known.keys() - catalogue.entries.keys():
                self._run("forget_entry", name=name)
            lines = json.dumps([str(problem) for problem in catalogue.problems])
            self._run("save_config_head", commit_id=commit, loaded_at=rows.to_text(now), problems=lines)
        self._specs.keep_only(catalogue.entries)

    def reject_config(self, message: str, now: datetime) -> None:
        """Remember why the config branch's commit is not in force; the last good one stays."""
        head = self.config_head()
        commit = head.commit if head else ""
        self._run("save_config_head", commit_id=commit, loaded_at=rows.to_text(now), problems=json.dumps([message]))

    # --- sources ------------------------------------------------------------------------------------------

    def sources(self) -> dict[str, SourceState]:
        """Return what is remembered of every Source, by URL."""
        return {row["url"]: rows.source(row) for row in self._run("sources")}

    def save_sources(self, records: Iterable[SourceState], forget: Iterable[str] = ()) -> None:
        """Write what polls found out, and forget Sources that no target names."""
        with self._transaction():
            for record in records:
                self._run("save_source", **rows.source_values(record))
            for url in forget:
                self._run("forget_source", url=url)

    # --- targets ------------------------------------------------------------------------------------------

    def targets(self) -> dict[str, TargetRecord]:
        """Return desired and observed of every target that was ever declared."""
        return {row["name"]: rows.target(row) for row in self._run("observe")}

    def save_desired(self, desired: Mapping[str, Desired], now: datetime) -> None:
        """Write what is asked of targets; a version that differs from the last one is a new generation."""
        with self._transaction():
            for name, wanted in desired.items():
                self._run(
                    "save_desired",
                    name=name,
                    now=rows.to_text(now),
                    commit_id=wanted.version.commit if wanted.version else None,
                    digest=wanted.version.digest if wanted.version else None,
                    revision=wanted.revision,
                    problem_reason=wanted.problem.reason if wanted.problem else None,
                    problem_message=wanted.problem.message if wanted.problem else None,
                    behind=wanted.behind,
                )

    def request(self, name: str, request: Request) -> None:
        """Record a wish; the newest replaces the one before. Raises CannotTell for an unknown target."""
        changed = self._changed(
            "request",
            name=name,
            token=request.token,
            requested_by=request.requested_by,
            now_flag=int(request.now),
            env=json.dumps(dict(request.env)),
        )
        _require_target(changed, name)

    def cancel(self, name: str, by: str) -> bool:
        """Ask for the end of a target's live deploy; False where none is live."""
        return self._changed("cancel", target=name, by=by)

    def suspend(self, name: str, suspension: Suspension) -> None:
        """Stop deploys of a target. Raises CannotTell for an unknown one."""
        changed = self._changed(
            "suspend", name=name, reason=suspension.reason, by=suspension.by, until=rows.to_text(suspension.until)
        )
        _require_target(changed, name)

    def resume(self, name: str) -> None:
        """Allow deploys of a target again. Raises CannotTell for an unknown one."""
        _require_target(self._changed("resume", name=name), name)

    # --- deploys ------------------------------------------------------------------------------------------

    def claim(
        self, target: Target, start: Start, request: Request | None, holder: str, ttl_s: float, now: datetime
    ) -> tuple[Lease, Deploy] | None:
        """Take the lease and record a pending deploy, in one transaction; None while somebody has it.

        `ttl_s` is the lease's life in seconds; it is renewed while the deploy lives.
        """
        deadline = now + timedelta(seconds=target.timeout_s)
        try:
            with self._transaction():
                row = self._run(
                    "claim",
                    target=target.name,
                    holder=holder,
                    now=rows.to_text(now),
                    expires_at=rows.to_text(now + timedelta(seconds=ttl_s)),
                ).fetchone()
                if row is None:
                    return None
                lease = Lease(target.name, int(row["fence"]), holder)
                self._run(
                    "insert_deploy",
                    id=lease.deploy_id,
                    target=target.name,
                    fence=lease.fence,
                    commit_id=start.version.commit,
                    digest=start.version.digest,
                    spec=target.model_dump_json(),
                    cause=start.reason,
                    message=start.message,
                    requested_by=request.requested_by if request else None,
                    now=rows.to_text(now),
                    deadline=rows.to_text(deadline),
                )
                if request is not None:
                    self._run("handle_request", target=target.name, token=request.token)
        except sqlite3.IntegrityError:
            return None  # the unique index: a live deploy exists
        deploy = self.deploy(lease.deploy_id)
        assert deploy is not None  # noqa: S101 - it was just written
        return lease, deploy

    def start(self, deploy_id: str, lease: Lease, now: datetime) -> None:
        """Move a pending deploy to running. Raises LeaseLost where the token is stale."""
        if not self._changed("start_deploy", id=deploy_id, now=rows.to_text(now), **asdict(lease)):
            raise LeaseLost(f"{deploy_id} may not start: token {lease.fence} is stale")

    def renew(self, lease: Lease, ttl_s: float, now: datetime) -> None:
        """Extend a lease by `ttl_s` seconds from now. Raises LeaseLost where the token is stale."""
        if not self._changed("renew", expires_at=rows.to_text(now + timedelta(seconds=ttl_s)), **asdict(lease)):
            raise LeaseLost(f"the lease of {lease.target} with token {lease.fence} is lost")

    def fence_of(self, target: str) -> int:
        """Return the newest token of a target; 0 before its first deploy."""
        row = self._run("lease", target=target).fetchone()
        return int(row["fence"]) if row else 0

    def take_over(self, seen: Lease, ttl_s: float, now: datetime) -> Lease | None:
        """Take a lease whose holder is dead, for `seen.holder`; None where the token is not `seen.fence` any more.

        The token that was seen is compared, not that of a deploy: who took it over before may have died as well.
        """
        with self._transaction():
            row = self._run(
                "take_over", expires_at=rows.to_text(now + timedelta(seconds=ttl_s)), **asdict(seen)
            ).fetchone()
        return Lease(seen.target, int(row["fence"]), seen.holder) if row else None

    def finish(
        self, deploy: Deploy, lease: Lease, outcome: Outcome, now: datetime, made_at: datetime | None = None
    ) -> None:
        """Record how a deploy ended and release the lease, in one transaction guarded by the token.

        `made_at` is when its commit was made. Raises LeaseLost, having written nothing, where the token is stale or the
        deploy has ended already.
        """
        version = {"commit_id": deploy.version.commit, "digest": deploy.version.digest}
        sources = sources_of(outcome.status)  # the table of moves guards the write
        with self._transaction():
            finished = self._changed(
                "finish_deploy",
                id=deploy.id,
                now=rows.to_text(now),
                status=outcome.status,
                from_pending=int(DeployStatus.PENDING in sources),
                from_running=int(DeployStatus.RUNNING in sources),
                reason=outcome.reason,
                outcome=outcome.message,
                exit_code=outcome.exit_code,
                steps=json.dumps([asdict(step) for step in outcome.steps]),
                output_bytes=outcome.output_bytes,
                output_omitted_bytes=outcome.output_omitted_bytes,
                **asdict(lease),
            )
            if not finished:
                raise LeaseLost(f"{deploy.id} is not ours to finish: token {lease.fence} is stale")
            if deploy.cause is StartReason.ROLLBACK:
                self._run("record_rollback", target=deploy.target, status=outcome.status)
            else:
                self._run(
                    "record_attempt",
                    target=deploy.target,
                    status=outcome.status,
                    reason=outcome.reason,
                    failed=int(outcome.status in FAILURES),
                    now=rows.to_text(now),
                    **version,
                )
            if outcome.status is DeployStatus.SUCCEEDED:
                moments = {"now": rows.to_text(now), "made_at": rows.to_text(made_at)}
                self._run("record_deployed", target=deploy.target, id=deploy.id, **moments, **version)
            self._run("release", **asdict(lease))

    def record_drift(self, name: str, seen: Observed, drift: str | None) -> bool:
        """Write what was seen instead of the deployed commit, or that there is no drift.

        False, having written nothing, where something was deployed since, or is being deployed: then it tells nothing.
        """
        deployed = seen.deployed.commit if seen.deployed else None
        moment = rows.to_text(seen.deployed_at)
        return self._changed("record_drift", name=name, drift=drift, commit_id=deployed, deployed_at=moment)

    def live_deploys(self) -> list[Deploy]:
        """Return the deploys that have not ended."""
        return [rows.deploy(row) for row in self._run("live_deploys")]

    def deploy(self, deploy_id: str) -> Deploy | None:
        """Return one deploy."""
        row = self._run("deploy", id=deploy_id).fetchone()
        return rows.deploy(row) if row else None

    def history(self, target: str, limit: int, before: int | None = None) -> list[Deploy]:
        """Return the newest `limit` deploys of a target whose token is below `before`, the newest first."""
        values = {"target": target, "limit": limit, "before": before}
        return [rows.deploy(row) for row in self._run("history", **values)]

    def last_deploys(self) -> dict[str, Deploy]:
        """Return the newest deploy of every target."""
        return {row["target"]: rows.deploy(row) for row in self._run("last_deploys")}

    def good_spec(self, target: str, version: Version) -> Target | None:
        """Return the spec with which a version was deployed well: what a rollback runs."""
        row = self._run("spec_of", target=target, commit_id=version.commit, digest=version.digest).fetchone()
        return rows.spec(target, row["spec"]) if row else None

    def failing_since(self, deploy: Deploy) -> datetime | None:
        """Return when the first failure between the success before `deploy` and `deploy` itself ended."""
        row = self._run("failing_since", target=deploy.target, fence=deploy.fence).fetchone()
        return rows.to_time(row["since"])

    def outcome_counts(self) -> dict[tuple[str, str], int]:
        """Return how many deploys of each target have each status: what counters begin with."""
        return {(row["target"], row["status"]): row["count"] for row in self._run("outcomes")}

    def commits(self) -> set[str]:
        """Return every commit that is wanted or that history tells of: what a rollback may ask for."""
        return {row["commit_id"] for row in self._run("commits")}

    def prune(self, keep: int, before: datetime) -> list[str]:
        """Forget deploys beyond the newest `keep` of a target, or that ended before `before`; return their ids.

        The newest deploy and the one that is deployed now always stay.
        """
        with self._transaction():
            ids = [row["id"] for row in self._run("prunable", keep=keep, before=rows.to_text(before))]
            for deploy_id in ids:
                self._run("forget_deploy", id=deploy_id)
        return ids


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA synchronous = FULL")
    if mode == "rwc":
        connection.execute("PRAGMA journal_mode = DELETE")
        path.chmod(0o600)
    return connection


def _check(connection: sqlite3.Connection) -> None:
    found = connection.execute("PRAGMA quick_check(1)").fetchone()
    if not found or found[0] != "ok":
        raise sqlite3.DatabaseError(found[0] if found else "the check gave no answer")


def _keep_copy(connection: sqlite3.Connection, path: Path) -> None:
    """Copy the database beside itself before its schema moves forward: the way back for an older program."""
    version = migrations.current_version(connection)
    copy = path.with_name(f"{path.name}.schema-{version}")
    if 0 < version < migrations.newest_version():
        beside = copy.with_name(f".{copy.name}")
        beside.unlink(missing_ok=True)
        connection.execute("VACUUM INTO ?", (str(beside),))
        beside.chmod(0o600)
        beside.replace(copy)


def _require_target(changed: bool, name: str) -> None:
    if not changed:
        raise CannotTell(f"there is no target {name!r}")
