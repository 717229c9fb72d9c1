"""Training, validation and test splits of a corpus, such that nothing leaks, and what leaks where it may.

Works on the hashes of sentences. Knows no files and no tokenizer.
"""

import itertools
from array import array
from dataclasses import dataclass, replace

import numpy as np

from projtrans.data.corpus import CHUNK, SPLITS, Corpus, Progress, SentenceHashes, hashed, watched
from projtrans.errors import DataError

SHARES = (0.70, 0.15, 0.15)


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The pairs for training, validation and testing; `groups` counts what the grouped split kept together."""

    train: Corpus
    valid: Corpus
    test: Corpus
    groups: int | None = None
    largest_group: int | None = None

    def by_name(self) -> dict[str, Corpus]:
        """The splits in the order of SPLITS."""
        return {name: getattr(self, name) for name in SPLITS}

    def swapped(self) -> "Splits":
        """The same with source and target exchanged."""
        return replace(self, train=self.train.swapped(), valid=self.valid.swapped(), test=self.test.swapped())


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """Shares (0 to 1) of a split's pairs whose source or target occurs in the training split as well."""

    source: float
    target: float
    either: float
    both: float


def distinct(hashes: SentenceHashes) -> np.ndarray:
    """The rows of the pairs that repeat no earlier one exactly."""
    order = np.lexsort((hashes.target, hashes.source))  # stable: of equal pairs the first comes first
    source, target = hashes.source[order], hashes.target[order]
    new = np.ones(len(order), bool)
    new[1:] = (source[1:] != source[:-1]) | (target[1:] != target[:-1])
    return np.sort(order[new])


def split(
    corpus: Corpus, groups: np.ndarray | None, how: str, seed: int, report: Progress = lambda done: None
) -> Splits:
    """70/15/15 of distinct pairs, in an order that only `seed` and the texts decide; each split is shuffled by it.

    `grouped` keeps in one split whatever shares a source, a target or a label of `groups` [N]; `random` does not.
    Raises DataError when three splits cannot be filled.
    """
    count = len(corpus)
    if count < len(SPLITS):
        found = f"the corpus has {count} sentence pair(s)"
        raise DataError(f"{found}; at least {len(SPLITS)} are needed to split it into {', '.join(SPLITS)}")
    label_N = components(corpus.hashes, groups) if how == "grouped" else np.arange(count)
    row_N, start_P, size_P = _parts(label_N)
    if len(size_P) < len(SPLITS):
        found = f"{count:,} pairs are linked into {len(size_P)} group(s) by equal sources and targets"
        raise DataError(f"{found}, too few for a grouped split into three; use --split random or add data")
    rank_N = hashed(f"{seed}\t{source}\t{target}" for source, target in watched(corpus, report))

    def ranked(row_M: np.ndarray) -> np.ndarray:  # hashes of the texts break the ties of the ranks
        return np.lexsort((corpus.hashes.target[row_M], corpus.hashes.source[row_M], rank_N[row_M]))

    order_P = ranked(_representatives(corpus, row_N, start_P, size_P))
    split_P = np.empty(len(size_P), np.int8)
    split_P[order_P] = np.repeat(range(len(SPLITS)), _cut(size_P[order_P]))
    split_N = np.repeat(split_P, size_P)
    rows = [row_N[split_N == number] for number in range(len(SPLITS))]
    train, valid, test = (corpus.take(row_M[ranked(row_M)]) for row_M in rows)
    if how == "random":
        return Splits(train=train, valid=valid, test=test)
    return Splits(train=train, valid=valid, test=test, groups=len(size_P), largest_group=int(size_P.max()))


def components(hashes: SentenceHashes, groups: np.ndarray | None = None) -> np.ndarray:
    """A label for every pair [N], equal for pairs that are linked by equal sources, targets or group labels."""
    parent = array("q", range(len(hashes.source)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for column in (hashes.source_key, hashes.target_key, *([] if groups is None else [groups])):
        order = np.argsort(column, kind="stable")
        equal = np.flatnonzero(column[order[1:]] == column[order[:-1]])
        for first in range(0, len(equal), CHUNK):
            at = equal[first : first + CHUNK]
            for left, right in zip(order[at].tolist(), order[at + 1].tolist(), strict=True):
                parent[root(right)] = root(left)
    label_N = np.array(parent)
    while (label_N != (above_N := label_N[label_N])).any():
        label_N = above_N
    return label_N


def _parts(label_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows [N] sorted by label; where every part begins among them, and its size [P]."""
    row_N = np.argsort(label_N, kind="stable")
    label_N = label_N[row_N]
    start_P = np.flatnonzero(np.append(True, label_N[1:] != label_N[:-1]))
    return row_N, start_P, np.diff(np.append(start_P, len(label_N)))


def _representatives(corpus: Corpus, row_N: np.ndarray, start_P: np.ndarray, size_P: np.ndarray) -> np.ndarray:
    """The smallest pair of every part: choosing the smallest rank would send the large parts first."""
    row_P = row_N[start_P]
    for part in np.flatnonzero(size_P > 1).tolist():
        row_P[part] = min(row_N[start_P[part] : start_P[part] + size_P[part]].tolist(), key=corpus.__getitem__)
    return row_P


def _cut(size_P: np.ndarray) -> tuple[int, int, int]:
    """How many of a row of parts each split takes, so that it comes closest to its share and none is empty."""
    end_P = np.append(0, np.cumsum(size_P))
    wanted = [end_P[-1] * share for share in itertools.accumulate(SHARES)]
    first = 1 + int(np.abs(end_P[1 : len(size_P) - 1] - wanted[0]).argmin())
    second = first + 1 + int(np.abs(end_P[first + 1 : len(size_P)] - wanted[1]).argmin())
    return first, second - first, len(size_P) - second


def leakage(splits: Splits) -> dict[str, Leakage]:
    """How much of `valid` and of `test` occurs in the training split."""
    train = splits.train.hashes
    return {name: _leakage(getattr(splits, name).hashes, train) for name in ("valid", "test")}


def _leakage(held_out: SentenceHashes, train: SentenceHashes) -> Leakage:
    source_N = np.isin(held_out.source_key, train.source_key)
    target_N = np.isin(held_out.target_key, train.target_key)
    found = {"source": source_N, "target": target_N, "either": source_N | target_N, "both": source_N & target_N}
    return Leakage(**{name: round(int(hit_N.sum()) / max(1, len(hit_N)), 6) for name, hit_N in found.items()})
