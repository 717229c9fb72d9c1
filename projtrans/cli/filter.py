"""`translate` as a filter: one line out per line in, from a pipe or a file to a pipe or a file."""

import contextlib
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from projtrans import __version__, files
from projtrans.cli.shell import noting, write
from projtrans.errors import ConfigError, DataError, Interrupted, LineError
from projtrans.inference.line_reader import Line, Place, lines_left, opened, windows
from projtrans.inference.line_translation import OnError, Warnings, render, translate_lines
from projtrans.inference.output_formats import FORMATS
from projtrans.inference.resumable_output import ResumableOutput
from projtrans.inference.translator import WINDOW, SentenceTranslator
from projtrans.runs.run_folder import Run

if TYPE_CHECKING:
    from projtrans.cli.console import Bar


@dataclass(frozen=True)
class Filter:
    """How output lines are made from input lines: the translator, and what is written of its translations."""

    translator: SentenceTranslator
    format: str  # a name in FORMATS
    on_error: OnError

    def lines(self, lines: list[Line], source: str, warn: Warnings) -> Iterator[str]:
        """The output lines of consecutive lines."""
        found = translate_lines(self.translator, lines, on_error=self.on_error, source=source, warn=warn)
        return render(found, FORMATS[self.format], warn, lines[0].number)

    def made_with(self, run: Run, source: Path) -> dict[str, Any]:
        """Everything that the output depends on; `fail` is not named, since no output shows it."""
        options = asdict(self.translator.options)
        made = {"projtrans": __version__, "engine": self.translator.engine, **run.fingerprint()}
        made |= {"tokenizer": self.translator.tokenizer.checksum, **options.pop("decoding"), **options}
        made |= {"format": self.format, "input": files.checksum(source)}
        return made if self.on_error == "fail" else {**made, "on_error": self.on_error}


def filter_texts(filter: Filter, texts: list[str], output: str | None, quiet: bool) -> None:
    """Translate the arguments of the command."""
    lines = [Line(number, text) for number, text in enumerate(texts, 1)]
    with Warnings(noting(quiet)) as warn:
        write(filter.lines(lines, "TEXT", warn), output)


def filter_lines(
    filter: Filter, run: Run, input: str | None, output: str | None, *, buffer: float, resume: bool, quiet: bool
) -> None:
    """Translate a file, or standard input as its lines arrive (None, -), to a file or to standard output (None, -).

    buffer: as in `windows`. From file to file, progress is kept as `ResumableOutput` describes, for `resume`.
    """
    source, target = _path(input), _path(output)
    kept = source is not None and source.is_file() and target is not None and (target.is_file() or not target.exists())
    if resume and not kept:
        raise ConfigError("--resume: works from file to file; --input and --output must not be pipes or devices")
    hidden = quiet or (target is None and sys.stdout.isatty())
    with Warnings(noting(quiet)) as warn, _bar(hidden) as bar:
        if source and target and kept:
            with _stoppable(ResumableOutput(target, filter.made_with(run, source), resume=resume)) as out:
                if resume:
                    warn.note(f"{out.file_path}: {out.done.lines:,} lines are translated already")
                _file_to_file(filter, source, out, warn, bar)
        else:
            write(_streamed(filter, source, buffer, warn, bar), output)


def _bar(hidden: bool) -> "AbstractContextManager[Bar | None]":
    """A progress bar on a terminal; what draws it is imported for that alone."""
    if hidden or sys.stderr is None or not sys.stderr.isatty():
        return contextlib.nullcontext()
    from projtrans.cli.console import Bar

    return Bar("translating", unit="lines")


def _path(name: str | None) -> Path | None:
    return None if name in (None, "-") else Path(name)


# ------------------------------------------------------------------------------------------------------ in a stream


def _streamed(filter: Filter, source: Path | None, buffer: float, warn: Warnings, bar: "Bar | None") -> Iterator[str]:
    name = "standard input" if source is None else str(source)
    with opened(source) if source else contextlib.nullcontext(sys.stdin.buffer) as stream:
        total = lines_left(stream) if bar else None
        for window in windows(stream, buffer=buffer):
            yield from filter.lines(window.lines, name, warn)
            if bar:
                bar(window.end.lines, total)


# ------------------------------------------------------------------------------------------------- from file to file


def _file_to_file(filter: Filter, source: Path, out: ResumableOutput, warn: Warnings, bar: "Bar | None") -> None:
    start = Place(out.done.lines, out.done.read)
    with opened(source) as stream:
        stream.seek(start.bytes)
        total = lines_left(stream) if bar else None
        total = None if total is None else start.lines + total
        if bar:
            bar(start.lines, total)
        # Always windows of one size, so that a resumed translation has the same ones.
        for window in windows(stream, first_lines=WINDOW, most_lines=WINDOW, start=start):
            out.write(filter.lines(window.lines, str(source), warn))
            out.keep(window.end.lines, window.end.bytes)
            if bar:
                bar(window.end.lines, total)
    out.finish()


@contextlib.contextmanager
def _stoppable(out: ResumableOutput) -> Iterator[ResumableOutput]:
    """On an interrupt, or a line that cannot be translated, say how to resume and where the output is."""
    try:
        with out:
            yield out
    except (KeyboardInterrupt, SystemExit) as stop:
        number = signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM
        again = [*sys.argv[1:], *([] if "--resume" in sys.argv else ["--resume"])]
        raise Interrupted(
            f"stopped after {out.kept_lines:,} lines; resume with: {shlex.join(['projtrans', *again])}", number
        ) from stop
    except LineError as error:
        raise DataError(f"{error}; the output before it is in {out.file_path}") from error
