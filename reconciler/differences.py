"""The commits between what is deployed and what is desired, from the mirror. Blocking, like the door that it asks."""

from __future__ import annotations

from pathlib import Path

from reconciler import urls, views
from reconciler.git import objects
from reconciler.git.library import mirror_name
from reconciler.shapes import CommitsView, TargetView

MAX_COMMITS = 200


def differences(mirrors: Path, target: TargetView) -> CommitsView:
    """Return what a deploy would add and take away, at most MAX_COMMITS commits each."""
    desired, deployed, repo = target["desired"], target["deployed"], target["repo"]
    if desired is None or repo is None or desired == deployed:
        return views.commits_view(target)
    mirror = mirrors / mirror_name(str(urls.parse(repo)))
    added = objects.between(mirror, deployed, desired, MAX_COMMITS)
    removed = objects.between(mirror, desired, deployed, MAX_COMMITS) if deployed else []
    return views.commits_view(target, added, removed)
