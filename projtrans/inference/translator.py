"""Sentences in, sentences out, in order: what translating is, whichever engine computes it.

One line in, one translation out, whatever the line holds; the sentences in the same batch do not change a translation
(beyond float rounding). Knows no model, no file and no terminal.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar, NamedTuple, Self

from projtrans import config
from projtrans.data import sentence_splitter
from projtrans.data.tokenizer import Tokenizer
from projtrans.errors import ConfigError
from projtrans.inference.copy_unknown import leave_out, restore
from projtrans.inference.translation import Candidate, Translation, join
from projtrans.search.decoding import DecodingConfig
from projtrans.search.rules import NEW_WORD, Rules
from projtrans.search.search import Hypothesis, SearchRequest

WINDOW = 2048
"""Lines that a stream reads ahead to find sentences of similar length."""

PART_BITS = 40
"""The bits of a line's number; those above hold the part: samples of equal sentences in a line are independent."""

NOTHING = Hypothesis(tokens=[], score=0.0, normalised_score=0.0, token_scores=[], finished=False)
"""The hypothesis of a blank line."""


@dataclass(frozen=True, kw_only=True)
class TranslateOptions:
    """What is asked of a translator, the same for every text."""

    decoding: DecodingConfig
    n_best: int = 1  # hypotheses of each text, or samples
    prefix: str = ""  # what every translation begins with; a space at its end closes its last word
    token_scores: bool = False  # the tokens of every hypothesis and what each adds to its score
    alignment: bool = False  # which source word each target word comes from
    copy_unknown: bool = False  # words that the tokenizer cannot spell, addresses and long numbers go around the model
    sentences: bool = False  # every sentence of a text by itself, however short the text

    def __post_init__(self) -> None:
        if self.n_best < 1:
            raise ConfigError(f"n_best: {self.n_best} is out of range; it must be 1 or more")


class _Part(NamedTuple):
    """A text, or a part of one, to be translated as a whole."""

    text: str
    ids: list[int]
    prefix: list[int]  # what its translation begins with
    number: int  # in the whole input, which samples depend on


class SentenceTranslator(ABC):
    """A trained model ready to translate; an engine gives it `search`."""

    batch_tokens = 1024
    """Source tokens decoded together, padding included, before the beam multiplies them; each sample counts."""

    aligns: ClassVar[bool] = False
    """Whether the engine can align words."""

    engine: str
    """What computes; other engines round differently."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        decoding: DecodingConfig,
        *,
        longest_source: int,
        longest_target: int | None,
        cut_sources: bool = False,
    ) -> None:
        """longest_source, longest_target: in tokens, EOS included; None: as long as the decoding settings say.

        cut_sources: too long a line is cut, as in the model's training, instead of split.
        """
        self.tokenizer, self.options = tokenizer, TranslateOptions(decoding=decoding)
        self.longest_source, self.longest_target, self.cut_sources = longest_source, longest_target, cut_sources

    @abstractmethod
    def search(self, sources: Sequence[list[int]], request: SearchRequest) -> list[list[Hypothesis]]:
        """The hypotheses of each source, best first."""

    def align(self, texts: Sequence[str], found: list[list[Candidate]]) -> list[list[Candidate]]:
        """The hypotheses of each text with their alignment; of engines that align."""
        raise NotImplementedError

    @property
    def decoding(self) -> DecodingConfig:
        """The search settings."""
        return self.options.decoding

    def with_decoding(self, **changes: Any) -> Self:
        """The same translator with other search settings, by the names of `DecodingConfig`.

        Raises ConfigError for a value out of range and for an unknown name.
        """
        return self.with_options(decoding=config.build(DecodingConfig, config.dump(self.decoding) | changes))

    def with_options(self, **changes: Any) -> Self:
        """The same translator with other options, by the names of `TranslateOptions`.

        Raises ConfigError for an impossible value, a prefix that the vocabulary lacks, and what the engine cannot do.
        """
        other = copy.copy(self)
        other.options = replace(self.options, **changes)
        other._check()
        return other

    def _check(self) -> None:
        if self.options.alignment and not self.aligns:
            raise ConfigError("alignment: needs the weights of cross-attention, which only the torch engine has")
        if self.options.copy_unknown and not self.aligns:
            raise ConfigError("copy_unknown: needs alignment, which only the torch engine has")
        if self.options.copy_unknown and not self.tokenizer.joint:
            raise ConfigError("copy_unknown: the word tokenizer knows no characters; it needs bpe or unigram")
        self._encode_prefixes([self.options.prefix])

    # ---------------------------------------------------------------------------------------------------- translating

    def __call__(self, text: str) -> str:
        """The best translation of one sentence."""
        return self.translate([text])[0].text

    def stream(self, lines: Iterable[str], *, window: int = WINDOW) -> Iterator[Translation]:
        """The translations of endless lines in order, `window` lines at a time."""
        numbered = enumerate(lines, 1)
        while chunk := list(islice(numbered, window)):
            numbers, texts = zip(*chunk, strict=True)
            yield from self.translate(texts, numbers=numbers)

    def translate(
        self, texts: Sequence[str], *, prefixes: Sequence[str] | None = None, numbers: Sequence[int] | None = None
    ) -> list[Translation]:
        """One translation per text, in order; a text without a token (a blank one) gives an empty one with score 0.

        A text too long for the model is translated in parts, and their translations are joined by spaces.
        prefixes: one per text, instead of the options' prefix; raises ConfigError for words that the vocabulary lacks.
        numbers: of the texts in the whole input, which samples depend on; by default 1, 2, ...
        """
        if self.options.copy_unknown:
            reduced = [leave_out(text, self.tokenizer.knows) for text in texts]
            plain = self.with_options(copy_unknown=False, alignment=True)
            found = plain.translate([one.text for one in reduced], prefixes=prefixes, numbers=numbers)
            aligned = self.options.alignment
            return [restore(*each, aligned=aligned) for each in zip(texts, reduced, found, strict=True)]
        begun = self._encode_prefixes([self.options.prefix] if prefixes is None else prefixes)
        begun = begun * len(texts) if prefixes is None else begun
        if len(begun) != len(texts):
            raise ConfigError(f"prefixes: {len(begun)} for {len(texts)} texts; give one for each")
        parts = [self._split(text, ids) for text, ids in zip(texts, self.tokenizer.encode_source(texts), strict=True)]
        numbers = range(1, len(texts) + 1) if numbers is None else numbers
        flat = [
            _Part(part, ids, prefix if place == 0 else [], number + (place << PART_BITS))
            for several, prefix, number in zip(parts, begun, numbers, strict=True)
            for place, (part, ids) in enumerate(several)
        ]
        done = iter(self._translate(flat))
        return [self._joined(text, [next(done) for _ in several]) for text, several in zip(texts, parts, strict=True)]

    def stand_in(self, text: str = "") -> Candidate:
        """A hypothesis that no model made, with score 0."""
        return replace(self._candidate(text, NOTHING), alignment=[] if self.options.alignment else None)

    def _encode_prefixes(self, texts: Sequence[str]) -> list[list[int]]:
        found = self.tokenizer.encode_target(texts)
        for text, ids in zip(texts, found, strict=True):
            if self.tokenizer.unk_id in ids:
                raise ConfigError(f"prefix {text!r}: the vocabulary lacks a word of it; leave that word out")
            if ids and text[-1].isspace():
                ids.append(NEW_WORD)
        return found

    def _split(self, text: str, ids: list[int]) -> list[tuple[str, list[int]]]:
        """The parts of a text that are translated separately, with their ids."""
        every = self.options.sentences
        if not every and (self.cut_sources or len(ids) <= self.longest_source):
            return [(text, ids)]
        parts = sentence_splitter.split(sentence_splitter.shortened(text), self._fits, every_sentence=every)
        return list(zip(parts, self.tokenizer.encode_source(parts), strict=True))

    def _fits(self, text: str) -> bool:
        return len(self.tokenizer.encode_source([text])[0]) <= self.longest_source

    def _joined(self, source: str, parts: list[Translation]) -> Translation:
        cut = "".join(part.source for part in parts) != source or any(part.cut for part in parts)
        if len(parts) == 1:
            return replace(parts[0], source=source, cut=cut)
        hypotheses = join(parts, self.options.n_best, sampled=self.decoding.sample)
        return Translation(source, hypotheses, cut, parts=parts)

    # ------------------------------------------------------------------------------------------------------ searching

    def _translate(self, parts: list[_Part]) -> list[Translation]:
        results = [Translation(part.text, [self.stand_in()]) for part in parts]
        lengths = {
            i: min(len(part.ids), self.longest_source)
            for i, part in enumerate(parts)
            if any(id_ != self.tokenizer.eos_id for id_ in part.ids)
        }
        tokens = self.batch_tokens // self.options.n_best if self.decoding.sample else self.batch_tokens
        for indices in _batches(lengths, tokens):
            found = self._candidates([parts[i] for i in indices])
            if self.options.alignment:
                found = self.align([parts[i].text for i in indices], found)
            for i, hypotheses in zip(indices, found, strict=True):
                results[i] = Translation(parts[i].text, hypotheses, cut=len(parts[i].ids) > self.longest_source)
        return results

    def _candidates(self, parts: list[_Part]) -> list[list[Candidate]]:
        sources = [part.ids[: self.longest_source] for part in parts]
        n_best = self.options.n_best
        request = SearchRequest(
            limits=[self._limit(len(source), part.prefix) for source, part in zip(sources, parts, strict=True)],
            rules=self._rules([part.prefix for part in parts]),
            decoding=replace(self.decoding, beam_size=max(self.decoding.beam_size, n_best)),
            n_best=n_best,
            numbers=[part.number for part in parts],
        )
        found = self.search(sources, request)
        texts = iter(self.tokenizer.decode_target([h.tokens for hypotheses in found for h in hypotheses]))
        return [[self._candidate(next(texts), h) for h in hypotheses] for hypotheses in found]

    def _limit(self, source: int, prefix: list[int]) -> int:
        """The maximum length in tokens, EOS included; raises ConfigError where the minimum exceeds it."""
        begun = sum(id_ != NEW_WORD for id_ in prefix) + 1
        least = max(self.decoding.min_length, begun)
        limits = {"max_length": self.decoding.max_length, "the model's longest translation": self.longest_target}
        for name, most in limits.items():
            if most is not None and least > most:
                what = "prefix: its length, EOS included," if least == begun else "min_length:"
                raise ConfigError(f"{what} {least} is more than {name}, {most}")
        return min([max(self.decoding.longest(source), least), *filter(None, limits.values())])

    def _rules(self, prefixes: list[list[int]]) -> Rules:
        tokenizer = self.tokenizer
        return Rules(
            bos_id=tokenizer.bos_id,
            eos_id=tokenizer.eos_id,
            banned_ids=[tokenizer.pad_id, tokenizer.bos_id, tokenizer.unk_id],
            prefixes=prefixes,
            joining_ids=tokenizer.joining_ids if any(NEW_WORD in prefix for prefix in prefixes) else (),
        )

    def _candidate(self, text: str, hypothesis: Hypothesis) -> Candidate:
        found = Candidate(
            text, hypothesis.score, normalised_score=hypothesis.normalised_score, tokens=hypothesis.tokens
        )
        if not self.options.token_scores:
            return found
        eos = [self.tokenizer.eos_id] if hypothesis.finished else []
        pieces = self.tokenizer.target_tokens([*hypothesis.tokens, *eos])
        return replace(found, pieces=pieces, token_scores=hypothesis.token_scores)


def _batches(lengths: dict[int, int], tokens: int) -> Iterator[list[int]]:
    """The sentences, by index, in batches of similar length: sentences × the longest of them ≤ tokens."""
    batch: list[int] = []
    for index in sorted(lengths, key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[index] > tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
