"""What `translate` makes of lines: translations, whatever the lines hold, and these as text, tsv or JSON."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Literal, Self

from projtrans.data.sentence_splitter import LONGEST_WORD
from projtrans.errors import LineError, RunError
from projtrans.inference.line_reader import LONGEST_LINE, Line
from projtrans.inference.translator import SentenceTranslator, Translation

OnError = Literal["fail", "blank", "copy"]

SHOWN_WARNINGS = 10
"""Warnings of a kind that are printed; the others are counted."""

_LINE_ENDS = re.compile("[\x7f-\x9f\u2028\u2029]")  # that JSON leaves as they are


class Warnings:
    """Prints warnings of each kind, and counts them when they are too many; the counts come at the end."""

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
        """Warn of one line; `summary` is the kind, and what is said of many."""
        self.counts[summary] += 1
        if self.counts[summary] <= SHOWN_WARNINGS:
            more = "; further ones are only counted" if self.counts[summary] == SHOWN_WARNINGS else ""
            self.note(f"warning: {message}{more}")


def translated(
    translator: SentenceTranslator,
    lines: Sequence[Line],
    *,
    n_best: int,
    on_error: OnError,
    source: str,
    warn: Warnings,
) -> Iterator[Translation]:
    """A translation of every line, in order.

    What cannot be translated is a LineError that names source and line, after the translations before it (`fail`), or
    has an empty line (`blank`) or its own text (`copy`) in the place of a translation.
    """
    sound = len(lines)
    if on_error == "fail":
        sound = next((place for place, line in enumerate(lines) if line.problem), sound)
    found = _each(translator, [line for line in lines[:sound] if not line.problem], n_best)
    for line in lines:
        translation = Translation(line.text, [], problem=line.problem) if line.problem else next(found)
        if translation.problem is None:
            yield replace(translation, cut=True) if line.cut else translation
            continue
        what = f"{source}:{line.number}: {translation.problem}"
        if on_error == "fail":
            raise LineError(f"{what}; correct it, or go on without it by --on-error blank or copy")
        done = {"blank": "left blank", "copy": "copied"}[on_error]
        warn(f"{what}; {done}", f"could not be translated and were {done}")
        text = " ".join(line.text.split()) if on_error == "copy" else ""
        yield replace(translation, hypotheses=[translator.stand_in(text)])


def _each(translator: SentenceTranslator, lines: Sequence[Line], n_best: int) -> Iterator[Translation]:
    """The translations; where that fails for all together, one by one, those at fault with their problem."""
    try:
        texts, numbers = [line.text for line in lines], [line.number for line in lines]
        yield from translator.translate(texts, n_best=n_best, numbers=numbers)
        return
    except RunError:  # numbers that are not finite: perhaps one damaged row of the embeddings
        pass
    for line in lines:
        try:
            yield translator.translate([line.text], n_best=n_best, numbers=[line.number])[0]
        except RunError as error:
            yield Translation(line.text, [], problem=str(error))


def rendered(translations: Iterable[Translation], format: str, warn: Warnings, first: int = 1) -> Iterator[str]:
    """The output lines, with a warning for every source that was too long to be kept, or with too long a word.

    first: the number of the first one. No line holds what some readers take for the end of one.
    """
    for number, translation in enumerate(translations, first):
        if translation.cut:
            warn(
                f"line {number} is too long: over {LONGEST_LINE:,} bytes, a word over {LONGEST_WORD:,} characters, "
                "or over the maximum of a model trained on cut lines; what is beyond was left out",
                "were too long, or words in them, and their ends were left out",
            )
        elif translation.breaks_word:
            warn(
                f"line {number} has a word longer than the model's maximum; it was translated in parts",
                "had a word longer than the model's maximum, which was translated in parts",
            )
        if format == "text":
            yield translation.text
        elif format == "tsv":
            yield from ("\t".join(h.columns()) for h in translation.hypotheses)
        else:
            text = json.dumps(translation.to_json(), ensure_ascii=False)
            yield _LINE_ENDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
