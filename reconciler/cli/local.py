"""Verbs that need neither daemon nor state: validate, schema, init, version, completion."""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from reconciler import __version__
from reconciler.cli import options
from reconciler.config.catalogue import check
from reconciler.config.deployments import parse_file
from reconciler.config.jsonschema import deployments_schema
from reconciler.errors import CannotTell, ReconcilerError
from reconciler.git import authoring
from reconciler.git.library import versions

_FIRST_FILE = """\
# yaml-language-server: $schema=../deployments.schema.json
#
# Every entry under `targets` is something that is deployed: `make deploy`, run in `repo` at `commit`.
# Commit a new id here, and it is deployed; revert the commit, and the old one is back.
#
#   api-production:
#     repo: https://git.example.com/acme/api.git
#     commit: 9fceb02d0ae598e95dc970b74767f19372d61af8
#     labels: {env: production}
targets: {}
"""
_README = """\
# Deployments

`deployments/*.yaml` says which commit runs where. Check a change before you push it:

    reconciler validate deployments
"""
_PRE_COMMIT = """\
repos:
  - repo: local
    hooks:
      - {id: reconciler, name: reconciler validate, entry: reconciler validate, language: system, files: ^deployments/}
"""


@click.command()
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@options.settings_flags
def validate(*, paths: tuple[str, ...], config_file: str | None, **flags: str | None) -> int:
    """Check deployments files, offline; also as a pre-commit hook.

    PATH is a file or a directory of *.yaml files; the default is ./deployments. Every problem is printed as
    file:line:column: key: what is wrong. The exit code is 0 when there is none and 1 when there is one.
    """
    settings = options.load_settings(config_file, **flags)
    files = [file for path in paths or ("deployments",) for file in _yaml_files(Path(path))]
    parsed = []
    for file in files:
        try:
            parsed.append(parse_file(file.read_bytes(), str(file), settings.url_policy))
        except OSError as error:
            raise CannotTell(f"{file}: cannot be read: {error.strerror}") from error
    catalogue = check(parsed)
    for problem in catalogue.problems:
        click.echo(problem, err=True)
    if catalogue.problems:
        return 1
    click.echo(f"{_count(len(catalogue.targets), 'target')} in {_count(len(files), 'file')}: all valid", err=True)
    return 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _yaml_files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix in (".yaml", ".yml"))
    if not path.exists():
        raise CannotTell(f"{path}: there is no such file or directory; name what to check: reconciler validate PATH")
    return [path]


@click.command()
def schema() -> None:
    """Print the JSON Schema of deployments/*.yaml, for editors."""
    click.echo(json.dumps(deployments_schema(), indent=2))


@click.command()
@click.argument("directory", metavar="DIR")
def init(directory: str) -> None:
    """Make a config repository to start from."""
    path = Path(directory)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ReconcilerError(f"{path} exists and is not empty; name a new directory")
    authoring.create(path)
    files = {
        "deployments/example.yaml": _FIRST_FILE,
        "deployments.schema.json": json.dumps(deployments_schema(), indent=2) + "\n",
        "README.md": _README,
        ".pre-commit-config.yaml": _PRE_COMMIT,
    }
    authoring.commit(path, files, "Begin a config repository for the reconciler", int(time.time()))
    click.echo(
        f"{path} is a config repository now. Next:\n"
        f"  1. write a target into {path}/deployments/example.yaml\n"
        f"     and check it: reconciler validate {path}/deployments\n"
        f"  2. commit it, and push the repository to where the daemon can read it\n"
        f"  3. reconciler run --config-repo URL --state-dir DIR"
    )


@click.command()
def version() -> None:
    """Print the versions that a bug report needs."""
    click.echo(f"reconciler {__version__}")
    click.echo(f"python {platform.python_version()}")
    for name, found in versions().items():
        click.echo(f"{name} {found}")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    Source it, or put it where the shell looks.
    """
    from reconciler.cli import cli  # noqa: PLC0415 - the group knows its verbs, this one among them

    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 - the choices above
    click.echo(found(cli, {}, "reconciler", "_RECONCILER_COMPLETE").source())
