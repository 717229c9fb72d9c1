"""Lines in windows: the same lines however their bytes arrive, in bounded time and memory."""

import io
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projtrans import files
from projtrans.errors import DataError
from projtrans.inference import line_reader
from projtrans.inference.line_reader import FIRST_LINES, MOMENT, Place
from projtrans.inference.translator import WINDOW


class Chunks(io.BytesIO):
    """Bytes that come in pieces of these sizes, again and again."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        super().__init__(data)
        self.sizes, self.count = sizes, 0

    def read1(self, size: int | None = -1, /) -> bytes:
        self.count += 1
        return self.read(self.sizes[self.count % len(self.sizes)])


def taken(data: bytes, sizes: list[int], **options: Any) -> list[line_reader.Window]:
    return list(line_reader.windows(Chunks(data, sizes), **options))


SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=5)


@given(
    data=st.lists(st.sampled_from([b"\n", b"\r", b"a", b"bc", b"\xc3\xa9", b"\xff", b"\xef\xbb\xbf"])).map(b"".join),
    sizes=SIZES,
)
def test_lines_are_those_of_the_strict_reader_however_they_come(data: bytes, sizes: list[int]) -> None:
    lines = [line for window in taken(data, sizes, first_lines=3) for line in window.lines]
    assert [line.number for line in lines] == list(range(1, len(lines) + 1))
    problems = [line for line in lines if line.problem]
    if problems:
        with pytest.raises(DataError, match=re.escape(f"text:{problems[0].number}: {problems[0].problem};")):
            files.decode_lines(data, "text")
    else:
        assert [line.text for line in lines] == files.decode_lines(data, "text")
    assert not [line for line in lines if line.cut]


@given(st.lists(st.integers(0, 9), max_size=400), SIZES)
def test_a_window_goes_on_where_the_last_one_ended(lengths: list[int], sizes: list[int]) -> None:
    """Windows from any end on are those of the whole, in a file whose windows do not grow."""
    data = b"".join(b"x" * length + b"\n" for length in lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_reader, "WINDOW_CHARACTERS", 50)
        whole = taken(data, sizes, first_lines=16, most_lines=16)
        for number, window in enumerate(whole):
            assert len(window.lines) <= 16
            assert sum(len(line.text) for line in window.lines[:-1]) < 50
            rest = taken(data[window.end.bytes :], sizes, first_lines=16, most_lines=16, start=window.end)
            assert [(w.lines, w.end) for w in rest] == [(w.lines, w.end) for w in whole[number + 1 :]]


def test_windows_begin_small_and_grow_and_are_bounded_by_text() -> None:
    counts = [len(window.lines) for window in taken(b"a\n" * 10_000, [65536])]
    assert counts[:6] == [FIRST_LINES, 2 * FIRST_LINES, 4 * FIRST_LINES, 8 * FIRST_LINES, 16 * FIRST_LINES, WINDOW]
    assert sum(counts) == 10_000
    long = b"a" * 50_000 + b"\n"
    assert max(len(window.lines) for window in taken(long * 40, [65536])) == -(-line_reader.WINDOW_CHARACTERS // 50_000)


@pytest.mark.parametrize("sizes", [[1], [3, 7], [1 << 16]])
def test_of_an_endless_line_only_the_beginning_is_kept(monkeypatch: pytest.MonkeyPatch, sizes: list[int]) -> None:
    monkeypatch.setattr(line_reader, "LONGEST_LINE", 8)
    data = "one two three\r\nééééé\nfive\n12345678\n".encode()
    (window,) = taken(data, sizes)
    assert [line.text for line in window.lines] == ["one two ", "éééé", "five", "12345678"]
    assert [line.cut for line in window.lines] == [True, True, False, False]
    assert window.end == Place(4, len(data))
    (window,) = taken("1234567é".encode(), sizes)  # cut in the middle of a character
    assert [(line.text, line.problem, line.cut) for line in window.lines] == [("1234567", None, True)]


class Producer:
    """A pipe whose other end writes at given times; there is no other clock."""

    def __init__(self, arrivals: list[tuple[float, bytes]]) -> None:
        self.arrivals, self.now = arrivals, 0.0

    def monotonic(self) -> float:
        return self.now

    def select(self, streams: object, *unused: object) -> tuple[bool]:
        timeout = unused[-1]
        assert isinstance(timeout, float)
        there = not self.arrivals or self.arrivals[0][0] <= self.now + timeout  # the end can be read, too
        self.now = max(self.now, self.arrivals[0][0]) if there and self.arrivals else self.now + timeout * (not there)
        return (there,)

    def read1(self, size: int) -> bytes:
        if not self.arrivals:
            return b""
        when, data = self.arrivals.pop(0)
        self.now = max(self.now, when)
        return data


@given(
    steps=st.lists(st.tuples(st.floats(0, 3), st.sampled_from([b"a\n", b"a\nb\nc\n", b"d", b"\n" * 100])), max_size=40),
    buffer=st.sampled_from([0.0, 0.01, 0.5, 2.0]),
)
def test_no_line_waits_longer_than_the_buffer(steps: list[tuple[float, bytes]], buffer: float) -> None:
    times = [sum(step for step, _ in steps[: i + 1]) for i in range(len(steps))]
    came = [when for when, (_, data) in zip(times, steps, strict=True) for _ in range(data.count(b"\n"))]
    producer = Producer([(when, data) for when, (_, data) in zip(times, steps, strict=True)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_reader, "time", producer)
        patch.setattr(line_reader, "select", producer)
        patch.setattr(line_reader, "_is_file", lambda stream: False)
        out = [
            (producer.now, line)
            for window in line_reader.windows(producer, buffer=buffer)  # type: ignore[arg-type]
            for line in window.lines
        ]
    assert [line.number for _, line in out] == list(range(1, len(out) + 1))
    for (when, _), arrived in zip(out, came, strict=False):
        assert when <= arrived + max(buffer, MOMENT) + 1e-9
        if buffer == 0.0 and not any(arrived < other <= arrived + MOMENT for other in times):
            assert when == arrived, "nothing more is there, so nothing is waited for"
    assert len(out) == len(came) + (b"".join(data for _, data in steps)[-1:] == b"d")


def test_a_buffer_gathers_what_comes_in_time() -> None:
    def gathered(buffer: float) -> list[int]:
        producer = Producer([(0.1 * i, b"a\n") for i in range(10)])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(line_reader, "time", producer)
            patch.setattr(line_reader, "select", producer)
            patch.setattr(line_reader, "_is_file", lambda stream: False)
            return [len(w.lines) for w in line_reader.windows(producer, buffer=buffer)]  # type: ignore[arg-type]

    assert gathered(0.0) == [1] * 10
    assert gathered(0.45) == [5, 5]
    assert gathered(10.0) == [10]


def test_a_pipe_of_the_system_is_waited_for() -> None:
    """With a buffer that never ends before the input does, lines from several writes are one window."""
    reader, writer = os.pipe()
    with open(reader, "rb") as stream, open(writer, "wb", buffering=0) as sink:
        sink.write(b"one\n")
        found = line_reader.windows(stream, buffer=0.0)
        assert [line.text for line in next(found).lines] == ["one"]
        sink.write(b"two\nthr")
        assert [line.text for line in next(found).lines] == ["two"]
        sink.write(b"ee\n")
        assert [line.text for line in next(found).lines] == ["three"]
        sink.write(b"four")
        sink.close()
        assert [line.text for line in next(found).lines] == ["four"]
        assert list(found) == []


def test_the_count_of_lines_leaves_the_file_where_it_is(tmp_path: Path) -> None:
    for data, expected in ((b"", 0), (b"a", 1), (b"a\n", 1), (b"a\n\nb", 3), (b"a\n" * 100_000, 100_000)):
        (tmp_path / "file").write_bytes(data)
        with line_reader.opened(tmp_path / "file") as stream:
            assert line_reader.lines_left(stream) == expected
            assert stream.tell() == 0
