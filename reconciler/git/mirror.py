"""Fetching into a mirror: a bare copy of a Source, which is disposable. Runs in a worker process.

All branches and tags are fetched (a default server refuses to send a bare commit id over the protocol that
libgit2 speaks), then each wanted pin is looked for, then asked for by its id. A ref of our own keeps every
pin alive, so that no rewritten branch takes a deployed commit away.
"""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pygit2
from pygit2.enums import CredentialType, FetchPrune

from reconciler import urls
from reconciler.errors import SourceError, SourceReason
from reconciler.git.library import PIN_REFS, mirror_name
from reconciler.removing import remove
from reconciler.text import is_text

REFSPECS = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
SCRATCH = "scratch.git"  # an empty repository, to ask servers from
KEPT = "reconciler-kept"  # in the mirror of a submodule: when it was last used
UNUSED_S = 86_400.0
MAX_PACKS = 32
MAX_LOOSE = 4_000
MAX_PACK_BYTES = 16 * 1024**3
LOOK_EVERY_BYTES = 16 * 1024**2
MIN_FREE_BYTES = 64 * 1024 * 1024


class Callbacks(pygit2.RemoteCallbacks):
    """Answers libgit2's questions; a wrong credential is offered once, and only below its prefix."""

    def __init__(self, url: str, login: dict[str, Any] | None, folder: Path | None = None) -> None:
        """`folder` is where a pack is written to, if one is."""
        super().__init__()
        self._url = url
        self._login = login
        self._asked = False
        self._folder = folder
        self._look_at = LOOK_EVERY_BYTES

    def credentials(self, url: str, username_from_url: str | None, allowed_types: CredentialType) -> Any:
        """Return the credential for `url`, once."""
        if allowed_types == CredentialType.USERNAME:
            return pygit2.Username(username_from_url or "git")
        login, refused = self._login, SourceReason.AUTHENTICATION_FAILED
        if login is None:
            raise SourceError(refused, f"{self._url} asks for credentials; the settings have none for it")
        if self._asked:
            raise SourceError(refused, f"{self._url} refused the credential for {login['prefix']}")
        if not urls.covers(login["prefix"], url.rstrip("/")):
            raise SourceError(SourceReason.REDIRECTED, f"{self._url} led to another place that asks for credentials")
        self._asked = True
        if allowed_types & CredentialType.USERPASS_PLAINTEXT and login["password"] is not None:
            return pygit2.UserPass(login["username"] or "git", login["password"])
        if allowed_types & CredentialType.SSH_KEY and login["ssh_key_file"]:
            user = username_from_url or login["username"] or "git"
            return pygit2.Keypair(user, None, login["ssh_key_file"], "")
        raise SourceError(refused, f"{self._url} takes no credential of the kind that the settings have for it")

    def transfer_progress(self, stats: Any) -> None:
        """Stop what is too large before it fills the disk."""
        if stats.received_bytes > MAX_PACK_BYTES:
            raise SourceError(SourceReason.TOO_LARGE, f"{self._url} sends more than {MAX_PACK_BYTES // 1024**2} MiB")
        if self._folder is not None and stats.received_bytes > self._look_at:
            self._look_at = stats.received_bytes + LOOK_EVERY_BYTES
            check_space(self._folder)

    def certificate_check(self, certificate: None, valid: bool, host: bytes) -> bool:  # noqa: ARG002 - pygit2's
        """Return whether libgit2 trusts the certificate or host key, and it is that of the Source's own host.

        Without this method pygit2 accepts every ssh host key. The host is compared because libgit2 follows a
        redirect to another one, whatever `http.followRedirects` says.
        """
        return valid and host.decode(errors="replace").lower() == urls.parse(self._url).host


@contextmanager
def locked(mirror: Path) -> Iterator[None]:
    """Hold the mirror's lock: one fetch or checkout at a time."""
    mirror.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(mirror.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def fetch(
    url: str, mirror: Path, pins: Sequence[str], login: dict[str, Any] | None, *, anew: bool = False
) -> dict[str, Any]:
    """Bring the mirror up to date; return which of `pins` it has not got, and whether it was made anew.

    Raises SourceError with a reason of the closed list. A mirror that is found damaged is made anew, once; one that is
    known to be, at once (`anew`).
    """
    check_space(mirror.parent)
    with locked(mirror):
        if anew:
            discard(mirror)
        remove_leftovers(mirror)
        missing: list[str] | None = None
        try:
            missing = _fetch(url, mirror, pins, login)
        except SourceError:
            if not is_damaged(mirror):
                raise
        if missing is None or (missing and is_damaged(mirror)):  # what is missing may be here, and not to be read
            discard(mirror)
            anew = True
            gc.collect()  # libgit2 reads a pack of the same name from memory while anything holds the old one
            missing = _fetch(url, mirror, pins, login)
        return {"missing": missing, "made_anew": True} if anew else {"missing": missing}


def list_refs(url: str, prefixes: Sequence[str], login: dict[str, Any] | None, scratch: Path) -> dict[str, str]:
    """Return the refs of a server that begin with one of `prefixes`, tags peeled: the way for odd servers."""
    with locked(scratch):
        repository = _repository(scratch)
        callbacks = Callbacks(url, login)
        remote, proxy = repository.remotes.create_anonymous(url), login["proxy"] if login else None
        heads = calling(url, lambda: remote.list_heads(callbacks=callbacks, proxy=proxy))
    found: dict[str, str] = {}
    for head in heads:
        name = head.name or ""
        if is_text(name) and name.removesuffix("^{}").startswith(tuple(prefixes)):
            found[name.removesuffix("^{}")] = str(head.oid)  # the peeled line follows the tag's own
    return found


def _fetch(url: str, mirror: Path, pins: Sequence[str], login: dict[str, Any] | None) -> list[str]:
    repository = _repository(mirror)
    remote = repository.remotes.create_anonymous(url)
    proxy = login["proxy"] if login else None
    callbacks = Callbacks(url, login, mirror)
    calling(url, lambda: remote.fetch(REFSPECS, callbacks=callbacks, prune=FetchPrune.PRUNE, proxy=proxy))
    missing = [pin for pin in pins if not hold(repository, pin)]
    if missing:
        # Most servers refuse to send a bare commit id; what matters is what is there afterwards.
        with suppress(SourceError):
            calling(url, lambda: remote.fetch(missing, callbacks=Callbacks(url, login), proxy=proxy))
        missing = [pin for pin in missing if not hold(repository, pin)]
    return missing


def hold(repository: pygit2.Repository, pin: str) -> bool:
    """Keep a commit alive by a ref of our own; False where the mirror has no such commit."""
    try:
        if not isinstance(repository.get(pin), pygit2.Commit):
            return False
        repository.references.create(PIN_REFS + pin, pin, force=True)
    except (pygit2.GitError, ValueError):
        return False
    return True


def _repository(mirror: Path) -> pygit2.Repository:
    """Open the mirror; make it beside and rename it into place where there is none or a broken one."""
    if mirror.exists():
        try:
            return pygit2.Repository(str(mirror))
        except pygit2.GitError:
            discard(mirror)
    fresh = mirror.with_name(f".new-{mirror.name}")
    remove(fresh)
    repository = pygit2.init_repository(str(fresh), bare=True)
    repository.config["core.hooksPath"] = "/dev/null"
    repository.config["gc.auto"] = 0
    fresh.rename(mirror)
    return pygit2.Repository(str(mirror))


def is_damaged(mirror: Path) -> bool:
    """Whether a ref of the mirror leads to a commit or tree that cannot be read. Asked after a failure only."""
    try:
        repository = pygit2.Repository(str(mirror))
        repository.lookup_reference("HEAD")
        for name in filter(is_text, repository.references):
            found = repository.lookup_reference(name).peel()
            if isinstance(found, pygit2.Commit):
                found.tree.id  # noqa: B018 - reads the commit and looks its tree up
    except (pygit2.GitError, KeyError, ValueError):
        return True
    return False


def is_scattered(mirror: Path) -> bool:
    """Whether a mirror has so many packs or loose objects that it should be collected. Costs two looks."""
    objects = mirror / "objects"
    try:
        packs = sum(1 for path in (objects / "pack").iterdir() if path.suffix == ".pack")
        sample = objects / "17"  # ids are spread evenly; git estimates so, too
        loose = 256 * len(list(sample.iterdir())) if sample.exists() else 0
    except OSError:
        return False
    return packs > MAX_PACKS or loose > MAX_LOOSE


def collect(mirror: Path, commits: Iterable[str]) -> None:
    """Pack what refs and `commits` lead to into one pack, and drop everything else.

    What is needed is in its new place before anything goes, so who reads meanwhile finds it. Raises SourceError.
    """
    with locked(mirror):
        remove_leftovers(mirror)
        fresh = mirror.with_name(f".collected-{mirror.name}")
        remove(fresh)
        repository = pygit2.Repository(str(mirror))
        kept = {commit for commit in commits if hold(repository, commit)}
        names = [name for name in repository.references if is_text(name)]
        for name in names:  # first: libgit2 sends what all refs of a local repository lead to, whatever is asked for
            if name.startswith(PIN_REFS) and name[len(PIN_REFS) :] not in kept:
                repository.references.delete(name)
        wanted = {name: repository.references[name].target for name in names if name in repository.references}
        size = sum(path.stat().st_size for path in (mirror / "objects").rglob("*") if path.is_file())
        check_space(mirror.parent, size)
        copy = pygit2.init_repository(str(fresh), bare=True)
        remote = copy.remotes.create_anonymous(str(mirror))
        calling(str(mirror), lambda: remote.fetch([f"+{name}:{name}" for name in wanted]))
        if any(copy.references[name].target != target for name, target in wanted.items()):
            raise SourceError(SourceReason.CORRUPT, f"{mirror.name} cannot be collected: refs are missing afterwards")
        old = [path for path in (mirror / "objects").rglob("*") if path.is_file()]
        (mirror / "objects" / "pack").mkdir(exist_ok=True)
        packs = sorted((fresh / "objects" / "pack").iterdir(), reverse=True)  # each .pack comes before its .idx
        for pack in packs:
            pack.rename(mirror / "objects" / "pack" / pack.name)
        new = {pack.name for pack in packs}
        for path in old if new else ():
            if path.name not in new:
                path.unlink(missing_ok=True)
        remove(fresh)


def discard(mirror: Path) -> None:
    """Remove a mirror, at once for everybody who looks."""
    remove(mirror)


def forget(mirror: Path) -> None:
    """Remove a mirror for good, once nothing uses it."""
    with locked(mirror):
        discard(mirror)
    mirror.with_suffix(".lock").unlink(missing_ok=True)


def remove_unneeded(mirrors: Path, urls: Iterable[str]) -> None:
    """Remove the mirrors of Sources that nothing names any more, and of submodules that were not used for a while."""
    needed = {SCRATCH, *(mirror_name(url) for url in urls)}
    for mirror in mirrors.glob("*.git"):
        if mirror.name not in needed and not _is_kept(mirror):
            forget(mirror)


def keep(mirror: Path) -> None:
    """Note that a submodule comes from this mirror, which no target names."""
    (mirror / KEPT).touch()


def _is_kept(mirror: Path) -> bool:
    try:
        return time.time() - (mirror / KEPT).stat().st_mtime < UNUSED_S
    except OSError:
        return False


def remove_leftovers(mirror: Path) -> None:
    """Remove what a killed fetch left: half packs (a disk leak) and ref locks (which block a ref for ever)."""
    for pattern in ("objects/pack/pack_git2_*", "objects/pack/tmp_*", "*.lock", "refs/**/*.lock"):
        for leftover in mirror.glob(pattern):
            leftover.unlink(missing_ok=True)


def check_space(folder: Path, needed: int = 0) -> None:
    """Raise SourceError(disk_full) where too little room is left to begin what will write `needed` bytes."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    free, least = shutil.disk_usage(folder).free, MIN_FREE_BYTES + needed
    if free < least:
        message = f"{free // 1024**2} MiB are free below {folder}; {least // 1024**2} MiB are needed"
        raise SourceError(SourceReason.DISK_FULL, message)


# libgit2 tells most failures by text alone. The first match counts; the order goes from special to general.
_REASONS: tuple[tuple[SourceReason, tuple[str, ...]], ...] = (
    (SourceReason.DISK_FULL, ("No space left", "write error", "failed to write")),
    (SourceReason.AUTHENTICATION_FAILED, ("status code: 401", "authentication required", "Failed to authenticate")),
    (SourceReason.AUTHENTICATION_FAILED, ("authentication replays", "Failed to retrieve list of SSH")),
    (SourceReason.FORBIDDEN, ("status code: 403",)),
    (SourceReason.NOT_FOUND, ("status code: 404", "status code: 410", "does not exist", "Could not find repository")),
    (SourceReason.NOT_FOUND, ("failed to resolve path", "repository not found", "Repository not found")),
    (SourceReason.RATE_LIMITED, ("status code: 429",)),
    (SourceReason.SERVER_ERROR, ("status code: 5",)),
    (SourceReason.REDIRECTED, ("redirect", "status code: 3")),
    (SourceReason.HOST_KEY_MISMATCH, ("host key", "hostkey", "certificate")),
    (SourceReason.TIMEOUT, ("timed out", "timeout")),
    (SourceReason.TOO_LARGE, ("Out of memory", "out of memory")),
    (SourceReason.UNREACHABLE, ("failed to connect", "failed to resolve", "could not connect", "Connection re")),
    (SourceReason.UNREACHABLE, ("unexpected disconnection",)),
    (SourceReason.CORRUPT, ("object not found", "corrupt", "is broken", "checksum", "mismatch", "inflate")),
)


def reason_of(text: str) -> SourceReason:
    """Return the named reason of a libgit2 error text."""
    for reason, words in _REASONS:
        if any(word in text for word in words):
            return reason
    return SourceReason.PROTOCOL_ERROR


def calling(url: str, call: Callable[[], Any]) -> Any:
    """Call libgit2's network; errors become SourceError. The text of libgit2 never holds credentials."""
    try:
        return call()
    except SourceError:
        raise
    except (pygit2.GitError, KeyError, ValueError, OSError) as error:
        text = str(error)
        reason = SourceReason.DISK_FULL if isinstance(error, OSError) else reason_of(text)
        raise SourceError(reason, f"{url}: {text}") from error
