"""Output layer and cross-entropy in one, with label smoothing, never holding the logits of a whole batch.

Axes: N target positions (padding taken out by the caller), D width, V vocabulary. Knows no model and no masks.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 256
"""Rows of logits held at once; V = 8,000 in float32 makes 16 MB, which stays near the processor."""


class TokenLoss(NamedTuple):
    """Sums over target positions, each a scalar tensor."""

    smoothed: Tensor  # what training minimises: nats, differentiable
    nll: Tensor  # negative log-likelihood without smoothing: nats
    correct: Tensor  # positions whose most probable piece is the target


def cross_entropy(h_ND: Tensor, weight_VD: Tensor, bias_V: Tensor, target_N: Tensor, smoothing: float) -> TokenLoss:
    """Σ_n (1 - ε) nll_n + ε · mean_v(-log p_nv), with p = softmax(h Wᵀ + b) (Szegedy et al. 2016, section 7).

    h and weight may be bfloat16: the products are then bfloat16, everything after them float32.
    The gradient is computed in the forward pass, chunk by chunk, while the logits are at hand.
    """
    return TokenLoss(*_CrossEntropy.apply(h_ND, weight_VD, bias_V, target_N, smoothing))


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h_ND: Tensor, weight_VD: Tensor, bias_V: Tensor, target_N: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = torch.float64 if h_ND.dtype == torch.float64 else torch.float32
        sums = torch.zeros(3, dtype=wide, device=h_ND.device)
        weight, bias = weight_VD.to(h_ND.dtype), bias_V.to(h_ND.dtype)
        grad_h = torch.empty_like(h_ND)
        grad_weight, grad_bias = torch.zeros_like(weight_VD, dtype=wide), torch.zeros_like(bias_V, dtype=wide)
        rows = min(CHUNK, len(h_ND))
        # Allocated once: fresh memory for every chunk costs more in page faults than the arithmetic.
        logits_buffer, p_buffer = h_ND.new_empty(rows, len(weight)), h_ND.new_empty(rows, len(weight), dtype=wide)
        for first in range(0, len(h_ND), CHUNK):
            h, target = h_ND[first : first + CHUNK], target_N[first : first + CHUNK]
            logits = torch.addmm(bias, h, weight.mT, out=logits_buffer[: len(h)])
            p = torch.softmax(p_buffer[: len(h)].copy_(logits), -1, out=p_buffer[: len(h)])
            sums += _scores(logits, p, target, smoothing)
            if any(ctx.needs_input_grad):
                g = _gradient_of_logits(p, target, smoothing)
                grad_bias += g.sum(0)
                g = logits.copy_(g)
                torch.mm(g, weight, out=grad_h[first : first + CHUNK])
                grad_weight += g.mT @ h
        ctx.save_for_backward(grad_h, grad_weight.to(weight_VD.dtype), grad_bias.to(bias_V.dtype))
        smoothed, nll, correct = sums.unbind()
        ctx.mark_non_differentiable(nll, correct)
        return smoothed, nll, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *unused: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        grad_h, grad_weight, grad_bias = ctx.saved_tensors
        return grad_h * grad.to(grad_h.dtype), grad_weight * grad, grad_bias * grad, None, None


def _scores(logits_NV: Tensor, p_NV: Tensor, target_N: Tensor, smoothing: float) -> Tensor:
    """[smoothed, nll, correct] summed over the rows; p = softmax(logits)."""
    best_N, piece_N = logits_NV.max(-1)
    # log Σ exp(logits) from the largest logit and its probability, which cannot underflow.
    total_N = best_N.to(p_NV.dtype) - p_NV.gather(1, piece_N[:, None])[:, 0].log()
    nll = (total_N - logits_NV.gather(1, target_N[:, None])[:, 0]).sum()
    smoothed = nll
    if smoothing:
        mean_N = logits_NV.sum(-1, dtype=p_NV.dtype) / logits_NV.shape[1]
        smoothed = (1 - smoothing) * nll + smoothing * (total_N - mean_N).sum()
    return torch.stack([smoothed, nll, (piece_N == target_N).sum().to(nll.dtype)])


def _gradient_of_logits(p_NV: Tensor, target_N: Tensor, smoothing: float) -> Tensor:
    """p - (1 - ε) one_hot - ε/V, in place of p."""
    if smoothing:
        p_NV -= smoothing / p_NV.shape[1]
    ones = torch.ones_like(target_N, dtype=p_NV.dtype)[:, None]
    return p_NV.scatter_add_(1, target_N[:, None], ones * (smoothing - 1))
