"""Every switch of attention learns: a hundred updates of a tiny model, for every pair of settings and every preset."""

import itertools
import math
from statistics import fmean
from typing import Any

import pytest
import torch

from projtrans.config import build, dump
from projtrans.model.attention import AttentionConfig
from projtrans.model.multihead import MultiHeadAttention
from tests.attention_cases import COVERING, PRESETS, PROJECTION, STANDARD
from tests.tiny_training import fresh, train

pytestmark = pytest.mark.slow

KINDS = ("standard", "projection")
ALONE: list[dict[str, Any]] = [
    STANDARD,
    PROJECTION,
    *({"kind": kind, "normalize": value} for kind in KINDS for value in ("none", "head", "model")),
    *({"kind": kind, "values": "keys"} for kind in KINDS),
    *({"kind": kind, "values": "raw_keys", "normalize": "head"} for kind in KINDS),
    *({"kind": kind, "tie_query_key": True} for kind in KINDS),
    *({"kind": kind, "decay": decay} for kind, decay in itertools.product(KINDS, (3.0, "learned"))),
    *({"kind": "standard", "learn_scale": value} for value in ("none", "module", "head")),
    *({"learn_sigma": value} for value in ("none", "module", "head")),
    *({"distance": value} for value in ("squared", "euclidean")),
    {"sigma": {"self": 0.3, "cross": 0.5}},
    {"sigma": {"encoder": 0.3, "decoder": 0.5, "cross": 0.4}},
]
"""Every value of every switch, the rest as it is by default."""


def distinct() -> dict[str, dict[str, Any]]:
    """The attention sections, each once, however many uses and ways of writing it has."""
    named = [(f"pairs of settings: {use}", use.raw) for use in COVERING] + [
        (f"preset {use}", use.raw) for use in PRESETS
    ]
    named += [(f"alone: {raw}", raw) for raw in ALONE]
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for name, raw in named:
        section = dump(build(AttentionConfig, dict(raw)))
        found.setdefault(str(section), (name, section))
    return dict(found.values())


SECTIONS = distinct()


def test_every_value_of_every_switch_stands_alone_somewhere() -> None:
    """But for raw keys, which need unit vectors."""
    for kind, variant in AttentionConfig.kinds().items():
        default = dump(build(AttentionConfig, {"kind": kind}))
        for case in COVERING:
            section = dump(case.config)
            if type(case.config) is variant:
                for key in section.keys() - {"kind", "decay", "sigma"}:
                    raw = {"kind": kind, key: section[key]}
                    if section[key] == "raw_keys":
                        raw["normalize"] = "head"
                    assert dump(build(AttentionConfig, raw)) in SECTIONS.values(), f"{key} {section[key]}"
        assert default in SECTIONS.values()


@pytest.mark.parametrize("section", SECTIONS.values(), ids=[name.replace(" ", "_") for name in SECTIONS])
def test_a_hundred_updates_lower_the_loss_and_move_what_is_learned(section: dict[str, Any]) -> None:
    model = fresh(section)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    fixed = {name: buffer.clone() for name, buffer in model.named_buffers() if "log_" in name}
    losses = train(model, 100)
    assert losses[0] > math.log(15) - 0.5, "at first nothing is known"
    assert all(math.isfinite(loss) for loss in losses)
    assert fmean(losses[-10:]) < 0.8 * fmean(losses[:10])
    assert fmean(losses[-10:]) < fmean(losses[40:50]), "to the end"
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), name
        assert not torch.equal(parameter, before[name]), f"{name} stands still"
    for name, buffer in model.named_buffers():
        assert name not in fixed or torch.equal(buffer, fixed[name]), f"{name} is fixed"
    for module in model.modules():
        if isinstance(module, MultiHeadAttention) and module.normalize == "head" and module.log_sigma.requires_grad:
            assert (module.sigma() >= 0.1 - 1e-6).all()
