"""Real git repositories for tests, made with git itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

_ENV = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Test",
    "GIT_AUTHOR_EMAIL": "test@localhost",
    "GIT_COMMITTER_NAME": "Test",
    "GIT_COMMITTER_EMAIL": "test@localhost",
}
MAKEFILE = '.PHONY: deploy\ndeploy:\n\techo "$(RECONCILER_COMMIT)" >> "$(SITE)/$(RECONCILER_TARGET)"\n'


def git(folder: Path, *arguments: str, check: bool = True, **env: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env={**_ENV, **env}, capture_output=True, text=True, check=False
    )
    if check and done.returncode:
        raise AssertionError(f"git {' '.join(arguments)}: {done.stderr}")
    return done.stdout.strip()


class Repo:
    """A repository with a work tree."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        git(path, "init", "-q", "-b", "main")
        self._count = 0

    @property
    def url(self) -> str:
        return self.path.as_uri()

    @property
    def head(self) -> str:
        return git(self.path, "rev-parse", "HEAD")

    def commit(self, files: Mapping[str, str | None] | None = None, message: str = "change") -> str:
        """Write files (None removes one), commit, and return the full id."""
        self._count += 1
        for name, text in (files or {"count.txt": str(self._count)}).items():
            target = self.path / name
            if text is None:
                target.unlink()
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        git(self.path, "add", "-A")
        git(self.path, "commit", "-q", "--allow-empty", "-m", message)
        return self.head

    def reset(self, commit: str) -> None:
        git(self.path, "reset", "-q", "--hard", commit)


class Application(Repo):
    """A source repository whose `make deploy` appends the deployed commit to SITE/TARGET."""

    def __init__(self, path: Path, makefile: str = MAKEFILE) -> None:
        super().__init__(path)
        self.first = self.commit({"Makefile": makefile}, "first")

    def release(self, makefile: str | None = None) -> str:
        return self.commit({"Makefile": makefile} if makefile else None, "release")


class Config(Repo):
    """A config repository."""

    def pin(self, yaml: str, file: str = "deployments/all.yaml") -> str:
        return self.commit({file: yaml}, "pin")


def target(name: str, repo: str, commit: str | None, **keys: str) -> str:
    """Return one entry as YAML; values of `keys` are YAML too."""
    lines = [f"  {name}:", f"    repo: {repo}"]
    if commit is not None:
        lines.append(f"    commit: {commit}")
    lines += [f"    {key}: {value}" for key, value in keys.items()]
    return "\n".join(lines) + "\n"


def targets(*entries: str) -> str:
    return "targets:\n" + "".join(entries)
