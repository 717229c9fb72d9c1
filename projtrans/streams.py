"""What `translate` reads and writes: lines as they come, and translations as text, tsv or JSON."""

import io
import json
import select
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import cast

from projtrans import files
from projtrans.translation import Candidate, SentenceTranslator, Translation

STREAM_LINES = 2048
"""Lines of standard input translated together, when so many are there."""


def streamed(translator: SentenceTranslator, name: str | None, n_best: int) -> Iterator[Translation]:
    """The translations of a file, or of standard input as its lines come."""
    if name is None or name == "-":
        for lines in arriving():
            yield from translator.translate(lines, n_best=n_best)
    else:
        yield from translator.stream(files.read_lines(Path(name)), n_best=n_best)


def arriving() -> Iterator[list[str]]:
    """The lines of standard input, as many at a time as are there: whoever waits for an answer gets it."""
    number, begun = 0, b""
    lines: list[str] = []
    stream = cast(io.BufferedReader, sys.stdin.buffer)
    while data := stream.read1(1 << 16):
        *whole, begun = (begun + data).split(b"\n")
        for line in whole:
            number += 1
            lines += files.decode_lines(line + b"\n", "standard input", number)
        if lines and (len(lines) >= STREAM_LINES or not _more_is_there()):
            yield lines
            lines = []
    if begun:
        lines += files.decode_lines(begun, "standard input", number + 1)
    if lines:
        yield lines


def _more_is_there() -> bool:
    """Whether standard input can be read without waiting; no, where the system cannot tell."""
    try:
        return bool(select.select([sys.stdin.buffer], [], [], 0)[0])
    except (OSError, ValueError):
        return False


def rendered(translations: Iterable[Translation], format: str, note: Callable[[str], None]) -> Iterator[str]:
    """The output lines, with a warning for every source with a word that was too long to be translated whole."""
    for number, translation in enumerate(translations, 1):
        if translation.breaks_word:
            note(f"warning: line {number} has a word longer than the model's maximum; it was translated in parts")
        if format == "text":
            yield translation.text
        elif format == "tsv":
            yield from map(_tab_separated, translation.hypotheses)
        else:
            yield json.dumps(translation.to_json(), ensure_ascii=False)


def _tab_separated(hypothesis: Candidate) -> str:
    """Score, translation, and the alignment as Pharaoh's pairs where there is one."""
    columns = [f"{hypothesis.score:.6f}", hypothesis.translation]
    if hypothesis.alignment is not None:
        columns.append(" ".join(f"{i}-{j}" for i, j in hypothesis.alignment))
    return "\t".join(columns)
