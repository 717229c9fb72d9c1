"""The only file that renders: progress and messages to standard error, tables to standard output.

On a terminal there are colours and bars (NO_COLOR is honoured); elsewhere plain lines, one for what is worth a line in
a log. Knows the events and results of the commands, and decides nothing.
"""

import io
import os
import sys
from collections.abc import Sequence
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

UNBROKEN = 10_000
"""Columns of a table that no terminal shows: it is as wide as its cells."""


def standard_error() -> Console:
    """The console for messages."""
    return Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def error(message: str) -> None:
    """One line that says what went wrong."""
    console = standard_error()
    console.print("error:", style="bold red", end=" ")
    console.print(_one_line(message))


def note(message: str, quiet: bool = False) -> None:
    """One line that says what is going on."""
    if not quiet:
        standard_error().print(_one_line(message))


def lines(texts: Sequence[str]) -> None:
    """Lines that were asked for, each as it is, to standard error."""
    console = standard_error()
    for text in texts:
        console.print(text)


def message_columns() -> int:
    """How wide a line to standard error may be."""
    return max(50, standard_error().width)


def shows_blocks() -> bool:
    """Whether block characters can be seen there."""
    try:
        "·░▒▓█▁".encode(standard_error().encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def _one_line(message: str) -> str:
    return " ".join(message.split())


class _Speed(ProgressColumn):
    """Units a second, of late."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f} {self.unit}/s")


class Bar:
    """A bar on a terminal for work counted in units; nothing elsewhere, and nothing when quiet."""

    def __init__(self, label: str, quiet: bool = False, *, download: bool = False, unit: str | None = None) -> None:
        """unit: what is counted, to show how many of it are done a second."""
        console = standard_error()
        count = DownloadColumn() if download else MofNCompleteColumn()
        speed = [_Speed(unit)] if unit else []
        columns = (TextColumn("{task.description}"), BarColumn(), count, *speed, TimeRemainingColumn())
        self.shown = console.is_terminal and not quiet
        self.progress = Progress(
            *columns, console=console, transient=True, disable=not self.shown, redirect_stdout=False
        )
        self.label = label
        self.task: TaskID | None = None

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self.progress.stop()

    def __call__(self, done: int, total: int | None) -> None:
        """Show that `done` of `total` units are done (None: nobody knows how many there are)."""
        if self.task is None:
            self.task = self.progress.add_task(self.label, total=total, completed=done)
        self.progress.update(self.task, completed=done, total=total)


class Bars:
    """On a terminal, a bar for every kind of work that is reported; nothing elsewhere, and nothing when quiet."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.label = ""
        self.bar: Bar | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        if self.bar:
            self.bar.__exit__()

    def __call__(self, label: str, done: int, total: int) -> None:
        """Show that `done` of `total` units of the work are done; other work takes the bar's place."""
        if self.bar is None or label != self.label:
            self.__exit__()
            self.label, self.bar = label, Bar(label, self.quiet).__enter__()
        self.bar(done, total)


def _print_table(table: Table) -> None:
    console = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 140)
    console.print(table)


# ---------------------------------------------------------------------------------------------------------- compare


def tables(sections: Sequence[Any], *, to_file: bool) -> str:
    """The sections of a report as text: as wide as the terminal, or unbroken in a file or a pipe."""
    terminal, text = sys.stdout.isatty() and not to_file, io.StringIO()
    console = Console(file=text, highlight=False, markup=False, emoji=False, width=_columns() if terminal else UNBROKEN)
    for section in sections:
        console.print(_section(section) if section.rows else section.title)
        for remark in section.remarks:
            console.print(remark)
        console.print()
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()).strip()


def _columns() -> int:
    return Console().width


def _section(section: Any) -> Table:
    table = Table(title=section.title, title_justify="left")
    for number, name in enumerate(section.header):
        table.add_column(name, justify="left" if number < section.words else "right", overflow="fold")
    for row in section.rows:
        table.add_row(*row)
    return table
