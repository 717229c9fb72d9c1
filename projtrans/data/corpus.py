"""Parallel text: read strictly, checked, split so that nothing leaks.

The text stays on the disk, so a corpus may be larger than memory; what is counted and compared are 64-bit hashes of its
sentences. Knows pairs of sentences and the files that hold them; knows no tokenizer, no model and no prepared folder.
"""

import hashlib
import itertools
import tempfile
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, overload

import numpy as np

from projtrans.config import setting
from projtrans.errors import ConfigError, DataError
from projtrans.files import stream_lines
from projtrans.sequences import Lines

KNOWN = ("phrasebook", "tatoeba-spa-eng")

TABLE_ENDINGS = (".tsv", ".tsv.gz")

SPLITS = ("train", "valid", "test")

SHARES = (0.70, 0.15, 0.15)

WINDOW = 1 << 15
"""Pairs between two reports of progress."""

Progress = Callable[[int], None]
"""Called now and then with the pairs that are done."""

# What str.strip() takes off, and the byte-order mark, which would not survive as the first character of a file.
_EDGES = (
    "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff"
)


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Which sentence pairs, how they are divided, and how text becomes pieces."""

    name: str = setting(
        "phrasebook", "phrasebook (bundled), tatoeba-spa-eng, a .tsv or .tsv.gz file, or the name of a prepared folder"
    )
    direction: Literal["forward", "backward", "en-es", "es-en"] = setting(
        "forward", "forward translates the first language into the second; en-es and es-en for the two named corpora"
    )
    split: Literal["grouped", "random"] = setting(
        "grouped", "grouped keeps pairs that share a source or a target together: nothing leaks; random is the paper's"
    )
    seed: int = setting(1, "order of the split; another seed is another split", minimum=0)
    tokenizer: Literal["bpe", "unigram", "word"] = setting(
        "bpe",
        "joint SentencePiece BPE or unigram; word is the paper's: lower case, no punctuation, one model per language",
    )
    vocab_size: int = setting(8000, "tokens, special ones included; per language with word", above=300)
    max_length: int = setting(
        128, "tokens of source or target beyond which overlong acts on a training pair", minimum=1
    )
    folder: str | None = setting(None, "folder of the prepared data; null: data/NAME", affects="start")
    overlong: Literal["drop", "cut"] = setting(
        "drop", "drop skips training pairs over max_length; cut truncates them, and lines to translate too"
    )

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ConfigError("name: empty; name a corpus such as phrasebook")
        if self.direction in ("en-es", "es-en") and self.name not in KNOWN:
            known = " and ".join(KNOWN)
            raise ConfigError(f"direction: {self.direction} is for {known} only; say forward or backward")

    @property
    def backward(self) -> bool:
        """Whether the second side is the source; both named corpora have English first."""
        return self.direction in ("backward", "es-en")

    @property
    def is_table(self) -> bool:
        """Whether the name is that of a tab-separated file."""
        return self.name.endswith(TABLE_ENDINGS)

    @property
    def folder_name(self) -> str:
        """What a folder of this corpus is called: the name, or the file's name without folder and ending."""
        if not self.is_table:
            return Path(self.name).name
        return Path(self.name).name.removesuffix(".gz").removesuffix(".tsv") or "custom"


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

    def chosen(self, rows: np.ndarray) -> "Chosen":
        """Some of these lines."""
        return Chosen(self._lines, self._rows[rows])


class Pairs(Sequence[Pair]):
    """Sentence pairs: line N of the one text translates line N of the other."""

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
    """64-bit hashes of the sentences [N]: of the text itself, and of what no tokenizer could tell apart from it."""

    source: np.ndarray
    target: np.ndarray
    source_key: np.ndarray
    target_key: np.ndarray

    def take(self, rows: np.ndarray) -> "SentenceHashes":
        """Those of some pairs."""
        return SentenceHashes(*(column[rows] for column in self))


class Corpus(Pairs):
    """The pairs that a source holds, in its order, with their hashes; `blank` ones were left out."""

    def __init__(self, sources: Chosen, targets: Chosen, prints: SentenceHashes, blank: int = 0) -> None:
        super().__init__(sources, targets)
        self._texts, self.prints, self.blank = (sources, targets), prints, blank

    def take(self, rows: np.ndarray) -> "Corpus":
        """Some of the pairs."""
        sources, targets = self._texts
        return Corpus(sources.chosen(rows), targets.chosen(rows), self.prints.take(rows))

    def turned(self) -> "Corpus":
        """The same with source and target exchanged."""
        prints = self.prints
        turned = SentenceHashes(prints.target, prints.source, prints.target_key, prints.source_key)
        sources, targets = self._texts
        return Corpus(targets, sources, turned, self.blank)


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The pairs for training, validation and testing; `groups` counts what the grouped split kept together."""

    train: Corpus
    valid: Corpus
    test: Corpus
    groups: int | None = None
    largest_group: int | None = None


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """Shares (0 to 1) of a split's pairs whose source or target stands in the training split as well."""

    source: float
    target: float
    either: float
    both: float


# ---------------------------------------------------------------------------------------------------------- reading


def read_table(path: Path, room: Path | None = None, report: Progress = lambda done: None) -> Corpus:
    """The pairs of a `.tsv` or `.tsv.gz` file: source, tab, target; further columns are ignored.

    room: the folder for the temporary files that hold the text.
    """
    return parse_table(stream_lines(path), str(path), room, report)


def parse_table(
    lines: Iterable[str], name: str, room: Path | None = None, report: Progress = lambda done: None
) -> Corpus:
    """The pairs in tab-separated lines; `name` stands in errors.

    White space at the ends of a side is taken off. Raises DataError for a line without a tab and for no pair at all.
    """
    return collect(_columns(lines, name), name, room, report)


def _columns(lines: Iterable[str], name: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, start=1):
        source, tab, rest = line.partition("\t")
        if not tab and line.strip():
            raise DataError(f"{name}:{number}: no tab in the line; expected SOURCE<tab>TARGET")
        yield source, rest.partition("\t")[0]


def read_sides(source: Path, target: Path, room: Path | None = None, report: Progress = lambda done: None) -> Corpus:
    """The pairs of two files, line by line, plain or .gz; raises DataError when their line counts differ."""
    return collect(_side_by_side(source, target), f"{source}, {target}", room, report)


def _side_by_side(source: Path, target: Path) -> Iterator[tuple[str, str]]:
    left, right = stream_lines(source), stream_lines(target)
    for number, (one, other) in enumerate(itertools.zip_longest(left, right)):
        if one is None or other is None:
            longer = number + 1 + sum(1 for _ in (right if one is None else left))
            lines, others = (number, longer) if one is None else (longer, number)
            counts = f"{source} has {lines:,} lines, {target} has {others:,}"
            raise DataError(f"{counts}; line N of the one must translate line N of the other")
        yield one, other


def collect(
    sides: Iterable[tuple[str, str]], name: str, room: Path | None = None, report: Progress = lambda done: None
) -> Corpus:
    """The pairs that are not blank on a side, on the disk; `name` stands in errors."""
    digests, number, blank = [bytearray() for _ in SentenceHashes._fields], 0, 0
    with tempfile.TemporaryFile(dir=room) as sources, tempfile.TemporaryFile(dir=room) as targets:
        for number, (source, target) in enumerate(sides, start=1):
            pair = Pair(source.strip(_EDGES), target.strip(_EDGES))
            if not (pair.source and pair.target):
                blank += 1
                continue
            for text, file, exact, key in zip(pair, (sources, targets), digests[:2], digests[2:], strict=True):
                file.write(f"{text}\n".encode())
                exact += _digest(text)
                key += _digest(_key(text))
            if number % WINDOW == 0:
                report(number)
        if number == blank:
            raise DataError(f"{name}: no sentence pairs in it ({number:,} lines, all blank on one side at least)")
        for file in (sources, targets):
            file.flush()
        rows = np.arange(number - blank)
        texts = Chosen(Lines(sources, name), rows), Chosen(Lines(targets, name), rows)
    return Corpus(*texts, prints=SentenceHashes(*map(_numbers, digests)), blank=blank)


# --------------------------------------------------------------------------------------------------------- splitting


def distinct(prints: SentenceHashes) -> np.ndarray:
    """The rows of the pairs that repeat no earlier one exactly."""
    order = np.lexsort((prints.target, prints.source))  # stable: of equal pairs the first comes first
    source, target = prints.source[order], prints.target[order]
    new = np.ones(len(order), bool)
    new[1:] = (source[1:] != source[:-1]) | (target[1:] != target[:-1])
    return np.sort(order[new])


def split(
    corpus: Corpus, groups: np.ndarray | None, how: str, seed: int, report: Progress = lambda done: None
) -> Splits:
    """70/15/15 of distinct pairs, in an order that only `seed` and the texts decide, each split shuffled by it.

    `grouped` keeps whatever shares a source, a target or a label of `groups` in one split; `random` does not.
    Raises DataError when three splits cannot be filled.
    """
    count = len(corpus)
    if count < len(SPLITS):
        found = f"the corpus has {count} sentence pair(s)"
        raise DataError(f"{found}; at least {len(SPLITS)} are needed to split it into {', '.join(SPLITS)}")
    label_N = components(corpus.prints, groups) if how == "grouped" else np.arange(count)
    row_N, start_P, size_P = _parts(label_N)
    if len(size_P) < len(SPLITS):
        found = f"{count:,} pairs hang together in {len(size_P)} group(s) by equal sources and targets"
        raise DataError(f"{found}, too few for a grouped split into three; use --split random or add data")
    rank_N = _ranks(corpus, seed, report)

    def ranked(row_M: np.ndarray) -> np.ndarray:  # hashes of the texts break the ties of the ranks
        return np.lexsort((corpus.prints.target[row_M], corpus.prints.source[row_M], rank_N[row_M]))

    order_P = ranked(_representatives(corpus, row_N, start_P, size_P))
    split_P = np.empty(len(size_P), np.int8)
    split_P[order_P] = np.repeat(range(len(SPLITS)), _cut(size_P[order_P]))
    split_N = np.repeat(split_P, size_P)
    rows = [row_N[split_N == number] for number in range(len(SPLITS))]
    train, valid, test = (corpus.take(row_M[ranked(row_M)]) for row_M in rows)
    if how == "random":
        return Splits(train=train, valid=valid, test=test)
    return Splits(train=train, valid=valid, test=test, groups=len(size_P), largest_group=int(size_P.max()))


def components(prints: SentenceHashes, groups: np.ndarray | None = None) -> np.ndarray:
    """A label for every pair, the same for those that hang together by equal sources, targets or group labels."""
    parent = array("q", range(len(prints.source)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for column in (prints.source_key, prints.target_key, *([] if groups is None else [groups])):
        order = np.argsort(column, kind="stable")
        equal = np.flatnonzero(column[order[1:]] == column[order[:-1]])
        for first in range(0, len(equal), WINDOW):
            at = equal[first : first + WINDOW]
            for left, right in zip(order[at].tolist(), order[at + 1].tolist(), strict=True):
                parent[root(right)] = root(left)
    label_N = np.array(parent)
    while (label_N != (above_N := label_N[label_N])).any():
        label_N = above_N
    return label_N


def _parts(label_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows [N], equal labels side by side; where every part begins among them, and its size [P]."""
    row_N = np.argsort(label_N, kind="stable")
    label_N = label_N[row_N]
    start_P = np.flatnonzero(np.append(True, label_N[1:] != label_N[:-1]))
    return row_N, start_P, np.diff(np.append(start_P, len(label_N)))


def _representatives(corpus: Corpus, row_N: np.ndarray, start_P: np.ndarray, size_P: np.ndarray) -> np.ndarray:
    """The smallest pair of every part: going by the smallest rank would send the large parts first."""
    row_P = row_N[start_P]
    for part in np.flatnonzero(size_P > 1).tolist():
        row_P[part] = min(row_N[start_P[part] : start_P[part] + size_P[part]].tolist(), key=corpus.__getitem__)
    return row_P


def _cut(size_P: np.ndarray) -> tuple[int, int, int]:
    """How many of a row of parts each split takes, so that it comes closest to its share, none left empty."""
    end_P = np.append(0, np.cumsum(size_P))
    wanted = [end_P[-1] * share for share in itertools.accumulate(SHARES)]
    first = 1 + int(np.abs(end_P[1 : len(size_P) - 1] - wanted[0]).argmin())
    second = first + 1 + int(np.abs(end_P[first + 1 : len(size_P)] - wanted[1]).argmin())
    return first, second - first, len(size_P) - second


def _ranks(corpus: Corpus, seed: int, report: Progress) -> np.ndarray:
    """A place [N] for every pair in an order that looks random and is the same on every machine and Python."""
    digests = bytearray()
    for number, (source, target) in enumerate(corpus, start=1):
        digests += _digest(f"{seed}\t{source}\t{target}")
        if number % WINDOW == 0:
            report(number)
    return _numbers(digests)


def labels(texts: Iterable[str]) -> np.ndarray:
    """A number for every text, the same for equal ones."""
    return _numbers(b"".join(map(_digest, texts)))


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()


def _numbers(digests: bytes | bytearray) -> np.ndarray:
    """The digests as numbers of the same order."""
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def _key(text: str) -> str:
    """Equal for texts that no tokenizer could tell apart."""
    return " ".join(unicodedata.normalize("NFC", text).split())


# ---------------------------------------------------------------------------------------------------------- leakage


def leakage(splits: Splits) -> dict[str, Leakage]:
    """How much of `valid` and of `test` the training split gives away."""
    train = splits.train.prints
    return {name: _leakage(getattr(splits, name).prints, train) for name in ("valid", "test")}


def _leakage(prints: SentenceHashes, train: SentenceHashes) -> Leakage:
    source_N, target_N = np.isin(prints.source_key, train.source_key), np.isin(prints.target_key, train.target_key)

    def share(hit_N: np.ndarray) -> float:
        return round(int(hit_N.sum()) / max(1, len(hit_N)), 6)

    return Leakage(
        source=share(source_N),
        target=share(target_N),
        either=share(source_N | target_N),
        both=share(source_N & target_N),
    )
