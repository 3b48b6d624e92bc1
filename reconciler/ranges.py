"""Semver ranges: which of many tags is the highest version that a range allows.

Ranges are npm's (`^1.2`, `~1.4.2`, `>=1.0 <2.0`, `1.x || 2.x`); a comma between two parts means the same as a space.
Pre-releases are left out unless the range names one.
"""

from __future__ import annotations

from collections.abc import Iterable

from semantic_version import NpmSpec, Version


def parse_range(text: str) -> NpmSpec:
    """Return the range; raise ValueError with what was expected."""
    try:
        return NpmSpec(" ".join(text.replace(",", " ").split()))
    except ValueError:
        raise ValueError("expected a semver range such as ^1.2, ~1.4.2 or >=1.0 <2.0") from None


def highest(tags: Iterable[str], text: str, prefix: str) -> str | None:
    """Return the tag with the highest version within a range; tags that are no versions are left out.

    Of equal versions (they may differ in build metadata) the greater name wins, so that the answer is always one.
    """
    wanted, exact = parse_range(text), _exact(text)
    found: list[tuple[Version, str]] = []
    for tag in tags:
        if not tag.startswith(prefix):
            continue
        try:
            version = Version(tag[len(prefix) :])
        except ValueError:
            continue
        # The library lets a bare pre-release match its release as well; whoever names one version means that one.
        if version in wanted and exact in (None, version):
            found.append((version, tag))
    if not found:
        return None
    best = max(version.precedence_key[:-1] for version, _ in found)
    return max(tag for version, tag in found if version.precedence_key[:-1] == best)


def _exact(text: str) -> Version | None:
    try:
        return Version(text.strip().removeprefix("="))
    except ValueError:
        return None
