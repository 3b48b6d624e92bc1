"""From what the configuration asks to what that means: refs become commits, by looking at mirrors.

Reads local objects only, so it costs no request and works while every server is down. Blocking: called in the
thread for git objects.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from reconciler.config.settings import ConfigRepo
from reconciler.git import objects
from reconciler.git.library import mirror_name
from reconciler.model import Desired, Hold, HoldReason, SourceState, Version
from reconciler.runner.secrets import SecretMissing, read_secrets
from reconciler.spec import Follow, Target
from reconciler.text import short

# Keys that the schema accepts and this version does not act on, with what happens instead.
NOT_ACTED_ON = {
    "observe": "drift is not looked for",
    "submodules": "submodules are not checked out",
    "redeploy_on_secret_change": "a changed secret is used by the next deploy",
}


@dataclass(frozen=True, slots=True)
class Needs:
    """What is asked of one Source: how often, which refs, and which pins must be in its mirror."""

    interval_s: float
    refs: frozenset[str] = frozenset()
    pins: frozenset[str] = frozenset()


def not_acted_on(target: Target) -> list[str]:
    """Return a line for each key that the target uses and this version does not act on."""
    used = [key for key in NOT_ACTED_ON if getattr(target, key)]
    lines = [f"{key} is not acted on yet: {NOT_ACTED_ON[key]}" for key in used]
    if target.follow and target.follow.write:
        lines.append("follow.write is not acted on yet: no pin is committed")
    if target.follow and target.follow.semver:
        lines.append("follow.semver is not acted on yet: no tag is compared with the range")
    return lines


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
            before.refs | wanted_refs(target),
            before.pins | ({target.commit} if target.commit else set()),
        )
    return found


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


def resolve(mirrors: Path, target: Target, source: SourceState | None, secrets_dir: str | None) -> Desired:
    """Return the version that is desired of a target, or the Hold that says why there is none."""
    mirror = mirrors / mirror_name(target.source)
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
    problem = _untrusted(mirror, target, commit)
    try:
        read_secrets(secrets_dir, target.name, target.secrets)
    except SecretMissing as error:
        problem = problem or Hold(HoldReason.UNRESOLVED, str(error))
    return Desired(version, revision, problem, behind)


def _followed(mirror: Path, follow: Follow) -> tuple[str, str] | None:
    """Return the commit and the name of what is followed; None where the mirror does not have it."""
    if follow.branch:
        commit = objects.resolve(mirror, f"refs/heads/{follow.branch}")
        return (commit, follow.branch) if commit else None
    if follow.tag:
        found = objects.tags(mirror, follow.tag)
        newest = max(found, key=lambda name: (found[name][1], name), default=None)
        return (found[newest][0], newest) if newest else None
    return None


def _ref_in_words(follow: Follow | None) -> str:
    if follow is None or follow.semver:
        return "a semver range, which is not acted on yet,"
    return f"branch {follow.branch}" if follow.branch else f"a tag like {follow.tag}"


def _untrusted(mirror: Path, target: Target, commit: str) -> Hold | None:
    if target.signed_by:
        message = "signed_by is not acted on yet, and what cannot be checked is not deployed"
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
