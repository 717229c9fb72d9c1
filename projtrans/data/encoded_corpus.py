"""Sentence pairs in pieces: encoded once, kept beside their text, mapped into memory by whoever wants them.

    data/NAME/{train,valid,test}.ids
        4,096 bytes   a JSON object: what was encoded by which tokenizer, and the checksum of the rest
        int64         where every source begins among the source ids, and where the last one ends
        int64         the same of the targets
        uint16        source ids, each sentence with its end; then target ids (uint32 for more than 65,536 pieces)

All numbers are little-endian. An encoding is used where tokenizer, text and checksum are what they should be, and made
anew otherwise. Knows text and ids, no batches and no model.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from projtrans.data.corpus import WINDOW, Pair, Pairs, Progress
from projtrans.data.tokenizer import Tokenizer
from projtrans.errors import DataError
from projtrans.files import checksum, replacing
from projtrans.sequences import Lines, Ragged

FORMAT = 1

SAMPLED = 4096
"""Pairs sampled between two reports: a tenth of a second or so."""

HEADER = 4096
"""Bytes of the JSON object, filled up with spaces."""


class Prepared(Pairs):
    """The pairs of a prepared split, with their encoding by `tokenizer` (its checksum)."""

    def __init__(self, texts: tuple[Lines, Lines], encoded: tuple[Ragged, Ragged], tokenizer: str) -> None:
        super().__init__(*texts)
        self.encoded, self.tokenizer = encoded, tokenizer

    def __len__(self) -> int:
        return len(self.encoded[0])


def sample(
    tokenizer: Tokenizer, pairs: Sequence[Pair], dropout: float, seed: int, epoch: int, report: Progress
) -> tuple[Ragged, Ragged]:
    """All pairs with dropout of subwords: each side a function of tokenizer, dropout, seed, epoch and row alone.

    report: called with the pairs that are done.
    """
    sources: list[Ragged] = []
    targets: list[Ragged] = []
    for first in range(0, len(pairs), SAMPLED):
        window = pairs[first : first + SAMPLED]
        for side, sampler, found in ((0, tokenizer.sample_source, sources), (1, tokenizer.sample_target, targets)):
            seeds = [_seed(f"{seed} {epoch} {row} {side}") for row in range(first, first + len(window))]
            found.append(Ragged.of(sampler([pair[side] for pair in window], dropout, seeds)))
        report(first + len(window))
    return Ragged.joined(sources), Ragged.joined(targets)


def _seed(text: str) -> int:
    """31 bits: SentencePiece takes the largest number of 32 bits for none."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") >> 1


def keep(folder: Path, name: str, tokenizer: Tokenizer, report: Progress = lambda done: None) -> None:
    """Write the encoding of a split beside its text; reports sentences of both sides that are done."""
    texts = _texts(folder, name)
    with replacing(_path(folder, name)) as temporary, temporary.open("rb+") as file:
        _write(file, texts, tokenizer, _record(folder, name, tokenizer), report)


def open_prepared(
    folder: Path,
    name: str,
    tokenizer: Tokenizer,
    report: Callable[[int, int], None] = lambda done, total: None,
    note: Callable[[str], None] = lambda text: None,
) -> Prepared:
    """A split with its encoding, which is made where there is none that fits.

    Raises DataError where the text is missing or its sides differ in length. Where the folder cannot be written in, the
    encoding goes into a temporary file for this once, and `note` is told.
    """
    encoded = _read(_path(folder, name), _record(folder, name, tokenizer))
    texts = _texts(folder, name, checked=encoded is None)
    if encoded is None:
        total = 2 * len(texts[0])
        encoded = _made(folder, name, tokenizer, lambda done: report(done, total), note)
    return Prepared(texts, encoded, tokenizer.checksum)


def _made(
    folder: Path, name: str, tokenizer: Tokenizer, report: Progress, note: Callable[[str], None]
) -> tuple[Ragged, Ragged]:
    path = _path(folder, name)
    try:
        keep(folder, name, tokenizer, report)
        with path.open("rb") as file:
            return _map(file)
    except OSError as error:
        note(f"{path}: cannot be written ({error.strerror}); the next start encodes the text again")
    with tempfile.TemporaryFile() as file:
        _write(file, _texts(folder, name), tokenizer, _record(folder, name, tokenizer), report)
        return _map(file)


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.ids"


def _texts(folder: Path, name: str, checked: bool = True) -> tuple[Lines, Lines]:
    sources, targets = (Lines.of(folder / f"{name}.{ending}") for ending in ("src", "tgt"))
    if checked and len(sources) != len(targets):
        counts = f"{name}.src has {len(sources):,} lines, {name}.tgt has {len(targets):,}"
        raise DataError(f"{folder}: {counts}; prepare again with --force")
    return sources, targets


def _record(folder: Path, name: str, tokenizer: Tokenizer) -> dict[str, Any]:
    """What an encoding says of itself where it fits."""
    try:
        text = [checksum(folder / f"{name}.{ending}") for ending in ("src", "tgt")]
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}; prepare again with --force") from error
    return {
        "format": FORMAT,
        "tokenizer": tokenizer.checksum,
        "text": text,
        "type": "<u2" if max(tokenizer.source_size, tokenizer.target_size) <= 1 << 16 else "<u4",
    }


def _write(
    file: IO[bytes], texts: tuple[Lines, Lines], tokenizer: Tokenizer, record: dict[str, Any], report: Progress
) -> None:
    count = len(texts[0])
    starts_2N = np.zeros((2, count + 1), "<i8")
    file.seek(HEADER + starts_2N.nbytes)
    for side, encoder in enumerate((tokenizer.encode_source, tokenizer.encode_target)):
        for first in range(0, count, WINDOW):
            window = Ragged.of(encoder(texts[side][first : first + WINDOW]))
            file.write(window.ids_P.astype(record["type"]).tobytes())
            last = first + len(window)
            starts_2N[side, first + 1 : last + 1] = starts_2N[side, first] + window.starts_N[1:]
            report(side * count + last)
    file.seek(HEADER)
    file.write(starts_2N.tobytes())
    header = json.dumps(record | {"pairs": count, "checksum": _digest(file)}).encode()
    file.seek(0)
    file.write(header.ljust(HEADER))
    file.flush()


def _digest(file: IO[bytes]) -> str:
    """SHA-256 of everything behind the header."""
    file.flush()
    file.seek(HEADER)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # any readable file is one


def _read(path: Path, record: dict[str, Any]) -> tuple[Ragged, Ragged] | None:
    """The encoding in the file, if it is whole and fits the record."""
    try:
        with path.open("rb") as file:
            found = _header(file)
            fits = record.items() <= found.items() and found["checksum"] == _digest(file)
            return _map(file) if fits else None
    except (OSError, ValueError, TypeError, KeyError):  # missing, or damaged in the header
        return None


def _header(file: IO[bytes]) -> dict[str, Any]:
    file.seek(0)
    return dict(json.loads(file.read(HEADER)))


def _map(file: IO[bytes]) -> tuple[Ragged, Ragged]:
    record, data = _header(file), np.memmap(file, np.uint8, "r", HEADER).view(np.ndarray)
    starts_2N = data[: 16 * (record["pairs"] + 1)].view("<i8").reshape(2, -1)
    ids_P = data[starts_2N.nbytes :].view(record["type"])
    middle = int(starts_2N[0, -1])
    return Ragged(ids_P[:middle], starts_2N[0]), Ragged(ids_P[middle:], starts_2N[1])
