"""The command line: parse, call, render. Every command is the function of its name in the file of its name beside this.

Standard output carries data only, standard error everything else. Torch takes over a second to import, so a command
imports what it calls when it is called: `--help` never waits.
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

VERSION = "Print the version."


def main() -> None:
    """The console command `projtrans`."""
    if sys.argv[1:2] != ["prepare"]:  # it computes nothing, and gives memory back between its stages
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
    """Without a command, print the help."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


def _app() -> typer.Typer:
    """The commands, in the order in which the help shows them."""
    commands = typer.Typer(
        cls=Commands,
        rich_markup_mode=None,
        invoke_without_command=True,
        pretty_exceptions_enable=False,
        help="Train and run encoder-decoder Transformers for translation, with standard or projection attention.",
    )
    commands.callback()(root)
    for command in (prepare, train, evaluate, compare, translate, export):
        commands.command()(command)
    return commands


app = _app()
