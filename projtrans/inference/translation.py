"""Translations as text: hypotheses with their scores, and the translation of a line from those of its parts.

Knows no model, no search and no output format.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from operator import itemgetter
from typing import TypeVar

from projtrans.data import sentence_splitter

Item = TypeVar("Item")


@dataclass(frozen=True)
class Candidate:
    """One hypothesis as text."""

    translation: str
    score: float  # sum of natural-log probabilities, EOS included
    pieces: list[str] | None = None  # with `token_scores`: the tokens as text, EOS among them unless it was cut
    token_scores: list[float] | None = None  # log-probability of each token
    alignment: list[tuple[int, int]] | None = None  # with `alignment`: pairs (source word, target word)
    normalised_score: float = 0.0  # what hypotheses are ranked by
    tokens: list[int] = field(default_factory=list, repr=False)  # without BOS and EOS; of several parts: none


@dataclass(frozen=True)
class Translation:
    """One source text with its hypotheses, best normalised score first; samples in the order drawn."""

    source: str
    hypotheses: list[Candidate]
    cut: bool = False  # the end of the line, or of a word in it, was left out
    problem: str | None = None  # why the text that stands here is no translation
    parts: "list[Translation]" = field(default_factory=list)  # of a line that was translated in several

    @property
    def best(self) -> Candidate:
        """The best hypothesis, or the first sample."""
        return self.hypotheses[0]

    @property
    def text(self) -> str:
        """The text of the best hypothesis."""
        return self.best.translation

    @property
    def score(self) -> float:
        """The score of the best hypothesis."""
        return self.best.score

    @property
    def breaks_word(self) -> bool:
        """Whether a word was too long for the model, and translated in parts."""
        sources = [part.source for part in self.parts]
        return any(sentence_splitter.breaks_word(*sources[i : i + 2]) for i in range(len(sources) - 1))


def join(parts: list[Translation], n_best: int, *, sampled: bool) -> list[Candidate]:
    """The hypotheses of a line from those of its parts: the best combinations, or the m-th samples together."""
    if sampled:
        chosen = [[part.hypotheses[m % len(part.hypotheses)] for part in parts] for m in range(n_best)]
    else:
        chosen = _best_combinations(parts, n_best)
    return [_concatenate(parts, combination) for combination in chosen]


def _best_combinations(parts: Sequence[Translation], n_best: int) -> list[list[Candidate]]:
    """One hypothesis of each part: the combinations with the largest sums of normalised scores, best first."""
    combinations: list[tuple[int, list[Candidate]]] = [(0, [])]
    for part in parts:
        ranked = list(zip(_ranks(part.hypotheses), part.hypotheses, strict=True))
        longer = ((rank + more, [*chosen, one]) for rank, chosen in combinations for more, one in ranked)
        combinations = heapq.nlargest(n_best, longer, key=itemgetter(0))
    return [chosen for _, chosen in combinations]


def _ranks(hypotheses: Sequence[Candidate]) -> list[int]:
    """Normalised scores in thousandths, so that equal parts make equal combinations and rounding orders none.

    A hypothesis never ranks above one that stands before it: one that was cut at the maximum stands behind the finished
    ones, whatever its score.
    """
    return list(accumulate((round(1000 * hypothesis.normalised_score) for hypothesis in hypotheses), min))


def _concatenate(parts: Sequence[Translation], chosen: Sequence[Candidate]) -> Candidate:
    """One hypothesis of each part as one; alignments count the words of the whole line."""
    aligned: list[tuple[int, int]] = []
    source_words = target_words = 0
    open_word = False  # the part before ended inside a word, which this one continues
    for part, hypothesis in zip(parts, chosen, strict=True):
        first = source_words - (open_word and not part.source[0].isspace())
        aligned += [(first + i, target_words + j) for i, j in hypothesis.alignment or ()]
        source_words = first + len(part.source.split())
        target_words += len(hypothesis.translation.split())
        open_word = not part.source[-1].isspace()
    return Candidate(
        " ".join(hypothesis.translation for hypothesis in chosen if hypothesis.translation),
        sum(hypothesis.score for hypothesis in chosen),
        _chained(hypothesis.pieces for hypothesis in chosen),
        _chained(hypothesis.token_scores for hypothesis in chosen),
        alignment=None if any(hypothesis.alignment is None for hypothesis in chosen) else aligned,
        normalised_score=sum(hypothesis.normalised_score for hypothesis in chosen),
    )


def _chained(lists: Iterable[list[Item] | None]) -> list[Item] | None:
    found: list[Item] = []
    for each in lists:
        if each is None:
            return None
        found += each
    return found
