"""The equations of attention, next to their papers.

    StandardAttention, eq. (1)            Vaswani et al. 2017, "Attention Is All You Need"
    ProjectionAttention, eq. (10), (14)   Sanger 2026, "Scaled Dot-Product Attention implements projection of inputs
                                          onto a common surface", arXiv 2602.02521

Equations are written for one q_i and k_j of one head, already of unit length if `normalize` says so. What all kinds
share (projections, masks, caches, decay, fast implementations) is in multihead.py. Knows no mask, cache or layer.

Axes: B sentences, T queries, S keys, H heads, K head width.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from projtrans.config import setting
from projtrans.errors import ConfigError
from projtrans.model.attention_function import length
from projtrans.model.multihead import (
    SMALLEST_LEARNED,
    AttentionConfig,
    KeysValues,
    Learned,
    MultiHeadAttention,
    Role,
    Sigma,
    register,
)


@dataclass(frozen=True, kw_only=True)
class StandardConfig(AttentionConfig):
    """Scaled dot-product attention; with normalisation and a learned scale, QK-norm attention (Henry et al. 2020)."""

    kind: str = "standard"
    learn_scale: Learned = setting(
        "none", "learned scale of the logits, from the usual one: none, one per module, or one per head"
    )


@dataclass(frozen=True, kw_only=True)
class SigmaConfig:
    """Initial σ by role; `auto` starts as scaled dot-product attention does."""

    self: Sigma = setting("auto", "σ of self-attention", minimum=1e-6)
    cross: Sigma = setting("auto", "σ of the decoder's attention to the source", minimum=1e-6)
    encoder: Sigma | None = setting(None, "σ of the encoder's self-attention, if it differs from self", minimum=1e-6)
    decoder: Sigma | None = setting(None, "σ of the decoder's self-attention, if it differs from self", minimum=1e-6)

    def __post_init__(self) -> None:
        if self.self != "auto" and None not in (self.encoder, self.decoder):
            raise ConfigError("self: has no effect where encoder and decoder are given; leave it out")

    def of(self, role: Role) -> Sigma:
        apart = {"encoder": self.encoder, "decoder": self.decoder, "cross": self.cross}[role]
        return self.self if apart is None else apart


@dataclass(frozen=True, kw_only=True)
class ProjectionConfig(AttentionConfig):
    """Projection attention (Sanger 2026): Gaussian weights of width σ on the distances between queries and keys."""

    kind: str = "projection"
    sigma: SigmaConfig = setting(SigmaConfig, "initial σ")
    learn_sigma: Learned = setting("head", "learned log σ: none, one per module, or one per head")
    normalize: Literal["none", "head", "model"] = setting(
        "head",
        "scale queries and keys to unit length: none, in every head, or over the model width before slicing into heads",
    )
    distance: Literal["squared", "euclidean"] = setting(
        "squared", "|q - k|², as eq. (3) expands it, or |q - k|, as eq. (10) prints it"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learn_sigma == "none" or self.normalize != "head":
            return
        for name, sigma in vars(self.sigma).items():
            if isinstance(sigma, float) and sigma < SMALLEST_LEARNED:
                raise ConfigError(
                    f"sigma.{name}: a learned σ on unit vectors starts at {SMALLEST_LEARNED} or more, not {sigma:g}; "
                    "or set learn_sigma to none"
                )


@register
class StandardAttention(MultiHeadAttention):
    """Scaled dot-product attention; with normalisation and a learned scale, QK-norm attention."""

    Config = StandardConfig
    dot_form = True

    def __init__(self, config: StandardConfig, role: Role, **sizes: Any) -> None:
        super().__init__(config, role, **sizes, learn=config.learn_scale)

    def logits(self, q_BHTK: Tensor, k_BHSK: Tensor) -> Tensor:
        """Eq. (1): s_ij = κ q_i · k_j, with κ = 1/√K; for unit vectors κ also replaces the norms divided out."""
        return self.kappa() * (q_BHTK @ k_BHSK.mT)


@register
class ProjectionAttention(MultiHeadAttention):
    """Every query projected onto the surface spanned by nearby keys, with Gaussian weights of width σ (Sanger 2026).

    Eq. (10) reads s_ij = -|q_i - k_j|² / 2σ². When expanded, -|q_i|²/2σ² is constant in a row and cancels in the row
    normalisation; what remains is scaled dot-product attention with one bias per key:

        s_ij ≡ κ (q_i · k_j - |k_j|²/2),    κ = 1/σ²

    For unit keys the bias is constant too, leaving κ q_i · k_j, which is QK-norm attention.
    """

    Config = ProjectionConfig
    has_sigma = True

    def __init__(self, config: ProjectionConfig, role: Role, **sizes: Any) -> None:
        self.dot_form = config.distance == "squared"
        super().__init__(config, role, **sizes, sigma=config.sigma.of(role), learn=config.learn_sigma)

    def matched_sigma(self) -> float:
        """As for every attention; for |q - k|, the σ with the same slope at √2, where orthogonal unit vectors lie."""
        squared = super().matched_sigma()
        return squared if self.dot_form else squared / math.sqrt(2 * math.sqrt(2) * self.unit())

    def logits(self, q_BHTK: Tensor, k_BHSK: Tensor) -> Tensor:
        """Eq. (10) without the constant of each row; for the Euclidean distance, -|q - k| / 2σ²."""
        if self.dot_form:
            return self.kappa() * (q_BHTK @ k_BHSK.mT - _half_square(k_BHSK).mT)
        # By differences: with products, the root would turn an error of 1e-7 near 0 into 4e-4. Its slope at 0 is 0.
        wide = [x.float() if x.dtype == torch.bfloat16 else x for x in (q_BHTK, k_BHSK)]
        return -self.kappa() / 2 * torch.cdist(wide[0], wide[1], compute_mode="donot_use_mm_for_euclid_dist")

    def key_bias(self, memory: KeysValues) -> Tensor | None:
        """-κ |k_j|²/2; None for unit keys, where it is constant."""
        return None if self.normalize == "head" else -self.kappa() * _half_square(self.keys(memory)).mT


def _half_square(x_BHSK: Tensor) -> Tensor:
    """|x|²/2, [B, H, S, 1], float32 or wider."""
    return length(x_BHSK, (3,)).square() / 2
