"""Sentences in, sentences out, in order: what translating is, whichever engine computes it.

One line in, one translation out, whatever the line holds; what a sentence is batched with does not change its
translation (beyond float rounding). Knows no model, no file and no terminal.
"""

import copy
import heapq
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, islice
from operator import itemgetter
from typing import Any, NamedTuple, Self, TypeVar

from projtrans import config
from projtrans.data import sentence_splitter
from projtrans.data.tokenizer import Tokenizer
from projtrans.errors import ConfigError
from projtrans.search.decoding import NEW_WORD, DecodingConfig, Hypothesis, Rules

Item = TypeVar("Item")

WINDOW = 2048
"""Lines that a stream reads ahead to find sentences of like length."""

PART_BITS = 40
"""A line's number, and above these bits which part of it: samples of equal sentences in a line are independent."""

NOTHING = Hypothesis(tokens=[], score=0.0, normalised_score=0.0, token_scores=[], finished=False)
"""What a blank line is translated by."""


@dataclass(frozen=True)
class Candidate:
    """One hypothesis as text."""

    translation: str
    score: float  # sum of natural-log probabilities, end included
    pieces: list[str] | None = None  # on request (`with_token_scores`), the end among them, unless it was cut
    token_scores: list[float] | None = None  # log-probability of each piece
    alignment: list[tuple[int, int]] | None = None  # on request (`with_alignment`): (source word, target word)
    normalised_score: float = 0.0  # what hypotheses are ranked by
    tokens: list[int] = field(default_factory=list, repr=False)  # without begin and end; of several parts: none

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: what is there."""
        found = {"translation": self.translation, "score": self.score, "pieces": self.pieces}
        found |= {"token_scores": self.token_scores, "alignment": self.alignment}
        return {key: value for key, value in found.items() if value is not None}

    def columns(self) -> list[str]:
        """Score and translation; then what is there of pieces, their scores and alignment, each list between spaces."""
        columns = [f"{self.score:.6f}", self.translation]
        if self.pieces is not None and self.token_scores is not None:
            columns += [" ".join(self.pieces), " ".join(f"{score:.6f}" for score in self.token_scores)]
        if self.alignment is not None:
            columns.append(" ".join(f"{i}-{j}" for i, j in self.alignment))
        return columns


@dataclass(frozen=True)
class Translation:
    """One source sentence with its hypotheses, best first (normalised by the length penalty); samples as drawn."""

    source: str
    hypotheses: list[Candidate]
    cut: bool = False  # the line, or a word in it, was not kept to its end
    problem: str | None = None  # why there is no translation, but what stands in for one
    parts: "list[Translation]" = field(default_factory=list)  # of a line that was translated in several

    @property
    def best(self) -> Candidate:
        """The best hypothesis, or the first sample."""
        return self.hypotheses[0]

    @property
    def text(self) -> str:
        """The translation that it is."""
        return self.best.translation

    @property
    def score(self) -> float:
        """The score of that translation."""
        return self.best.score

    @property
    def breaks_word(self) -> bool:
        """Whether a word was too long for the model, and translated in parts."""
        sources = [part.source for part in self.parts]
        return any(sentence_splitter.breaks_word(*sources[i : i + 2]) for i in range(len(sources) - 1))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: source, translation, score, all hypotheses, and the parts where there are several."""
        found = {"source": self.source, "translation": self.text, "score": self.score}
        if self.best.alignment is not None:
            found["alignment"] = self.best.alignment
        found["hypotheses"] = [hypothesis.to_json() for hypothesis in self.hypotheses]
        if self.parts:
            found["parts"] = [{"source": part.source, **part.best.to_json()} for part in self.parts]
        return found if self.problem is None else found | {"problem": self.problem}


class _Asked(NamedTuple):
    """A text, or a part of one, to be translated as a whole."""

    text: str
    ids: list[int]
    prefix: list[int]  # what its translation begins with
    number: int  # in the whole input, which samples depend on


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
        self.every_sentence = self.aligned = self.copying = False
        self.cuts = False  # whether too long a line is cut, as in the model's training, and not split

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

        A text too long for the model is translated in parts, and their translations are joined by spaces.
        prefixes: what each translation begins with, instead of the translator's own prefix; errors as `with_prefix`.
        numbers: of the texts in the whole input, which samples depend on; 1, 2, ... where not given.
        """
        begun = [self.prefix] * len(texts) if prefixes is None else self._prefixes(prefixes)
        if len(begun) != len(texts):
            raise ConfigError(f"prefixes: {len(begun)} for {len(texts)} texts; give one for each")
        numbers = range(1, len(texts) + 1) if numbers is None else numbers
        parts = self._parts(texts)
        asked = [
            _Asked(part, ids, prefix if place == 0 else [], number + (place << PART_BITS))
            for several, prefix, number in zip(parts, begun, numbers, strict=True)
            for place, (part, ids) in enumerate(several)
        ]
        found = iter(self._translate(asked, n_best))
        return [
            self._joined(text, [next(found) for _ in several], n_best)
            for text, several in zip(texts, parts, strict=True)
        ]

    def _parts(self, texts: Sequence[str]) -> list[list[tuple[str, list[int]]]]:
        """The parts of each text that are translated apart, with their ids."""
        return [self._split(text, ids) for text, ids in zip(texts, self.tokenizer.encode_source(texts), strict=True)]

    def _split(self, text: str, ids: list[int]) -> list[tuple[str, list[int]]]:
        if not self.every_sentence and (self.cuts or len(ids) <= self.longest_source):
            return [(text, ids)]
        parts = sentence_splitter.split(
            sentence_splitter.shortened(text), self._fits, every_sentence=self.every_sentence
        )
        return list(zip(parts, self.tokenizer.encode_source(parts), strict=True))

    def _fits(self, text: str) -> bool:
        return len(self.tokenizer.encode_source([text])[0]) <= self.longest_source

    def _translate(self, asked: list[_Asked], n_best: int) -> list[Translation]:
        results = [Translation(part.text, [self.stand_in()]) for part in asked]
        spoken = [i for i, part in enumerate(asked) if any(id_ != self.tokenizer.eos_id for id_ in part.ids)]
        tokens = self.batch_tokens // n_best if self.decoding.sample else self.batch_tokens
        for indices in _batches({i: min(len(asked[i].ids), self.longest_source) for i in spoken}, tokens):
            found = self._candidates([asked[i] for i in indices], n_best)
            if self.aligned:
                found = self.align([asked[i].text for i in indices], found)
            for i, hypotheses in zip(indices, found, strict=True):
                results[i] = Translation(asked[i].text, hypotheses, cut=len(asked[i].ids) > self.longest_source)
        return results

    def _joined(self, source: str, parts: list[Translation], n_best: int) -> Translation:
        """The translation of a line from those of its parts; its m-th sample is that of the m-th samples."""
        cut = "".join(part.source for part in parts) != source or any(part.cut for part in parts)
        if len(parts) == 1:
            return replace(parts[0], source=source, cut=cut)
        if self.decoding.sample:
            chosen = [[part.hypotheses[m % len(part.hypotheses)] for part in parts] for m in range(n_best)]
        else:
            chosen = _best_combinations(parts, n_best)
        return Translation(source, [_together(parts, combination) for combination in chosen], cut, parts=parts)

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

    def _candidates(self, asked: list[_Asked], n_best: int) -> list[list[Candidate]]:
        sources = [part.ids[: self.longest_source] for part in asked]
        limits = [self._limit(len(source), part.prefix) for source, part in zip(sources, asked, strict=True)]
        numbers, rules = [part.number for part in asked], self._rules([part.prefix for part in asked])
        decoding = replace(self.decoding, beam_size=max(self.decoding.beam_size, n_best))
        found = self.search(sources, limits, decoding, rules, n_best=n_best, numbers=numbers)
        texts = iter(self.tokenizer.decode_target([h.tokens for hypotheses in found for h in hypotheses]))
        return [[self._candidate(next(texts), h) for h in hypotheses] for hypotheses in found]

    def stand_in(self, text: str = "") -> Candidate:
        """What stands in the place of a translation that no model made."""
        return replace(self._candidate(text, NOTHING), alignment=[] if self.aligned else None)

    def _candidate(self, text: str, hypothesis: Hypothesis) -> Candidate:
        found = Candidate(
            text, hypothesis.score, normalised_score=hypothesis.normalised_score, tokens=hypothesis.tokens
        )
        if not self.token_scores:
            return found
        end = [self.tokenizer.eos_id] if hypothesis.finished else []
        pieces = self.tokenizer.target_tokens([*hypothesis.tokens, *end])
        return replace(found, pieces=pieces, token_scores=hypothesis.token_scores)

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


def _best_combinations(parts: list[Translation], n_best: int) -> list[list[Candidate]]:
    """One hypothesis of each part: the combinations with the largest sum of normalised scores, the best of the best."""
    combinations: list[tuple[int, list[Candidate]]] = [(0, [])]
    for part in parts:
        ranked = list(zip(_ranks(part.hypotheses), part.hypotheses, strict=True))
        longer = ((rank + more, [*chosen, one]) for rank, chosen in combinations for more, one in ranked)
        combinations = heapq.nlargest(n_best, longer, key=itemgetter(0))
    return [chosen for _, chosen in combinations]


def _ranks(hypotheses: list[Candidate]) -> list[int]:
    """Their normalised scores, in thousandths: equal parts make equal combinations, no rounding orders them.

    A hypothesis that was cut at the maximum stands behind the finished ones, whatever its score: none is above another
    that stands before it.
    """
    return list(accumulate((round(1000 * hypothesis.normalised_score) for hypothesis in hypotheses), min))


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
