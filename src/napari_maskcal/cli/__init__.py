"""The command line: ``maskcal demo | run | train | calibrate | evaluate | info | export``.

Exit codes: 0 done, 1 failed with one readable line, 2 wrong use.
"""

from __future__ import annotations

import sys

import click

from napari_maskcal import __version__
from napari_maskcal.cli.calibrate import calibrate
from napari_maskcal.cli.demo import demo
from napari_maskcal.cli.evaluate import evaluate
from napari_maskcal.cli.export import export
from napari_maskcal.cli.info import info
from napari_maskcal.cli.run import run
from napari_maskcal.cli.train import train

__all__ = ["commands", "main"]


def main() -> None:
    """Run the command line; errors that a user can mend become one line and exit code 1."""
    try:
        commands(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as wrong_use:
        wrong_use.show()
        sys.exit(wrong_use.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("stopped; nothing was written")
    except Exception as error:  # noqa: BLE001 - whatever it is, a traceback helps no microscopist
        known = isinstance(error, ValueError | OSError | MemoryError | ImportError)
        _fail(("" if known else f"{type(error).__name__}: ") + " ".join(str(error).split()))


def _fail(message: str) -> None:
    click.echo(f"maskcal: {message}", err=True)
    sys.exit(1)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def commands() -> None:
    """Show which parts of a restored microscopy image can be believed."""


for _command in (demo, run, train, calibrate, evaluate, info, export):
    commands.add_command(_command)
