"""From the lines of an input to the lines of an output: translations, whatever the lines hold, and warnings."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Literal, Self

from projtrans.data.sentence_splitter import LONGEST_WORD
from projtrans.errors import LineError, RunError
from projtrans.inference.line_reader import LONGEST_LINE, Line
from projtrans.inference.output_formats import OutputFormat
from projtrans.inference.translation import Translation
from projtrans.inference.translator import SentenceTranslator

OnError = Literal["fail", "blank", "copy"]

SHOWN_WARNINGS = 10
"""Warnings of a kind that are printed; further ones are only counted."""


class Warnings:
    """Prints the first warnings of each kind and counts the rest; the counts are printed at the end."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.note = note
        self.counts: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for summary, count in self.counts.items():
            if count > SHOWN_WARNINGS:
                self.note(f"warning: {count:,} lines {summary}")

    def __call__(self, message: str, summary: str) -> None:
        """Warn about one line; `summary` identifies the kind and describes many lines of it."""
        self.counts[summary] += 1
        if self.counts[summary] <= SHOWN_WARNINGS:
            more = "; further ones are only counted" if self.counts[summary] == SHOWN_WARNINGS else ""
            self.note(f"warning: {message}{more}")


def translate_lines(
    translator: SentenceTranslator, lines: Sequence[Line], *, on_error: OnError, source: str, warn: Warnings
) -> Iterator[Translation]:
    """A translation of every line, in order.

    For a line that cannot be translated, `fail` raises LineError with the source and the line number after yielding
    the translations before it; `blank` yields an empty line and `copy` the line itself in place of a translation.
    """
    sound = len(lines)
    if on_error == "fail":
        sound = next((place for place, line in enumerate(lines) if line.problem), sound)
    found = _each(translator, [line for line in lines[:sound] if not line.problem])
    for line in lines:
        translation = Translation(line.text, [], problem=line.problem) if line.problem else next(found)
        if translation.problem is None:
            yield replace(translation, cut=True) if line.cut else translation
            continue
        what = f"{source}:{line.number}: {translation.problem}"
        if on_error == "fail":
            raise LineError(f"{what}; correct the line, or skip such lines with --on-error blank or copy")
        done = {"blank": "left blank", "copy": "copied"}[on_error]
        warn(f"{what}; {done}", f"could not be translated and were {done}")
        text = " ".join(line.text.split()) if on_error == "copy" else ""
        yield replace(translation, hypotheses=[translator.stand_in(text)])


def _each(translator: SentenceTranslator, lines: Sequence[Line]) -> Iterator[Translation]:
    """The translations; where the batch fails, one line at a time, with the problem of those at fault."""
    try:
        yield from translator.translate([line.text for line in lines], numbers=[line.number for line in lines])
        return
    except RunError:  # numbers that are not finite: perhaps one damaged row of the embeddings
        pass
    for line in lines:
        try:
            yield translator.translate([line.text], numbers=[line.number])[0]
        except RunError as error:
            yield Translation(line.text, [], problem=str(error))


def render(translations: Iterable[Translation], format: OutputFormat, warn: Warnings, first: int = 1) -> Iterator[str]:
    """The output lines, with a warning for every source that was shortened or has too long a word.

    first: the line number of the first one.
    """
    for number, translation in enumerate(translations, first):
        if translation.cut:
            warn(
                f"line {number} is too long: over {LONGEST_LINE:,} bytes, a word over {LONGEST_WORD:,} characters, "
                "or over the maximum of a model trained on cut lines; the rest was left out",
                "were too long, or words in them, and their ends were left out",
            )
        elif translation.breaks_word:
            warn(
                f"line {number} has a word longer than the model's maximum; it was translated in parts",
                "had a word longer than the model's maximum, which was translated in parts",
            )
        yield from format.lines(translation)
