"""An attention that the product does not know: docs/attention.md shows it as the way to add one.

Axes: T queries, S keys, H heads, K head width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from projtrans.config import setting
from projtrans.model.multihead import AttentionConfig, Learned, MultiHeadAttention, Role


@dataclass(frozen=True, kw_only=True)
class LaplaceConfig(AttentionConfig):
    """Weights exp(-|q - k|₁ / σ)."""

    kind: str = "laplace"
    sigma: float = setting(1.0, "initial σ", above=0)
    learn_sigma: Learned = setting("head", "learn log σ: not, one a module, or one a head")


class LaplaceAttention(MultiHeadAttention):
    """The sum of the differences instead of the square root of the sum of their squares."""

    Config = LaplaceConfig
    has_sigma = True

    def __init__(self, config: LaplaceConfig, role: Role, **sizes: Any) -> None:
        super().__init__(config, role, **sizes, sigma=config.sigma, learn=config.learn_sigma)

    def logits(self, q_BHTK: Tensor, k_BHSK: Tensor) -> Tensor:
        return -torch.cdist(q_BHTK, k_BHSK, p=1.0) / self.sigma().view(-1, 1, 1)
