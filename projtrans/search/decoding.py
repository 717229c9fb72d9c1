"""What every search shares: its settings, its rules, its results, the length penalty, and the chance that samples take.

Knows no array library.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from projtrans.config import setting
from projtrans.errors import ConfigError, RunError

SHOWN = ("beam_size", "length_penalty")
"""Search settings that stand beside every score."""


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """How translations are searched for."""

    beam_size: int = setting(5, "hypotheses kept per sentence at each step; 1 is greedy search", minimum=1)
    length_penalty: float = setting(
        1.0, "α of ((5 + length) / 6)^α that divides a score; 0 turns it off", minimum=0, maximum=10
    )
    max_length_ratio: float = setting(2.0, "maximum length in tokens: this × source tokens + offset", minimum=0)
    max_length_offset: int = setting(10, "tokens added to ratio × source tokens for the maximum length", minimum=1)
    max_length: int | None = setting(None, "maximum length in tokens, EOS included, for any source", minimum=1)
    min_length: int = setting(1, "minimum length in tokens, EOS included", minimum=1)
    no_repeat_ngram: int = setting(0, "no n-gram of this many tokens twice in a translation; 0: no limit", minimum=0)
    sample: bool = setting(False, "sample translations from the model's distribution, without a beam")
    temperature: float = setting(1.0, "of sampling: probabilities to the power of 1 / temperature", above=0)
    top_k: int = setting(0, "sample each token from the K most probable; 0: from all", minimum=0)
    seed: int = setting(1, "seed of sampling", minimum=0)

    def __post_init__(self) -> None:
        if self.max_length is not None and self.min_length > self.max_length:
            raise ConfigError(f"min_length: {self.min_length} is more than max_length, {self.max_length}")

    @property
    def unusual(self) -> dict[str, Any]:
        """The settings that are not the defaults, beside beam size and length penalty."""
        found = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in SHOWN}
        return {name: value for name, value in found.items() if value != getattr(DecodingConfig, name)}

    def longest(self, pieces: int) -> int:
        """The longest translation in tokens, end included, of a source of so many pieces, if no `max_length` is set."""
        return int(pieces * self.max_length_ratio) + self.max_length_offset


NEW_WORD = -2
"""In a prefix, last: whatever follows is no `joining_ids`."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Which tokens the hypotheses of a batch of sentences may hold, whatever the model thinks of them."""

    bos_id: int
    eos_id: int
    banned_ids: Sequence[int]
    prefixes: Sequence[Sequence[int]] = ()  # the first tokens of each sentence's hypotheses; none at all: ()
    joining_ids: Sequence[int] = ()  # those that would continue a word

    @property
    def prefix_rows(self) -> list[list[int]]:
        """The prefixes in equal length, filled up with -1."""
        longest = max(map(len, self.prefixes), default=0)
        return [[*prefix, *[-1] * (longest - len(prefix))] for prefix in self.prefixes]

    def plain(self, config: DecodingConfig) -> bool:
        """Whether what may follow does not depend on what came before."""
        return config.min_length == 1 and config.no_repeat_ngram == 0 and not any(self.prefixes)


@dataclass(frozen=True)
class Draws:
    """What decides which samples are drawn, beside the probabilities: nothing that a batch could change."""

    seed: int
    numbers: Sequence[int]  # of each sentence in the whole input
    samples: int  # of each sentence

    def chances(self, sentences: Sequence[int], position: int) -> list[list[float]]:
        """A number in [0, 1) for the token that each sample of these sentences (indices) has at a position."""
        return [[chance(self.seed, self.numbers[s], m, position) for m in range(self.samples)] for s in sentences]


@dataclass(frozen=True)
class Hypothesis:
    """One translation of one sentence, as ids."""

    tokens: list[int]  # without BOS and end
    score: float  # log-probability of the tokens, end included: the sum of token_scores
    normalised_score: float  # score / length penalty, the end counted in the length
    token_scores: list[float]  # log-probability of each token, end included
    finished: bool  # False: cut at the maximum length, without end

    @classmethod
    def of(cls, tokens: list[int], token_scores: list[float], eos_id: int, alpha: float) -> "Hypothesis":
        """From the tokens with their end, where they have one; raises RunError where a score is not finite."""
        score = 0.0
        for token_score in token_scores:  # not sum(): from Python 3.12 it rounds otherwise than a beam's additions
            score += token_score
        if not math.isfinite(score):
            raise RunError("search: the model's probabilities are not finite; its weights are damaged or have diverged")
        finished = tokens[-1] == eos_id
        return cls(
            tokens=tokens[:-1] if finished else tokens,
            score=score,
            normalised_score=score / length_penalty(len(tokens), alpha),
            token_scores=token_scores,
            finished=finished,
        )


Places = tuple[list[float], list[list[int]], list[list[float]]]
"""Scores, tokens and token scores of the hypotheses of one sentence; the score of an empty place is -inf."""


def ranked(final: Places, live: Places, eos_id: int, alpha: float) -> list[Hypothesis]:
    """What a beam has found for a sentence: finished hypotheses, and live ones where these leave places empty."""
    ended = [(tokens[: tokens.index(eos_id) + 1], scores) for tokens, scores in _filled(final)]
    best = (ended + _filled(live))[: len(final[0])]
    return [Hypothesis.of(tokens, scores[: len(tokens)], eos_id, alpha) for tokens, scores in best]


def _filled(places: Places) -> list[tuple[list[int], list[float]]]:
    return [(tokens, scores) for score, tokens, scores in zip(*places, strict=True) if score != -math.inf]


def length_penalty(length: int, alpha: float) -> float:
    """lp(Y) = (5 + |Y|)^α / (5 + 1)^α.  Wu et al. 2016 (GNMT), eq. 14; |Y| counts the end."""
    return math.pow((5 + length) / 6, alpha)


def chance(*key: int) -> float:
    """A number in [0, 1), uniform over keys: the same for the same key, in every engine, process and version.

    Of 52 bits, so that chance × x < x for every float x of 1 or more.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 12) / (1 << 52)
