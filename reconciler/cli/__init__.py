"""The verbs. Standard output is data, standard error is everything else.

Exit codes: 0 done, and everything asked is true; 1 it failed or differs; 2 usage, or it could not be told;
78 the settings are wrong.
"""

from __future__ import annotations

import importlib
import sys

import click

from reconciler import __version__
from reconciler.cli import examples
from reconciler.errors import CannotTell, ReconcilerError, SettingsError, StateError

EXIT_FAILED, EXIT_CANNOT_TELL, EXIT_SETTINGS = 1, 2, 78


# Where each verb lives. Loaded when it is used: `status` needs no HTTP server, `version` no database.
_VERBS = {
    "serve": ("run", "plan", "healthcheck"),
    "wish": ("reconcile", "cancel", "suspend", "resume"),
    "pins": ("pin", "promote", "rollback"),
    "read": ("status", "why", "history", "logs", "diff"),
    "local": ("validate", "schema", "init", "version", "completion"),
    "demo": ("demo",),
}
_MODULES = {verb: module for module, verbs in _VERBS.items() for verb in verbs}


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - the same
        if cmd_name not in _MODULES:
            return None
        found: click.Command = getattr(importlib.import_module(f"reconciler.cli.{_MODULES[cmd_name]}"), cmd_name)
        found.epilog = examples.epilog(cmd_name)
        return found


@click.group(
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with `reconciler demo`. Every verb explains itself: reconciler VERB --help.",
)
@click.version_option(__version__, prog_name="reconciler")
def cli() -> None:
    """Deploy what a git repository says, and nothing else.

    A config repository pins the commit of every target in deployments/*.yaml. The daemon polls it, and runs
    `make deploy` at the pinned commit wherever desired and deployed state differ.
    """


def main() -> None:
    """Run the command line; turn errors into messages and exit codes."""
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(0)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_CANNOT_TELL)
    except click.Abort:
        sys.exit(130)
    except SettingsError as error:
        _complain(str(error))
        sys.exit(EXIT_SETTINGS)
    except (CannotTell, StateError) as error:
        _complain(str(error))
        sys.exit(EXIT_CANNOT_TELL)
    except ReconcilerError as error:
        _complain(str(error))
        sys.exit(EXIT_FAILED)
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads any more; Python would complain at exit
        sys.exit(EXIT_FAILED)
    except Exception as error:  # noqa: BLE001 - raised again unless the machine below failed
        sys.exit(_machine_failed(error))
    sys.exit(code if isinstance(code, int) else 0)


def _machine_failed(error: Exception) -> int:
    """Complain of a failing disk or database; raise every other error again: a bug of ours wants its traceback."""
    from reconciler.store import Store  # noqa: PLC0415 - only when something went wrong

    if isinstance(error, Store.errors):
        _complain(f"the database cannot be used now: {error}; try again, or look at the disk")
        return EXIT_CANNOT_TELL
    if isinstance(error, OSError):
        _complain(str(error))
        return EXIT_FAILED
    raise error


def _complain(text: str) -> None:
    for line in text.splitlines():
        click.echo(f"reconciler: {line}", err=True)
