"""Sentences in, sentences out, in order: what translating is, whichever engine computes it.

One line in, one translation out, whatever the line holds; what a sentence is batched with does not change its
translation (beyond float rounding). Knows no model, no file and no terminal.
"""

import copy
import heapq
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Self

from projtrans import segments
from projtrans.decoding import DecodingConfig, Hypothesis
from projtrans.errors import ConfigError
from projtrans.tokenizer import Tokenizer

WINDOW = 2048
"""Lines that a stream reads ahead to find sentences of like length."""


@dataclass(frozen=True)
class Candidate:
    """One hypothesis as text."""

    translation: str
    score: float  # sum of natural-log probabilities, end included
    normalised_score: float = 0.0  # what hypotheses are ranked by
    tokens: list[int] = field(default_factory=list, repr=False)  # without begin and end; of several parts: none
    alignment: list[tuple[int, int]] | None = None  # (source word, target word), where it was asked for

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: translation, score, and the alignment where there is one."""
        found = {"translation": self.translation, "score": self.score}
        return found if self.alignment is None else found | {"alignment": self.alignment}


@dataclass(frozen=True)
class Translation:
    """One source sentence with its hypotheses, best first (normalised by the length penalty)."""

    source: str
    hypotheses: list[Candidate]
    parts: "list[Translation]" = field(default_factory=list)  # of a line that was translated in several

    @property
    def best(self) -> Candidate:
        """The best hypothesis."""
        return self.hypotheses[0]

    @property
    def text(self) -> str:
        """The best translation."""
        return self.best.translation

    @property
    def score(self) -> float:
        """The score of the best translation."""
        return self.best.score

    @property
    def breaks_word(self) -> bool:
        """Whether a word was too long for the model, and translated in parts."""
        sources = [part.source for part in self.parts]
        return any(segments.breaks_word(*sources[i : i + 2]) for i in range(len(sources) - 1))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: source, translation, score, all hypotheses, and the parts where there are several."""
        found = {"source": self.source, **self.best.to_json()}
        found |= {"hypotheses": [hypothesis.to_json() for hypothesis in self.hypotheses]}
        if self.parts:
            found["parts"] = [{"source": part.source, **part.best.to_json()} for part in self.parts]
        return found


class SentenceTranslator(ABC):
    """A trained model ready to translate; an engine gives it `search`."""

    batch_tokens = 1024
    """Source pieces decoded together, padding included, before the beam multiplies them."""

    def __init__(
        self, tokenizer: Tokenizer, decoding: DecodingConfig, *, longest_source: int, longest_target: int | None
    ) -> None:
        """longest_source, longest_target: in pieces, end included; None: as long as the decoding settings say."""
        self.tokenizer, self.decoding = tokenizer, decoding
        self.longest_source, self.longest_target = longest_source, longest_target
        self.every_sentence = self.aligned = self.copying = False

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

    def sentence_by_sentence(self) -> Self:
        """The same translator, one that translates every sentence of a line by itself, however short the line."""
        other = copy.copy(self)
        other.every_sentence = True
        return other

    def with_alignment(self) -> Self:
        """The same translator, one that aligns every hypothesis; raises ConfigError where the engine cannot."""
        raise ConfigError("alignment: needs the weights of cross-attention, which only the torch engine has")

    def with_copying(self) -> Self:
        """The same translator, one that copies what its tokenizer cannot spell; ConfigError where the engine cannot."""
        raise ConfigError("copying: needs alignment, which only the torch engine has")

    def align(self, texts: Sequence[str], found: list[list[Candidate]]) -> list[list[Candidate]]:
        """The hypotheses of each text with their alignment."""
        raise NotImplementedError

    def stream(self, lines: Iterable[str], *, n_best: int = 1, window: int = WINDOW) -> Iterator[Translation]:
        """The translations of endless lines in order, `window` lines at a time."""
        lines = iter(lines)
        while chunk := list(islice(lines, window)):
            yield from self.translate(chunk, n_best=n_best)

    def translate(self, texts: Sequence[str], *, n_best: int = 1) -> list[Translation]:
        """One translation a text, in order; a blank text gives an empty one with score 0.

        A text too long for the model is translated in parts, and their translations are joined by spaces.
        """
        parts = self._parts(texts)
        found = iter(self._translate([part for several in parts for part in several], n_best))
        return [
            _joined(text, [next(found) for _ in several], n_best) for text, several in zip(texts, parts, strict=True)
        ]

    def _parts(self, texts: Sequence[str]) -> list[list[str]]:
        encoded = self.tokenizer.encode_source(texts)
        return [
            segments.split(text, self._fits, every_sentence=self.every_sentence)
            if self.every_sentence or len(ids) > self.longest_source
            else [text]
            for text, ids in zip(texts, encoded, strict=True)
        ]

    def _fits(self, text: str) -> bool:
        return len(self.tokenizer.encode_source([text])[0]) <= self.longest_source

    def _translate(self, texts: Sequence[str], n_best: int) -> list[Translation]:
        """As `translate`, of texts that fit."""
        encoded = self.tokenizer.encode_source(texts)
        nothing = [Candidate("", 0.0, alignment=[] if self.aligned else None)]
        results = [Translation(text, nothing) for text in texts]
        spoken = [i for i, text in enumerate(texts) if text.strip()]
        for indices in _batches({i: len(encoded[i]) for i in spoken}, self.batch_tokens):
            found = self._candidates([encoded[i] for i in indices], n_best)
            if self.aligned:
                found = self.align([texts[i] for i in indices], found)
            for i, hypotheses in zip(indices, found, strict=True):
                results[i] = Translation(texts[i], hypotheses)
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
        return [
            [Candidate(next(texts), h.score, h.normalised_score, h.tokens) for h in hypotheses] for hypotheses in found
        ]


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


def _joined(source: str, parts: list[Translation], n_best: int) -> Translation:
    """The translation of a line from those of its parts.

    Its hypotheses are the `n_best` combinations with the largest sum of normalised scores, so that the best is made of
    the best; scores are summed.
    """
    if len(parts) == 1:
        return parts[0]
    combinations: list[list[Candidate]] = [[]]
    for part in parts:
        longer = ([*combination, hypothesis] for combination in combinations for hypothesis in part.hypotheses)
        combinations = heapq.nlargest(n_best, longer, key=_rank)
    return Translation(source, [_together(parts, combination) for combination in combinations], parts)


def _rank(chosen: list[Candidate]) -> int:
    """The sum of normalised scores, in thousandths: equal parts make equal combinations, no rounding orders them."""
    return sum(round(1000 * hypothesis.normalised_score) for hypothesis in chosen)


def _together(parts: list[Translation], chosen: list[Candidate]) -> Candidate:
    """One hypothesis of each part as one; words are counted through."""
    aligned: list[tuple[int, int]] = []
    source_words = target_words = 0
    open_word = False  # the part before ended inside a word, which goes on
    for part, hypothesis in zip(parts, chosen, strict=True):
        first = source_words - (open_word and not part.source[0].isspace())
        aligned += [(first + i, target_words + j) for i, j in hypothesis.alignment or ()]
        source_words = first + len(part.source.split())
        target_words += len(hypothesis.translation.split())
        open_word = not part.source[-1].isspace()
    return Candidate(
        " ".join(hypothesis.translation for hypothesis in chosen if hypothesis.translation),
        sum(hypothesis.score for hypothesis in chosen),
        sum(hypothesis.normalised_score for hypothesis in chosen),
        alignment=None if any(hypothesis.alignment is None for hypothesis in chosen) else aligned,
    )
