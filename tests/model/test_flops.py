"""Multiply-adds against torch's own count of a real forward pass, and against a count by hand."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from projtrans.config import build
from projtrans.model.flops import inner_width, multiply_adds
from projtrans.model.transformer import ModelConfig, Transformer

SMALL: dict[str, Any] = {"width": 32, "heads": 2, "feedforward": 48}

MODELS: list[tuple[str, dict[str, Any]]] = [
    ("unequal depths", {"layers": {"encoder": 2, "decoder": 3}, "attention": {"kind": "standard"}}),
    ("wide heads", {"head_width": 40, "attention": {"kind": "standard"}}),
    ("narrow heads", {"head_width": 3, "attention": {"kind": "projection"}}),
    ("own values", {"attention": {"kind": "projection"}}),
    ("the keys as values: three matrices", {"attention": {"kind": "projection", "values": "keys"}}),
    ("no unit vectors", {"attention": {"kind": "projection", "normalize": "none"}}),
    ("untied, post-norm, learned positions",
     {"norm": "post", "positions": "learned", "embeddings": {"tie": "none"}, "attention": {"kind": "standard"}}),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "settings"), MODELS, ids=[row[0] for row in MODELS])
@pytest.mark.parametrize(("source", "target"), [(7, 5), (3, 9), (1, 1)])
def test_the_count_is_that_of_torch(reason: str, settings: dict[str, Any], source: int, target: int) -> None:
    config = build(ModelConfig, SMALL | settings)
    joint = config.embeddings.tie == "all"
    model = Transformer(config, source_size=61 if joint else 50, target_size=61, max_length=20, joint=joint)
    sources, targets = torch.randint(0, 50, (1, source)), torch.randint(0, 50, (1, target))
    model = model.eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        model.output(model(sources, None, targets))
    assert 2 * multiply_adds(config, 61, source=source, target=target).total == counter.get_total_flops()


def test_every_part_is_the_count_by_hand() -> None:
    settings = {"width": 4, "heads": 2, "head_width": 3, "feedforward": 5, "attention": {"kind": "standard"}}
    config = build(ModelConfig, settings | {"layers": {"encoder": 1, "decoder": 1}})
    count = multiply_adds(config, 7, source=2, target=3)
    assert inner_width(config) == 6
    matrix = 4 * 6
    encoder, decoder = 4 * matrix * 2, 4 * matrix * 3
    cross = 2 * matrix * 3 + 2 * matrix * 2  # W_q, W_o at the target; W_k, W_v at the source
    assert count.attention_projections == encoder + decoder + cross
    assert count.attention_products == 2 * 6 * (2 * 2 + 3 * 3 + 3 * 2)
    assert count.feedforward == 2 * 4 * 5 * (2 + 3)
    assert count.output_layer == 4 * 7 * 3
    assert (count.source_positions, count.target_positions) == (2, 3)


def test_slicing_the_heads_of_the_keras_example_saves_almost_half() -> None:
    """8 heads of 256 against 8 of 32, the rest as in Sanger 2026, without the output layer."""
    settings = {"width": 256, "heads": 8, "feedforward": 2048, "layers": {"encoder": 1, "decoder": 1}}
    wide, sliced = (
        multiply_adds(build(ModelConfig, settings | {"head_width": width}), 15000, source=10, target=10)
        for width in (256, 32)
    )
    assert wide.attention_projections == 8 * sliced.attention_projections
    assert (wide.feedforward, wide.output_layer) == (sliced.feedforward, sliced.output_layer)
    assert sliced.total / wide.total == pytest.approx(0.55, abs=0.02)
