"""Output layer and cross-entropy in one, with label smoothing, without ever holding the logits of a whole batch.

`cross_entropy` takes one pass through the network; `r_drop` takes two with different dropout, which are to agree.

Axes: N target positions (padding removed by the caller), D width, V vocabulary, G groups. Knows no model, no masks.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 512
"""Rows of logits held at once on a CPU; with V = 8,000 in float32 they take 16 MB, which fits its caches."""

WIDE_CHUNK = 2048
"""The same on other devices, where launching kernels costs more than memory traffic."""


class TokenLoss(NamedTuple):
    """Sums over target positions, each a scalar tensor."""

    smoothed: Tensor  # what training minimises, in nats; differentiable; over all groups
    nll: Tensor  # negative log-likelihood without smoothing, in nats
    correct: Tensor  # positions whose most probable token is the target


def cross_entropy(
    h_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor,
    target_N: Tensor,
    smoothing: float,
    groups_GN: Tensor | None = None,
) -> TokenLoss:
    """Σ_n (1 - ε) nll_n + ε · mean_v(-log p_nv), with p = softmax(h Wᵀ + b) (Szegedy et al. 2016, section 7).

    h and weight may be bfloat16: the products are then bfloat16, everything after them float32.
    The gradient is computed in the forward pass, chunk by chunk, while the logits are available.
    groups: float32, 1 where a position belongs to a group, else 0; nll and correct are then [G], one per group. A
    position in no group is computed but not counted, so that no shape depends on how many positions count.
    """
    return TokenLoss(*_CrossEntropy.apply(h_ND, weight_VD, bias_V, target_N, smoothing, groups_GN))


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        h_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor,
        target_N: Tensor,
        smoothing: float,
        groups_GN: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = torch.float64 if h_ND.dtype == torch.float64 else torch.float32
        sums = torch.zeros(3, *(() if groups_GN is None else groups_GN.shape[:1]), dtype=wide, device=h_ND.device)
        weight, bias = weight_VD.to(h_ND.dtype), bias_V.to(h_ND.dtype)
        mean_N = _mean_logits(h_ND, weight, bias, wide) if smoothing else None
        grad_h = torch.empty_like(h_ND)
        grad_weight, grad_bias = torch.zeros_like(weight_VD, dtype=wide), torch.zeros_like(bias_V, dtype=wide)
        rows = min(CHUNK if h_ND.device.type == "cpu" else WIDE_CHUNK, len(h_ND))
        # Allocated once: fresh memory per chunk costs more in page faults than the arithmetic.
        logits_buffer, p_buffer = h_ND.new_empty(rows, len(weight)), h_ND.new_empty(rows, len(weight), dtype=wide)
        product = torch.empty_like(weight)
        for first in range(0, len(h_ND), rows or 1):
            chunk = slice(first, first + rows)
            h, target = h_ND[chunk], target_N[chunk]
            mean = None if mean_N is None else mean_N[chunk]
            groups = None if groups_GN is None else groups_GN[:, chunk]
            logits = torch.addmm(bias, h, weight.mT, out=logits_buffer[: len(h)])
            p = torch.softmax(p_buffer[: len(h)].copy_(logits), -1, out=p_buffer[: len(h)])
            sums += _scores(logits, p, target, mean, smoothing, groups)
            if any(ctx.needs_input_grad):
                g = _gradient_of_logits(p, target, smoothing)
                if groups is not None:
                    g *= groups.sum(0)[:, None]
                grad_bias += g.sum(0)
                g = logits.copy_(g)
                torch.mm(g, weight, out=grad_h[chunk])
                grad_weight += torch.mm(g.mT, h, out=product)
        ctx.save_for_backward(grad_h, grad_weight.to(weight_VD.dtype), grad_bias.to(bias_V.dtype))
        smoothed, nll, correct = sums.unbind()
        ctx.mark_non_differentiable(nll, correct)
        return smoothed.sum(), nll, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        grad_h, grad_weight, grad_bias = ctx.saved_tensors
        return grad_h * grad.to(grad_h.dtype), grad_weight * grad, grad_bias * grad, None, None, None


def r_drop(
    h_ND: Tensor,
    other_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor,
    target_N: Tensor,
    smoothing: float,
    alpha: float,
) -> TokenLoss:
    """½ (CE(p) + CE(q)) + α/4 Σ_n (KL(p_n‖q_n) + KL(q_n‖p_n)) of the hidden states of two passes (Liang et al. 2021).

    p = softmax(h Wᵀ + b), q the same for `other`, CE as in `cross_entropy`. This is half of the paper's eq. (4): α is
    the paper's, and the loss counts each token once, as without R-Drop. nll and correct are means of the two passes.
    """
    return TokenLoss(*_RDrop.apply(h_ND, other_ND, weight_VD, bias_V, target_N, smoothing, alpha))


class _RDrop(torch.autograd.Function):
    """With a = log p - log q: KL(p‖q) = E_p a, KL(q‖p) = -E_q a, and of their sum J

        ∂J/∂s = p (a - E_p a) + p - q        ∂J/∂t = -q (a - E_q a) + q - p

    with s the logits of p and t those of q.
    """

    @staticmethod
    def forward(
        ctx: Any,
        h_ND: Tensor,
        other_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor,
        target_N: Tensor,
        smoothing: float,
        alpha: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = torch.float64 if h_ND.dtype == torch.float64 else torch.float32
        sums = torch.zeros(3, dtype=wide, device=h_ND.device)
        weight, bias = weight_VD.to(h_ND.dtype), bias_V.to(h_ND.dtype)
        means = [_mean_logits(h, weight, bias, wide) if smoothing else None for h in (h_ND, other_ND)]
        grads = torch.empty_like(h_ND), torch.empty_like(h_ND)
        grad_weight, grad_bias = torch.zeros_like(weight_VD, dtype=wide), torch.zeros_like(bias_V, dtype=wide)
        rows = min(CHUNK, len(h_ND))
        logits_buffers = h_ND.new_empty(2, rows, len(weight))
        p_buffers, product = h_ND.new_empty(3, rows, len(weight), dtype=wide), torch.empty_like(weight)
        for first in range(0, len(h_ND), CHUNK):
            chunk = slice(first, first + CHUNK)
            states, target = (h_ND[chunk], other_ND[chunk]), target_N[chunk]
            s, t = (
                torch.addmm(bias, h, weight.mT, out=logits[: len(h)])
                for h, logits in zip(states, logits_buffers, strict=True)
            )
            p, q, a = (buffer[: len(target)] for buffer in p_buffers)
            for logits, probabilities, mean in zip((s, t), (p, q), means, strict=True):
                torch.softmax(probabilities.copy_(logits), -1, out=probabilities)
                sums += _scores(logits, probabilities, target, None if mean is None else mean[chunk], smoothing) / 2
            _log_ratio(s, t, p, q, out=a)
            of_p, of_q = torch.linalg.vecdot(p, a)[:, None], torch.linalg.vecdot(q, a)[:, None]
            sums[0] += alpha / 4 * (of_p - of_q).sum()
            if not any(ctx.needs_input_grad):
                continue
            pull = (p - q).mul_(alpha / 4)
            apart = p * (a - of_p) * (alpha / 4) + pull, q * (of_q - a) * (alpha / 4) - pull
            for g, more, logits, h, grad in zip((p, q), apart, (s, t), states, grads, strict=True):
                g = _gradient_of_logits(g, target, smoothing).div_(2).add_(more)
                grad_bias += g.sum(0)
                g = logits.copy_(g)
                torch.mm(g, weight, out=grad[chunk])
                grad_weight += torch.mm(g.mT, h, out=product)
        ctx.save_for_backward(*grads, grad_weight.to(weight_VD.dtype), grad_bias.to(bias_V.dtype))
        smoothed, nll, correct = sums.unbind()
        ctx.mark_non_differentiable(nll, correct)
        return smoothed, nll, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        grad_h, grad_other, grad_weight, grad_bias = ctx.saved_tensors
        narrow = grad.to(grad_h.dtype)
        return grad_h * narrow, grad_other * narrow, grad_weight * grad, grad_bias * grad, None, None, None


def _log_ratio(s_NV: Tensor, t_NV: Tensor, p_NV: Tensor, q_NV: Tensor, out: Tensor) -> Tensor:
    """log p - log q from the logits, since probabilities underflow."""
    apart_N = _log_sum(s_NV, p_NV)[0] - _log_sum(t_NV, q_NV)[0]
    return out.copy_(s_NV).sub_(t_NV).sub_(apart_N[:, None])  # not sub(s, t, out), which would round to bfloat16


def _log_sum(logits_NV: Tensor, p_NV: Tensor) -> tuple[Tensor, Tensor]:
    """log Σ exp(logits) from the largest logit and its probability, which cannot underflow; and the token of both."""
    token_N = _largest(p_NV)
    best_N, p_N = (x.gather(1, token_N[:, None])[:, 0].to(p_NV.dtype) for x in (logits_NV, p_NV))
    return best_N - p_N.log(), token_N


def _largest(p_NV: Tensor) -> Tensor:
    """argmax over V, ties to the first: the best of equal parts, then the best within it.

    Torch's own argmax is scalar and single-threaded on a CPU; `amax`, which does most of the work here, is neither.
    """
    parts_NPW = p_NV.unflatten(1, (-1, _part(p_NV.shape[1])))
    best_N = parts_NPW.amax(2).argmax(1)
    within_NW = parts_NPW[torch.arange(len(p_NV), device=p_NV.device), best_N]
    return best_N * parts_NPW.shape[2] + within_NW.argmax(1)


def _part(size: int) -> int:
    """A divisor of `size`, nearly a multiple of the 32 elements that `amax` takes at a time."""
    return min((width for width in range(1, 321) if size % width == 0), key=lambda width: (width % 32 / width, -width))


def _mean_logits(h_ND: Tensor, weight_VD: Tensor, bias_V: Tensor, dtype: torch.dtype) -> Tensor:
    """mean_v (h Wᵀ + b), without the logits."""
    return (h_ND.to(dtype) @ weight_VD.sum(0, dtype=dtype) + bias_V.sum(dtype=dtype)) / len(weight_VD)


def _scores(
    logits_NV: Tensor,
    p_NV: Tensor,
    target_N: Tensor,
    mean_N: Tensor | None,
    smoothing: float,
    groups_GN: Tensor | None = None,
) -> Tensor:
    """[smoothed, nll, correct] summed over the rows [3], or over those of each group [3, G].

    p = softmax(logits); mean: the mean logit of each row, None without smoothing.
    """

    def summed(x_N: Tensor) -> Tensor:
        return x_N.sum() if groups_GN is None else groups_GN.to(x_N.dtype) @ x_N

    total_N, token_N = _log_sum(logits_NV, p_NV)
    nll = summed(total_N - logits_NV.gather(1, target_N[:, None])[:, 0])
    smoothed = nll
    if mean_N is not None:
        smoothed = (1 - smoothing) * nll + smoothing * summed(total_N - mean_N)
    return torch.stack([smoothed, nll, summed((token_N == target_N).to(nll.dtype))])


def _gradient_of_logits(p_NV: Tensor, target_N: Tensor, smoothing: float) -> Tensor:
    """p - (1 - ε) one_hot - ε/V, computed in place of p."""
    if smoothing:
        p_NV -= smoothing / p_NV.shape[1]
    ones = torch.ones_like(target_N, dtype=p_NV.dtype)[:, None]
    return p_NV.scatter_add_(1, target_N[:, None], ones * (smoothing - 1))
