"""All files of one config commit, merged into what was known before.

Laws:
1. One bad entry never touches another: it keeps its last good target, and its problems are shown.
2. Two entries of one name spoil each other: every claimant keeps the last good target.
3. A broken file keeps the last good targets of all entries that it held.
4. A name that no file holds any more is unmanaged: forgotten, never undeployed. When more than half of at
   least four names vanish in one commit, they stay until another commit confirms it.
"""

from __future__ import annotations

import graphlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from reconciler.config.deployments import Entry, ParsedFile
from reconciler.config.problems import Place, Problem, dotted, nearest
from reconciler.spec import Target

MASS_VANISH_OF = 4


@dataclass(frozen=True, slots=True)
class KnownEntry:
    """One name: its last good target, where it stands, and what is wrong with it now."""

    name: str
    place: Place
    target: Target | None  # the last good one
    commit: str  # the config commit of the last good one, or of the first bad one
    problems: tuple[str, ...] = ()
    vanished_in: str | None = None  # the config commit in which it vanished, while that is not confirmed


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Every known entry after one config commit, and every problem that the commit has."""

    entries: Mapping[str, KnownEntry]
    problems: tuple[Problem, ...] = ()
    unmanaged: tuple[str, ...] = ()

    @property
    def targets(self) -> dict[str, Target]:
        """The targets in force."""
        return {name: entry.target for name, entry in self.entries.items() if entry.target is not None}


def merge(known: Mapping[str, KnownEntry], files: Iterable[ParsedFile], commit: str) -> Catalogue:
    """Return the catalogue of config commit `commit`."""
    files = list(files)
    claims: dict[str, list[Entry]] = {}
    for parsed in files:
        for entry in parsed.entries:
            claims.setdefault(entry.name, []).append(entry)
    problems = {problem for parsed in files for problem in parsed.problems}
    declared = {name: _claimed(entries) for name, entries in claims.items()}
    declared = _check_graph(declared, {*claims, *known})
    problems |= {problem for entry in declared.values() for problem in entry.problems}
    entries = {name: _known(entry, known.get(name), commit) for name, entry in declared.items()}

    broken = {parsed.file: parsed.problems for parsed in files if parsed.fatal}
    missing = [name for name in known if name not in entries]
    for name in [name for name in missing if known[name].place.file in broken]:
        reasons = tuple(str(problem) for problem in broken[known[name].place.file])
        entries[name] = replace(known[name], problems=reasons, vanished_in=None)
        missing.remove(name)
    unmanaged = [name for name in missing if not _is_held(name, known, missing, commit)]
    for name in missing:
        if name not in unmanaged:
            since = known[name].vanished_in or commit
            reason = f"vanished with {len(missing)} of {len(known)} targets in config commit {since[:10]}; "
            reason += "it stays until another commit confirms that"
            entries[name] = replace(known[name], problems=(f"{known[name].place}: {reason}",), vanished_in=since)
            problems.add(Problem(known[name].place, dotted(("targets", name)), reason))
    return Catalogue(dict(sorted(entries.items())), tuple(sorted(problems)), tuple(sorted(unmanaged)))


def check(files: Iterable[ParsedFile]) -> Catalogue:
    """Return the catalogue of files that nothing is known of yet: what `validate` looks at."""
    return merge({}, files, "")


def _is_held(name: str, known: Mapping[str, KnownEntry], missing: Sequence[str], commit: str) -> bool:
    since = known[name].vanished_in
    if since is not None:
        return since == commit
    fresh = [other for other in missing if known[other].vanished_in is None]
    return len(known) >= MASS_VANISH_OF and 2 * len(fresh) > len(known)


def _claimed(entries: Sequence[Entry]) -> Entry:
    """Return the one entry of a name; several claimants are all spoiled."""
    first = entries[0]
    if len(entries) == 1:
        return first
    problems = [problem for entry in entries for problem in entry.problems]
    for entry in entries:
        others = ", ".join(str(other.place) for other in entries if other is not entry)
        message = f"a duplicate target name; it also stands in {others}"
        problems.append(Problem(entry.place, dotted(("targets", entry.name)), message))
    return Entry(first.name, first.place, None, tuple(problems))


def _check_graph(declared: Mapping[str, Entry], names: set[str]) -> dict[str, Entry]:
    """Return the entries with unknown dependencies and cycles as problems."""
    checked = dict(declared)
    for name, entry in declared.items():
        if entry.target is None:
            continue
        for index, other in enumerate(entry.target.depends_on):
            if other not in declared:
                message = f"unknown target {other!r}{nearest(other, names - {name, other})}"
                checked[name] = _spoiled(checked[name], f"depends_on[{index}]", message)
    graph = {name: set(entry.target.depends_on) for name, entry in checked.items() if entry.target is not None}
    while True:
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            cycle: list[str] = error.args[1]
            path = " → ".join(reversed(cycle))
            for name in set(cycle):
                checked[name] = _spoiled(checked[name], "depends_on", f"a cycle: {path}")
                del graph[name]
        else:
            return checked


def _spoiled(entry: Entry, key: str, message: str) -> Entry:
    problem = Problem(entry.place, dotted(("targets", entry.name, key)), message)
    return Entry(entry.name, entry.place, None, (*entry.problems, problem))


def _known(entry: Entry, before: KnownEntry | None, commit: str) -> KnownEntry:
    if entry.target is not None:
        return KnownEntry(entry.name, entry.place, entry.target, commit)
    problems = tuple(str(problem) for problem in entry.problems)
    if before is None or before.target is None:
        return KnownEntry(entry.name, entry.place, None, commit, problems)
    return KnownEntry(entry.name, entry.place, before.target, before.commit, problems)
