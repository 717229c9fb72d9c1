"""The settings of attention: values and learning of σ and τ, what is refused, how a kind is found.

Axes: B sentences, T queries, S keys, D model width, H heads, K head width.
"""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn

from projtrans.config import build
from projtrans.errors import ConfigError
from projtrans.model import multihead
from projtrans.model.attention import AttentionConfig, ProjectionAttention, StandardAttention
from projtrans.model.multihead import VARIANTS, Role, build_attention
from projtrans.model.transformer import ModelConfig
from tests.attention_cases import (
    EVERY,
    PROJECTION,
    ROLES,
    STANDARD,
    B,
    D,
    H,
    K,
    S,
    T,
    Use,
    close,
    meeting,
    module,
    normal,
    of,
    paths,
    sequences,
    transcribed,
)

# ------------------------------------------------------------------------------------------------------------- σ and τ

NUMBERS = [
    ("standard", {"kind": "standard"}, set()),
    ("standard, learned", {"kind": "standard", "learn_scale": "head"}, {"log_sigma"}),
    ("standard, learned τ", {"kind": "standard", "decay": "learned"}, {"log_tau"}),
    ("projection, fixed", {"learn_sigma": "none", "decay": 3.0}, set()),
    ("projection", {"decay": 3.0}, {"log_sigma"}),
    ("projection, both", {"learn_sigma": "module", "decay": "learned"}, {"log_sigma", "log_tau"}),
]


@pytest.mark.parametrize(("raw", "learned"), [row[1:] for row in NUMBERS], ids=[row[0] for row in NUMBERS])
def test_a_number_that_is_not_learned_is_configuration_and_no_weight(raw: dict[str, Any], learned: set[str]) -> None:
    made = module(raw)
    matrices = {"qkv.weight", "qkv.bias", "output.weight", "output.bias"}
    assert {name for name, _ in made.named_parameters()} == matrices | learned
    assert made.state_dict().keys() == matrices | learned
    assert all(parameter.requires_grad for parameter in made.parameters())
    other = module(raw | ({"decay": 5.0} if raw.get("decay") == 3.0 else {}))
    other.load_state_dict(made.state_dict())
    if raw.get("decay") == 3.0:
        assert other.log_tau.item() == pytest.approx(math.log(5)), "the weights do not bring their τ along"


@pytest.mark.parametrize(("kind", "setting"), [("standard", "learn_scale"), ("projection", "learn_sigma")])
@pytest.mark.parametrize(("learn", "count"), [("none", 1), ("module", 1), ("head", H)])
def test_sigma_is_learned_as_often_as_asked(kind: str, setting: str, learn: str, count: int) -> None:
    made = module({"kind": kind, setting: learn})
    assert made.log_sigma.shape == (count,)
    assert made.log_sigma.requires_grad == (learn != "none")
    assert made.kappa().shape == (count, 1, 1)


USES: list[tuple[Role, float]] = [("encoder", 1.5), ("decoder", 2.5), ("cross", 3.5)]


@pytest.mark.parametrize(("role", "expected"), USES)
def test_every_use_of_attention_has_its_own_initial_sigma(role: Role, expected: float) -> None:
    raw = {"normalize": "none", "sigma": {"self": 1.5, "cross": 3.5, "decoder": 2.5}}
    made = build_attention(build(AttentionConfig, raw), role, width=D, heads=H, head_width=K, dropout=0)
    made.reset_parameters()
    assert made.sigma().tolist() == pytest.approx([expected] * H)


@pytest.mark.parametrize("heads", [1, 2, 4, 8])
def test_tau_starts_where_it_is_set_or_as_the_slopes_of_alibi(heads: int) -> None:
    """Slopes 2^(-8/H), .. 2^-8 (Press et al. 2022), which are 1/τ."""
    sizes: dict[str, Any] = {"width": D, "heads": heads, "head_width": K, "dropout": 0}
    fixed = build_attention(build(AttentionConfig, {"decay": 3.0}), "encoder", **sizes)
    learned = build_attention(build(AttentionConfig, {"decay": "learned"}), "decoder", **sizes)
    for made in (fixed, learned):
        made.reset_parameters()
    assert fixed.log_tau.exp().tolist() == pytest.approx([3.0])
    assert learned.log_tau.exp().tolist() == pytest.approx([2 ** (8 * (h + 1) / heads) for h in range(heads)])


CONSTRAINED = [
    {"kind": "standard", "learn_scale": "module"},
    {"kind": "standard", "learn_scale": "head"},
    {"learn_sigma": "module"},
    {"learn_sigma": "head"},
    {"learn_sigma": "head", "distance": "euclidean"},
]


@pytest.mark.parametrize("raw", CONSTRAINED, ids=lambda raw: "-".join(raw.values()))
def test_an_update_beyond_the_bound_comes_back_to_it_and_the_gradient_goes_on(raw: dict[str, Any]) -> None:
    made = module(raw | {"normalize": "head"})
    x = normal(B, S, D)
    bound = math.log(0.1)
    for step in (100.0, 1e-3):  # far beyond, and on from the bound
        made.zero_grad()
        made(*made.project(x)).square().sum().backward()
        assert made.log_sigma.grad is not None
        assert made.log_sigma.grad.all()
        with torch.no_grad():
            made.log_sigma -= step
        multihead.constrain(nn.ModuleList([made]))  # a network holds it somewhere inside
        assert made.log_sigma.tolist() == pytest.approx([bound] * len(made.log_sigma))
    with torch.no_grad():
        made.log_sigma += 0.5
    multihead.constrain(made)
    assert made.log_sigma.tolist() == pytest.approx([bound + 0.5] * len(made.log_sigma)), "above it nothing is touched"


FREE = [
    {"normalize": "none", "sigma": {"self": 0.01}},
    {"normalize": "model", "sigma": {"self": 0.01}},
    {"normalize": "head", "learn_sigma": "none", "sigma": {"self": 0.01}},
]


@pytest.mark.parametrize("raw", FREE, ids=lambda raw: raw["normalize"])
def test_a_sigma_that_is_fixed_or_not_of_unit_vectors_has_no_bound(raw: dict[str, Any]) -> None:
    made = build_attention(build(AttentionConfig, raw), "encoder", width=D, heads=H, head_width=K, dropout=0)
    made.reset_parameters()
    made.constrain()
    assert made.sigma().tolist() == pytest.approx([0.01] * len(made.log_sigma))


def test_sigma_is_reported_for_modules_that_have_one() -> None:
    network = nn.ModuleDict(
        {
            "plain": module(STANDARD),
            "scaled": module(STANDARD | {"learn_scale": "module"}),
            "fixed": module({"learn_sigma": "none", "sigma": {"cross": 0.7}}, "cross"),
            "learned": module({"sigma": {"decoder": 0.5}}, "decoder"),
        }
    )
    reported = multihead.sigmas(network)
    assert reported.keys() == {"scaled", "fixed", "learned"}
    assert reported["fixed"] == [0.7]
    for name, values in reported.items():
        assert values == pytest.approx(network[name].sigma().tolist(), abs=1e-6)  # type: ignore[operator]
    start = f"{K**0.25:.4g} (learned)"
    assert multihead.initial_sigmas(network) == {"encoder": start, "cross": "0.7 (fixed)", "decoder": "0.5 (learned)"}
    assert multihead.sigmas(network.requires_grad_(False)) == reported, "of averaged weights, which take no gradient"
    assert multihead.initial_sigmas(network) == {"encoder": start, "cross": "0.7 (fixed)", "decoder": "0.5 (learned)"}


@pytest.mark.parametrize("use", EVERY, ids=str)
def test_weights_that_take_no_gradient_give_the_same_on_every_path(use: Use) -> None:
    """As in a moving average, which validation and translation use."""
    made = of(use)
    q, kv = meeting(made)
    expected = {name: path(q, kv, None, False) for name, path in paths(made).items()}
    made.requires_grad_(False)
    q, kv = meeting(made)
    for name, path in paths(made).items():
        close(path(q, kv, None, False), expected[name], 1e-14, name)


# ------------------------------------------------------------------------------------------ registration and settings


def test_the_word_in_yaml_becomes_the_class_in_one_place() -> None:
    assert dict(VARIANTS) == {"standard": StandardAttention, "projection": ProjectionAttention}
    for (kind, variant), role in itertools.product(VARIANTS.items(), ROLES):
        made = module({"kind": kind}, role)
        assert type(made) is variant
        assert made.role == role
        assert AttentionConfig.kinds()[kind] is variant.Config
        assert isinstance(build(AttentionConfig, {"kind": kind}), variant.Config)


PROBLEMS: list[tuple[str, dict[str, Any], str, list[str]]] = [
    ("raw keys are the keys", {"values": "raw_keys", "normalize": "none"}, "values", ["raw keys", "normalize"]),
    ("for both kinds", {"kind": "standard", "values": "raw_keys"}, "values", ["raw keys", "normalize"]),
    (
        "σ of self that nothing uses",
        {"sigma": {"self": 1.0, "encoder": 0.5, "decoder": 0.5}},
        "sigma.self",
        ["encoder"],
    ),
    ("σ of another kind", {"kind": "standard", "sigma": {"self": 1.0}}, "sigma", ["standard"]),
    ("learn_sigma of another kind", {"kind": "standard", "learn_sigma": "none"}, "learn_sigma", ["learn_scale"]),
    ("learn_scale of another kind", {"learn_scale": "head"}, "learn_scale", ["projection", "learn_sigma"]),
    ("a distance of another kind", {"kind": "standard", "distance": "squared"}, "distance", ["standard"]),
    ("no such normalisation", {"kind": "standard", "normalize": "heads"}, "normalize", ["none", "head", "model"]),
    ("no such values", {"values": "raw"}, "values", ["own", "keys", "raw_keys"]),
    ("no such distance", {"distance": "manhattan"}, "distance", ["squared", "euclidean"]),
    ("a tie is true or false", {"tie_query_key": "self"}, "tie_query_key", ["true or false"]),
    ("decay of nothing", {"decay": 0}, "decay", ["≥ 0.001"]),
    ("decay backwards", {"kind": "standard", "decay": -2.0}, "decay", ["≥ 0.001"]),
    ("decay so fast that nothing is left", {"decay": 1e-40}, "decay", ["≥ 0.001"]),
    ("σ whose square is 0", {"sigma": {"self": 1e-20}}, "sigma.self", ["≥ 1e-06"]),
    ("decay in words", {"decay": "auto"}, "decay", ["learned", "null"]),
]


@pytest.mark.parametrize(("raw", "path", "words"), [row[1:] for row in PROBLEMS], ids=[row[0] for row in PROBLEMS])
def test_settings_that_make_no_attention_are_one_line_with_their_path(
    raw: dict[str, Any], path: str, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        build(ModelConfig, {"attention": raw}, "model")
    message = str(caught.value)
    assert message.startswith(f"model.attention.{path}: ")
    assert len(message.splitlines()) == 1
    assert all(word in message for word in words)


BELOW = [("self", 0.09), ("self", 0.05), ("cross", 0.01), ("encoder", 0.05), ("decoder", 0.05)]


@pytest.mark.parametrize(("key", "sigma"), BELOW)
@pytest.mark.parametrize("learn", ["module", "head"])
@pytest.mark.parametrize("distance", ["squared", "euclidean"])
def test_a_learned_sigma_on_unit_vectors_that_starts_below_a_tenth_is_refused(
    key: str, sigma: float, learn: str, distance: str
) -> None:
    raw = {"normalize": "head", "learn_sigma": learn, "distance": distance, "sigma": {key: sigma}}
    with pytest.raises(ConfigError) as caught:
        build(ModelConfig, {"attention": raw}, "model")
    message = str(caught.value)
    assert message.startswith(f"model.attention.sigma.{key}: ")
    assert all(word in message for word in ("0.1", f"{sigma:g}", "learn_sigma"))
    assert len(message.splitlines()) == 1


# ------------------------------------------------------------------------------------------------------- small change


@pytest.mark.parametrize("raw", [STANDARD, PROJECTION | {"values": "keys"}, {"tie_query_key": True}], ids=str)
def test_fresh_matrices_are_glorot_uniform_each_on_its_own(raw: dict[str, Any]) -> None:
    width, heads, head_width = 96, 4, 48
    torch.manual_seed(0)
    sizes = {"width": width, "heads": heads, "head_width": head_width}
    made = build_attention(build(AttentionConfig, raw), "encoder", **sizes, dropout=0)
    made.reset_parameters()
    bound = math.sqrt(6 / (width + heads * head_width))
    for part in (*made.qkv.weight.split(heads * head_width), made.output.weight):
        assert part.abs().max() <= bound
        # n numbers of variance bound²/3 and kurtosis 9/5: their mean square is within 5 standard errors.
        error = bound**2 / 3 * math.sqrt(4 / 5 / part.numel())
        assert part.square().mean().item() == pytest.approx(bound**2 / 3, abs=5 * error)
    assert not made.qkv.bias.any()
    assert not made.output.bias.any()


@pytest.mark.parametrize("raw", [STANDARD, PROJECTION, {"normalize": "model"}], ids=str)
def test_the_heads_may_be_wider_together_than_the_model(raw: dict[str, Any]) -> None:
    """The Keras example's heads are 256 wide each."""
    made = module(raw, "cross", heads=3, head_width=7, width=4)
    x, memory = sequences(made)
    seen = torch.ones(B, 1, T, S, dtype=torch.bool)
    p, y = transcribed(made, build(AttentionConfig, raw), x, memory, seen)
    close(made(made.project_queries(x), made.project_keys(memory)), y, 1e-12)
    assert p.shape == (B, 3, T, S)
