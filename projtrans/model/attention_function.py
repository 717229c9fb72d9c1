"""Attention as two batched products around a softmax, with a hand-written gradient.

    s_ij = κ q_i·k_j / (|q_i| |k_j|) + b_ij        p_ij = softmax_j(s_ij)        y_i = Σ_j p_ij v_j        (1)

If queries and keys are normalised, their norms divide the products: T S numbers instead of (T + S) K. In the gradient,
normalising then costs one more term in dq and dk, instead of the five more passes over q and k that automatic
differentiation makes.

Axes: B sentences, H heads, T queries, S keys, K head width. Knows no module, setting or paper.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SHORT = 16
"""Row length from which torch's softmax is vectorised, in float32 with AVX-512."""

TINY = 1e-6
"""Lower bound of a norm: shorter vectors are divided by this instead."""


def length(x_BHTK: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The Euclidean norms of x over `dims`, kept as axes of size 1; float32 or wider, never 0."""
    dtype = torch.float64 if x_BHTK.dtype == torch.float64 else torch.float32
    return torch.linalg.vector_norm(x_BHTK, dim=dims, keepdim=True, dtype=dtype).clamp(min=TINY)


def masked_softmax(s_BHTS: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax over S; rows sum to 1, or are 0 if fully masked. mask: True = may attend.

    Masking in the log domain equals the paper's zeros before the row normalisation (Sanger 2026, eq. 15, 16).
    """
    if mask is None:
        return _softmax(s_BHTS)
    p = _softmax(s_BHTS.masked_fill(~mask, torch.finfo(s_BHTS.dtype).min))
    return p.masked_fill(~mask, 0.0)  # needed only by fully masked rows, which softmax made uniform


def _softmax(s_BHTS: Tensor) -> Tensor:
    """Softmax over S; short rows are padded on a CPU, where torch's scalar path takes up to eight times as long."""
    S = s_BHTS.shape[-1]
    if torch.compiler.is_compiling() or s_BHTS.device.type != "cpu" or S >= SHORT:  # a traced graph must hold for any S
        return s_BHTS.softmax(-1)
    return F.pad(s_BHTS, (0, SHORT - S), value=torch.finfo(s_BHTS.dtype).min).softmax(-1)[..., :S]


def attend(
    q_BHTK: Tensor,
    k_BHSK: Tensor,
    v_BHSK: Tensor | None,
    kappa: Tensor,
    *,
    bias: Tensor | None = None,
    q_length: Tensor | None = None,
    k_length: Tensor | None = None,
    unit_values: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    """y [B, H, T, K] of (1), in the precision of the values.

    v: None if the keys are the values; unit_values: the keys as values are divided by their norms.
    kappa: [H, 1, 1] or [1, 1, 1], float32 or wider. bias: broadcastable to [B, H, T, S].
    q_length, k_length: `length` of q and k, per head or over all heads; None: not normalised. Their gradient is in
    those of q and k. mask: broadcastable to [B, 1, T, S], True = may attend.
    """
    y: Tensor = _Attend.apply(q_BHTK, k_BHSK, v_BHSK, kappa, bias, q_length, k_length, unit_values, mask)
    return y


class _Attend(torch.autograd.Function):
    """(1) and its gradient: with u_ij = ∂L/∂p_ij = ⟨∂L/∂y_i, v_j⟩, ∂L/∂s = p (u - E_p u)."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor | None,
        kappa: Tensor,
        bias: Tensor | None,
        q_length: Tensor | None,
        k_length: Tensor | None,
        unit_values: bool,
        mask: Tensor | None,
    ) -> Tensor:
        with torch.autocast(q.device.type, enabled=False):
            B, H = q.shape[:2]
            flat_q, flat_k = q.flatten(0, 1), k.flatten(0, 1)
            flat_v = flat_k if v is None else v.flatten(0, 1)
            products = torch.bmm(flat_q, flat_k.mT).unflatten(0, (B, H))
            s = _scaled(products, kappa, q_length, k_length)
            if bias is not None:
                s += bias
            p = masked_softmax(s, mask)
            taken = p / k_length.mT if unit_values and k_length is not None else p
            y = torch.bmm(taken.to(flat_v.dtype).flatten(0, 1), flat_v).unflatten(0, (B, H))
        ctx.save_for_backward(flat_q, flat_k, None if v is None else flat_v, kappa, q_length, k_length, products, p)
        ctx.unit_values, ctx.bias = unit_values, None if bias is None else bias.shape
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k, v, kappa and the bias; those of the norms are part of q's and k's."""
        with torch.autocast(dy.device.type, enabled=False):  # in case backward is called inside autocast
            return _gradients(ctx, dy)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    q, k, own, kappa, q_length, k_length, products, p = ctx.saved_tensors
    v, dy = (k if own is None else own), dy.flatten(0, 1)
    u = torch.bmm(dy.to(v.dtype), v.mT).view_as(p).to(p.dtype)
    taken = p
    if ctx.unit_values and k_length is not None:
        u, taken = u / k_length.mT, p / k_length.mT
    pu = p * u
    ds = torch.addcmul(pu, p, pu.sum(-1, keepdim=True), value=-1)
    dproducts = _scaled(ds, kappa, q_length, k_length)
    shares = dproducts * products  # each pair's share in the gradient of log κ, and of -log |q_i| and -log |k_j|
    dv = torch.bmm(taken.to(v.dtype).flatten(0, 1).mT, dy.to(v.dtype))
    flat = dproducts.to(q.dtype).flatten(0, 1)
    dq = torch.bmm(flat, k)
    dk = torch.bmm(flat.mT, q) if own is not None else torch.baddbmm(dv.to(k.dtype), flat.mT, q)
    if q_length is not None:
        _across(dq, q, shares.sum(-1, keepdim=True), q_length)
    if k_length is not None:
        of_keys = shares.sum(-2)
        _across(dk, k, (of_keys + pu.sum(-2) if ctx.unit_values else of_keys).unsqueeze(-1), k_length)
    dkappa = (shares.sum((0, 2, 3))[:, None, None] / kappa).sum_to_size(kappa.shape)
    dbias = ds.sum_to_size(ctx.bias) if ctx.needs_input_grad[4] else None
    dq, dk, dv = (x.unflatten(0, p.shape[:2]) for x in (dq, dk, dv))
    return dq, dk, None if own is None else dv, dkappa, dbias, None, None, None, None


def _scaled(x_BHTS: Tensor, kappa: Tensor, q_length: Tensor | None, k_length: Tensor | None) -> Tensor:
    """x κ / (|q_i| |k_j|) as a new tensor, float32 or wider."""
    x = x_BHTS * (kappa if q_length is None else kappa / q_length)
    return x if k_length is None else x.mul_(k_length.reciprocal().mT)


def _across(dx: Tensor, x: Tensor, along: Tensor, lengths: Tensor) -> None:
    """Subtract from dx [B·H, T, K] its part along x, x ⟨x, dx⟩ / |x|², which normalising removes; along = ⟨x, dx⟩."""
    if lengths.shape[1] == 1:  # one norm for all heads
        along = along.sum(1, keepdim=True)
    share = (along / lengths.square()).masked_fill(lengths <= TINY, 0.0).expand(-1, x.shape[0] // along.shape[0], -1, 1)
    dx.addcmul_(x, share.flatten(0, 1).to(dx.dtype), value=-1)
