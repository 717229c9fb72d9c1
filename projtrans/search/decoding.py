"""The settings of a search, and the random numbers that decide samples. Knows no array library."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from projtrans.config import setting
from projtrans.errors import ConfigError

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
        """The settings that differ from the defaults, other than beam size and length penalty."""
        found = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in SHOWN}
        return {name: value for name, value in found.items() if value != getattr(DecodingConfig, name)}

    def longest(self, tokens: int) -> int:
        """The maximum length in tokens, EOS included, for a source of so many tokens, unless `max_length` is set."""
        return int(tokens * self.max_length_ratio) + self.max_length_offset


@dataclass(frozen=True)
class Draws:
    """What decides, beside the probabilities, which samples are drawn: nothing that batching could change."""

    seed: int
    numbers: Sequence[int]  # of each sentence in the whole input
    samples: int  # per sentence

    def chances(self, sentences: Sequence[int], position: int) -> list[list[float]]:
        """A number in [0, 1) for the token at a position of each sample of these sentences (indices)."""
        return [[chance(self.seed, self.numbers[s], m, position) for m in range(self.samples)] for s in sentences]


def chance(*key: int) -> float:
    """A number in [0, 1), uniform over keys: the same for the same key in every engine, process and version.

    It has 52 bits, so that chance × x < x for every float x of 1 or more.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 12) / (1 << 52)
