"""What `translate` reads and writes: lines as they come, and translations as text, tsv or JSON."""

import io
import json
import select
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import cast

from projtrans import files
from projtrans.translation import SentenceTranslator, Translation

STREAM_LINES = 2048
"""Lines of standard input translated together, when so many are there."""


def streamed(translator: SentenceTranslator, name: str | None, n_best: int) -> Iterator[Translation]:
    """The translations of a file, or of standard input as its lines come."""
    if name is None or name == "-":
        first = 1
        for lines in arriving():
            yield from translator.translate(lines, n_best=n_best, numbers=range(first, first + len(lines)))
            first += len(lines)
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
    """The output lines, with a warning for every source that was too long to be translated whole."""
    for number, translation in enumerate(translations, 1):
        if translation.cut:
            note(f"warning: line {number} is longer than the model's maximum; its end was left out")
        if format == "text":
            yield translation.text
        elif format == "tsv":
            yield from ("\t".join(h.columns()) for h in translation.hypotheses)
        else:
            yield json.dumps(translation.to_json(), ensure_ascii=False)
