"""Sentence pairs as token ids: encoded once, kept beside their text, mapped into memory when used.

    data/NAME/{train,valid,test}.ids
        4,096 bytes   a JSON object: what was encoded by which tokenizer, and the checksum of the rest
        int64         where every source begins among the source ids, and where the last one ends
        int64         the same for the targets
        uint16        source ids, EOS included; then target ids, without (uint32 for more than 65,536 tokens)

All numbers are little-endian. An encoding is used where tokenizer, text and checksum match, and made anew otherwise.
Knows text and ids, no batches and no model.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from projtrans.data.corpus import CHUNK, Pair, Pairs, Progress
from projtrans.data.tokenizer import Tokenizer
from projtrans.errors import DataError
from projtrans.files import checksum, replacing
from projtrans.sequences import Lines, Ragged

FORMAT = 1
SAMPLED = 4096
"""Pairs sampled between two reports, which takes about a tenth of a second."""

HEADER = 4096
"""Bytes of the JSON object, padded with spaces."""


class Prepared(Pairs):
    """The pairs of a prepared split with their encodings (source, target) by the tokenizer of checksum `tokenizer`."""

    def __init__(self, texts: tuple[Lines, Lines], encoded: tuple[Ragged, Ragged], tokenizer: str) -> None:
        super().__init__(*texts)
        self.encoded, self.tokenizer = encoded, tokenizer

    def __len__(self) -> int:
        return len(self.encoded[0])


def sample(
    tokenizer: Tokenizer, pairs: Sequence[Pair], dropout: float, seed: int, epoch: int, report: Progress
) -> tuple[Ragged, Ragged]:
    """All pairs encoded with subword dropout: a function of tokenizer, dropout, seed, epoch and row within a process.

    Not between processes: SentencePiece 0.2.3 draws other samples from the same seed in each.
    report: called with the number of pairs done.
    """
    sources: list[Ragged] = []
    targets: list[Ragged] = []
    for first in range(0, len(pairs), SAMPLED):
        chunk = pairs[first : first + SAMPLED]
        for which, sampler, found in ((0, tokenizer.sample_source, sources), (1, tokenizer.sample_target, targets)):
            seeds = [_seed(f"{seed} {epoch} {row} {which}") for row in range(first, first + len(chunk))]
            found.append(Ragged.of(sampler([pair[which] for pair in chunk], dropout, seeds)))
        report(first + len(chunk))
    return Ragged.joined(sources), Ragged.joined(targets)


def _seed(text: str) -> int:
    """31 bits: SentencePiece takes the largest number of 32 bits to mean no seed."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") >> 1


def keep(folder: Path, name: str, tokenizer: Tokenizer, report: Progress = lambda done: None) -> None:
    """Write the encoding of a split beside its text; reports the sentences done, of 2N for N pairs."""
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
    """A split with its encoding, which is made where none fits.

    Raises DataError where a text is missing or source and target differ in length. Where the folder is not writable,
    the encoding goes into a temporary file for this process only, and `note` receives a line that says so.
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
    """What the header of an encoding that fits must contain."""
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
    for which, encoder in enumerate((tokenizer.encode_source, tokenizer.encode_target)):
        for first in range(0, count, CHUNK):
            chunk = Ragged.of(encoder(texts[which][first : first + CHUNK]))
            file.write(chunk.ids_P.astype(record["type"]).tobytes())
            last = first + len(chunk)
            starts_2N[which, first + 1 : last + 1] = starts_2N[which, first] + chunk.starts_N[1:]
            report(which * count + last)
    file.seek(HEADER)
    file.write(starts_2N.tobytes())
    header = json.dumps(record | {"pairs": count, "checksum": _digest(file)}).encode()
    file.seek(0)
    file.write(header.ljust(HEADER))
    file.flush()


def _digest(file: IO[bytes]) -> str:
    """SHA-256 of everything after the header."""
    file.flush()
    file.seek(HEADER)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # any readable file is one


def _read(path: Path, record: dict[str, Any]) -> tuple[Ragged, Ragged] | None:
    """The encoding in the file, if it is complete and fits the record."""
    try:
        with path.open("rb") as file:
            found = _header(file)
            fits = record.items() <= found.items() and found["checksum"] == _digest(file)
            return _map(file) if fits else None
    except (OSError, ValueError, TypeError, KeyError):  # missing, or a damaged header
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
