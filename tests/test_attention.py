"""The paper's file against the paper: every path beside a nested-loop transcription in float64, and the identities.

Axes: B sentences, T queries, S keys, D model width, H heads, K head width. Masks: True = may attend.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from projtrans.attention import (
    AttentionConfig,
    KeysValues,
    MultiHeadAttention,
    ProjectionAttention,
    ProjectionConfig,
    Role,
    SigmaConfig,
    StandardConfig,
    build_attention,
)
from projtrans.config import build
from projtrans.errors import ConfigError
from projtrans.transformer import ModelConfig

B, T, S, D, H, K = 2, 4, 5, 6, 2, 3
STANDARD = StandardConfig()
PROJECTIONS = [
    ProjectionConfig(normalize=normalize, learn_sigma=learn, values=values)  # type: ignore[arg-type]
    for normalize, learn, values in itertools.product(
        ["none", "head", "model"], ["none", "module", "head"], ["own", "keys"]
    )
]
EVERY: list[AttentionConfig] = [STANDARD, *PROJECTIONS]


def words(config: Any) -> str:
    """The name of a case."""
    if not isinstance(config, ProjectionConfig):
        return str(getattr(config, "kind", config))
    return f"{config.normalize}-σ of {config.learn_sigma}-{config.values}"


every = pytest.mark.parametrize("config", EVERY, ids=words)
projections = pytest.mark.parametrize("config", PROJECTIONS, ids=words)
# One of each formula: what a test asks of the shared path does not depend on the rest.
kinds = pytest.mark.parametrize("config", [STANDARD, *(p for p in PROJECTIONS if p.learn_sigma == "head")], ids=words)


def module(
    config: AttentionConfig,
    *,
    role: Role = "encoder",
    heads: int = H,
    head_width: int = K,
    width: int = D,
    dropout: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Any:
    """An attention module with weights, biases and σ that no symmetry makes alike."""
    torch.manual_seed(5)
    made = build_attention(config, role, width=width, heads=heads, head_width=head_width, dropout=dropout)
    made.double().reset_parameters()
    with torch.no_grad():
        made.qkv.bias.normal_(std=0.5)
        made.output.bias.normal_(std=0.5)
        if isinstance(made, ProjectionAttention) and made.log_sigma.requires_grad:
            made.log_sigma += torch.linspace(-0.3, 0.4, len(made.log_sigma))
    return made.to(dtype)


def normal(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def meeting(made: MultiHeadAttention, t: int = T, s: int = S) -> tuple[Tensor, KeysValues]:
    """Queries, keys and values of two sequences of the module's precision."""
    dtype = made.qkv.weight.dtype
    width = made.qkv.weight.shape[1]
    q = made.project_queries(normal(B, t, width, seed=1, dtype=dtype))
    return q, made.project_keys(normal(B, s, width, seed=2, dtype=dtype))


def values_of(made: MultiHeadAttention, kv: KeysValues) -> Tensor:
    return made.values(kv.k_BHSK) if kv.v_BHSK is None else kv.v_BHSK


PADDING = torch.tensor([[True] * S, [True, True, False, True, False]])[:, None, None, :]
EMPTY_ROWS = torch.rand(B, 1, T, S, generator=torch.Generator().manual_seed(4)) < 0.6
EMPTY_ROWS[0, 0, 1] = EMPTY_ROWS[1, 0, 3] = False
MASKS: list[tuple[str, Tensor | None, bool]] = [
    ("nothing masked", None, False),
    ("padding", PADDING, False),
    ("causal", None, True),
    ("padding and causal", PADDING, True),
    ("any mask, with empty rows", EMPTY_ROWS, False),
    ("nothing to see for a whole sentence", torch.tensor([True, False])[:, None, None, None].expand(B, 1, 1, S), False),
]
masks = pytest.mark.parametrize(("mask", "causal"), [row[1:] for row in MASKS], ids=[row[0] for row in MASKS])


# ------------------------------------------------------------------------------------------- slow and obvious oracle


def sliced(made: MultiHeadAttention, x_BTD: Tensor, part: int) -> list[list[list[list[float]]]]:
    """Rows `part` of [W_q; W_k; W_v] applied to x, as [batch][head][position][channel], before any normalisation."""
    inner = made.heads * made.head_width
    weight, bias = made.qkv.weight[part * inner :][:inner], made.qkv.bias[part * inner :][:inner]
    flat = torch.einsum("btd,id->bti", x_BTD, weight) + bias
    return [
        [[row[h * made.head_width :][: made.head_width] for row in rows] for h in range(made.heads)]
        for rows in flat.tolist()
    ]


def of_unit_length(x: list[list[list[list[float]]]], normalize: str) -> list[list[list[list[float]]]]:
    """Every vector over its length: in its head, or over all heads of its position."""

    def length(b: int, h: int, t: int) -> float:
        heads = {"head": [h], "model": range(len(x[b])), "none": []}[normalize]
        return math.sqrt(sum(number**2 for head in heads for number in x[b][head][t])) or 1.0

    return [
        [[[number / length(b, h, t) for number in row] for t, row in enumerate(rows)] for h, rows in enumerate(heads)]
        for b, heads in enumerate(x)
    ]


def equation_1(q: Sequence[float], k: Sequence[float]) -> float:
    """q_i · k_j / √K."""
    return sum(a * b for a, b in zip(q, k, strict=True)) / math.sqrt(len(q))


def equation_10(q: Sequence[float], k: Sequence[float], sigma: float) -> float:
    """-|q_i - k_j|² / 2σ²."""
    return -sum((a - b) ** 2 for a, b in zip(q, k, strict=True)) / (2 * sigma**2)


def transcribed(
    made: MultiHeadAttention, config: AttentionConfig, x_BTD: Tensor, memory_BSD: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The weights [B, H, T, S] and the outputs [B, T, D], number by number; masked weights are 0 before eq. (16)."""
    normalize = config.normalize if isinstance(config, ProjectionConfig) else "none"
    q = of_unit_length(sliced(made, x_BTD, 0), normalize)
    k = of_unit_length(sliced(made, memory_BSD, 1), normalize)
    v = k if isinstance(config, ProjectionConfig) and config.values == "keys" else sliced(made, memory_BSD, 2)
    queries, keys = x_BTD.shape[1], memory_BSD.shape[1]
    p = torch.zeros(len(q), made.heads, queries, keys, dtype=torch.float64)
    joined = torch.zeros(len(q), queries, made.heads * made.head_width, dtype=torch.float64)
    for b, h, i in itertools.product(range(len(q)), range(made.heads), range(queries)):
        if isinstance(made, ProjectionAttention):
            log_sigma = made.log_sigma.tolist()
            sigma = math.exp(log_sigma[h % len(log_sigma)])
            s = [equation_10(q[b][h][i], k[b][h][j], sigma) for j in range(keys)]
        else:
            s = [equation_1(q[b][h][i], k[b][h][j]) for j in range(keys)]
        seen = [True] * keys if mask is None else mask.expand(len(q), 1, queries, keys)[b, 0, i].tolist()
        z = [math.exp(s[j]) if seen[j] else 0.0 for j in range(keys)]
        for j in range(keys):
            p[b, h, i, j] = z[j] / sum(z) if sum(z) else 0.0
            for c in range(made.head_width):
                joined[b, i, h * made.head_width + c] += p[b, h, i, j] * v[b][h][j][c]
    return p, joined @ made.output.weight.T + made.output.bias


@every
def test_logits_are_the_equation_of_the_paper_up_to_a_constant_of_the_row(config: AttentionConfig) -> None:
    made = module(config)
    q, kv = meeting(made)
    p, _ = transcribed(made, config, normal(B, T, D, seed=1), normal(B, S, D, seed=2))
    torch.testing.assert_close(made.logits(q, kv.k_BHSK).softmax(-1), p, rtol=0, atol=1e-12)
    torch.testing.assert_close(made.weights(q, kv.k_BHSK), p, rtol=0, atol=1e-12)


@every
@pytest.mark.parametrize("mask", [None, PADDING, EMPTY_ROWS], ids=["no mask", "padding", "empty rows"])
def test_the_output_is_that_of_the_paper_with_masked_weights_zero_before_the_row_sum(
    config: AttentionConfig, mask: Tensor | None
) -> None:
    """Eq. (15) and (16), and W_o."""
    made = module(config)
    x, memory = normal(B, T, D, seed=1), normal(B, S, D, seed=2)
    p, y = transcribed(made, config, x, memory, mask)
    q, kv = made.project_queries(x), made.project_keys(memory)
    torch.testing.assert_close(made.weights(q, kv.k_BHSK, mask), p, rtol=0, atol=1e-12)
    torch.testing.assert_close(made(q, kv, mask), y, rtol=0, atol=1e-12)


@every
def test_self_attention_projects_in_one_product_what_it_would_in_two(config: AttentionConfig) -> None:
    made = module(config)
    x = normal(B, T, D)
    q, kv = made.project(x)
    torch.testing.assert_close(q, made.project_queries(x), rtol=0, atol=1e-13)
    apart = made.project_keys(x)
    torch.testing.assert_close(kv.k_BHSK, apart.k_BHSK, rtol=0, atol=1e-13)
    assert (kv.v_BHSK is None) == (apart.v_BHSK is None)
    if kv.v_BHSK is not None:
        torch.testing.assert_close(kv.v_BHSK, apart.v_BHSK, rtol=0, atol=1e-13)


@every
def test_the_dot_form_is_the_logits_up_to_a_constant_of_the_row(config: AttentionConfig) -> None:
    made = module(config)
    q, kv = meeting(made)
    queries, keys = made.dot_form(q, kv.k_BHSK)
    difference = queries @ keys.mT - made.logits(q, kv.k_BHSK)
    spread = difference - difference.mean(-1, keepdim=True)
    torch.testing.assert_close(spread, torch.zeros_like(spread), rtol=0, atol=1e-12)


@every
@masks
def test_the_fused_path_is_the_plain_path(config: AttentionConfig, mask: Tensor | None, causal: bool) -> None:
    made = module(config)
    for t in (T, S):
        q, kv = meeting(made, t=t)
        cut = mask if mask is None or mask.shape[2] == 1 or t == T else torch.cat([mask, mask[:, :, :1]], 2)
        arguments = (q, kv.k_BHSK, values_of(made, kv), cut, causal)
        torch.testing.assert_close(made._fused(*arguments), made._plain(*arguments), rtol=0, atol=1e-12)


@kinds
def test_long_sentences_take_the_fused_path_to_the_same_output(config: AttentionConfig) -> None:
    made = module(config)
    x = normal(1, 260, D)
    q, kv = made.project(x)
    assert made._fused_pays(q, kv.k_BHSK)
    plain = made._plain(q, kv.k_BHSK, values_of(made, kv), None, True)
    expected = made.output(plain.transpose(1, 2).flatten(2))
    torch.testing.assert_close(made(q, kv, causal=True), expected, rtol=0, atol=1e-11)


@kinds
@pytest.mark.parametrize("path", ["_plain", "_fused"])
def test_the_paths_agree_in_float32_with_float64(config: AttentionConfig, path: str) -> None:
    wide, narrow = module(config), module(config, dtype=torch.float32)
    outputs = []
    for made in (wide, narrow):
        q, kv = meeting(made)
        outputs.append(getattr(made, path)(q, kv.k_BHSK, values_of(made, kv), PADDING, False))
    torch.testing.assert_close(outputs[1].double(), outputs[0], rtol=0, atol=2e-5)


# ------------------------------------------------------------------------------------------------ other people's code


@masks
def test_standard_attention_is_that_of_torch(mask: Tensor | None, causal: bool) -> None:
    made = module(STANDARD)
    q, kv = meeting(made, t=S)
    mask = mask if mask is None or mask.shape[2] == 1 else torch.cat([mask, mask[:, :, :1]], 2)
    triangle = torch.ones(S, S, dtype=torch.bool).tril()
    seen = mask if not causal else triangle if mask is None else mask & triangle
    heads = F.scaled_dot_product_attention(q, kv.k_BHSK, kv.v_BHSK, attn_mask=seen)
    expected = made.output(heads.transpose(1, 2).flatten(2))
    torch.testing.assert_close(made(q, kv, mask, causal), expected, rtol=0, atol=1e-12)


def test_standard_attention_is_the_multi_head_attention_of_torch() -> None:
    made = module(STANDARD, head_width=D // H)
    torchs = nn.MultiheadAttention(D, H, batch_first=True, dtype=torch.float64)
    torchs.load_state_dict(
        {
            "in_proj_weight": made.qkv.weight,
            "in_proj_bias": made.qkv.bias,
            "out_proj.weight": made.output.weight,
            "out_proj.bias": made.output.bias,
        }
    )
    x, memory = normal(B, T, D, seed=1), normal(B, S, D, seed=2)
    expected, p = torchs(x, memory, memory, key_padding_mask=~PADDING[:, 0, 0], average_attn_weights=False)
    q, kv = made.project_queries(x), made.project_keys(memory)
    torch.testing.assert_close(made(q, kv, PADDING), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(made.weights(q, kv.k_BHSK, PADDING), p, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sigma", [0.2, 0.7, 3.0])
def test_unit_projection_is_attention_with_normalised_queries_and_keys(sigma: float) -> None:
    """QK-norm attention with logit scale 1/σ² (Henry et al. 2020), identically."""
    made = module(ProjectionConfig(normalize="head", learn_sigma="none", sigma=SigmaConfig(self=sigma)))
    q, kv = meeting(made)
    unit_q, unit_k = F.normalize(q, dim=-1), F.normalize(kv.k_BHSK, dim=-1)
    heads = F.scaled_dot_product_attention(unit_q, unit_k, kv.v_BHSK, scale=1 / sigma**2)
    torch.testing.assert_close(made(q, kv), made.output(heads.transpose(1, 2).flatten(2)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("normalize", ["none", "head", "model"])
def test_augmented_keys_a_bias_and_the_distances_themselves_give_one_result(normalize: str) -> None:
    made = module(ProjectionConfig(normalize=normalize))  # type: ignore[arg-type]
    q, kv = meeting(made)
    k, v = kv.k_BHSK, kv.v_BHSK
    if normalize == "head":
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    kappa = made.log_sigma.exp().pow(-2).view(H, 1, 1)
    half = k.square().sum(-1, keepdim=True) / 2
    ones = torch.ones_like(q[..., :1])
    augmented = F.scaled_dot_product_attention(
        torch.cat([kappa * q, kappa * ones], -1), torch.cat([k, -half], -1), F.pad(v, (0, 1)), scale=1
    )[..., :-1]
    bias = F.scaled_dot_product_attention(kappa * q, k, v, attn_mask=-(kappa * half).mT.expand(B, H, T, S), scale=1)
    direct = (-kappa * torch.cdist(q, k, compute_mode="donot_use_mm_for_euclid_dist").square() / 2).softmax(-1) @ v
    ours = made._plain(*meeting(made)[:1], kv.k_BHSK, v, None, False)  # which normalises for itself
    for form in (augmented, bias, direct):
        torch.testing.assert_close(ours, form, rtol=0, atol=1e-12)


# ----------------------------------------------------------------------------------------------------- invariances


def test_moving_queries_and_keys_together_changes_no_weight_without_normalisation() -> None:
    made = module(ProjectionConfig(normalize="none"))
    q, kv = meeting(made)
    shift = normal(K, seed=9) * 3
    moved = made.weights(q - shift, kv.k_BHSK - shift)
    torch.testing.assert_close(moved, made.weights(q, kv.k_BHSK), rtol=0, atol=1e-12)


def test_moving_them_does_change_the_weights_of_standard_attention() -> None:
    made = module(STANDARD)
    q, kv = meeting(made)
    shift = normal(K, seed=9) * 3
    assert (made.weights(q - shift, kv.k_BHSK - shift) - made.weights(q, kv.k_BHSK)).abs().max() > 0.05


def test_turning_queries_and_keys_together_changes_no_weight() -> None:
    turn, _ = torch.linalg.qr(normal(K, K, seed=8))
    for config in EVERY:
        made = module(config)
        q, kv = meeting(made)
        turned = made.weights(q @ turn, kv.k_BHSK @ turn)
        torch.testing.assert_close(turned, made.weights(q, kv.k_BHSK), rtol=0, atol=1e-12, msg=words(config))


def test_the_norm_of_a_query_cancels() -> None:
    """Given the products q·k, the constant of the row -|q|²/2σ² may be anything: longer queries along a new axis."""
    made, wider = (module(ProjectionConfig(normalize="none"), head_width=width) for width in (K, K + 1))
    q, kv = meeting(made)
    wider.log_sigma.data = made.log_sigma.data
    lengths = 100 * normal(B, H, T, 1, seed=3)
    weights = wider.weights(torch.cat([q, lengths], -1), F.pad(kv.k_BHSK, (0, 1)))
    torch.testing.assert_close(weights, made.weights(q, kv.k_BHSK), rtol=0, atol=1e-12)


def test_unit_vectors_forget_how_long_they_were() -> None:
    positive = [normal(B, H, length, 1, seed=seed).exp() for length, seed in ((T, 3), (S, 4))]
    made = module(ProjectionConfig(normalize="head"))
    q, kv = meeting(made)
    stretched = made.weights(q * positive[0], kv.k_BHSK * positive[1])
    torch.testing.assert_close(stretched, made.weights(q, kv.k_BHSK), rtol=0, atol=1e-12)


def test_model_normalisation_makes_every_position_a_unit_vector_over_all_heads() -> None:
    made = module(ProjectionConfig(normalize="model"))
    q, kv = meeting(made)
    for x in (q, kv.k_BHSK):
        lengths = x.transpose(1, 2).flatten(2).norm(dim=-1)
        torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=0, atol=1e-13)
        assert (x.norm(dim=-1) < 0.999).any(), "slices are not of unit length"


@every
@masks
def test_weights_are_probabilities_and_zero_where_nothing_may_be_seen(
    config: AttentionConfig, mask: Tensor | None, causal: bool
) -> None:
    made = module(config)
    q, kv = meeting(made)
    weights = made.weights(q, kv.k_BHSK, mask, causal)
    visible = torch.ones(B, 1, T, S, dtype=torch.bool) if mask is None else mask.expand(B, 1, T, S)
    if causal:
        visible = visible & torch.ones(T, S, dtype=torch.bool).tril(S - T)
    assert (weights >= 0).all()
    assert not weights.masked_select(~visible).any()
    torch.testing.assert_close(weights.sum(-1), visible.any(-1).expand(B, H, T).double(), rtol=0, atol=1e-12)


@every
@pytest.mark.parametrize("path", ["_plain", "_fused"])
def test_a_masked_key_cannot_matter(config: AttentionConfig, path: str) -> None:
    made = module(config)
    q, kv = meeting(made)
    k, v = kv.k_BHSK, values_of(made, kv)
    hidden = ~PADDING[:, 0, 0, :, None][:, None]
    other = (k + 1e3 * normal(*k.shape, seed=6) * hidden, v + 1e3 * hidden)
    expected = getattr(made, path)(q, k, v, PADDING, False)
    torch.testing.assert_close(getattr(made, path)(q, *other, PADDING, False), expected, rtol=0, atol=1e-12)


@every
@pytest.mark.parametrize("path", ["_plain", "_fused"])
def test_rows_that_see_nothing_give_zeros_and_finite_gradients(config: AttentionConfig, path: str) -> None:
    made = module(config)
    x, memory = normal(B, T, D, seed=1).requires_grad_(), normal(B, S, D, seed=2).requires_grad_()
    kv = made.project_keys(memory)
    y = getattr(made, path)(made.project_queries(x), kv.k_BHSK, values_of(made, kv), EMPTY_ROWS, False)
    empty = ~EMPTY_ROWS.any(-1)[:, 0]
    assert not y.transpose(1, 2)[empty].any()
    y.square().sum().backward()
    assert x.grad is not None
    assert not x.grad[empty].any()
    assert x.grad[~empty].any()
    for tensor in (x, memory, *(p for p in made.parameters() if p.requires_grad)):
        assert tensor.grad is None or torch.isfinite(tensor.grad).all()


@every
@pytest.mark.parametrize("path", ["_plain", "_fused"])
def test_no_position_sees_what_comes_after_it(config: AttentionConfig, path: str) -> None:
    made = module(config)
    x = normal(B, S, D)
    for t in range(S - 1):
        future = x.clone()
        future[:, t + 1 :] = 50 * normal(B, S - t - 1, D, seed=7)
        now, then = (
            getattr(made, path)(q, kv.k_BHSK, values_of(made, kv), None, True)
            for q, kv in (made.project(x), made.project(future))
        )
        torch.testing.assert_close(now[:, :, : t + 1], then[:, :, : t + 1], rtol=0, atol=1e-13)
        assert (now[:, :, t + 1 :] - then[:, :, t + 1 :]).abs().max() > 1e-3, "the future itself does change"


@every
@pytest.mark.parametrize("path", ["_plain", "_fused"])
@pytest.mark.parametrize("mask", [None, PADDING], ids=["causal", "padding and causal"])
def test_cached_queries_are_aligned_with_the_last_keys(config: AttentionConfig, path: str, mask: Tensor | None) -> None:
    made = module(config)
    q, kv = made.project(normal(B, S, D))
    k, v = kv.k_BHSK, values_of(made, kv)
    attend = getattr(made, path)
    whole = attend(q, k, v, mask, True)
    for t in range(1, S):
        torch.testing.assert_close(attend(q[:, :, -t:], k, v, mask, True), whole[:, :, -t:], rtol=0, atol=1e-12)


@every
def test_step_by_step_with_a_cache_is_the_whole_causal_pass(config: AttentionConfig) -> None:
    made = module(config)
    x = normal(B, S, D)
    q, kv = made.project(x)
    whole = made(q, kv, causal=True)
    cache: KeysValues | None = None
    for t in range(S):
        q, new = made.project(x[:, t : t + 1])
        cache = new if cache is None else cache.append(new)
        torch.testing.assert_close(made(q, cache, causal=True), whole[:, t : t + 1], rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------------------------------ caches


def test_caches_append_and_select_as_tensors_do() -> None:
    first, second = (KeysValues(normal(3, H, s, K, seed=s), normal(3, H, s, K, seed=s + 10)) for s in (2, 4))
    grown = first.append(second)
    assert torch.equal(grown.k_BHSK, torch.cat([first.k_BHSK, second.k_BHSK], 2))
    assert grown.v_BHSK is not None
    assert first.v_BHSK is not None
    assert second.v_BHSK is not None
    assert torch.equal(grown.v_BHSK, torch.cat([first.v_BHSK, second.v_BHSK], 2))
    rows = torch.tensor([2, 0, 2, 2])
    chosen = grown.select(rows)
    assert torch.equal(chosen.k_BHSK, grown.k_BHSK[rows])
    assert chosen.v_BHSK is not None
    assert torch.equal(chosen.v_BHSK, grown.v_BHSK[rows])


@pytest.mark.parametrize("config", [p for p in PROJECTIONS if p.values == "keys"], ids=words)
def test_keys_as_values_are_stored_once_and_have_no_matrix(config: ProjectionConfig) -> None:
    made = module(config)
    assert made.qkv.weight.shape == (2 * H * K, D)
    q, kv = made.project(normal(B, T, D))
    for cache in (kv, made.project_keys(normal(B, S, D)), kv.append(kv), kv.select(torch.tensor([1]))):
        assert cache.v_BHSK is None
    averaged = made._plain(q, kv.k_BHSK, values_of(made, kv), None, False)
    keys = F.normalize(kv.k_BHSK, dim=-1) if config.normalize == "head" else kv.k_BHSK
    torch.testing.assert_close(averaged, made.weights(q, kv.k_BHSK) @ keys, rtol=0, atol=1e-12)


@pytest.mark.parametrize("config", [STANDARD, *(p for p in PROJECTIONS if p.values == "own")], ids=words)
def test_own_values_are_a_projection_of_their_own(config: AttentionConfig) -> None:
    made = module(config)
    assert made.qkv.weight.shape == (3 * H * K, D)
    memory = normal(B, S, D, seed=2)
    expected = torch.tensor(sliced(made, memory, 2), dtype=torch.float64)
    torch.testing.assert_close(made.project_keys(memory).v_BHSK, expected, rtol=0, atol=1e-12)


# ---------------------------------------------------------------------------------------------------- many numbers


SIGMAS = [1e-3, 1e-2, 0.1, 1.0, 1e1, 1e3]


@pytest.mark.parametrize("path", ["_plain", "_fused"])
@pytest.mark.parametrize("normalize", ["none", "head", "model"])
@pytest.mark.parametrize("sigma", SIGMAS)
def test_no_sigma_makes_identical_queries_and_keys_nan_in_float32(path: str, normalize: str, sigma: float) -> None:
    """A literal exp(-d²/2σ²) over its row sum is 0/0 here (docs: σ of the paper on unit vectors)."""
    learn = "none" if normalize == "head" and sigma < 0.1 else "head"
    config = ProjectionConfig(
        normalize=normalize,  # type: ignore[arg-type]
        learn_sigma=learn,  # type: ignore[arg-type]
        values="keys",
        sigma=SigmaConfig(self=sigma, cross=sigma),
    )
    made = module(config, dtype=torch.float32)
    alike = normal(1, 1, D, dtype=torch.float32).expand(B, S, D)
    for case in (normal(B, S, D, dtype=torch.float32), 30 * normal(B, S, D, dtype=torch.float32), alike, 0 * alike):
        x = case.clone().requires_grad_()
        made.zero_grad()
        q = made.project_queries(x)
        y = getattr(made, path)(q, q, made.values(q), None, True)
        y.square().sum().backward()
        for tensor in (y, x.grad, made.qkv.weight.grad, *([made.log_sigma.grad] if learn == "head" else [])):
            assert torch.isfinite(tensor).all()


def test_a_zero_vector_has_no_direction_and_no_nan() -> None:
    for normalize in ("head", "model"):
        made = module(ProjectionConfig(normalize=normalize, values="keys"), dtype=torch.float32)  # type: ignore[arg-type]
        made.qkv.bias.data.zero_()
        x = torch.zeros(B, S, D, requires_grad=True)
        q, kv = made.project(x)
        weights = made.weights(q, kv.k_BHSK)
        torch.testing.assert_close(weights, torch.full_like(weights, 1 / S), rtol=1e-6, atol=0)
        made(q, kv).sum().backward()
        assert torch.isfinite(x.grad).all()


class Whole(nn.Module):
    """Queries of x attending to a memory, as one function."""

    def __init__(self, attention: MultiHeadAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """The output."""
        return self.attention(self.attention.project_queries(x), self.attention.project_keys(memory))


@every
def test_gradients_are_those_of_finite_differences(config: AttentionConfig) -> None:
    made = module(config, width=4, head_width=2)
    x, memory = normal(1, 2, 4, seed=1).requires_grad_(), normal(1, 3, 4, seed=2).requires_grad_()
    whole = Whole(made)
    assert torch.autograd.gradcheck(whole, (x, memory))
    if isinstance(config, ProjectionConfig) and config.learn_sigma != "none":

        def of_sigma(log_sigma: Tensor) -> Tensor:
            given = {"attention.log_sigma": log_sigma}
            return torch.func.functional_call(whole, given, (x.detach(), memory.detach()))  # type: ignore[no-any-return]

        assert torch.autograd.gradcheck(of_sigma, (made.log_sigma.detach().requires_grad_(),))


# -------------------------------------------------------------------------------------------------------------- sigma


def with_norms(x: Tensor, length: float, dims: Any) -> Tensor:
    return x * length / torch.linalg.vector_norm(x, dim=dims, keepdim=True)


@pytest.mark.parametrize(("heads", "head_width"), [(2, 3), (4, 8), (1, 5), (3, 1)])
@pytest.mark.parametrize("normalize", ["none", "head", "model"])
def test_the_matched_sigma_starts_as_standard_attention_where_key_norms_are_equal(
    normalize: str, heads: int, head_width: int
) -> None:
    """σ₀ = K^¼, K^-¼ or (K/D²)^¼ with D = H K.

    Without normalisation any queries will do. Unit vectors lose their length, so the standard attention to equal is
    that of vectors of the length √K a head that layer normalisation gives them (over the model width: √(H K) in all).
    """
    config = ProjectionConfig(normalize=normalize, learn_sigma="none")  # type: ignore[arg-type]
    made = module(config, heads=heads, head_width=head_width)
    standard = module(STANDARD, heads=heads, head_width=head_width)
    q = normal(B, heads, T, head_width, seed=1)
    k = with_norms(normal(B, heads, S, head_width, seed=2), math.sqrt(head_width), -1)
    if normalize == "head":
        q = with_norms(q, math.sqrt(head_width), -1)
    if normalize == "model":
        q = with_norms(q, math.sqrt(heads * head_width), (1, 3))
    weights = made.weights(made.condition(q), made.condition(k))
    torch.testing.assert_close(weights, standard.weights(q, k), rtol=0, atol=1e-12)
    expected = {
        "none": head_width**0.25,
        "head": head_width**-0.25,
        "model": (head_width / (heads * head_width) ** 2) ** 0.25,
    }[normalize]
    assert made.matched_sigma() == pytest.approx(expected, rel=1e-12)
    assert made.sigma().tolist() == pytest.approx([expected], rel=1e-12)


ROLES: list[tuple[Role, float]] = [("encoder", 1.5), ("decoder", 2.5), ("cross", 3.5)]


@pytest.mark.parametrize(("role", "expected"), ROLES)
def test_every_use_of_attention_has_its_own_initial_sigma(role: Role, expected: float) -> None:
    both = ProjectionConfig(normalize="none", sigma=SigmaConfig(self=1.5, cross=3.5, decoder=2.5))
    made = build_attention(both, role, width=D, heads=H, head_width=K, dropout=0)
    made.reset_parameters()
    assert isinstance(made, ProjectionAttention)
    assert made.sigma().tolist() == pytest.approx([expected] * H)


@pytest.mark.parametrize(("learn", "count"), [("none", 1), ("module", 1), ("head", H)])
def test_sigma_is_learned_as_often_as_asked(learn: str, count: int) -> None:
    made = module(ProjectionConfig(learn_sigma=learn))  # type: ignore[arg-type]
    assert made.log_sigma.shape == (count,)
    assert made.log_sigma.requires_grad == (learn != "none")


def test_a_learned_sigma_on_unit_vectors_does_not_go_under_a_tenth() -> None:
    made = module(ProjectionConfig(normalize="head", learn_sigma="head"))
    made.log_sigma.data = torch.tensor([math.log(0.01), math.log(0.3)], dtype=torch.float64)
    assert made.sigma().tolist() == pytest.approx([0.1, 0.3])
    for free in (
        ProjectionConfig(normalize="head", learn_sigma="none", sigma=SigmaConfig(self=0.01)),
        ProjectionConfig(normalize="none", learn_sigma="head", sigma=SigmaConfig(self=0.01)),
    ):
        made = build_attention(free, "encoder", width=D, heads=H, head_width=K, dropout=0)
        made.reset_parameters()
        assert isinstance(made, ProjectionAttention)
        assert made.sigma().tolist() == pytest.approx([0.01] * len(made.log_sigma))


BELOW: list[tuple[Role, str, float]] = [
    ("encoder", "self", 0.09),
    ("decoder", "self", 0.05),
    ("cross", "cross", 0.01),
    ("encoder", "encoder", 0.05),
    ("decoder", "decoder", 0.05),
]


@pytest.mark.parametrize(("role", "key", "sigma"), BELOW, ids=[f"{row[0]} by {row[1]}" for row in BELOW])
@pytest.mark.parametrize("learn", ["module", "head"])
def test_a_learned_sigma_on_unit_vectors_that_starts_below_a_tenth_is_refused(
    role: Role, key: str, sigma: float, learn: str
) -> None:
    """By the settings or by the module: the path is that of what was given."""
    raw = {"attention": {"normalize": "head", "learn_sigma": learn, "sigma": {key: sigma}}}
    with pytest.raises(ConfigError) as caught:
        build_attention(build(ModelConfig, raw, "model").attention, role, width=D, heads=H, head_width=K, dropout=0)
    message = str(caught.value)
    assert message.startswith(f"model.attention.sigma.{key}: ")
    assert "0.1" in message
    assert f"{sigma:g}" in message
    assert "learn_sigma" in message


# ---------------------------------------------------------------------------------------------- bfloat16 and exactness


def distance_between(p: Tensor, r: Tensor) -> float:
    """The largest total variation of two rows."""
    return ((p.double() - r.double()).abs().sum(-1) / 2).max().item()


def paper(normalize: str, sigma: float, values: str) -> ProjectionConfig:
    return ProjectionConfig(
        normalize=normalize,  # type: ignore[arg-type]
        learn_sigma="none",
        values=values,  # type: ignore[arg-type]
        sigma=SigmaConfig(self=sigma, cross=sigma),
    )


SHARP = [("model", 0.01), ("model", 0.05), ("head", 0.05)]


def fused_weights(made: MultiHeadAttention, q: Tensor, k: Tensor) -> Tensor:
    """The weights that the fused path uses: its output where the values are unit vectors, one a key."""
    keys = k.shape[2]
    assert keys == made.head_width
    one_each = torch.eye(keys, dtype=made.qkv.weight.dtype).expand(*k.shape[:3], keys)
    return made._fused(q, k, one_each, None, False)


@pytest.mark.parametrize("values", ["own", "keys"])
@pytest.mark.parametrize(("normalize", "sigma"), SHARP)
def test_the_sigma_of_the_paper_keeps_its_weights_under_bfloat16(normalize: str, sigma: float, values: str) -> None:
    made = module(paper(normalize, sigma, values), width=64, heads=8, head_width=8, dtype=torch.float32)
    assert made.exact
    x, memory = (normal(B, 8, 64, seed=seed, dtype=torch.float32) for seed in (1, 2))
    with torch.no_grad():
        for given in (x, x.bfloat16()):  # the residual stream is bfloat16 under autocast
            expected = made.weights(made.project_queries(given.float()), made.project_keys(memory).k_BHSK)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                k = made.project_keys(memory).k_BHSK
                found = made.weights(made.project_queries(given), k)
                together = made.weights(made.project(given)[0], k)
            assert distance_between(found, expected) < 1e-3
            assert distance_between(together, expected) < 1e-3
        made.exact = False
        expected = made.weights(made.project_queries(x), made.project_keys(memory).k_BHSK)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = made.weights(made.project_queries(x), made.project_keys(memory).k_BHSK)
        assert distance_between(rough, expected) > 0.01, "what the policy is for"


@pytest.mark.parametrize(("normalize", "sigma"), SHARP)
def test_the_sigma_of_the_paper_keeps_its_weights_in_the_fused_path_too(normalize: str, sigma: float) -> None:
    made = module(paper(normalize, sigma, "own"), width=64, heads=8, head_width=8, dtype=torch.float32)
    x, memory = (normal(B, 8, 64, seed=seed, dtype=torch.float32) for seed in (1, 2))
    with torch.no_grad():
        expected = made.weights(made.project_queries(x), made.project_keys(memory).k_BHSK)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = fused_weights(made, made.project_queries(x), made.project_keys(memory).k_BHSK)
    assert distance_between(found, expected) < 1e-3


@pytest.mark.parametrize("normalize", ["none", "head", "model"])
@pytest.mark.parametrize(("heads", "head_width"), [(4, 64), (8, 32), (8, 128), (1, 512)])
def test_the_default_sigma_stays_in_bfloat16(normalize: str, heads: int, head_width: int) -> None:
    made = module(ProjectionConfig(normalize=normalize), heads=heads, head_width=head_width, dtype=torch.float32)  # type: ignore[arg-type]
    assert not made.exact
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        q, kv = made.project(normal(B, T, D, dtype=torch.float32))
    if normalize != "model":
        assert q.dtype == kv.k_BHSK.dtype == torch.bfloat16
    assert kv.v_BHSK.dtype == torch.bfloat16


@kinds
def test_bfloat16_weights_come_close_at_the_default_sigma(config: AttentionConfig) -> None:
    made = module(config, width=32, heads=2, head_width=16, dtype=torch.float32)
    with torch.no_grad():
        q, kv = meeting(made, 16, 16)
        expected = made.weights(q, kv.k_BHSK)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            q, kv = meeting(made, 16, 16)
            weights, fused = made.weights(q, kv.k_BHSK), fused_weights(made, q, kv.k_BHSK)
    assert weights.dtype == torch.float32
    assert distance_between(weights, expected) < 0.03
    assert distance_between(fused, expected) < 0.03


def test_the_bias_of_a_key_is_not_rounded_to_bfloat16_in_the_fused_path() -> None:
    """With σ = 1 and vectors that bfloat16 holds, only -|k|²/2 could lose anything: up to 0.25 nats if it were one."""
    made = module(paper("none", 1.0, "own"), heads=1, head_width=16, dtype=torch.float32)
    assert not made.exact
    directions = F.normalize(normal(1, 1, 16, 16, seed=2), dim=-1)
    k = (12 * directions * (1 + 0.01 * normal(1, 1, 16, 1, seed=3))).bfloat16()  # |k|²/2 about 72 ± 1.5
    q = (0.1 * normal(1, 1, 16, 16, seed=1)).bfloat16()
    distance = torch.cdist(q.double(), k.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    expected = (-distance / 2).softmax(-1)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = fused_weights(made, q, k)
    assert distance_between(found, expected) < 0.02


def test_weights_are_float32_or_wider() -> None:
    for config in EVERY:
        for dtype in (torch.bfloat16, torch.float32, torch.float64):
            made = module(config, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
            q, kv = meeting(made)
            weights = made.weights(q.to(dtype), kv.k_BHSK.to(dtype), PADDING)
            assert weights.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


# -------------------------------------------------------------------------------------------------- what the paper says


@pytest.fixture(name="surface")
def one_head() -> tuple[Any, Tensor, Tensor, float]:
    """Eq. (14) with one head and no normalisation: module, queries [1, 1, T, K], keys [1, 1, S, K], σ."""
    config = ProjectionConfig(normalize="none", learn_sigma="module", values="keys", sigma=SigmaConfig(self=0.8))
    made = module(config, heads=1)
    q, k = normal(1, 1, T, K, seed=1).requires_grad_(), normal(1, 1, S, K, seed=2)
    return made, q, k, made.sigma().item()


def test_the_output_is_one_step_down_the_energy_of_the_surface(surface: tuple[Any, Tensor, Tensor, float]) -> None:
    """y = q - ∇E(q) with E(q) = -σ² log Σ_j exp(-|q - k_j|² / 2σ²)."""
    made, q, k, sigma = surface
    energy = -(sigma**2) * (-(q[0, 0][:, None] - k[0, 0]).square().sum(-1) / (2 * sigma**2)).logsumexp(-1)
    gradient = torch.autograd.grad(energy.sum(), q)[0]
    y = made._plain(q, k, made.values(k), None, False)
    torch.testing.assert_close(y, q - gradient, rtol=0, atol=1e-12)


def test_the_jacobian_of_the_output_is_the_covariance_of_the_keys(surface: tuple[Any, Tensor, Tensor, float]) -> None:
    """∂y/∂q = Cov_p(k) / σ²."""
    made, q, k, sigma = surface
    for i in range(T):
        row = q[:, :, i : i + 1].detach()
        jacobian = torch.autograd.functional.jacobian(
            lambda row: made._plain(row.view(1, 1, 1, K), k, k, None, False).flatten(), row.flatten()
        )
        p = made.weights(row, k)[0, 0, 0].detach()
        centred = k[0, 0] - p @ k[0, 0]
        torch.testing.assert_close(jacobian, centred.T @ (p[:, None] * centred) / sigma**2, rtol=0, atol=1e-12)


@pytest.mark.parametrize("normalize", ["none", "head"])
@pytest.mark.parametrize("learn", ["module", "head"])
def test_the_entropy_grows_with_log_sigma_by_twice_the_variance_of_the_logits(normalize: str, learn: str) -> None:
    """∂H/∂log σ = 2 Var_p(s), s = -|q - k|² / 2σ²."""
    made = module(ProjectionConfig(normalize=normalize, learn_sigma=learn))  # type: ignore[arg-type]
    q, kv = meeting(made)
    p = made.weights(q, kv.k_BHSK)
    entropy = -(p * p.log()).sum()
    found = torch.autograd.grad(entropy, made.log_sigma)[0]
    unit = (lambda x: F.normalize(x, dim=-1)) if normalize == "head" else (lambda x: x)
    distance = torch.cdist(unit(q), unit(kv.k_BHSK), compute_mode="donot_use_mm_for_euclid_dist").square()
    s = -distance / (2 * made.log_sigma.exp().square().view(-1, 1, 1))
    variance = (p * s.square()).sum(-1) - (p * s).sum(-1).square()
    by_head = 2 * variance.sum((0, 2))
    expected = by_head if learn == "head" else by_head.sum()[None]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@every
def test_the_gradient_in_the_logits_is_the_advantage_of_each_key(config: AttentionConfig) -> None:
    """∂L/∂s_j = p_j (u_j - E_p u), u_j = ⟨∂L/∂y, v_j⟩ (Litman 2025): here through the query."""
    made = module(config)
    q, kv = meeting(made)
    q = q.detach().requires_grad_()
    v = values_of(made, kv).detach()
    direction = normal(B, H, T, K, seed=5)
    found = torch.autograd.grad((made._plain(q, kv.k_BHSK, v, None, False) * direction).sum(), q)[0]
    s = made.logits(q, kv.k_BHSK)
    p, u = s.softmax(-1).detach(), direction @ v.mT
    advantage = p * (u - (p * u).sum(-1, keepdim=True))
    expected = torch.autograd.grad((s * advantage).sum(), q)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------------------------ small change


def test_fresh_matrices_are_glorot_uniform_each_on_its_own() -> None:
    width, heads, head_width = 96, 4, 48
    for config in (STANDARD, ProjectionConfig(values="keys")):
        torch.manual_seed(0)
        made = build_attention(config, "cross", width=width, heads=heads, head_width=head_width, dropout=0)
        made.reset_parameters()
        bound = math.sqrt(6 / (width + heads * head_width))
        for part in (*made.qkv.weight.split(heads * head_width), made.output.weight):
            assert part.abs().max() <= bound
            # n numbers of variance bound²/3 and kurtosis 9/5: their mean square is within 5 standard errors.
            error = bound**2 / 3 * math.sqrt(4 / 5 / part.numel())
            assert part.square().mean().item() == pytest.approx(bound**2 / 3, abs=5 * error)
        assert not made.qkv.bias.any()
        assert not made.output.bias.any()


@kinds
def test_dropout_takes_weights_out_in_training_alone(config: AttentionConfig) -> None:
    made = module(config, dropout=0.25, head_width=S)
    q, kv = meeting(made)
    see_weights = torch.eye(S, dtype=torch.float64).expand(B, H, S, S)
    p = made.weights(q, kv.k_BHSK)
    dropped = made._plain(q, kv.k_BHSK, see_weights, None, False)
    gone = dropped == 0
    assert gone.any()
    torch.testing.assert_close(dropped[~gone], (p / 0.75)[~gone], rtol=1e-12, atol=0)
    made.eval()
    torch.testing.assert_close(made._plain(q, kv.k_BHSK, see_weights, None, False), p, rtol=0, atol=0)
    torch.testing.assert_close(made._fused(q, kv.k_BHSK, see_weights, None, False), p, rtol=0, atol=1e-12)


def test_the_heads_may_be_wider_together_than_the_model() -> None:
    """The Keras example's heads are 256 wide each."""
    for config in (STANDARD, ProjectionConfig()):
        made = module(config, heads=3, head_width=7, width=4)
        q, kv = meeting(made)
        p, y = transcribed(made, config, normal(B, T, 4, seed=1), normal(B, S, 4, seed=2))
        torch.testing.assert_close(made(q, kv), y, rtol=0, atol=1e-12)
        assert p.shape == (B, 3, T, S)
