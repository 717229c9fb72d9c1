"""A tiny Transformer with any attention, trained in a second on made-up pairs: what the tests of training share."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from projtrans.config import build
from projtrans.inference.torch_translator import TorchStepper
from projtrans.model.loss import cross_entropy
from projtrans.model.multihead import constrain
from projtrans.model.transformer import ModelConfig, Transformer
from projtrans.runs.settings import OptimizerConfig
from projtrans.search.decoding import DecodingConfig
from projtrans.search.rules import Rules
from projtrans.search.search import SearchRequest, search
from projtrans.training.optimizer import build_optimizer, clip, rate, set_rate

PAD, BOS, EOS, FIRST = 0, 1, 2, 3
PIECES, LONGEST, PAIRS = 15, 6, 200


def pairs() -> tuple[Tensor, Tensor]:
    """Sources and targets [PAIRS, LONGEST + 1] of two to six pieces and an end; a target is its source, next pieces."""
    generator = torch.Generator().manual_seed(3)
    source = torch.randint(FIRST, PIECES, (PAIRS, LONGEST + 1), generator=generator)
    target = (source - FIRST + 1) % (PIECES - FIRST) + FIRST
    length = torch.randint(2, LONGEST + 1, (PAIRS, 1), generator=generator)
    place = torch.arange(LONGEST + 1)
    return tuple(  # type: ignore[return-value]
        side.masked_fill(place == length, EOS).masked_fill(place > length, PAD) for side in (source, target)
    )


def fresh(attention: Mapping[str, Any], heads: int = 2) -> Transformer:
    """The model: width 32, one layer a side."""
    settings = {
        "layers": {"encoder": 1, "decoder": 1},
        "width": 32,
        "heads": heads,
        "feedforward": 64,
        "dropout": 0.0,
        "attention": dict(attention),
    }
    torch.manual_seed(1)
    sizes = {"source_size": PIECES, "target_size": PIECES, "max_length": LONGEST + 1}
    return Transformer(build(ModelConfig, settings), **sizes, joint=True)


def train(model: Transformer, updates: int, batch: int = 32) -> list[float]:
    """The loss of every update, in nats per token; as the training loop takes them."""
    config = build(OptimizerConfig, {"learning_rate": 0.005, "schedule": "constant", "warmup_updates": 5})
    optimizer, (sources, targets) = build_optimizer(model, config), pairs()
    losses = []
    for update in range(1, updates + 1):
        rows = torch.arange(update * batch, (update + 1) * batch) % PAIRS
        source, target = sources[rows], targets[rows]
        before = torch.cat([torch.full((batch, 1), BOS), target[:, :-1]], 1)
        real = target != PAD
        h = model(source, source != PAD, before)[real]
        loss = cross_entropy(h, model.output.weight, model.output.bias, target[real], 0.0).smoothed / real.sum()
        loss.backward()
        set_rate(optimizer, rate(config, update, updates))
        assert math.isfinite(clip(model.parameters(), 1.0).item()), "a gradient that is no number"
        optimizer.step()
        constrain(model)
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def translate(model: Transformer, source: Tensor, beam_size: int) -> list[list[int]]:
    """The best translations by the real search."""
    memory = model.eval().encode(source, source != PAD)
    request = SearchRequest(
        limits=[LONGEST + 1] * len(source),
        rules=Rules(bos_id=BOS, eos_id=EOS, banned_ids=[PAD, BOS]),
        decoding=build(DecodingConfig, {"beam_size": beam_size}),
    )
    found = search(TorchStepper(model, memory, len(source)), request)
    return [hypotheses[0].tokens for hypotheses in found]
