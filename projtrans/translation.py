"""Sentences in, sentences out, in order: what translating is, whichever engine computes it.

One line in, one translation out, whatever the line holds; what a sentence is batched with does not change its
translation (beyond float rounding). Knows no model, no file and no terminal.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Self

from projtrans.decoding import DecodingConfig, Hypothesis
from projtrans.tokenizer import Tokenizer

WINDOW = 2048
"""Lines that a stream reads ahead to find sentences of like length."""


@dataclass(frozen=True)
class Candidate:
    """One hypothesis as text."""

    translation: str
    score: float  # sum of natural-log probabilities, end included


@dataclass(frozen=True)
class Translation:
    """One source sentence with its hypotheses, best first (normalised by the length penalty)."""

    source: str
    hypotheses: list[Candidate]
    cut: bool = False  # the source was longer than the model's maximum, and its end was left out
    problem: str | None = None  # why there is no translation, but what stands in for one

    @property
    def text(self) -> str:
        """The best translation."""
        return self.hypotheses[0].translation

    @property
    def score(self) -> float:
        """The score of the best translation."""
        return self.hypotheses[0].score

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: source, translation, score and all hypotheses."""
        best = {"source": self.source, "translation": self.text, "score": self.score}
        problem = {} if self.problem is None else {"problem": self.problem}
        return best | {"hypotheses": [asdict(hypothesis) for hypothesis in self.hypotheses]} | problem


class SentenceTranslator(ABC):
    """A trained model ready to translate; an engine gives it `search`."""

    batch_tokens = 1024
    """Source pieces decoded together, padding included, before the beam multiplies them."""

    engine: str
    """What computes; other engines round otherwise."""

    def __init__(
        self, tokenizer: Tokenizer, decoding: DecodingConfig, *, longest_source: int, longest_target: int | None
    ) -> None:
        """longest_source, longest_target: in pieces, end included; None: as long as the decoding settings say."""
        self.tokenizer, self.decoding = tokenizer, decoding
        self.longest_source, self.longest_target = longest_source, longest_target

    @abstractmethod
    def search(
        self, sources: list[list[int]], limits: list[int], decoding: DecodingConfig, n_best: int
    ) -> list[list[Hypothesis]]:
        """The hypotheses of each source, best first, of at most `limits` pieces, end included."""

    def __call__(self, text: str) -> str:
        """The best translation of one sentence."""
        return self.translate([text])[0].text

    def with_decoding(self, beam_size: int | None = None, length_penalty: float | None = None) -> Self:
        """The same translator with other search settings; None keeps the run's."""
        other = copy.copy(self)
        other.decoding = replace(
            self.decoding,
            beam_size=self.decoding.beam_size if beam_size is None else beam_size,
            length_penalty=self.decoding.length_penalty if length_penalty is None else length_penalty,
        )
        return other

    def stream(self, lines: Iterable[str], *, n_best: int = 1, window: int = WINDOW) -> Iterator[Translation]:
        """The translations of endless lines in order, `window` lines at a time."""
        lines = iter(lines)
        while chunk := list(islice(lines, window)):
            yield from self.translate(chunk, n_best=n_best)

    def translate(self, texts: Sequence[str], *, n_best: int = 1) -> list[Translation]:
        """One translation a text, in order; a text without a piece (a blank one) gives an empty one with score 0."""
        encoded = self.tokenizer.encode_source(texts)
        results = [Translation(text, [Candidate("", 0.0)]) for text in texts]
        spoken = [i for i, ids in enumerate(encoded) if any(id_ != self.tokenizer.eos_id for id_ in ids)]
        for indices in _batches({i: min(len(encoded[i]), self.longest_source) for i in spoken}, self.batch_tokens):
            for i, hypotheses in zip(indices, self._candidates([encoded[i] for i in indices], n_best), strict=True):
                results[i] = Translation(texts[i], hypotheses, len(encoded[i]) > self.longest_source)
        return results

    @property
    def banned_ids(self) -> list[int]:
        """What no translation holds."""
        return [self.tokenizer.pad_id, self.tokenizer.bos_id, self.tokenizer.unk_id]

    def _candidates(self, sources: list[list[int]], n_best: int) -> list[list[Candidate]]:
        sources = [ids[: self.longest_source] for ids in sources]
        limits = [self.decoding.max_length(len(ids)) for ids in sources]
        if self.longest_target is not None:
            limits = [min(limit, self.longest_target) for limit in limits]
        decoding = replace(self.decoding, beam_size=max(self.decoding.beam_size, n_best))
        found = self.search(sources, limits, decoding, n_best)
        texts = iter(self.tokenizer.decode_target([h.tokens for hypotheses in found for h in hypotheses]))
        return [[Candidate(next(texts), h.score) for h in hypotheses] for hypotheses in found]


def _batches(lengths: dict[int, int], tokens: int) -> Iterator[list[int]]:
    """The sentences, by number, in batches of like length: sentences × the longest of them ≤ tokens."""
    batch: list[int] = []
    for number in sorted(lengths, key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[number] > tokens:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch
