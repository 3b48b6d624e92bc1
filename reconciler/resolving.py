"""From what the configuration asks to what that means: refs become commits, by looking at mirrors.

Reads local objects only, so it costs no request and works while every server is down. Blocking: called in the
thread for git objects.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from reconciler.config.settings import ConfigRepo
from reconciler.git import objects
from reconciler.git.library import mirror_name
from reconciler.model import Desired, Hold, HoldReason, SourceState, Version
from reconciler.ranges import highest
from reconciler.runner.secrets import SecretMissing
from reconciler.spec import Follow, Target
from reconciler.text import short
from reconciler.trusting import Trust
from reconciler.vault import Vault


@dataclass(frozen=True, slots=True)
class Needs:
    """What is asked of one Source: how often, which refs, and which pins must be in its mirror."""

    interval_s: float
    refs: frozenset[str] = frozenset()
    pins: frozenset[str] = frozenset()


def needs(targets: Iterable[Target], config_repo: ConfigRepo | None) -> dict[str, Needs]:
    """Return what is asked of every Source; targets of one repository share one."""
    found: dict[str, Needs] = {}
    if config_repo is not None:
        refs = frozenset({f"refs/heads/{config_repo.branch}"})
        found[config_repo.url] = Needs(config_repo.interval_s, refs)
    for target in targets:
        before = found.get(target.source, Needs(target.interval_s))
        found[target.source] = Needs(
            min(before.interval_s, target.interval_s),
            _shared(before.refs | wanted_refs(target)),
            before.pins | ({target.commit} if target.commit else set()),
        )
    return found


@lru_cache(maxsize=1_024)
def _shared(names: frozenset[str]) -> frozenset[str]:
    """Return one object for equal sets: thousands of Sources may ask for the same branch."""
    return names


def wanted_refs(target: Target) -> frozenset[str]:
    """Return the refs that a poll of the target's Source asks for; a prefix ends with a slash."""
    refs = set()
    if target.follow:
        refs.add(f"refs/heads/{target.follow.branch}" if target.follow.branch else "refs/tags/")
    if target.within:
        refs |= {f"refs/heads/{target.within}", f"refs/tags/{target.within}"}
    return frozenset(refs)


def missing_pins(mirrors: Path, url: str, pins: Iterable[str]) -> frozenset[str]:
    """Return the pins that the Source's mirror does not hold."""
    mirror = mirrors / mirror_name(url)
    return frozenset(pin for pin in pins if not objects.has_commit(mirror, pin))


def known_refs(mirrors: Path, url: str, wanted: Iterable[str]) -> dict[str, str]:
    """Return the wanted refs as the mirror has them."""
    mirror = mirrors / mirror_name(url)
    found: dict[str, str] = {}
    for ref in wanted:
        if ref.endswith("/"):
            found |= {f"refs/tags/{name}": commit for name, (commit, _) in objects.tags(mirror, "*").items()}
        elif commit := objects.resolve(mirror, ref):
            found[ref] = commit
    return found


@dataclass(frozen=True, slots=True)
class Known:
    """What refs, signatures and secrets are looked up in."""

    mirrors: Path
    trust: Trust
    vault: Vault
    config_commit: str | None


def resolve(known: Known, target: Target, source: SourceState | None) -> Desired:
    """Return the version that is desired of a target, or the Hold that says why there is none."""
    mirror = known.mirrors / mirror_name(target.source)
    followed = _followed(mirror, target.follow) if target.follow else None
    commit, name = target.commit, "pin"
    if commit is None:
        commit, name = followed or (None, "")
    if commit is None:
        return Desired(problem=Hold(HoldReason.UNRESOLVED, _why_not(_ref_in_words(target.follow), source)))
    version = Version(commit, target.digest)
    revision = f"{name}@{short(commit)}"
    if not objects.has_commit(mirror, commit):
        what = f"commit {short(commit)}"
        return Desired(version, revision, Hold(HoldReason.UNRESOLVED, _why_not(what, source)))
    behind = None
    if target.commit and followed:
        behind = objects.count_between(mirror, commit, followed[0])
    problem = _untrusted(known, mirror, target, commit)
    try:
        secrets = known.vault.digest(target, known.config_commit)
        if target.redeploy_on_secret_change and target.secrets:
            version = Version(commit, f"{target.digest}-{secrets}")
    except SecretMissing as error:
        problem = problem or Hold(HoldReason.UNRESOLVED, str(error))
    return Desired(version, revision, problem, behind)


def to_write(known: Known, targets: Iterable[Target]) -> dict[str, str]:
    """Return the pins that the daemon should commit: what is followed, as far as it is trusted."""
    found = {}
    for target in targets:
        if target.follow is None or not target.follow.write:
            continue
        mirror = known.mirrors / mirror_name(target.source)
        newest = _followed(mirror, target.follow)
        if newest is not None and _untrusted(known, mirror, target, newest[0]) is None:
            found[target.name] = newest[0]
    return found


def _followed(mirror: Path, follow: Follow) -> tuple[str, str] | None:
    """Return the commit and the name of what is followed; None where the mirror does not have it."""
    if follow.branch:
        commit = objects.resolve(mirror, f"refs/heads/{follow.branch}")
        return (commit, follow.branch) if commit else None
    if follow.tag:
        found = objects.tags(mirror, follow.tag)
        newest = max(found, key=lambda name: (found[name][1], name), default=None)
        return (found[newest][0], newest) if newest else None
    found = objects.tags(mirror, "*")
    best = highest(found, follow.semver or "", follow.prefix)
    return (found[best][0], best) if best else None


def _ref_in_words(follow: Follow | None) -> str:
    if follow is None or follow.branch:
        return f"branch {follow.branch}" if follow else "its commit"
    return f"a tag like {follow.tag}" if follow.tag else f"a tag {follow.prefix}X.Y.Z within {follow.semver}"


def _untrusted(known: Known, mirror: Path, target: Target, commit: str) -> Hold | None:
    if target.signed_by and (message := known.trust.problem(mirror, commit, target.signed_by)):
        return Hold(HoldReason.UNTRUSTED, message)
    if target.within is None:
        return None
    for namespace in ("refs/heads/", "refs/tags/"):
        tip = objects.resolve(mirror, namespace + target.within)
        if tip is not None:
            if objects.is_ancestor(mirror, commit, tip):
                return None
            return Hold(HoldReason.UNTRUSTED, f"{short(commit)} is not reachable from {target.within}")
    return Hold(HoldReason.UNTRUSTED, f"there is no branch or tag {target.within} that {short(commit)} could be in")


def _why_not(what: str, source: SourceState | None) -> str:
    if source is None or source.last_poll is None:
        return f"{what} is not known yet: its source was not polled so far"
    if source.reason is None:
        return f"{what} is not in its source"
    return f"{what} is not here: {source.reason}: {source.message}"
