"""Kept encodings: the same as fresh ones, never used where they do not fit, made once."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from projtrans import files
from projtrans.data import encoded_corpus as encoding
from projtrans.data.corpus import SPLITS, Pair
from projtrans.data.data_folder import load_tokenizer, open_splits, read_split
from projtrans.data.encoded_corpus import HEADER, Prepared, open_prepared
from projtrans.data.events import Stage, Working
from projtrans.data.tokenizer import Tokenizer
from projtrans.errors import DataError
from projtrans.sequences import Ragged


def lists(texts: Ragged) -> list[list[int]]:
    return [texts[i] for i in range(len(texts))]


def fits(split: Prepared, tokenizer: Tokenizer, pairs: Sequence[Pair]) -> None:
    """The encoding is what the tokenizer makes of the pairs now."""
    assert list(split) == list(pairs)
    assert lists(split.encoded[0]) == tokenizer.encode_source([pair.source for pair in pairs])
    assert lists(split.encoded[1]) == tokenizer.encode_target([pair.target for pair in pairs])


@pytest.mark.parametrize("name", SPLITS)
def test_prepared_encodings_are_those_of_the_tokenizer(prepared: Path, name: str) -> None:
    tokenizer = load_tokenizer(prepared)
    fits(open_prepared(prepared, name, tokenizer), tokenizer, read_split(prepared, name))


def test_what_is_encoded_is_not_tokenised_again(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, before = load_tokenizer(prepared), (prepared / "train.ids").stat().st_mtime_ns
    monkeypatch.setattr(Tokenizer, "_encode", lambda *_: pytest.fail("tokenised twice"))
    events: list[object] = []
    assert {name: len(split) for name, split in open_splits(prepared, tokenizer, events.append).items()} == {
        name: len(read_split(prepared, name)) for name in SPLITS
    }
    assert (events, (prepared / "train.ids").stat().st_mtime_ns) == ([], before)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def header(path: Path, **changes: object) -> None:
    data = path.read_bytes()
    record = json.loads(data[:HEADER]) | changes
    path.write_bytes(json.dumps(record).encode().ljust(HEADER) + data[HEADER:])


STALE: list[tuple[str, Callable[[Path], object]]] = [
    ("missing", Path.unlink),
    ("empty", lambda path: path.write_bytes(b"")),
    ("cut off", lambda path: path.write_bytes(path.read_bytes()[:-1])),
    ("cut off in the header", lambda path: path.write_bytes(path.read_bytes()[:100])),
    ("a bit of a beginning", lambda path: flip(path, HEADER + 9)),
    ("a bit of an id", lambda path: flip(path, -1)),
    ("another format", lambda path: header(path, format=0)),
    ("another tokenizer", lambda path: header(path, tokenizer="0")),
    ("no object", lambda path: path.write_bytes(b"3".ljust(HEADER))),
    ("text changed", lambda path: files.write_lines(path.with_suffix(".src"), ["nine"] * 3)),
]


@pytest.mark.parametrize(("reason", "change"), STALE, ids=[row[0] for row in STALE])
def test_what_does_not_fit_is_made_anew(prepared: Path, reason: str, change: Callable[[Path], object]) -> None:
    files.write_lines(prepared / "valid.src", ["one two", "three", "four five six"])
    files.write_lines(prepared / "valid.tgt", ["be ba", "bu", "da bo bi"])
    tokenizer = load_tokenizer(prepared)
    open_prepared(prepared, "valid", tokenizer)
    good = (prepared / "valid.ids").read_bytes()
    change(prepared / "valid.ids")
    done: list[tuple[int, int]] = []
    found = open_prepared(prepared, "valid", tokenizer, lambda count, total: done.append((count, total)))
    fits(found, tokenizer, read_split(prepared, "valid"))
    assert done == [(3, 6), (6, 6)]
    assert ((prepared / "valid.ids").read_bytes() == good) == (reason != "text changed")
    done.clear()
    open_prepared(prepared, "valid", tokenizer, lambda count, total: done.append((count, total)))
    assert not done, "it fits now"


def test_another_tokenizer_has_another_encoding(prepared: Path) -> None:
    texts = [text for pair in read_split(prepared, "train") for text in pair]
    other = Tokenizer.train("unigram", texts, texts, 320)
    fits(open_prepared(prepared, "train", other), other, read_split(prepared, "train"))


def test_a_folder_that_is_not_writable_is_used_and_reported(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise OSError(30, "Read-only file system", str(path))

    tokenizer, events = load_tokenizer(prepared), []
    (prepared / "test.ids").unlink()
    monkeypatch.setattr(encoding, "replacing", refuse)
    splits = open_splits(prepared, tokenizer, events.append)
    fits(splits["test"], tokenizer, read_split(prepared, "test"))
    assert not (prepared / "test.ids").exists()
    (line,) = [event.text for event in events if isinstance(event, Stage)]
    assert line.endswith("test.ids: cannot be written (Read-only file system); the next start encodes the text again")
    assert [event for event in events if isinstance(event, Working)]


class Wide:
    """A tokenizer of more tokens than 16 bits can number."""

    source_size, target_size, checksum = 10, 1 << 20, "wide"

    @staticmethod
    def encode_source(texts: Sequence[str]) -> list[list[int]]:
        return [[len(text)] for text in texts]

    @staticmethod
    def encode_target(texts: Sequence[str]) -> list[list[int]]:
        return [[(1 << 20) - 1, *range(len(text))] for text in texts]


def test_large_vocabularies_are_numbered_in_full(prepared: Path) -> None:
    found = open_prepared(prepared, "test", Wide())  # type: ignore[arg-type]
    targets = [pair.target for pair in read_split(prepared, "test")]
    assert lists(found.encoded[1]) == Wide.encode_target(targets)
    assert found.encoded[1].ids_P.dtype == np.dtype("<u4")


def test_chunks_are_joined_without_a_seam(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load_tokenizer(prepared)
    whole = (prepared / "train.ids").read_bytes()
    monkeypatch.setattr(encoding, "CHUNK", 7)
    encoding.keep(prepared, "train", tokenizer)
    assert (prepared / "train.ids").read_bytes() == whole


@pytest.mark.parametrize("name", ["train.src", "train.tgt"])
def test_missing_and_unequal_texts_are_one_line(prepared: Path, name: str) -> None:
    tokenizer = load_tokenizer(prepared)
    with (prepared / name).open("a") as file:
        file.write("one more\n")
    with pytest.raises(
        DataError, match=r"train\.src has [\d,]+ lines, train\.tgt has [\d,]+; prepare again with --force"
    ):
        open_prepared(prepared, "train", tokenizer)
    (prepared / name).unlink()
    with pytest.raises(DataError, match=rf"{name}: No such file or directory; prepare again with --force$"):
        open_prepared(prepared, "train", tokenizer)
