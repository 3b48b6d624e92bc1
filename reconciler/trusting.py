"""Whether a commit is signed by keys that the settings trust. Blocking: called in the thread for git objects.

A verdict is remembered until one of the key files changes: commits do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from reconciler.config.settings import KeySet
from reconciler.git import objects
from reconciler.runner.signatures import CannotVerify, verify
from reconciler.text import one_line, short

MAX_REMEMBERED = 10_000


class Trust:
    """Checks signatures against the key sets of the settings."""

    def __init__(self, key_sets: Mapping[str, KeySet]) -> None:
        self._key_sets = key_sets
        self._known: dict[tuple[object, ...], str | None] = {}

    def problem(self, mirror: Path, commit: str, names: Sequence[str]) -> str | None:
        """Return why a commit is not trusted by any of the named key sets, with its signer; None where it is."""
        unknown = [name for name in names if name not in self._key_sets]
        if unknown:
            return f"signed_by names {', '.join(unknown)}, which is no key set of the daemon's settings"
        key_sets = [self._key_sets[name] for name in names]
        key = (commit, tuple(names), tuple(_state(keys) for keys in key_sets))
        if key not in self._known:
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            try:
                self._known[key] = _problem(mirror, commit, names, key_sets)
            except CannotVerify as error:  # that may be mended: it is tried again
                return f"the signature of {short(commit)} cannot be checked: {error}"
        return self._known[key]


def _problem(mirror: Path, commit: str, names: Sequence[str], key_sets: Sequence[KeySet]) -> str | None:
    signed = objects.signature(mirror, commit)
    sets = " or ".join(names)
    if signed is None:
        return f"{short(commit)} is not signed; a signature of {sets} is expected"
    verdict = verify(*signed, key_sets)
    if verdict.trusted:
        return None
    return f"{short(commit)} is signed by {one_line(verdict.signer)}, which {sets} does not trust"


def _state(keys: KeySet) -> tuple[object, ...]:
    file = keys.allowed_signers_file or keys.gpg_keys_file or ""
    try:
        found = Path(file).stat()
    except OSError:
        return (file,)
    return (file, found.st_mtime_ns, found.st_size, found.st_ino)
