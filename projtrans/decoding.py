"""What every search shares: its settings, its results, and the length penalty. Knows no array library."""

import math
from dataclasses import dataclass

from projtrans.config import setting
from projtrans.errors import RunError


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """How translations are searched for."""

    beam_size: int = setting(5, "hypotheses kept per sentence at each step; 1 is greedy search", minimum=1)
    length_penalty: float = setting(1.0, "α of ((5 + length) / 6)^α that divides a score; 0 turns it off", minimum=0)
    max_length_ratio: float = setting(2.0, "longest translation in pieces: this × source pieces + offset", minimum=0)
    max_length_offset: int = setting(10, "pieces added to ratio × source pieces for the longest translation", minimum=1)

    def max_length(self, pieces: int) -> int:
        """The longest translation in tokens, end included, of a source of so many pieces."""
        return int(pieces * self.max_length_ratio) + self.max_length_offset


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


def length_penalty(length: int, alpha: float) -> float:
    """lp(Y) = (5 + |Y|)^α / (5 + 1)^α.  Wu et al. 2016 (GNMT), eq. 14; |Y| counts the end."""
    return math.pow((5 + length) / 6, alpha)
