"""One pass: gather what is known, decide, apply. The same for timer, webhook, operator and start-up.

Nothing is carried from one pass to the next but what the store and the mirrors hold, so a crash at any line
costs a pass and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from reconciler import clock, resolving
from reconciler.config.catalogue import Catalogue, merge
from reconciler.config.deployments import ParsedFile, parse_file
from reconciler.config.problems import Place, Problem
from reconciler.config.settings import ConfigRepo
from reconciler.deploying import Deployer
from reconciler.doors import Doors
from reconciler.errors import SourceError, SourceReason
from reconciler.events import ConfigLoaded, ConfigRejected, Decided
from reconciler.gathering import in_force, remembered
from reconciler.git import objects
from reconciler.git.library import mirror_name
from reconciler.model import ConfigHead, Desired, OutcomeReason, SourceState, Start, StartReason, TargetRecord
from reconciler.planning import Plan
from reconciler.polling import Poller
from reconciler.resolving import Known, resolve, to_write
from reconciler.snapshot import Snapshot
from reconciler.spec import Target
from reconciler.text import short
from reconciler.writing import Writer


def start_key(target: Target, start: Start) -> tuple[str, bool]:
    """Return what `run --once` starts once: a target, and its rollback."""
    return target.name, start.reason is StartReason.ROLLBACK


class Reconciler:
    """Passes over all targets of one config repository."""

    def __init__(self, doors: Doors, poller: Poller, deployer: Deployer, writer: Writer) -> None:
        self._doors = doors
        self._writer = writer
        self._poller = poller
        self._deployer = deployer
        self._parsed: dict[tuple[str, str], ParsedFile] = {}  # by file and blob: an unchanged file is not parsed again
        self._targets: dict[str, Target] = {}
        self._told: dict[str, tuple[str, str]] = {}
        self._rejected = ""
        self.snapshot = Snapshot(now=clock.now(), plan=Plan(clock.now()), slots=doors.settings.max_concurrent_deploys)
        self.loaded = False  # some config commit was read since the start
        self.shown = False  # and the snapshot has it

    async def begin(self) -> None:
        """Take up what the store remembers, and end what a dead daemon left running."""
        doors = self._doors
        self._targets = in_force(await doors.db(doors.store.entries))
        await self._deployer.recover()
        await self._follow_sources()

    async def _follow_sources(self) -> None:
        doors = self._doors
        needs = resolving.needs(self._targets.values(), doors.settings.config_repo)
        before = await doors.db(doors.store.sources)
        await self._poller.follow(needs, before)
        await doors.db(doors.store.save_sources, self._poller.take_dirty(), before.keys() - needs.keys())

    # --- configuration ------------------------------------------------------------------------------------

    async def load_config(self) -> None:
        """Bring the config branch's newest commit into force, as far as it is good."""
        doors, repo = self._doors, self._doors.settings.config_repo
        if repo is None:
            return
        mirror = doors.state.mirrors / mirror_name(repo.url)
        head = await doors.db(doors.store.config_head)
        commit = await doors.git(objects.resolve, mirror, f"refs/heads/{repo.branch}")
        if commit is None:
            return
        if self.loaded and commit in (head.commit if head else "", self._rejected):
            return
        try:
            await self._check_trust(repo, mirror, head, commit)
            files = await doors.git(objects.config_files, mirror, commit, repo.path, frozenset(self._parsed))
        except SourceError as error:
            self.loaded, self._rejected = True, commit
            await doors.db(doors.store.reject_config, f"{short(commit)}: {error.message}", clock.now())
            doors.listener.hear(ConfigRejected(commit, error.message))
            return
        self._parsed, self._rejected = {(file.name, file.blob): self._parse(file) for file in files}, ""
        catalogue = merge(await doors.db(doors.store.entries), self._parsed.values(), commit)
        await doors.db(doors.store.save_catalogue, catalogue, commit, clock.now())
        self.loaded = True
        self._targets = catalogue.targets
        await self._follow_sources()
        self._tell_config(catalogue, commit, head)

    async def _check_trust(self, repo: ConfigRepo, mirror: Path, head: ConfigHead | None, commit: str) -> None:
        """Raise SourceError for a config commit that the settings do not let into force."""
        if repo.signed_by:
            problem = await self._doors.git(self._doors.trust.problem, mirror, commit, repo.signed_by)
            if problem is not None:
                raise SourceError(SourceReason.FORBIDDEN, problem)
        before = head.commit if head else ""
        if not repo.fast_forward_only or not before:
            return
        if not await self._doors.git(objects.is_ancestor, mirror, before, commit):
            message = f"the branch was rewound or rewritten after {short(before)}, and fast_forward_only is set"
            raise SourceError(SourceReason.FORBIDDEN, message)

    def _parse(self, file: objects.ConfigFile) -> ParsedFile:
        known = self._parsed.get((file.name, file.blob))
        if known is not None:
            return known
        if file.data is None:
            return ParsedFile(file.name, problems=(Problem(Place(file.name), "", file.problem),), fatal=True)
        return parse_file(file.data, file.name, self._doors.settings.url_policy)

    def _tell_config(self, catalogue: Catalogue, commit: str, before: ConfigHead | None) -> None:
        problems = tuple(str(problem) for problem in catalogue.problems)
        if before is None or before.commit != commit or before.problems != problems:
            self._doors.listener.hear(ConfigLoaded(commit, len(catalogue.targets), problems))

    def sources_of(self, names: Iterable[str]) -> set[str]:
        """Return the Sources of targets."""
        return {self._targets[name].source for name in names if name in self._targets}

    # --- the pass -----------------------------------------------------------------------------------------

    async def run_pass(self, *, start: bool = True, skip: frozenset[tuple[str, bool]] = frozenset()) -> Snapshot:
        """Gather, decide, apply; return what was known and decided.

        With `start` false nothing is started (a dry run, or a daemon that drains); `skip`
        holds what was started in this run already: names, and whether it was a rollback.
        """
        doors = self._doors
        await self.load_config()
        records, head = await doors.db(lambda: (doors.store.targets(), doors.store.config_head()))
        known = Known(doors.state.mirrors, doors.trust, doors.vault, head.commit if head else None)
        desired, to_pin = await doors.git(self._resolve, known, self._poller.states)
        if start:
            self._writer.write(to_pin, self._targets)
        changed = {
            name: wanted for name, wanted in desired.items() if name not in records or records[name].desired != wanted
        }
        now = clock.now()
        if changed:
            await doors.db(doors.store.save_desired, changed, now)
        await self._cancel(desired, records)
        slots = doors.settings.max_concurrent_deploys
        snapshot = await doors.db(remembered, doors.store, slots, now, self._poller.states)
        self._tell_decisions(snapshot)
        self.snapshot, self.shown = snapshot, self.loaded
        begun = [pair for pair in snapshot.plan.starts if start and start_key(*pair) not in skip]
        for target, decision in begun:
            await self._deployer.start(target, decision, snapshot.records[target.name])
        if begun:  # what is shown is what is true: these run now
            self.snapshot = await doors.db(remembered, doors.store, slots, now, self._poller.states)
            self._tell_decisions(self.snapshot)
        elif dirty := self._poller.take_dirty():  # while a deploy begins, this can wait for the next pass or tick
            await doors.db(doors.store.save_sources, dirty)
        return snapshot

    def _resolve(self, known: Known, sources: Mapping[str, SourceState]) -> tuple[dict[str, Desired], dict[str, str]]:
        """Return what is desired of every target, and which pins the daemon should write."""
        targets = self._targets
        desired = {name: resolve(known, target, sources.get(target.source)) for name, target in targets.items()}
        return desired, to_write(known, targets.values())

    async def _cancel(self, desired: Mapping[str, Desired], records: Mapping[str, TargetRecord]) -> None:
        """End running deploys that an operator, or a newer version, asks to end."""
        for name, record in records.items():
            live = record.observed.live
            if live is not None and live.cancelled_by is not None:
                await self._deployer.cancel(name, OutcomeReason.CANCELLED, f"cancelled by {live.cancelled_by}")
        for name, target in self._targets.items():
            version, wanted = self._deployer.wanted_by(name), desired[name].version
            if target.on_change == "cancel" and version is not None and wanted is not None and version != wanted:
                await self._deployer.cancel(name, OutcomeReason.OBSOLETE, "a newer version is wanted")

    def _tell_decisions(self, snapshot: Snapshot) -> None:
        told = {}
        for name, planned in snapshot.plan.targets.items():
            told[name] = (planned.decision.kind, str(planned.decision.reason))
            if self._told.get(name) != told[name]:
                self._doors.listener.hear(Decided(name, planned.decision, planned.rule.number))
        self._told = told
