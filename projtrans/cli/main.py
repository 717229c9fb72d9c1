"""The command line: parse, call, render. Each command is the function, and the file in this folder, of the same name.

Standard output carries only data, standard error everything else. Importing torch takes over a second, so commands
import what they need when they run, and `--help` answers at once.
"""

import signal
import sys
from typing import Annotated

import typer

from projtrans import __version__
from projtrans.cli.compare import compare
from projtrans.cli.evaluate import evaluate
from projtrans.cli.export import export
from projtrans.cli.prepare import prepare
from projtrans.cli.shell import Commands, terminate, tune_allocator
from projtrans.cli.train import train
from projtrans.cli.translate import translate

VERSION = "Print the version and exit."


def main() -> None:
    """The console command `projtrans`."""
    if sys.argv[1:2] != ["prepare"]:  # which multiplies no matrices and should release memory between its stages
        tune_allocator()
    signal.signal(signal.SIGTERM, terminate)
    app()


def _version(value: bool) -> None:
    if value:
        typer.echo(f"projtrans {__version__}")
        raise typer.Exit()


def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help=VERSION)] = False,
) -> None:
    """Print the help if no command is given."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


def _app() -> typer.Typer:
    """The commands in the order of the help."""
    commands = typer.Typer(
        cls=Commands,
        rich_markup_mode=None,
        invoke_without_command=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Train and run encoder-decoder Transformers for translation, with standard or projection attention.",
    )
    commands.callback()(root)
    for command in (prepare, train, evaluate, compare, translate, export):
        commands.command()(command)
    return commands


app = _app()
