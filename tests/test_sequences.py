"""Lines that stay on the disk and lists in one array: the same as their items in memory."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projtrans import files
from projtrans.errors import DataError
from projtrans.sequences import Lines, Ragged


@given(st.lists(st.lists(st.integers(0, 2**31 - 1))), st.integers(0, 9), st.integers(0, 9))
def test_ragged_lists_come_back(rows: list[list[int]], first: int, last: int) -> None:
    ragged = Ragged.of(rows)
    assert (list(ragged), len(ragged)) == (rows, len(rows))
    assert ragged[first:last] == rows[first:last]
    if rows:
        assert ragged[-1] == rows[-1]
    with pytest.raises(IndexError):
        ragged[len(rows)]


@given(st.lists(st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=5), min_size=1, max_size=4))
def test_joined_parts_are_the_lists_of_all(parts: list[list[list[int]]]) -> None:
    assert list(Ragged.joined([Ragged.of(part) for part in parts])) == [row for part in parts for row in part]


@pytest.mark.parametrize("data", [b"", b"a", b"a\n", b"a\n\nb", b"\n", "¿Sí?\r\nb\u2028c\n".encode()])
def test_lines_on_the_disk_are_those_of_reading_the_file(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "text"
    path.write_bytes(data)
    lines = Lines.of(path)
    assert list(lines) == files.read_lines(path)
    assert lines[1:] == files.read_lines(path)[1:]


def test_a_line_that_is_not_utf8_is_named_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"a\n\xff\nc\n")
    lines = Lines.of(path)
    assert (len(lines), lines[0], lines[2]) == (3, "a", "c")
    with pytest.raises(DataError, match=rf"{path}:2: not valid UTF-8"):
        lines[1]
    with pytest.raises(DataError, match="No such file"):
        Lines.of(tmp_path / "gone")
