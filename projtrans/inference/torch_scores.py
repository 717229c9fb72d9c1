"""The scores of the next token in torch: what is as large as the vocabulary stays on the device. Knows no model.

Axes: B sentences, M hypotheses of a sentence, V vocabulary, K best next tokens of a hypothesis, C candidates for them.
"""

import numpy as np
import torch
from torch import Tensor

from projtrans.search.rules import Ints, Restriction
from projtrans.search.search import Doubles


class TorchScores:
    """`Scores` of unnormalised logits, floating [B, M, V], normalised in float32 (in float64 if given float64)."""

    def __init__(self, logits_BMV: Tensor) -> None:
        self.logits_BMV = logits_BMV

    def best(self, count: int, restriction: Restriction) -> tuple[Doubles, Ints]:
        """As `Scores.best`.

        topk promises nothing about ties at its edge, but its kernels decide by the row alone, so that the rest of the
        batch cannot matter.
        """
        return _to_numpy(*_best(self._restricted(restriction), count))

    def draw(
        self, chance_BM: Doubles, temperature: float, top_k: int, restriction: Restriction
    ) -> tuple[Doubles, Ints]:
        """As `Scores.draw`."""
        logprob_BMK, token_BMK = _best(self._restricted(restriction), top_k or self.logits_BMV.shape[-1])
        weight_BMK = ((logprob_BMK - logprob_BMK.amax(-1, keepdim=True)) / temperature).exp()
        sum_BMK = weight_BMK.cumsum(-1)
        edge_BM1 = torch.from_numpy(chance_BM).to(sum_BMK.device)[:, :, None] * sum_BMK[:, :, -1:]
        place_BM1 = ((sum_BMK > edge_BM1) & (weight_BMK > 0)).int().argmax(-1, keepdim=True)
        shape = (-1, chance_BM.shape[1], -1)
        return _to_numpy(logprob_BMK.expand(shape).gather(-1, place_BM1), token_BMK.expand(shape).gather(-1, place_BM1))

    def _restricted(self, restriction: Restriction) -> Tensor:
        # Over the whole vocabulary, and yet cheaper on CPU than logsumexp, which is not fused there.
        dtype = torch.promote_types(self.logits_BMV.dtype, torch.float32)
        logprob_BMV = self.logits_BMV.log_softmax(-1, dtype=dtype)
        restriction.apply(logprob_BMV)
        return logprob_BMV


def _best(logprob_BMV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Log-probability (float64) and id [B, M, K] of the `count` best tokens (V if that is less), ids ascending."""
    vocabulary = logprob_BMV.shape[-1]
    if count >= vocabulary:
        return logprob_BMV.double(), torch.arange(vocabulary, device=logprob_BMV.device).expand(logprob_BMV.shape)
    token_BMK = logprob_BMV.argmax(-1, keepdim=True) if count == 1 else _top_ids(logprob_BMV, count).sort().values
    return logprob_BMV.gather(-1, token_BMK).double(), token_BMK


def _top_ids(x_BMV: Tensor, count: int, columns: int = 512) -> Tensor:
    """The ids of the `count` largest of each row, in any order."""
    vocabulary = x_BMV.shape[-1]
    if vocabulary < 4 * columns or count > columns:
        return x_BMV.topk(count, sorted=False).indices
    # The K largest lie in the K columns with the largest maxima, or in the remainder that fills no row of columns. A
    # topk over these few takes under half the time of one over V = 8,000 on CPU, where topk is most of the search.
    folded = vocabulary - vocabulary % columns
    column_BMK = x_BMV[:, :, :folded].view(*x_BMV.shape[:2], -1, columns).amax(-2).topk(count, sorted=False).indices
    inside = (column_BMK[..., None] + torch.arange(0, folded, columns, device=x_BMV.device)).flatten(-2)
    outside = torch.arange(folded, vocabulary, device=x_BMV.device).expand(*inside.shape[:-1], -1)
    id_BMC = torch.cat([inside, outside], -1)
    return id_BMC.gather(-1, x_BMV.gather(-1, id_BMC).topk(count, sorted=False).indices)


def _to_numpy(logprob_BMK: Tensor, token_BMK: Tensor) -> tuple[Doubles, Ints]:
    """Both in one transfer: float64 holds any id exactly."""
    both, count = torch.cat([logprob_BMK, token_BMK], -1).cpu().numpy(), token_BMK.shape[-1]
    return both[..., :count], both[..., count:].astype(np.int64)
