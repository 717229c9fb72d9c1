"""The scores of the next token in numpy, for an engine that gives its logits as arrays. Knows no model."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from projtrans.search.rules import Ints, Restriction
from projtrans.search.search import Doubles

# Axes: B sentences, M hypotheses of a sentence, V vocabulary, K best next tokens, C candidates for them.

Floats = NDArray[np.floating[Any]]


class NumpyScores:
    """`Scores` of unnormalised logits [B, M, V], float32 or float64, normalised in their own precision."""

    def __init__(self, logits_BMV: Floats) -> None:
        self.logits_BMV = logits_BMV

    def best(self, count: int, restriction: Restriction) -> tuple[Doubles, Ints]:
        """As `Scores.best`."""
        with np.errstate(invalid="ignore"):  # logits that are not finite become NaN
            score_BMV = self.logits_BMV - self.logits_BMV.max(-1, keepdims=True)
        log_total_BM1 = np.log(np.exp(score_BMV).sum(-1, keepdims=True))
        restriction.apply(score_BMV)
        if count >= score_BMV.shape[-1]:
            id_V = np.arange(score_BMV.shape[-1])
            return (score_BMV - log_total_BM1).astype(np.float64), np.broadcast_to(id_V, score_BMV.shape)
        token_BMK = score_BMV.argmax(-1)[:, :, None] if count == 1 else np.sort(_top_ids(score_BMV, count), -1)
        logprob_BMK = np.take_along_axis(score_BMV, token_BMK, -1) - log_total_BM1
        return logprob_BMK.astype(np.float64), token_BMK

    def draw(
        self, chance_BM: Doubles, temperature: float, top_k: int, restriction: Restriction
    ) -> tuple[Doubles, Ints]:
        """As `Scores.draw`."""
        logprob_BMK, token_BMK = self.best(top_k or self.logits_BMV.shape[-1], restriction)
        with np.errstate(over="ignore", invalid="ignore"):  # a temperature near 0; logits that are not finite
            weight_BMK = np.exp((logprob_BMK - logprob_BMK.max(-1, keepdims=True)) / temperature)
        sum_BMK = weight_BMK.cumsum(-1)
        beyond_BMK = (sum_BMK > chance_BM[:, :, None] * sum_BMK[:, :, -1:]) & (weight_BMK > 0)
        place_BM1 = beyond_BMK.argmax(-1)[:, :, None]
        shape = (*chance_BM.shape, logprob_BMK.shape[-1])
        logprob_BM1 = np.take_along_axis(np.broadcast_to(logprob_BMK, shape), place_BM1, -1)
        return logprob_BM1, np.take_along_axis(np.broadcast_to(token_BMK, shape), place_BM1, -1)


def _top_ids(x_BMV: Floats, count: int, columns: int = 512) -> Ints:
    """The ids of the `count` largest of each row, in any order.

    The K largest lie in the K columns with the largest maxima, or in the remainder that fills no row of columns.
    """
    vocabulary = x_BMV.shape[-1]
    if vocabulary < 4 * columns or count > columns:
        return _largest(x_BMV, count)
    folded = vocabulary - vocabulary % columns
    column_BMK = _largest(x_BMV[:, :, :folded].reshape(*x_BMV.shape[:2], -1, columns).max(-2), count)
    inside = (column_BMK[..., None] + np.arange(0, folded, columns)).reshape(*column_BMK.shape[:2], -1)
    outside = np.broadcast_to(np.arange(folded, vocabulary), (*inside.shape[:2], vocabulary - folded))
    id_BMC = np.concatenate([inside, outside], -1)
    return np.take_along_axis(id_BMC, _largest(np.take_along_axis(x_BMV, id_BMC, -1), count), -1)


def _largest(x_BMV: Floats, count: int) -> Ints:
    rest = x_BMV.shape[-1] - count
    return x_BMV.argpartition(rest, -1)[..., rest:]
