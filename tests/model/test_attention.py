"""The equations against the paper: every path against a transcription and its gradients, and the identities.

Axes: B sentences, T queries, S keys, D model width, H heads, K head width. Masks: True = may attend.
"""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from projtrans.config import build
from projtrans.errors import ConfigError
from projtrans.model.attention import AttentionConfig
from projtrans.model.multihead import MultiHeadAttention
from tests.attention_cases import (
    COVERING,
    EVERY,
    PADDING,
    PROJECTION,
    SETTINGS,
    STANDARD,
    B,
    D,
    H,
    S,
    T,
    Use,
    all_cases,
    close,
    covering_array,
    goes_together,
    gradients,
    meeting,
    module,
    normal,
    of,
    pairs,
    paths,
    raw_of,
    remembered,
    root_of_the_matched_scale,
    scenes,
    sequences,
    transcribed,
)

every = pytest.mark.parametrize("use", EVERY, ids=str)
covering = pytest.mark.parametrize("use", COVERING, ids=str)

# ------------------------------------------------------------------------------------------------------------- cases


def builds(case: dict[str, Any]) -> bool:
    try:
        build(AttentionConfig, raw_of(case))
    except ConfigError:
        return False
    return True


def test_the_cases_hold_every_pair_of_settings_that_the_loader_admits() -> None:
    admitted = [case for case in all_cases() if builds(case)]
    assert [case for case in all_cases() if goes_together(case)] == admitted
    missing = set().union(*map(pairs, admitted)) - set().union(*map(pairs, covering_array()))
    assert not missing
    held = {pair for row in covering_array() for pair in row.items()}
    assert held == {(key, value) for key, values in SETTINGS.items() for value in values}, "every value of every switch"


# ---------------------------------------------------------------------------------------------------- the transcription


@every
def test_every_path_is_the_paper_forward_and_backward(use: Use) -> None:
    """Weights, outputs, and gradients in both sequences and all parameters: eq. (1), (10), (14) to (16), and W_o."""
    made, config = of(use), use.config
    for scene in scenes(use.role):
        x, memory = (tensor.requires_grad_() for tensor in sequences(made, scene.queries))
        p, expected = transcribed(made, config, x, memory, scene.seen)
        slopes = gradients(expected, x, memory, made)
        q, kv = made.project_queries(x), made.project_keys(memory)
        close(made.weights(q, kv, scene.mask, scene.causal), p, message=scene.name)
        for name, path in paths(made).items():
            y = made.output(path(q, kv, scene.mask, scene.causal).transpose(1, 2).flatten(2))
            close(y, expected, message=f"{name}, {scene.name}")
            q, kv = made.project_queries(x), made.project_keys(memory)
            for wanted, slope in gradients(y, x, memory, made).items():
                close(slope, slopes[wanted], message=f"{name}, {scene.name}: gradient in {wanted}")
        close(made(q, kv, scene.mask, scene.causal), expected, message=f"the chosen path, {scene.name}")


@every
def test_attending_to_oneself_projects_in_one_product_what_it_would_in_two(use: Use) -> None:
    made = of(use)
    _, x = sequences(made)
    q, kv = made.project(x)
    apart = made.project_keys(x)
    close(q, made.project_queries(x), 1e-13)
    assert vars(kv).keys() == vars(apart).keys()
    for name, together in vars(kv).items():
        assert (together is None) == (getattr(apart, name) is None)
        if together is not None:
            close(together, getattr(apart, name), 1e-13, name)


@every
def test_the_logits_are_kappa_q_k_and_a_bias_of_each_key_where_it_is_said_so(use: Use) -> None:
    made = of(use)
    q, kv = meeting(made)
    unit_q = q if made.normalize == "none" else q / made._length(q)
    logits = made.logits(unit_q, made.keys(kv))
    bias = made.key_bias(kv)
    dots = made.kappa() * (unit_q @ made.keys(kv).mT) + (0 if bias is None else bias)
    difference = dots - logits
    spread = (difference - difference.mean(-1, keepdim=True)).abs().max() / logits.abs().max()
    assert (spread < 1e-12) == made.dot_form


@every
def test_kappa_is_one_over_the_square_of_sigma(use: Use) -> None:
    made = of(use)
    assert made.kappa().shape == (len(made.log_sigma), 1, 1)
    close(made.kappa().flatten() * made.sigma() ** 2, torch.ones_like(made.sigma()), 1e-13)


# ------------------------------------------------------------------------------------------------ other people's code


@pytest.mark.parametrize("role", ["encoder", "decoder", "cross"])
def test_standard_attention_is_that_of_torch(role: Any) -> None:
    made = module(STANDARD, role)
    for scene in scenes(role):
        q, kv = meeting(made, scene.queries)
        heads = F.scaled_dot_product_attention(q, kv.k_BHSK, kv.v_BHSK, attn_mask=scene.seen)
        expected = made.output(heads.transpose(1, 2).flatten(2))
        close(made(q, kv, scene.mask, scene.causal), expected, 1e-12, scene.name)


def test_standard_attention_is_the_multi_head_attention_of_torch() -> None:
    made = module(STANDARD, "cross", head_width=D // H)
    torchs = nn.MultiheadAttention(D, H, batch_first=True, dtype=torch.float64)
    torchs.load_state_dict(
        {
            "in_proj_weight": made.qkv.weight,
            "in_proj_bias": made.qkv.bias,
            "out_proj.weight": made.output.weight,
            "out_proj.bias": made.output.bias,
        }
    )
    x, memory = sequences(made)
    expected, p = torchs(x, memory, memory, key_padding_mask=~PADDING[:, 0, 0], average_attn_weights=False)
    q, kv = made.project_queries(x), made.project_keys(memory)
    close(made(q, kv, PADDING), expected, 1e-12)
    close(made.weights(q, kv, PADDING), p, 1e-12)


@pytest.mark.parametrize("sigma", [0.2, 0.7, 3.0])
def test_unit_projection_is_attention_with_normalised_queries_and_keys(sigma: float) -> None:
    """QK-norm attention with logit scale 1/σ² (Henry et al. 2020), by torch."""
    made = module({"normalize": "head", "learn_sigma": "none", "sigma": {"self": sigma}})
    q, kv = meeting(made)
    unit_q, unit_k = F.normalize(q, dim=-1), F.normalize(kv.k_BHSK, dim=-1)
    heads = F.scaled_dot_product_attention(unit_q, unit_k, kv.v_BHSK, scale=1 / sigma**2)
    close(made(q, kv), made.output(heads.transpose(1, 2).flatten(2)), 1e-12)


SHARED = [
    {"values": values, "tie_query_key": tie, "decay": decay}
    for values, tie, decay in itertools.product(["own", "keys", "raw_keys"], [False, True], [None, "learned"])
]


@pytest.mark.parametrize("shared", SHARED, ids=lambda raw: "-".join(map(str, raw.values())))
@pytest.mark.parametrize("learn", ["module", "head"])
def test_unit_projection_with_learned_sigma_is_standard_attention_with_unit_vectors_and_a_learned_scale(
    shared: dict[str, Any], learn: str
) -> None:
    """Identically: the same parameters, outputs and gradients, in every role, on every path, whatever else is set."""
    for role in ("encoder", "decoder", "cross"):
        standard = module(STANDARD | shared | {"normalize": "head", "learn_scale": learn}, role)
        projection = module(PROJECTION | shared | {"normalize": "head", "learn_sigma": learn}, role)
        projection.load_state_dict(standard.state_dict())
        assert dict(standard.named_parameters()).keys() == dict(projection.named_parameters()).keys()
        assert standard.initial_sigma == projection.initial_sigma
        assert standard.exact == projection.exact
        scene = scenes(role)[1]
        x, memory = (tensor.requires_grad_() for tensor in sequences(standard, scene.queries))
        for name in paths(standard):
            outcomes = []
            for made in (standard, projection):
                heads = paths(made)[name](made.project_queries(x), made.project_keys(memory), scene.mask, scene.causal)
                outcomes.append({"y": heads} | gradients(heads, x, memory, made))
            for wanted, value in outcomes[0].items():
                close(outcomes[1][wanted], value, 1e-12, f"{role} {name}: {wanted}")


# ------------------------------------------------------------------------------------------------------------- decay


@pytest.mark.parametrize("role", ["encoder", "decoder"])
@pytest.mark.parametrize("decay", [0.5, 2.5, "learned"])
@pytest.mark.parametrize("base", [STANDARD, PROJECTION, {"distance": "euclidean"}], ids=["dot", "squared", "euclidean"])
def test_decay_multiplies_the_weights_and_in_the_decoder_is_a_bias_of_each_key(
    base: dict[str, Any], decay: Any, role: Any
) -> None:
    """exp(-|t - s|/τ); under a causal mask -t/τ is constant in a row, so it is exp(s/τ) there."""
    made, still = module(base | {"decay": decay}, role), module(base, role)
    for scene in scenes(role):
        q, kv = meeting(made, scene.queries)
        s = torch.arange(S, dtype=torch.float64)
        t, tau = s[S - scene.queries :, None], made.log_tau.exp().view(-1, 1, 1)
        weighted = still.weights(q, kv, scene.mask, scene.causal) * (-(t - s).abs() / tau).exp()
        total = weighted.sum(-1, keepdim=True)
        found = made.weights(q, kv, scene.mask, scene.causal)
        close(found, weighted / total.where(total > 0, torch.ones_like(total)), 1e-12, scene.name)
        if role == "decoder":
            assert made.decay_bias(scene.queries, S).shape[1] == 1, "one number a key"
            close(made.decay_bias(scene.queries, S)[:, 0], (s - s[-1]) / tau[:, 0], 1e-12)


def test_attention_to_the_source_knows_no_decay() -> None:
    made = module({"decay": "learned"}, "cross")
    assert made.decay is None
    assert made.decay_bias(T, S) is None
    assert not [name for name, _ in made.named_parameters() if "tau" in name]


# -------------------------------------------------------------------------------------------------- the matched sigma


def with_norms(x: Tensor, length: float, dims: Any) -> Tensor:
    return x * length / torch.linalg.vector_norm(x, dim=dims, keepdim=True)


SIZES = [(2, 3), (4, 8), (1, 5), (3, 1)]
sizes = pytest.mark.parametrize(("heads", "head_width"), SIZES)


@sizes
@pytest.mark.parametrize("kind", ["standard", "projection"])
@pytest.mark.parametrize("normalize", ["none", "head", "model"])
def test_the_matched_sigma_starts_as_standard_attention_where_key_norms_are_equal(
    kind: str, normalize: str, heads: int, head_width: int
) -> None:
    """σ₀ = K^¼, K^-¼ or (K/D²)^¼ with D = H K.

    Without normalisation any queries will do. Unit vectors lose their length, so the standard attention to equal is
    that of vectors of the length √K a head that layer normalisation gives them (over the model width: √(H K) in all).
    """
    learn = {"learn_scale" if kind == "standard" else "learn_sigma": "none"}
    made = module({"kind": kind, "normalize": normalize} | learn, "cross", heads=heads, head_width=head_width)
    q = normal(B, heads, T, head_width, seed=1)
    k = with_norms(normal(B, heads, S, head_width, seed=2), math.sqrt(head_width), -1)
    if normalize == "head":
        q = with_norms(q, math.sqrt(head_width), -1)
    if normalize == "model":
        q = with_norms(q, math.sqrt(heads * head_width), (1, 3))
    close(made.weights(q, remembered(made, k)), (q @ k.mT / math.sqrt(head_width)).softmax(-1), 1e-12)
    assert made.sigma().tolist() == pytest.approx([made.matched_sigma()], rel=1e-12)


@sizes
@pytest.mark.parametrize("distance", ["squared", "euclidean"])
@pytest.mark.parametrize("normalize", ["none", "head", "model"])
def test_the_matched_sigma_is_that_of_the_formula(normalize: str, distance: str, heads: int, head_width: int) -> None:
    """For |q - k|: the slope of |q - k|² at the distance of orthogonal vectors of typical norm."""
    raw = {"normalize": normalize, "distance": distance, "learn_sigma": "none"}
    made: MultiHeadAttention = module(raw, heads=heads, head_width=head_width)
    expected = root_of_the_matched_scale(build(AttentionConfig, raw), heads, head_width)
    assert made.matched_sigma() == made.initial_sigma == pytest.approx(expected, rel=1e-12)
