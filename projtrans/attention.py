"""The paper's file: how queries meet keys, and everything that multi-head attention shares.

    StandardAttention, eq. (1)            Vaswani et al. 2017, "Attention Is All You Need"
    ProjectionAttention, eq. (10), (14)   Sanger 2026, "Scaled Dot-Product Attention implements projection of inputs
                                          onto a common surface", arXiv 2602.02521

Axes: B sentences, T queries, S keys, D model width, H heads, K head width. Masks: True = may attend.
A variant writes its equation twice: `logits`, as it stands in the paper, and `dot_form`, the same numbers as one dot
product for torch's fused kernels; tests hold both against a float64 transcription. Knows no layers, tokens or files.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from projtrans.config import setting
from projtrans.errors import ConfigError

Role = Literal["encoder", "decoder", "cross"]
"""Where a module stands: self-attention of the encoder, of the decoder, or attention of the decoder to the source."""

EXACT_BELOW = 0.2
"""σ on unit vectors under which bfloat16 products would move the weights: logits then err by over 0.01 nats."""

SMALLEST_LEARNED = 0.1
"""σ on unit vectors that learning does not go under (Swin v2 clamps its logit scale at 100 = 1/0.1² likewise)."""

TINY = 1e-6


# --------------------------------------------------------------------------------------------------------- settings


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """How a query meets the keys; `kind` chooses which of the variants' own settings exist."""

    kind: str = setting("projection", "standard (scaled dot product) or projection (Gaussian of width σ, Sanger 2026)")

    @classmethod
    def kinds(cls) -> "dict[str, type[AttentionConfig]]":
        """The settings of every kind, by its name in YAML."""
        return {kind: variant.Config for kind, variant in VARIANTS.items()}


@dataclass(frozen=True, kw_only=True)
class StandardConfig(AttentionConfig):
    """Scaled dot-product attention has no settings of its own."""

    kind: str = "standard"


Sigma = float | Literal["auto"]


@dataclass(frozen=True, kw_only=True)
class SigmaConfig:
    """Initial σ for each use of attention; `auto` starts where scaled dot-product attention would."""

    self: Sigma = setting("auto", "σ of self-attention", above=0)
    cross: Sigma = setting("auto", "σ of the decoder's attention to the source", above=0)
    encoder: Sigma | None = setting(None, "σ of the encoder's self-attention, where it differs from self", above=0)
    decoder: Sigma | None = setting(None, "σ of the decoder's self-attention, where it differs from self", above=0)

    def of(self, role: Role) -> Sigma:
        apart = {"encoder": self.encoder, "decoder": self.decoder, "cross": self.cross}[role]
        return self.self if apart is None else apart


@dataclass(frozen=True, kw_only=True)
class ProjectionConfig(AttentionConfig):
    """Projection attention (Sanger 2026): Gaussian weights of width σ on the distances of queries and keys."""

    kind: str = "projection"
    sigma: SigmaConfig = setting(SigmaConfig, "initial σ")
    learn_sigma: Literal["none", "module", "head"] = setting("head", "learn log σ: not, one a module, or one a head")
    normalize: Literal["none", "head", "model"] = setting(
        "head", "queries and keys of unit length: not, in every head, or over the model width before slicing into heads"
    )
    values: Literal["own", "keys"] = setting("own", "what is averaged: W_v x, or the keys of the distance (eq. 14)")

    def __post_init__(self) -> None:
        if self.learn_sigma == "none" or self.normalize != "head":
            return
        for name, sigma in vars(self.sigma).items():
            if isinstance(sigma, float) and sigma < SMALLEST_LEARNED:
                raise ConfigError(
                    f"sigma.{name}: a learned σ on unit vectors starts at {SMALLEST_LEARNED} or more, not {sigma:g}; "
                    "or set learn_sigma to none"
                )


# ----------------------------------------------------------------------------------------------------------- shared


@dataclass
class KeysValues:
    """What queries attend to; in the decoder it grows by one position a step."""

    k_BHSK: Tensor
    v_BHSK: Tensor | None  # None: the keys are the values

    def append(self, new: "KeysValues") -> "KeysValues":
        """These positions followed by the new ones."""
        if self.v_BHSK is None or new.v_BHSK is None:
            return KeysValues(torch.cat([self.k_BHSK, new.k_BHSK], 2), None)
        return KeysValues(torch.cat([self.k_BHSK, new.k_BHSK], 2), torch.cat([self.v_BHSK, new.v_BHSK], 2))

    def select(self, rows: Tensor) -> "KeysValues":
        """The given rows of the batch, in that order, repeats allowed."""
        v = None if self.v_BHSK is None else self.v_BHSK.index_select(0, rows)
        return KeysValues(self.k_BHSK.index_select(0, rows), v)


class MultiHeadAttention(nn.Module):
    """Concat(head_1 .. head_H) W_o with head = softmax(logits(q, k)) v (Vaswani et al. 2017, section 3.2.2).

    A variant overrides `logits` and `dot_form`, and `project_keys` where the values are not a projection of their own.
    """

    Config: ClassVar[type[AttentionConfig]]
    own_values: bool = True  # W_v exists
    role: Role
    initial_sigma: float | None = None  # None: the variant has no σ
    exact: bool = False  # queries, keys and logits in float32 even under bfloat16 autocast

    def __init__(self, width: int, heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.head_width, self.dropout = heads, head_width, dropout
        inner = heads * head_width
        # One matrix [W_q; W_k; W_v]: self-attention then needs one product instead of three.
        self.qkv = nn.Linear(width, inner * (3 if self.own_values else 2))
        self.output = nn.Linear(inner, width)

    def reset_parameters(self) -> None:
        """Glorot uniform for every one of W_q, W_k, W_v, W_o; biases 0."""
        for part in self.qkv.weight.detach().split(self.heads * self.head_width):
            nn.init.xavier_uniform_(part)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.output.bias)

    # Projections

    def project(self, x_BTD: Tensor) -> tuple[Tensor, KeysValues]:
        """Queries [B, H, T, K], keys and values of self-attention."""
        if self.exact:
            return self.project_queries(x_BTD), self.project_keys(x_BTD)
        q, *kv = self._heads(F.linear(x_BTD, self.qkv.weight, self.qkv.bias))
        return self.condition(q), self._keys_values(kv)

    def project_queries(self, x_BTD: Tensor) -> Tensor:
        """Queries [B, H, T, K]."""
        return self.condition(self._linear(x_BTD, 0, 1, self.exact)[0])

    def project_keys(self, memory_BSD: Tensor) -> KeysValues:
        """Keys and values of what is attended to."""
        if self.exact and self.own_values:
            return self._keys_values([*self._linear(memory_BSD, 1, 2, True), *self._linear(memory_BSD, 2, 3, False)])
        return self._keys_values(self._linear(memory_BSD, 1, 3 if self.own_values else 2, self.exact))

    def condition(self, x_BHTK: Tensor) -> Tensor:
        """What a variant does to queries and keys before they meet (nothing here)."""
        return x_BHTK

    def _keys_values(self, kv: list[Tensor]) -> KeysValues:
        return KeysValues(self.condition(kv[0]), kv[1] if self.own_values else None)

    def _linear(self, x_BTD: Tensor, first: int, last: int, exact: bool) -> list[Tensor]:
        """Rows `first` to `last` of [W_q; W_k; W_v] applied to x, each as heads; `exact` in float32."""
        inner = self.heads * self.head_width
        rows = slice(first * inner, last * inner)
        with torch.autocast(x_BTD.device.type, enabled=not exact and torch.is_autocast_enabled(x_BTD.device.type)):
            x_BTD = x_BTD.to(self.qkv.weight.dtype) if exact else x_BTD
            return self._heads(F.linear(x_BTD, self.qkv.weight[rows], self.qkv.bias[rows]))

    def _heads(self, projected: Tensor) -> list[Tensor]:
        """[B, T, n H K] to n tensors [B, H, T, K]."""
        parts = projected.unflatten(-1, (-1, self.heads, self.head_width))  # [B, T, n, H, K]
        return list(parts.permute(2, 0, 3, 1, 4).unbind(0))

    # Attention

    def forward(self, q_BHTK: Tensor, memory: KeysValues, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """The output [B, T, D] for queries, keys and values that `project...` made.

        mask: broadcastable to [B, 1, T, S], True = may attend; a row without a single True gives zeros before W_o.
        causal: query t sees keys up to S - T + t, whatever else the mask allows.
        """
        k = memory.k_BHSK
        v = self.values(k) if memory.v_BHSK is None else memory.v_BHSK
        attend = self._fused if self._fused_pays(q_BHTK, k) else self._plain
        y_BHTK = attend(q_BHTK, k, v, mask, causal and q_BHTK.shape[2] > 1)
        return self.output(y_BHTK.transpose(1, 2).flatten(2))

    def weights(self, q_BHTK: Tensor, k_BHSK: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """The attention weights [B, H, T, S], float32 or wider: rows sum to 1, or are 0 where nothing may be seen."""
        logits = self._logits(q_BHTK, k_BHSK)
        mask = _visible(mask, causal, logits)
        if mask is None:
            return logits.softmax(-1)
        # Masked in the log domain, which is the paper's zero before the row normalisation (eq. 15, 16).
        p = logits.masked_fill(~mask, torch.finfo(logits.dtype).min).softmax(-1)
        return p.masked_fill(~mask, 0.0)  # only rows without a visible key need it: softmax made them uniform

    def logits(self, q_BHTK: Tensor, k_BHSK: Tensor) -> Tensor:
        """log of the unnormalised weights [B, H, T, S], up to a constant of each row."""
        raise NotImplementedError

    def dot_form(self, q_BHTK: Tensor, k_BHSK: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys whose plain dot products are `logits`, up to a constant of each row."""
        raise NotImplementedError

    def sigma(self) -> Tensor:
        """σ of every head, or of the module, where the variant has one."""
        raise NotImplementedError

    def values(self, k_BHSK: Tensor) -> Tensor:
        """The values, where they are the keys."""
        return k_BHSK

    def _logits(self, q_BHTK: Tensor, k_BHSK: Tensor) -> Tensor:
        device = q_BHTK.device.type
        with torch.autocast(device, enabled=not self.exact and torch.is_autocast_enabled(device)):
            logits = self.logits(q_BHTK, k_BHSK)
        return logits if logits.dtype == torch.float64 else logits.float()

    def _plain(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        p_BHTS = self.weights(q, k, mask, causal)
        if self.dropout and self.training:
            p_BHTS = F.dropout(p_BHTS, self.dropout)
        return p_BHTS.to(v.dtype) @ v

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        device, width = q.device.type, v.shape[-1]
        with torch.autocast(device, enabled=not self.exact and torch.is_autocast_enabled(device)):
            q, k = self.dot_form(q, k)
        common = torch.float32 if self.exact and v.dtype == torch.bfloat16 else v.dtype
        q, k, v = q.to(common), k.to(common), v.to(common)
        pad = q.shape[-1] - width  # fused kernels want values as wide as the keys
        # is_causal aligns the first query with the first key, which is wrong for cached queries: a mask is right.
        aligned = causal and mask is None and q.shape[2] == k.shape[2]
        with torch.autocast(device, enabled=not self.exact and torch.is_autocast_enabled(device)):
            y = F.scaled_dot_product_attention(
                q,
                k,
                F.pad(v, (0, pad)) if pad else v,
                attn_mask=None if aligned else _visible(mask, causal, q, k.shape[2]),
                dropout_p=self.dropout if self.training else 0.0,
                is_causal=aligned,
                scale=1.0,
            )
        return y[..., :width]

    def _fused_pays(self, q_BHTK: Tensor, k_BHSK: Tensor) -> bool:
        """Whether torch's fused kernel beats two batched products here (docs/benchmarks.md, attention)."""
        return q_BHTK.device.type != "cpu" or q_BHTK.shape[2] * k_BHSK.shape[2] > 256 * 256


def _visible(mask: Tensor | None, causal: bool, like: Tensor, keys: int | None = None) -> Tensor | None:
    """The mask with causality in it, for `like` of shape [..., T, S], or [..., T, K] and the number of keys."""
    if not causal:
        return mask
    queries, keys = like.shape[-2], keys or like.shape[-1]
    triangle = torch.ones(queries, keys, dtype=torch.bool, device=like.device).tril(keys - queries)
    return triangle if mask is None else mask & triangle


# --------------------------------------------------------------------------------------------------------- variants


class StandardAttention(MultiHeadAttention):
    """Scaled dot-product attention."""

    Config = StandardConfig

    def __init__(
        self, config: StandardConfig, role: Role, *, width: int, heads: int, head_width: int, dropout: float
    ) -> None:
        super().__init__(width, heads, head_width, dropout)

    def logits(self, q_BHTK: Tensor, k_BHSK: Tensor) -> Tensor:
        """Eq. (1): s_ij = q_i · k_j / √K."""
        return q_BHTK @ k_BHSK.mT / math.sqrt(self.head_width)

    def dot_form(self, q_BHTK: Tensor, k_BHSK: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. (1) with 1/√K folded into the queries."""
        return q_BHTK / math.sqrt(self.head_width), k_BHSK


class ProjectionAttention(MultiHeadAttention):
    """Every query projected onto the surface spanned by nearby keys, with Gaussian weights of width σ (Sanger 2026).

    Eq. (10) reads s_ij = -|q_i - k_j|² / 2σ². Expanded, -|q_i|²/2σ² is a constant of the row, which the row
    normalisation cancels; what is left is scaled dot-product attention with one bias per key:

        s_ij ≡ κ (q_i · k_j - |k_j|²/2),    κ = 1/σ²

    and on unit keys the bias is constant too: κ q_i · k_j, which is QK-norm attention.
    """

    Config = ProjectionConfig

    def __init__(
        self, config: ProjectionConfig, role: Role, *, width: int, heads: int, head_width: int, dropout: float
    ) -> None:
        self.own_values = config.values == "own"
        super().__init__(width, heads, head_width, dropout)
        self.role, self.normalize = role, config.normalize
        sigma = config.sigma.of(role)
        self.initial_sigma = self.matched_sigma() if sigma == "auto" else float(sigma)
        self.exact = self.initial_sigma / self._unit() < EXACT_BELOW
        learned = config.learn_sigma != "none"
        size = heads if config.learn_sigma == "head" else 1
        self.log_sigma = nn.Parameter(torch.empty(size), requires_grad=learned)

    def reset_parameters(self) -> None:
        """As every attention, and σ at its initial value."""
        super().reset_parameters()
        assert self.initial_sigma is not None
        nn.init.constant_(self.log_sigma, math.log(self.initial_sigma))

    def matched_sigma(self) -> float:
        """The σ at which the weights are those of scaled dot-product attention where all key norms are equal."""
        return self.head_width**-0.25 * self._unit()

    def _unit(self) -> float:
        """The length of a typical query or key: 1 if unit per head, √(1/H) if a slice of a unit vector, √K as is."""
        return {"head": 1.0, "model": self.heads**-0.5, "none": self.head_width**0.5}[self.normalize]

    def sigma(self) -> Tensor:
        """σ of every head (or of the module), float32, [H] or [1]."""
        if self.log_sigma.requires_grad and self.normalize == "head":
            return self.log_sigma.clamp(min=math.log(SMALLEST_LEARNED)).exp()
        return self.log_sigma.exp()

    def condition(self, x_BHTK: Tensor) -> Tensor:
        """Unit length over the model width: all heads of a position together."""
        if self.normalize != "model":
            return x_BHTK
        x = x_BHTK.float() if x_BHTK.dtype == torch.bfloat16 else x_BHTK
        return x / torch.linalg.vector_norm(x, dim=(1, 3), keepdim=True).clamp(min=TINY)

    def logits(self, q_BHTK: Tensor, k_BHSK: Tensor) -> Tensor:
        """Eq. (10) without its constant of the row: s_ij = κ (q_i · k_j - |k_j|²/2), or κ q_i · k_j / |q_i||k_j|."""
        kappa_H11 = self.sigma().pow(-2).view(-1, 1, 1)
        products = q_BHTK @ k_BHSK.mT
        products = products.float() if products.dtype == torch.bfloat16 else products
        if self.normalize == "head":
            # Dividing the products by the norms is cheaper than dividing the vectors: T S numbers, not (T + S) K.
            return products * (kappa_H11 / _norm(q_BHTK)) / _norm(k_BHSK).mT
        return kappa_H11 * (products - _norm(k_BHSK).square().mT / 2)

    def dot_form(self, q_BHTK: Tensor, k_BHSK: Tensor) -> tuple[Tensor, Tensor]:
        """Unit keys: (κ q̂, k̂). Otherwise the bias as columns: ([κq, κ, κ, κ], [k, and -|k|²/2 as three addends])."""
        kappa_H11 = self.sigma().pow(-2).view(-1, 1, 1)
        if self.normalize == "head":
            return q_BHTK * (kappa_H11 / _norm(q_BHTK)), k_BHSK / _norm(k_BHSK)
        bias = -_norm(k_BHSK).square() / 2
        columns, rest = [], bias
        for _ in range(3):  # one bfloat16 column would be as bad as a bfloat16 bias; three carry all of float32
            columns.append(rest.bfloat16().to(bias.dtype))
            rest = rest - columns[-1]
        columns[-1] = columns[-1] + rest  # nothing is lost in float32 and float64
        kappa = kappa_H11.expand(q_BHTK.shape[0], self.heads, q_BHTK.shape[2], 3)
        return torch.cat([q_BHTK * kappa_H11, kappa], -1), torch.cat([k_BHSK.to(bias.dtype), *columns], -1)

    def values(self, k_BHSK: Tensor) -> Tensor:
        """Eq. (14): the very keys of the distance."""
        return k_BHSK / _norm(k_BHSK).to(k_BHSK.dtype) if self.normalize == "head" else k_BHSK


def _norm(x_BHSK: Tensor) -> Tensor:
    """Lengths [B, H, S, 1], float32 or wider, never 0."""
    dtype = torch.float64 if x_BHSK.dtype == torch.float64 else torch.float32
    return torch.linalg.vector_norm(x_BHSK, dim=-1, keepdim=True, dtype=dtype).clamp(min=TINY)


VARIANTS: dict[str, Any] = {"standard": StandardAttention, "projection": ProjectionAttention}


def build_attention(
    config: AttentionConfig, role: Role, *, width: int, heads: int, head_width: int, dropout: float
) -> MultiHeadAttention:
    """The attention module that the configuration asks for: the one place where the YAML word becomes a class."""
    variant = VARIANTS[config.kind]
    module: MultiHeadAttention = variant(config, role, width=width, heads=heads, head_width=head_width, dropout=dropout)
    return module


def sigmas(model: nn.Module) -> dict[str, list[float]]:
    """σ of every module of a network that has one, by its name: one a head, or one."""
    return {name: [round(value, 6) for value in module.sigma().tolist()] for name, module in _with_sigma(model)}


def initial_sigmas(model: nn.Module) -> dict[str, str]:
    """For each role, in words, the σ that its modules begin with, and whether it is learned."""
    return {
        module.role: f"{module.initial_sigma:.4g} ({'learned' if module.sigma().requires_grad else 'fixed'})"
        for _, module in _with_sigma(model)
    }


def _with_sigma(model: nn.Module) -> Iterator[tuple[str, MultiHeadAttention]]:
    for name, module in model.named_modules():
        if isinstance(module, MultiHeadAttention) and module.initial_sigma is not None:
            yield name, module
