"""A small Transformer in float64 and padded sentences for it, none of whose numbers are 0 or 1 by chance.

Axes: B sentences. Masks: True = may attend.
"""

import math
from typing import Any

import torch
from torch import Tensor

from projtrans.config import build
from projtrans.model.multihead import MultiHeadAttention
from projtrans.model.transformer import ModelConfig, Transformer

SOURCES, TARGETS, LONGEST = 13, 11, 12
PAD = 0


def transformer(
    *, kind: str = "projection", joint: bool = False, source_size: int = SOURCES, **given: Any
) -> Transformer:
    """A small model in float64, its norms, biases and σ stirred so that nothing is 0 or 1 by chance."""
    settings = {
        "layers": {"encoder": 2, "decoder": 2},
        "width": 8,
        "heads": 2,
        "feedforward": 12,
        "dropout": 0.0,
        "embeddings": {"tie": "none"},
        "attention": {"kind": kind},
        **given,
    }
    torch.manual_seed(3)
    config = build(ModelConfig, settings)
    model = Transformer(config, source_size=source_size, target_size=TARGETS, max_length=LONGEST, joint=joint).double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
        for module in model.modules():  # a fixed σ, as float64 has it
            if isinstance(module, MultiHeadAttention) and not module.log_sigma.requires_grad:
                module.log_sigma.fill_(math.log(module.initial_sigma))
    return model


def sentences(b: int, length: int, size: int, seed: int = 1) -> Tensor:
    """Ids [B, length], none of them padding."""
    return torch.randint(1, size, (b, length), generator=torch.Generator().manual_seed(seed))


def padded(b: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Sources of lengths 5, 3, 1, their mask, and targets of 4."""
    source = sentences(b, 5, TARGETS)
    mask = torch.ones_like(source, dtype=torch.bool)
    for row in range(b):
        mask[row, 5 - 2 * row :] = False
    return source.masked_fill(~mask, PAD), mask, sentences(b, 4, TARGETS, seed=2)


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
