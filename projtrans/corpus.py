"""Parallel text: read strictly, checked, split so that nothing leaks.

Knows pairs of sentences and the files that hold them; knows no tokenizer, no model and no prepared folder.
"""

import hashlib
import itertools
import unicodedata
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from projtrans.config import setting
from projtrans.errors import ConfigError, DataError
from projtrans.files import read_lines

KNOWN = ("phrasebook", "tatoeba-spa-eng")
TABLE_ENDINGS = (".tsv", ".tsv.gz")
SPLITS = ("train", "valid", "test")
SHARES = (0.70, 0.15, 0.15)

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
        "forward", "forward translates the first side into the second; en-es and es-en for the two named corpora"
    )
    split: Literal["grouped", "random"] = setting(
        "grouped", "grouped keeps pairs that share a source or a target together: nothing leaks; random is the paper's"
    )
    seed: int = setting(1, "order of the split; another seed is another split", minimum=0)
    tokenizer: Literal["bpe", "unigram", "word"] = setting(
        "bpe", "joint SentencePiece BPE or unigram; word is the paper's: lower case, no punctuation, one model a side"
    )
    vocab_size: int = setting(8000, "pieces, special ones included; with word it is per side", above=300)
    max_length: int = setting(128, "pieces per side beyond which overlong acts on a training pair", minimum=1)
    folder: str | None = setting(None, "folder of the prepared data; null: data/NAME")
    overlong: Literal["drop", "cut"] = setting("drop", "drop leaves training pairs over max_length out, cut cuts them")

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


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The pairs that a source holds, in its order, and what was left out."""

    pairs: list[Pair]
    blank: int = 0

    @property
    def duplicates(self) -> int:
        """Pairs that repeat an earlier one exactly."""
        return len(self.pairs) - len(set(self.pairs))


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The pairs for training, validation and testing; `groups` counts what the grouped split kept together."""

    train: list[Pair]
    valid: list[Pair]
    test: list[Pair]
    groups: int | None = None
    largest_group: int | None = None

    def turned(self) -> "Splits":
        """The same with source and target exchanged."""
        train, valid, test = ([Pair(*pair[::-1]) for pair in pairs] for pairs in (self.train, self.valid, self.test))
        return replace(self, train=train, valid=valid, test=test)


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """Shares (0 to 1) of a split's pairs whose source or target stands in the training split as well."""

    source: float
    target: float
    either: float
    both: float


# ---------------------------------------------------------------------------------------------------------- reading


def read_table(path: Path) -> Corpus:
    """The pairs of a `.tsv` or `.tsv.gz` file: source, tab, target; further columns are ignored."""
    return parse_table(read_lines(path), str(path))


def parse_table(lines: Iterable[str], name: str) -> Corpus:
    """The pairs in tab-separated lines; `name` stands in errors.

    White space at the ends of a side is taken off. Raises DataError for a line without a tab and for no pair at all.
    """
    sides = []
    for number, line in enumerate(lines, start=1):
        source, tab, rest = line.partition("\t")
        if not tab and line.strip():
            raise DataError(f"{name}:{number}: no tab in the line; expected SOURCE<tab>TARGET")
        sides.append((source, rest.partition("\t")[0]))
    return _corpus(sides, name)


def read_sides(source: Path, target: Path) -> Corpus:
    """The pairs of two files, line by line, plain or .gz; raises DataError when their line counts differ."""
    sources, targets = read_lines(source), read_lines(target)
    if len(sources) != len(targets):
        counts = f"{source} has {len(sources):,} lines, {target} has {len(targets):,}"
        raise DataError(f"{counts}; line N of the one must translate line N of the other")
    return _corpus(zip(sources, targets, strict=True), f"{source}, {target}")


def _corpus(sides: Iterable[tuple[str, str]], name: str) -> Corpus:
    stripped = [Pair(source.strip(_EDGES), target.strip(_EDGES)) for source, target in sides]
    pairs = [pair for pair in stripped if pair.source and pair.target]
    if not pairs:
        raise DataError(f"{name}: no sentence pairs in it ({len(stripped):,} lines, all blank on one side at least)")
    return Corpus(pairs=pairs, blank=len(stripped) - len(pairs))


# -------------------------------------------------------------------------------------------------------- splitting


def split(pairs: Sequence[Pair], groups: Sequence[Hashable] | None, how: str, seed: int) -> Splits:
    """70/15/15 of the pairs, in an order that only `seed` and the texts decide, each split shuffled by the same order.

    `grouped` keeps whatever shares a source, a target or a label of `groups` in one split; `random` does not.
    Raises DataError when three splits cannot be filled.
    """
    if len(pairs) < len(SPLITS):
        found = f"the corpus has {len(pairs)} sentence pair(s)"
        raise DataError(f"{found}; at least {len(SPLITS)} are needed to split it into {', '.join(SPLITS)}")
    parts = components(pairs, groups) if how == "grouped" else [[index] for index in range(len(pairs))]
    if len(parts) < len(SPLITS):
        found = f"{len(pairs):,} pairs hang together in {len(parts)} group(s) by equal sources and targets"
        raise DataError(f"{found}, too few for a grouped split into three; use --split random or add data")
    ranks = [_rank(pair, seed) for pair in pairs]
    # The smallest pair stands for its component: the smallest rank would send large components first.
    parts.sort(key=lambda part: ranks[min(part, key=lambda index: pairs[index])])
    bounds = [0, *_cuts([len(part) for part in parts]), len(parts)]
    train, valid, test = (
        [pairs[index] for index in sorted(itertools.chain(*parts[start:end]), key=ranks.__getitem__)]
        for start, end in itertools.pairwise(bounds)
    )
    if how == "random":
        return Splits(train=train, valid=valid, test=test)
    return Splits(train=train, valid=valid, test=test, groups=len(parts), largest_group=max(map(len, parts)))


def components(pairs: Sequence[Pair], groups: Sequence[Hashable] | None = None) -> list[list[int]]:
    """Indices of the pairs that hang together by equal sources, targets or group labels (union-find)."""
    parent = list(range(len(pairs)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[Hashable, int] = {}
    for index, pair in enumerate(pairs):
        links: list[Hashable] = [("source", _key(pair.source)), ("target", _key(pair.target))]
        if groups is not None:
            links.append(("group", groups[index]))
        for link in links:
            parent[root(index)] = root(first.setdefault(link, index))
    parts: dict[int, list[int]] = {}
    for index in range(len(pairs)):
        parts.setdefault(root(index), []).append(index)
    return list(parts.values())


def _cuts(sizes: Sequence[int]) -> tuple[int, int]:
    """Where to cut a row of components so that their sizes come closest to the shares, no split left empty."""
    ends = [0, *itertools.accumulate(sizes)]
    wanted = [ends[-1] * share for share in itertools.accumulate(SHARES)]
    first = min(range(1, len(sizes) - 1), key=lambda cut: abs(ends[cut] - wanted[0]))
    second = min(range(first + 1, len(sizes)), key=lambda cut: abs(ends[cut] - wanted[1]))
    return first, second


def _rank(pair: Pair, seed: int) -> tuple[bytes, Pair]:
    """A place in an order that looks random and is the same on every machine and Python."""
    text = f"{seed}\t{pair.source}\t{pair.target}"
    return hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), pair


def _key(text: str) -> str:
    """Equal for texts that no tokenizer could tell apart."""
    return " ".join(unicodedata.normalize("NFC", text).split())


# ---------------------------------------------------------------------------------------------------------- leakage


def leakage(splits: Splits) -> dict[str, Leakage]:
    """How much of `valid` and of `test` the training split gives away."""
    sources = {_key(pair.source) for pair in splits.train}
    targets = {_key(pair.target) for pair in splits.train}
    return {name: _leakage(getattr(splits, name), sources, targets) for name in ("valid", "test")}


def _leakage(pairs: Sequence[Pair], sources: set[str], targets: set[str]) -> Leakage:
    seen = [(_key(pair.source) in sources, _key(pair.target) in targets) for pair in pairs]

    def share(hits: Iterable[bool]) -> float:
        return round(sum(hits) / max(1, len(seen)), 6)

    return Leakage(
        source=share(source for source, _ in seen),
        target=share(target for _, target in seen),
        either=share(source or target for source, target in seen),
        both=share(source and target for source, target in seen),
    )
