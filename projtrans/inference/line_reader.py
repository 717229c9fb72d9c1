"""Text as it arrives, decoded from UTF-8, in windows: the lines that are translated together. Knows no model.

A line ends in a line feed, whatever else it holds. Nothing here grows with the input: windows are bounded in lines and
in characters, and so is what is kept of a line.
"""

import codecs
import contextlib
import gzip
import os
import select
import stat
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from projtrans.errors import DataError
from projtrans.inference.translator import WINDOW

FIRST_LINES = 64
"""Lines of the first window, which is to be answered soon; after each full one the next may be twice as long."""

WINDOW_CHARACTERS = 1 << 18
"""Characters that close a window, so that lines among long ones do not wait for 2,048 of them."""

LONGEST_LINE = 1 << 20
"""Bytes that are kept of a line; no model takes as many tokens."""

MOMENT = 0.05
"""Seconds for which a window takes in further lines that have already arrived, whatever the buffer."""

READ_BYTES = 1 << 16


@dataclass(frozen=True)
class Line:
    """One line of the input, without its end."""

    number: int  # from 1
    text: str  # with U+FFFD for bytes that are not UTF-8
    problem: str | None = None  # why it cannot be translated
    cut: bool = False  # its end was not kept


@dataclass(frozen=True)
class Place:
    """Where in the input a window ends."""

    lines: int = 0
    bytes: int = 0  # of the text as it is decompressed


@dataclass
class Window:
    """Consecutive lines."""

    capacity: int
    lines: list[Line] = field(default_factory=list)
    characters: int = 0
    since: float = 0.0  # when its first line arrived
    end: Place = field(default_factory=Place)

    def add(self, line: Line, end: Place) -> None:
        """Append the next line."""
        if not self.lines:
            self.since = time.monotonic()
        self.lines.append(line)
        self.characters += len(line.text)
        self.end = end

    @property
    def full(self) -> bool:
        """Whether it has reached its number of lines or characters."""
        return len(self.lines) >= self.capacity or self.characters >= WINDOW_CHARACTERS


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A text file opened as bytes, decompressed if it is a .gz; raises DataError if it is damaged."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield cast(IO[bytes], file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: {error}") from error


def windows(
    stream: IO[bytes],
    *,
    buffer: float = 0.0,
    first_lines: int = FIRST_LINES,
    most_lines: int = WINDOW,
    start: Place | None = None,
) -> Iterator[Window]:
    """The lines of a stream that stands at `start`.

    A window of a pipe or a terminal is closed when it is full, or `buffer` seconds after its first line arrived: with 0
    it never waits for lines, and takes in those that have arrived for a moment. The windows of a file depend on its
    content and `start` alone.
    """
    begun, window = _Begun(start or Place()), Window(first_lines)
    patience = None if _is_file(stream) else buffer
    while True:
        if window.lines and not _more(stream, window.since, patience):
            yield window
            window = Window(first_lines)
            continue
        data = _read(stream)
        for line in begun.feed(data) if data else begun.rest():
            window.add(line, begun.place)
            if window.full:
                yield window
                window = Window(min(2 * window.capacity, most_lines))
        if not data:
            break
    if window.lines:
        yield window


def lines_left(stream: IO[bytes]) -> int | None:
    """The lines from the current position of a stream, which is kept; None if they cannot be counted quickly."""
    if isinstance(cast(object, stream), gzip.GzipFile) or not _is_file(stream):
        return None
    start, count, last = stream.tell(), 0, b"\n"
    while data := stream.read(READ_BYTES):
        count, last = count + data.count(b"\n"), data
    stream.seek(start)
    return count + (not last.endswith(b"\n"))


def _read(stream: IO[bytes]) -> bytes:
    return bytes(cast(Any, stream).read1(READ_BYTES))


def _is_file(stream: IO[bytes]) -> bool:
    """Whether its bytes are there without waiting."""
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except OSError:  # not a file of the operating system
        return True


def _more(stream: IO[bytes], since: float, patience: float | None) -> bool:
    """Whether a window may take in more: something can be read, now or in the remaining time (None: any time)."""
    if patience is None:
        return True
    waited = time.monotonic() - since
    if waited > max(patience, MOMENT):
        return False
    try:
        return bool(select.select([stream], [], [], max(0.0, patience - waited))[0])
    except (OSError, ValueError):  # the system cannot tell
        return False


class _Begun:
    """The bytes of a line that has not ended yet, and where the previous one ended."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.kept = bytearray()
        self.length = 0

    def feed(self, data: bytes) -> Iterator[Line]:
        """The lines that end in the data."""
        *ended, begun = data.split(b"\n")
        for part in ended:
            self._keep(part)
            yield self._line(end=1)
        self._keep(begun)

    def rest(self) -> Iterator[Line]:
        """The last line if no line feed ends it; a byte-order mark alone is no line."""
        if self.length and not (self.place.lines == 0 and self.kept == codecs.BOM_UTF8):
            yield self._line(end=0)

    def _keep(self, part: bytes) -> None:
        self.kept += part[: LONGEST_LINE - len(self.kept)]
        self.length += len(part)

    def _line(self, end: int) -> Line:
        self.place = Place(self.place.lines + 1, self.place.bytes + self.length + end)
        data, cut = bytes(self.kept), self.length > len(self.kept)
        self.kept, self.length = bytearray(), 0
        return _decoded(data.removeprefix(codecs.BOM_UTF8) if self.place.lines == 1 else data, self.place.lines, cut)


def _decoded(data: bytes, number: int, cut: bool) -> Line:
    data = data if cut else data.removesuffix(b"\r")
    try:
        text, _ = codecs.utf_8_decode(data, "strict", not cut)  # the cut may fall inside a character
    except UnicodeDecodeError as error:
        return Line(number, data.decode("utf-8", "replace"), f"not valid UTF-8 ({error.reason})", cut)
    return Line(number, text, cut=cut)
