"""Parallel text: sentence pairs without blank ones, on the disk, with their hashes.

The text stays on the disk, so a corpus may be larger than memory; what is counted and compared are 64-bit hashes of its
sentences. Knows neither file formats, splits and tokenizers nor prepared folders.
"""

import hashlib
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar, overload

import numpy as np

from projtrans.config import setting
from projtrans.data import corpora
from projtrans.errors import ConfigError, DataError
from projtrans.sequences import Lines

SPLITS = ("train", "valid", "test")

CHUNK = 1 << 15
"""Pairs between two reports of progress."""

Progress = Callable[[int], None]
"""Called now and then with the number of pairs done."""

Item = TypeVar("Item")

# What str.strip() removes, and the byte-order mark, which would be lost as the first character of a file.
_EDGES = (
    "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff"
)


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Which sentence pairs, how they are split, and how text becomes tokens."""

    name: str = setting(corpora.BUNDLED, f"{corpora.CHOICES}, or the name of a prepared folder")
    direction: corpora.Direction = setting(
        "forward", "forward translates the first sentence of a pair into the second; en-es etc. are for named corpora"
    )
    split: Literal["grouped", "random"] = setting(
        "grouped", "grouped keeps pairs that share a source or a target together: nothing leaks; random is the paper's"
    )
    seed: int = setting(1, "seed of the split", minimum=0)
    tokenizer: Literal["bpe", "unigram", "word"] = setting(
        "bpe",
        "joint SentencePiece BPE or unigram; word is the paper's: lower case, no punctuation, a model per language",
    )
    vocab_size: int = setting(8000, "tokens, special ones included; with word per language", above=300)
    max_length: int = setting(128, "tokens per sentence beyond which overlong applies to a training pair", minimum=1)
    folder: str | None = setting(None, "folder of the prepared data; null: data/NAME", affects="start")
    overlong: Literal["drop", "cut"] = setting(
        "drop", "drop leaves out training pairs over max_length; cut truncates them, and lines to be translated too"
    )

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ConfigError(f"name: empty; name a corpus such as {corpora.BUNDLED}")
        if self.direction not in corpora.directions(self.name):
            having = " and ".join(name for name in corpora.CORPORA if self.direction in corpora.directions(name))
            raise ConfigError(f"direction: {self.direction} is for {having} only; use forward or backward")

    @property
    def backward(self) -> bool:
        """Whether the second sentence of a pair is the source."""
        return corpora.directions(self.name)[self.direction]

    @property
    def ending(self) -> str | None:
        """The ending of the name where it is that of a corpus file."""
        return corpora.ending(self.name)

    @property
    def folder_name(self) -> str:
        """What a folder of this corpus is called: the name, or the file's name without folder and ending."""
        name = Path(self.name).name
        return name if self.ending is None else name.removesuffix(self.ending) or "custom"


class Pair(NamedTuple):
    """A sentence and its translation."""

    source: str
    target: str


class Chosen(Sequence[str]):
    """Some lines of a text, in an order of their own; the text is not copied."""

    def __init__(self, lines: Sequence[str], rows: np.ndarray) -> None:
        self._lines, self._rows = lines, rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "Chosen": ...
    def __getitem__(self, index: int | slice) -> "str | Chosen":
        if isinstance(index, slice):
            return Chosen(self._lines, self._rows[index])
        return self._lines[int(self._rows[index])]

    def take(self, rows: np.ndarray) -> "Chosen":
        """Some of these lines."""
        return Chosen(self._lines, self._rows[rows])


class Pairs(Sequence[Pair]):
    """Sentence pairs: line N of `sources` is translated by line N of `targets`."""

    def __init__(self, sources: Sequence[str], targets: Sequence[str]) -> None:
        self.sources, self.targets = sources, targets

    def __len__(self) -> int:
        return len(self.sources)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> "Pairs": ...
    def __getitem__(self, index: int | slice) -> "Pair | Pairs":
        if isinstance(index, slice):
            return Pairs(self.sources[index], self.targets[index])
        return Pair(self.sources[index], self.targets[index])


class SentenceHashes(NamedTuple):
    """64-bit hashes [N] of the sentences, and of their keys, which are equal where no tokenizer can tell them apart."""

    source: np.ndarray
    target: np.ndarray
    source_key: np.ndarray
    target_key: np.ndarray

    def take(self, rows: np.ndarray) -> "SentenceHashes":
        """Those of some pairs."""
        return SentenceHashes(*(column[rows] for column in self))


class Corpus(Pairs):
    """Pairs with their hashes; `blank` counts the pairs that were left out because a sentence was blank."""

    def __init__(self, sources: Chosen, targets: Chosen, hashes: SentenceHashes, blank: int = 0) -> None:
        super().__init__(sources, targets)
        self._texts, self.hashes, self.blank = (sources, targets), hashes, blank

    def take(self, rows: np.ndarray) -> "Corpus":
        """Some of the pairs."""
        sources, targets = self._texts
        return Corpus(sources.take(rows), targets.take(rows), self.hashes.take(rows))

    def swapped(self) -> "Corpus":
        """The same with source and target exchanged."""
        (sources, targets), hashes = self._texts, self.hashes
        swapped = SentenceHashes(hashes.target, hashes.source, hashes.target_key, hashes.source_key)
        return Corpus(targets, sources, swapped, self.blank)


# ------------------------------------------------------------------------------------------------------- collecting


def read_parallel(source: Path, target: Path, room: Path | None = None, report: Progress = lambda done: None) -> Corpus:
    """The pairs of two parallel files, plain or .gz; raises DataError when their line counts differ."""
    return collect(corpora.parallel_pairs(source, target), f"{source}, {target}", room, report)


def collect(
    pairs: Iterable[corpora.RawPair], name: str, room: Path | None = None, report: Progress = lambda done: None
) -> Corpus:
    """The pairs in which neither sentence is blank, without white space around sentences.

    name: stands in errors. room: the folder for the temporary files that hold the text. Raises DataError where no pair
    is left.
    """
    digests, kept, blank = [bytearray() for _ in SentenceHashes._fields], 0, 0
    with tempfile.TemporaryFile(dir=room) as sources, tempfile.TemporaryFile(dir=room) as targets:
        for source, target in watched(pairs, report):
            pair = Pair(source.strip(_EDGES), target.strip(_EDGES))
            if not (pair.source and pair.target):
                blank += 1
                continue
            kept += 1
            for text, file, exact, key in zip(pair, (sources, targets), digests[:2], digests[2:], strict=True):
                file.write(f"{text}\n".encode())
                exact += _digest(text)
                key += _digest(_key(text))
        if not kept:
            raise DataError(f"{name}: no sentence pairs in it ({blank:,} lines, each with a blank sentence)")
        for file in (sources, targets):
            file.flush()
        rows = np.arange(kept)
        texts = Chosen(Lines(sources, name), rows), Chosen(Lines(targets, name), rows)
    return Corpus(*texts, hashes=SentenceHashes(*map(_numbers, digests)), blank=blank)


def watched(items: Iterable[Item], report: Progress) -> Iterator[Item]:
    """The items, with a report after every CHUNK of them."""
    for number, item in enumerate(items, start=1):
        yield item
        if number % CHUNK == 0:
            report(number)


def hashed(texts: Iterable[str]) -> np.ndarray:
    """A 64-bit hash of every text [N], the same on every machine: BLAKE2, its bytes read as a big-endian number."""
    digests = bytearray()  # ten million bytes objects would take six times the memory
    for text in texts:
        digests += _digest(text)
    return _numbers(digests)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()


def _numbers(digests: bytes | bytearray) -> np.ndarray:
    """The digests as numbers of the same order."""
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def _key(text: str) -> str:
    """Equal for texts that no tokenizer can tell apart."""
    return " ".join(unicodedata.normalize("NFC", text).split())
