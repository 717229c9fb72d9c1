"""Complete files or none, and lines read strictly."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projtrans import files
from projtrans.errors import DataError

# Anything that a line may hold: no line feed, no lone surrogate; a carriage return only where it is not the line's end.
line = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n")).filter(
    lambda text: not text.endswith("\r")
)
lines = st.lists(line).filter(lambda found: not (found and found[0].startswith("\ufeff")))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all examples of a property."""
    return tmp_path_factory.mktemp("scratch")


@given(lines)
def test_lines_survive_writing_and_reading(scratch: Path, written: list[str]) -> None:
    files.write_lines(scratch / "text", written)
    assert files.read_lines(scratch / "text") == written


@given(lines)
def test_windows_ends_a_byte_order_mark_and_gzip_change_nothing(scratch: Path, written: list[str]) -> None:
    path = scratch / "text.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + "".join(f"{line}\r\n" for line in written).encode()))
    assert files.read_lines(path) == written


GOLDEN = [
    ("a file without content has no lines", b"", []),
    ("a final line feed ends a line and begins none", b"a\n", ["a"]),
    ("a missing final line feed loses nothing", b"a\nb", ["a", "b"]),
    ("an empty line is a line", b"\n\n", ["", ""]),
    ("U+2028, U+2029 and U+0085 stay inside", "a\u2028b\u2029c\x85d\n".encode(), ["a\u2028b\u2029c\x85d"]),
    ("vertical tab, form feed and the separators stay inside", b"a\x0bb\x0cc\x1cd\x1ee\n", ["a\x0bb\x0cc\x1cd\x1ee"]),
    ("a carriage return inside is text", b"a\rb\r\n", ["a\rb"]),
    ("only the first byte-order mark is one", b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", ["a", "\ufeffb"]),
    ("a zero byte is text", b"a\0b\n", ["a\0b"]),
]


@pytest.mark.parametrize(("reason", "data", "expected"), GOLDEN, ids=[row[0] for row in GOLDEN])
def test_where_a_line_ends(reason: str, data: bytes, expected: list[str]) -> None:
    assert files.decode_lines(data, "text") == expected, reason


@pytest.mark.parametrize(
    ("data", "line"),
    [(b"\xff", 1), (b"a\n\xe9\n", 2), (b"\xef\xbb\xbfa\n\n\xff", 3), (b"a\nb\nc\xc3", 3)],
    ids=["first", "latin-1", "after a byte-order mark", "cut in a character"],
)
def test_invalid_utf8_is_named_by_its_line(data: bytes, line: int) -> None:
    with pytest.raises(DataError, match=rf"^text:{line}: not valid UTF-8 .*; convert the file to UTF-8$"):
        files.decode_lines(data, "text")


def test_unreadable_files_are_one_line(tmp_path: Path) -> None:
    whole = gzip.compress(b"some text\n" * 1000)
    for name, data in {"cut.gz": whole[:-12], "damaged.gz": whole[:15] + b"zzzz" + whole[19:], "not.gz": b"x"}.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder").mkdir()
    for name in ("cut.gz", "damaged.gz", "not.gz", "folder", "nothing"):
        with pytest.raises(DataError) as caught:
            files.read_lines(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_error_while_writing_leaves_the_old_file_and_no_debris(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_text(path, "old")
    for error in (OSError, KeyboardInterrupt):
        with pytest.raises(error), files.replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_while_building_a_folder_leaves_the_old_one_and_no_debris(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for content in ("old", "new"):
        with files.replacing_folder(folder) as built:
            (built / content).touch()
        assert [path.name for path in folder.iterdir()] == [content]
    with pytest.raises(KeyboardInterrupt), files.replacing_folder(folder) as built:
        (built / "half").touch()
        raise KeyboardInterrupt
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_lock_is_held_once_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with files.locked(path) as first, files.locked(path) as second:
        assert (first, second) == (True, False)
    with files.locked(path) as third:
        assert third


def test_the_leftovers_of_killed_writers_are_removed(tmp_path: Path) -> None:
    for name in ("file", ".file.x8", "file.x8", ".file2.x8"):
        (tmp_path / name).touch()
    files.remove_leftovers(tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".file2.x8", "file", "file.x8"]


def test_the_new_file_has_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "ordinary").touch()
    files.write_text(tmp_path / "below" / "file", "text")
    assert (tmp_path / "below" / "file").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_json_and_checksum(tmp_path: Path) -> None:
    files.write_json(tmp_path / "value.json", {"text": "¿Sí?"})
    assert json.loads((tmp_path / "value.json").read_text(encoding="utf-8")) == {"text": "¿Sí?"}
    (tmp_path / "abc").write_bytes(b"abc")  # the test vector of FIPS 180
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.checksum(tmp_path / "abc") == expected
