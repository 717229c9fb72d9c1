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

from projtrans import config
from projtrans.decoding import NEW_WORD, DecodingConfig, Hypothesis, Rules
from projtrans.errors import ConfigError
from projtrans.tokenizer import Tokenizer

WINDOW = 2048
"""Lines that a stream reads ahead to find sentences of like length."""

NOTHING = Hypothesis(tokens=[], score=0.0, normalised_score=0.0, token_scores=[], finished=False)
"""What a blank line is translated by."""


@dataclass(frozen=True)
class Candidate:
    """One hypothesis as text."""

    translation: str
    score: float  # sum of natural-log probabilities, end included
    pieces: list[str] | None = None  # on request (`with_token_scores`), the end among them, unless it was cut
    token_scores: list[float] | None = None  # log-probability of each piece

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: what is there."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def columns(self) -> list[str]:
        """Score and translation; then, if they are there, the pieces and their scores, each list between spaces."""
        columns = [f"{self.score:.6f}", self.translation]
        if self.pieces is not None and self.token_scores is not None:
            columns += [" ".join(self.pieces), " ".join(f"{score:.6f}" for score in self.token_scores)]
        return columns


@dataclass(frozen=True)
class Translation:
    """One source sentence with its hypotheses, best first (normalised by the length penalty); samples as drawn."""

    source: str
    hypotheses: list[Candidate]
    cut: bool = False  # the source was longer than the model's maximum, and its end was left out
    problem: str | None = None  # why there is no translation, but what stands in for one

    @property
    def text(self) -> str:
        """The best translation, or the first sample."""
        return self.hypotheses[0].translation

    @property
    def score(self) -> float:
        """The score of that translation."""
        return self.hypotheses[0].score

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: source, translation, score and all hypotheses."""
        best = {"source": self.source, "translation": self.text, "score": self.score}
        problem = {} if self.problem is None else {"problem": self.problem}
        return best | {"hypotheses": [hypothesis.to_json() for hypothesis in self.hypotheses]} | problem


class SentenceTranslator(ABC):
    """A trained model ready to translate; an engine gives it `search`."""

    batch_tokens = 1024
    """Source pieces decoded together, padding included, before the beam multiplies them; samples count each."""

    engine: str
    """What computes; other engines round otherwise."""

    def __init__(
        self, tokenizer: Tokenizer, decoding: DecodingConfig, *, longest_source: int, longest_target: int | None
    ) -> None:
        """longest_source, longest_target: in pieces, end included; None: as long as the decoding settings say."""
        self.tokenizer, self.decoding = tokenizer, decoding
        self.longest_source, self.longest_target = longest_source, longest_target
        self.prefix: list[int] = []  # what every translation begins with
        self.token_scores = False  # whether translations have those of their pieces

    @abstractmethod
    def search(
        self,
        sources: list[list[int]],
        limits: list[int],
        decoding: DecodingConfig,
        rules: Rules,
        *,
        n_best: int,
        numbers: list[int],
    ) -> list[list[Hypothesis]]:
        """The hypotheses of each source, best first, of at most `limits` pieces, end included.

        numbers: of each source in the whole input.
        """

    def __call__(self, text: str) -> str:
        """The best translation of one sentence."""
        return self.translate([text])[0].text

    def with_decoding(self, **changes: Any) -> Self:
        """The same translator with other search settings, by the names of `DecodingConfig`.

        Raises ConfigError for a value out of range and for an unknown name.
        """
        other = copy.copy(self)
        other.decoding = config.build(DecodingConfig, config.dump(self.decoding) | changes)
        return other

    def with_prefix(self, text: str) -> Self:
        """The same translator with translations that begin with `text`, in the tokenizer's normal form.

        Its last word may go on (`bibl` as `biblioteca`), but for a space at the end of `text`: then a new word follows,
        or the end. Raises ConfigError for words that the tokenizer has not.
        """
        other = copy.copy(self)
        [other.prefix] = self._prefixes([text])
        return other

    def with_token_scores(self) -> Self:
        """The same translator with the pieces of every translation and what each adds to its score."""
        other = copy.copy(self)
        other.token_scores = True
        return other

    def stream(self, lines: Iterable[str], *, n_best: int = 1, window: int = WINDOW) -> Iterator[Translation]:
        """The translations of endless lines in order, `window` lines at a time."""
        numbered = enumerate(lines, 1)
        while chunk := list(islice(numbered, window)):
            numbers, texts = zip(*chunk, strict=True)
            yield from self.translate(texts, n_best=n_best, numbers=numbers)

    def translate(
        self,
        texts: Sequence[str],
        *,
        n_best: int = 1,
        prefixes: Sequence[str] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> list[Translation]:
        """One translation a text, in order; a text without a piece (a blank one) gives an empty one with score 0.

        prefixes: what each translation begins with, instead of the translator's own prefix; errors as `with_prefix`.
        numbers: of the texts in the whole input, which samples depend on; 1, 2, ... where not given.
        """
        encoded = self.tokenizer.encode_source(texts)
        begun = [self.prefix] * len(texts) if prefixes is None else self._prefixes(prefixes)
        if len(begun) != len(texts):
            raise ConfigError(f"prefixes: {len(begun)} for {len(texts)} texts; give one for each")
        numbers = range(1, len(texts) + 1) if numbers is None else numbers
        asked = list(zip(encoded, begun, numbers, strict=True))
        results = [Translation(text, [self.stand_in()]) for text in texts]
        spoken = [i for i, ids in enumerate(encoded) if any(id_ != self.tokenizer.eos_id for id_ in ids)]
        tokens = self.batch_tokens // n_best if self.decoding.sample else self.batch_tokens
        for indices in _batches({i: min(len(encoded[i]), self.longest_source) for i in spoken}, tokens):
            for i, hypotheses in zip(indices, self._candidates([asked[i] for i in indices], n_best), strict=True):
                results[i] = Translation(texts[i], hypotheses, len(encoded[i]) > self.longest_source)
        return results

    def _rules(self, prefixes: list[list[int]]) -> Rules:
        """With what no translation holds, and what every one begins with."""
        tokenizer = self.tokenizer
        return Rules(
            bos_id=tokenizer.bos_id,
            eos_id=tokenizer.eos_id,
            banned_ids=[tokenizer.pad_id, tokenizer.bos_id, tokenizer.unk_id],
            prefixes=prefixes,
            joining_ids=tokenizer.joining_ids if any(NEW_WORD in prefix for prefix in prefixes) else (),
        )

    def _prefixes(self, texts: Sequence[str]) -> list[list[int]]:
        found = self.tokenizer.encode_target(texts)
        for text, ids in zip(texts, found, strict=True):
            if self.tokenizer.unk_id in ids:
                raise ConfigError(f"prefix {text!r}: the vocabulary lacks a word of it; leave that word out")
            if ids and text[-1].isspace():
                ids.append(NEW_WORD)
        return found

    def _candidates(self, asked: list[tuple[list[int], list[int], int]], n_best: int) -> list[list[Candidate]]:
        """The hypotheses of each source, prefix and number."""
        sources = [source[: self.longest_source] for source, _, _ in asked]
        prefixes = [prefix for _, prefix, _ in asked]
        limits = [self._limit(len(source), prefix) for source, prefix in zip(sources, prefixes, strict=True)]
        numbers = [number for _, _, number in asked]
        decoding = replace(self.decoding, beam_size=max(self.decoding.beam_size, n_best))
        found = self.search(sources, limits, decoding, self._rules(prefixes), n_best=n_best, numbers=numbers)
        texts = iter(self.tokenizer.decode_target([h.tokens for hypotheses in found for h in hypotheses]))
        return [[self._candidate(next(texts), h) for h in hypotheses] for hypotheses in found]

    def stand_in(self, text: str = "") -> Candidate:
        """What stands in the place of a translation that no model made."""
        return self._candidate(text, NOTHING)

    def _candidate(self, text: str, hypothesis: Hypothesis) -> Candidate:
        if not self.token_scores:
            return Candidate(text, hypothesis.score)
        end = [self.tokenizer.eos_id] if hypothesis.finished else []
        pieces = self.tokenizer.pieces_target([*hypothesis.tokens, *end])
        return Candidate(text, hypothesis.score, pieces, hypothesis.token_scores)

    def _limit(self, source: int, prefix: list[int]) -> int:
        """The most pieces of a translation, end included; raises ConfigError where less is asked for than must be."""
        begun = sum(id_ != NEW_WORD for id_ in prefix) + 1
        least = max(self.decoding.min_length, begun)
        limits = {"max_length": self.decoding.max_length, "the model's longest translation": self.longest_target}
        for name, most in limits.items():
            if most is not None and least > most:
                what = "prefix: its length, end included," if least == begun else "min_length:"
                raise ConfigError(f"{what} {least} is more than {name}, {most}")
        return min([max(self.decoding.longest(source), least), *filter(None, limits.values())])


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
