"""Rendering: messages and progress bars on standard error, tables as text.

On a terminal there are colors and bars (NO_COLOR is honored), elsewhere plain lines. Knows neither the events nor the
results of the commands: displays.py does.
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
"""Columns for a table that is not for a terminal: wide enough that no cell is ever wrapped."""


def standard_error() -> Console:
    """The console for messages."""
    return Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def error(message: str) -> None:
    """Print one line that says what went wrong."""
    console = standard_error()
    console.print("error:", style="bold red", end=" ")
    console.print(_one_line(message))


def note(message: str, quiet: bool = False) -> None:
    """Print one line that says what is going on."""
    if not quiet:
        standard_error().print(_one_line(message))


def lines(texts: Sequence[str]) -> None:
    """Print lines to standard error, unchanged."""
    console = standard_error()
    for text in texts:
        console.print(text)


def message_columns() -> int:
    """Columns of standard error, at least 50."""
    return max(50, standard_error().width)


def shows_blocks() -> bool:
    """Whether standard error can show block characters."""
    try:
        "·░▒▓█▁".encode(standard_error().encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def _one_line(message: str) -> str:
    return " ".join(message.split())


class _Speed(ProgressColumn):
    """Recent units per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f} {self.unit}/s")


class Bar:
    """A progress bar on a terminal; nothing elsewhere, and nothing when quiet."""

    def __init__(self, label: str, quiet: bool = False, *, download: bool = False, unit: str | None = None) -> None:
        """unit: what is counted; if given, units per second are shown too."""
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
        """Show that `done` of `total` units are done; None: the total is unknown."""
        if self.task is None:
            self.task = self.progress.add_task(self.label, total=total, completed=done)
        self.progress.update(self.task, completed=done, total=total)


class Bars:
    """One progress bar after another, a new one for each new label."""

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
        """Show that `done` of `total` units are done; a new label replaces the bar."""
        if self.bar is None or label != self.label:
            self.__exit__()
            self.label, self.bar = label, Bar(label, self.quiet).__enter__()
        self.bar(done, total)


def print_table(table: Table) -> None:
    console = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 140)
    console.print(table)


# ---------------------------------------------------------------------------------------------------------- compare


def tables(sections: Sequence[Any], *, to_file: bool) -> str:
    """The sections of a report as text: as wide as the terminal, or without line breaks in a file or a pipe."""
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
