"""Where verbs get their answers: from the state directory of this machine, or from a daemon elsewhere.

Both give the same views, so a verb prints the same either way.
"""

from __future__ import annotations

import getpass
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from reconciler import __version__, clock, views, waking
from reconciler.config.problems import nearest
from reconciler.config.settings import Settings
from reconciler.differences import differences
from reconciler.errors import CannotTell, ReconcilerError
from reconciler.gathering import remembered
from reconciler.lifecycle import LIVE
from reconciler.model import Deploy
from reconciler.runner import output
from reconciler.shapes import CommitsView, ConfigView, DeployView, TargetView
from reconciler.snapshot import Snapshot
from reconciler.store import StateDir, Store
from reconciler.wishes import Wish, grant

FOLLOW_EVERY_S = 0.2
TIMEOUT_S = 30.0
PAGE = 1_000
_MAX_ERROR = 2_000  # bytes of an answer that is an error


class Refused(ReconcilerError):  # noqa: N818 - says what happened
    """The daemon refuses what was asked."""


class Answers(Protocol):
    """What verbs ask."""

    def targets(self, name: str | None = None) -> list[TargetView]:
        """Return all targets, or the one named. Raises CannotTell for an unknown one."""

    def config(self) -> ConfigView:
        """Return the config commit in force."""

    def history(self, target: str, limit: int) -> list[DeployView]:
        """Return the newest deploys of a target."""

    def commits(self, target: TargetView) -> CommitsView:
        """Return the commits between what is deployed and what is desired."""

    def log(self, name: str, *, follow: bool) -> Iterator[str]:
        """Yield what a deploy, or the newest one of a target, printed; to its end if `follow`."""

    def outcome(self, name: str) -> DeployView:
        """Return a deploy, or the newest one of a target. Raises CannotTell."""

    def wish(self, targets: Sequence[str], wish: Wish) -> str:
        """Write a wish down for targets and wake the daemon; return what was done in words."""

    def note(self) -> str | None:
        """Return what a reader should know about how fresh the answers are."""


def who() -> str:
    """Return the name of the person at the terminal."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"


class Local:
    """Answers from a state directory, beside a running daemon or without one."""

    def __init__(self, settings: Settings, state: StateDir, store: Store) -> None:
        self._settings = settings
        self._state = state
        self._store = store

    def _snapshot(self) -> Snapshot:
        snapshot = remembered(self._store, self._settings.max_concurrent_deploys, clock.now())
        if snapshot.head is None and not snapshot.entries:
            raise CannotTell("no configuration has been loaded yet; `reconciler run --once` does it")
        return snapshot

    def targets(self, name: str | None = None) -> list[TargetView]:
        """Return all targets, or the one named."""
        snapshot = self._snapshot()
        if name is not None and name not in snapshot.entries:
            raise CannotTell(f"there is no target {name!r}{nearest(name, snapshot.entries)}")
        return views.targets_view(snapshot, None if name is None else [name])["targets"]

    def config(self) -> ConfigView:
        """Return the config commit in force."""
        return views.config_view(self._snapshot())

    def history(self, target: str, limit: int) -> list[DeployView]:
        """Return the newest deploys of a target."""
        found = self._store.history(target, limit)
        if not found:
            self.targets(target)
        return [views.deploy_view(deploy) for deploy in found]

    def commits(self, target: TargetView) -> CommitsView:
        """Return the commits between what is deployed and what is desired."""
        return differences(self._state.mirrors, target)

    def log(self, name: str, *, follow: bool) -> Iterator[str]:
        """Yield what a deploy printed."""
        deploy, offset = self._deploy(name), 0
        while True:
            while (piece := output.read(self._state.log_of(deploy.target, deploy.id), offset)) is not None:
                if piece.skipped:
                    yield f"\n… {piece.skipped} bytes left out …\n"
                yield piece.data.decode(errors="replace")
                offset = piece.next_offset
            if not follow or deploy.status not in LIVE:
                return
            time.sleep(FOLLOW_EVERY_S)
            # The status is read before the output: what was written until the end is then printed too.
            deploy = self._store.deploy(deploy.id) or deploy

    def outcome(self, name: str) -> DeployView:
        """Return a deploy, or the newest one of a target."""
        return views.deploy_view(self._deploy(name))

    def _deploy(self, name: str) -> Deploy:
        newest = self._store.history(name, 1)
        deploy = newest[0] if newest else self._store.deploy(name)
        if deploy is None:
            raise CannotTell(f"there is no deploy {name!r}, and no target of that name was deployed yet")
        return deploy

    def wish(self, targets: Sequence[str], wish: Wish) -> str:
        """Write a wish down, and wake the daemon if there is one."""
        for target in targets:
            self.targets(target)
        words = "\n".join(grant(self._store, target, wish, who(), clock.now()) for target in targets)
        if waking.wake(self._state.path, targets):
            return words
        return f"{words}; no daemon runs on {self._state.path}, the next one will act on it"

    def note(self) -> str | None:
        """Return a warning where no daemon runs."""
        if self._state.is_locked():
            return None
        return f"no daemon runs on {self._state.path}; this is what the last one knew"


class Remote:
    """Answers from a daemon's API."""

    def __init__(self, server: str, token_file: str | None) -> None:
        self._base = server.rstrip("/") if "://" in server else f"http://{server.rstrip('/')}"
        self._token_file = token_file

    def targets(self, name: str | None = None) -> list[TargetView]:
        """Return all targets, or the one named."""
        if name is not None:
            return [self._json(f"/api/v1/targets/{_quoted(name)}")]
        found: list[TargetView] = []
        after: str | None = ""
        while after is not None:
            page = self._json(f"/api/v1/targets?limit={PAGE}&after={_quoted(after)}")
            found += page["targets"]
            after = page["next"]
        return found

    def config(self) -> ConfigView:
        """Return the config commit in force."""
        found: ConfigView = self._json("/api/v1/config")
        return found

    def history(self, target: str, limit: int) -> list[DeployView]:
        """Return the newest deploys of a target."""
        found: list[DeployView] = self._json(f"/api/v1/targets/{_quoted(target)}/deploys?limit={limit}")["deploys"]
        return found

    def commits(self, target: TargetView) -> CommitsView:
        """Return the commits between what is deployed and what is desired."""
        found: CommitsView = self._json(f"/api/v1/targets/{_quoted(target['name'])}/commits")
        return found

    def log(self, name: str, *, follow: bool) -> Iterator[str]:
        """Yield what a deploy printed, as the daemon sends it."""
        path = f"/api/v1/deploys/{_quoted(self.outcome(name)['id'])}/log"
        with self._open(path, accept="text/event-stream" if follow else "text/plain") as answer:
            if not follow:
                yield answer.read().decode(errors="replace")
                return
            event, data = "message", []
            for raw in answer:
                field, _, value = raw.decode(errors="replace").rstrip("\n").partition(": ")
                if field == "event":
                    event = value
                elif field.rstrip(":") == "data":
                    data.append(value)
                elif not field:
                    if event == "end":
                        return
                    yield "\n".join(data)
                    event, data = "message", []

    def outcome(self, name: str) -> DeployView:
        """Return a deploy, or the newest one of a target."""
        if "." not in name:
            newest = self.history(name, 1)
            if not newest:
                raise CannotTell(f"no deploy of {name} was started yet")
            return newest[0]
        found: DeployView = self._json(f"/api/v1/deploys/{_quoted(name)}")
        return found

    def wish(self, targets: Sequence[str], wish: Wish) -> str:
        """Post a wish for each target."""
        verb = type(wish).__name__.lower()
        body = {**wish.model_dump(mode="json"), "by": who()}
        return "\n".join(self._json(f"/api/v1/targets/{_quoted(name)}/{verb}", body)["done"] for name in targets)

    def note(self) -> str | None:
        """Return nothing: the daemon itself answered."""
        return None

    def _json(self, path: str, body: Any = None) -> Any:
        with self._open(path, body) as answer:
            return json.load(answer)

    def _open(self, path: str, body: Any = None, accept: str = "application/json") -> Any:
        headers = {"Accept": accept, "User-Agent": f"reconciler/{__version__}"}
        data = None
        if body is not None:
            headers |= {"Content-Type": "application/json"} | self._authorization()
            data = json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, headers)  # noqa: S310 - the user names the server
        try:
            return urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310 - the same
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(error) from None
        except (OSError, ValueError) as error:
            raise CannotTell(f"{self._base} does not answer: {getattr(error, 'reason', error)}") from error

    def _authorization(self) -> dict[str, str]:
        if self._token_file is None:
            return {}
        try:
            token = Path(self._token_file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise CannotTell(f"the token file {self._token_file} cannot be read: {error.strerror}") from error
        return {"Authorization": f"Bearer {token}"}


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")


def _refusal(error: urllib.error.HTTPError) -> ReconcilerError:
    try:
        said = json.loads(error.read(_MAX_ERROR))
        text = said.get("detail") or said["title"]
    except (ValueError, KeyError, AttributeError):
        text = f"the server answered {error.code}"
    return CannotTell(text) if error.code in (404, 409) else Refused(text)
