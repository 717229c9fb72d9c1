"""Which tokens a hypothesis may hold: rules for a batch of sentences, and what they forbid at one step.

Imports no array library but numpy; what is forbidden is written as index expressions, which a torch tensor takes too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from projtrans.search.decoding import DecodingConfig

# Axes: B sentences still being searched, N all sentences of the batch, M live hypotheses of a sentence, V vocabulary,
# T tokens so far.

Ints = NDArray[np.int64]

NEW_WORD = -2
"""Last in a prefix: the next token must not be one of `joining_ids`."""

UNCONSTRAINED = -1


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Which tokens the hypotheses of a batch of sentences may hold, whatever the model prefers."""

    bos_id: int
    eos_id: int
    banned_ids: Sequence[int]
    prefixes: Sequence[Sequence[int]] = ()  # the first tokens of each sentence's hypotheses; () for no prefixes at all
    joining_ids: Sequence[int] = ()  # tokens that would continue a word


@dataclass(frozen=True)
class Restriction:
    """What may not follow at one step, as index expressions into scores [B, M, V]."""

    eos_id: int
    forbidden: list[Any]
    forced: Any = None  # the one token that a hypothesis under a prefix has to take
    history: bool = False  # whether it depends on earlier tokens, so that it may leave a hypothesis nothing

    def apply(self, score_BMV: Any) -> None:
        """Set to -inf whatever may not follow, in place, in a numpy array or a torch tensor; a forced token stays.

        Scores may be off by a constant per hypothesis. Where nothing may follow, EOS may, even before the minimum
        length.
        """
        if self.history:
            eos_BM = score_BMV[:, :, self.eos_id] + 0.0
            forced = None if self.forced is None else score_BMV[self.forced]
        for index in self.forbidden:
            score_BMV[index] = -math.inf
        if self.history:
            stuck_BM = (score_BMV == -math.inf).all(-1)
            score_BMV[:, :, self.eos_id][stuck_BM] = eos_BM[stuck_BM]
            if self.forced is not None:
                score_BMV[self.forced[0][:, 0]] = -math.inf
                score_BMV[self.forced] = forced


class Constraints:
    """The rules and the decoding settings of N sentences, ready to restrict every step of their search."""

    def __init__(self, rules: Rules, config: DecodingConfig) -> None:
        self.rules, self.config = rules, config
        self.banned = [(slice(None), slice(None), banned_id) for banned_id in rules.banned_ids]
        longest = max(map(len, rules.prefixes), default=0)
        rows = [[*prefix, *[UNCONSTRAINED] * (longest - len(prefix))] for prefix in rules.prefixes]
        self.prefix_NT = np.array(rows, dtype=np.int64).reshape(len(rows), longest)
        self.history = config.min_length > 1 or config.no_repeat_ngram > 0 or longest > 0

    def at(self, sentence_B: Ints, token_BMT: Ints) -> Restriction:
        """What may not follow these tokens; sentence_B: indices into the N. Ignores tokens unless `self.history`."""
        eos_id, step = self.rules.eos_id, token_BMT.shape[-1]
        if not self.history:
            return Restriction(eos_id, self.banned)
        forbidden: list[Any] = [*self.banned, *_repetitions(token_BMT, self.config.no_repeat_ngram)]
        if step + 1 < self.config.min_length:
            forbidden.append((slice(None), slice(None), eos_id))
        if step >= self.prefix_NT.shape[1]:
            return Restriction(eos_id, forbidden, history=True)
        token_B = self.prefix_NT[sentence_B, step]
        (new_word_B,), (forced_B,) = (token_B == NEW_WORD).nonzero(), (token_B >= 0).nonzero()
        forbidden.append((new_word_B[:, None], slice(None), np.array(self.rules.joining_ids, dtype=np.int64)))
        forced = (forced_B[:, None], np.arange(token_BMT.shape[1]), token_B[forced_B][:, None])
        return Restriction(eos_id, forbidden, forced, history=True)


def _repetitions(token_BMT: Ints, count: int) -> list[Any]:
    """The tokens that would complete an n-gram of `count` tokens for the second time; count 0: none."""
    ends = token_BMT.shape[-1] - count + 1  # n-grams so far
    if not count or ends < 1:
        return []
    same_BMT = np.ones((*token_BMT.shape[:2], ends), dtype=np.bool_)
    for i in range(count - 1):
        same_BMT &= token_BMT[:, :, i : i + ends] == token_BMT[:, :, i + ends : i + ends + 1]
    sentence, slot, start = same_BMT.nonzero()
    return [(sentence, slot, token_BMT[sentence, slot, start + count - 1])]
