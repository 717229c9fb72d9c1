"""Attention in low precision and with extreme numbers: no NaN at any σ, correct weights at the paper's under bfloat16.

Axes: B sentences, T queries, S keys, D model width, H heads, K head width. Masks: True = may attend.
"""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from projtrans.model.multihead import KeysValues
from tests.attention_cases import (
    COVERING,
    EVERY,
    PADDING,
    B,
    D,
    S,
    T,
    Use,
    close,
    gradients,
    meeting,
    module,
    normal,
    of,
    paths,
    remembered,
    sequences,
)

# ------------------------------------------------------------------------------------------------------- many numbers

SHARP_AND_WIDE = [1e-3, 1e-2, 0.1, 1.0, 1e1, 1e3]
EXTREMES = [
    {"normalize": normalize, "distance": distance, "values": values}
    for normalize, distance, values in itertools.product(
        ["none", "head", "model"], ["squared", "euclidean"], ["own", "keys", "raw_keys"]
    )
    if not (normalize == "none" and values == "raw_keys")
]


@pytest.mark.parametrize("raw", EXTREMES, ids=lambda raw: "-".join(raw.values()))
@pytest.mark.parametrize("sigma", SHARP_AND_WIDE)
def test_no_sigma_makes_identical_queries_and_keys_nan_in_float32(raw: dict[str, Any], sigma: float) -> None:
    """A literal exp(-d²/2σ²) over its row sum is 0/0 here (docs: σ of the paper on unit vectors)."""
    learn = {"learn_sigma": "none" if raw["normalize"] == "head" and sigma < 0.1 else "head"}
    made = module(raw | learn | {"sigma": {"self": sigma}}, dtype=torch.float32)
    alike = normal(1, 1, D, dtype=torch.float32).expand(B, S, D)
    blind = torch.ones(B, 1, S, S, dtype=torch.bool)
    blind[0, 0, 0] = False
    drawn = made.qkv.bias.detach().clone()
    for case in (normal(B, S, D, dtype=torch.float32), 30 * normal(B, S, D, dtype=torch.float32), alike, 0 * alike):
        for path, bias in itertools.product(paths(made).values(), [drawn, 0 * drawn]):
            made.qkv.bias.data = bias
            x = case.clone().requires_grad_()
            q, kv = made.project(x)
            y = path(q, remembered(made, q, kv.v_BHSK), blind, True)
            assert not y[0, :, 0].any()
            assert all(torch.isfinite(slope).all() for slope in [y, *gradients(y, x, x, made).values()])


@pytest.mark.parametrize("normalize", ["head", "model"])
@pytest.mark.parametrize("kind", ["standard", "projection"])
def test_a_zero_vector_has_no_direction_and_no_nan(kind: str, normalize: str) -> None:
    made = module({"kind": kind, "normalize": normalize, "values": "keys"}, dtype=torch.float32)
    made.qkv.bias.data.zero_()
    x = torch.zeros(B, S, D, requires_grad=True)
    q, kv = made.project(x)
    weights = made.weights(q, kv)
    close(weights, torch.full_like(weights, 1 / S), 1e-6)
    made(q, kv).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


# -------------------------------------------------------------------------------------------- bfloat16 and exactness


def half() -> torch.autocast:
    """bfloat16 products, as in training."""
    return torch.autocast("cpu", dtype=torch.bfloat16)


def distance_between(p: Tensor, r: Tensor) -> float:
    """The largest total variation distance between two rows."""
    return ((p.double() - r.double()).abs().sum(-1) / 2).max().item()


def weights_of_the_paths(
    made: Any, q: Tensor, kv: KeysValues, values: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """The weights of every path: its output if the values are unit vectors, one per key."""
    k = kv.k_BHSK
    see_weights = remembered(made, k, torch.eye(k.shape[2], dtype=values).expand(*k.shape[:3], -1))
    found = {name: path(q, see_weights, None, False) for name, path in paths(made).items() if name != "_plain"}
    return found | {"_plain": made.weights(q, kv)}


def wide_weights(made: Any, raw: dict[str, Any], q: Tensor, k: Tensor) -> Tensor:
    """The weights of the given queries and keys in float64, by the distances of eq. (10)."""
    q, k = q.double(), k.double()
    if raw["normalize"] != "none":
        dims = -1 if raw["normalize"] == "head" else (1, 3)
        q, k = (x / torch.linalg.vector_norm(x, dim=dims, keepdim=True) for x in (q, k))
    distance = (q[..., :, None, :] - k[..., None, :, :]).square().sum(-1)
    if raw.get("distance") == "euclidean":
        distance = distance.sqrt()
    return (-distance / (2 * made.sigma().double().view(-1, 1, 1) ** 2)).softmax(-1)


PAPER: list[dict[str, Any]] = [
    {"normalize": normalize, "distance": distance, "learn_sigma": "none", "sigma": {"self": sigma}}
    for normalize, distance, sigma in itertools.product(
        ["none", "head", "model"], ["squared", "euclidean"], [0.01, 0.05]
    )
]
paper = pytest.mark.parametrize("raw", PAPER, ids=lambda raw: f"{raw['normalize']}-{raw['distance']}-{raw['sigma']}")


def sharp(raw: dict[str, Any], heads: int = 4, head_width: int = 16) -> Any:
    """A module with one of the paper's σ, in float32."""
    return module(raw, heads=heads, head_width=head_width, width=32, dtype=torch.float32)


@paper
def test_queries_and_keys_of_a_small_sigma_are_those_of_float32_under_autocast(raw: dict[str, Any]) -> None:
    """Bit-identical, projected together or apart, also from a bfloat16 residual stream; values are bfloat16."""
    made = sharp(raw)
    assert made.exact
    x = normal(B, 8, 32, dtype=torch.float32)
    with torch.no_grad():
        for given in (x, x.bfloat16()):
            expected = made.project_queries(given.float()), made.project_keys(given.float())
            with half():
                apart, together = (made.project_queries(given), made.project_keys(given)), made.project(given)
            for q, kv in (apart, together):
                assert torch.equal(q, expected[0])
                assert torch.equal(kv.k_BHSK, expected[1].k_BHSK)
                assert kv.v_BHSK.dtype == torch.bfloat16


def colliding(raw: dict[str, Any], made: Any) -> tuple[Tensor, Tensor]:
    """Queries and keys so close that several keys share the weight at this σ: the hardest case."""
    heads, width, sigma = made.heads, made.head_width, made.initial_sigma
    centre = normal(1, heads, 1, width, seed=1)
    dims = (1, 3) if raw["normalize"] == "model" else -1
    centre = centre / torch.linalg.vector_norm(centre, dim=dims, keepdim=True)
    spread = 0.7 * sigma if raw["distance"] == "squared" else 2 * sigma**2
    q, k = (centre + spread * normal(B, heads, 8, width, seed=seed) / width**0.5 for seed in (2, 3))
    return q.float(), k.float()


@paper
@pytest.mark.parametrize("near", [False, True], ids=["random", "near-colliding"])
def test_the_sigma_of_the_paper_keeps_its_weights_under_bfloat16(raw: dict[str, Any], near: bool) -> None:
    made = sharp(raw)
    with torch.no_grad(), half():
        x = normal(B, 8, 32, dtype=torch.float32)
        q, k = colliding(raw, made) if near else (made.project_queries(x), made.project_keys(x.flip(1)).k_BHSK)
        expected = wide_weights(made, raw, q, k)
        for name, found in weights_of_the_paths(made, q, remembered(made, k)).items():
            assert found.dtype == torch.float32
            assert distance_between(found, expected) < 1e-3, name
        # Values are bfloat16 then, and a weight is rounded by 2⁻⁹ where it meets them.
        for name, found in weights_of_the_paths(made, q, remembered(made, k), torch.bfloat16).items():
            assert distance_between(found, expected) < 4e-3, name
        if near:
            assert (1 / expected.square().sum(-1)).mean() > 2, "no row of one key alone, which nothing could move"


@pytest.mark.parametrize("distance", ["squared", "euclidean"])
def test_without_the_policy_bfloat16_would_move_the_weights(distance: str) -> None:
    raw = {"normalize": "model", "distance": distance, "learn_sigma": "none", "sigma": {"self": 0.05}}
    made = sharp(raw)
    q, k = colliding(raw, made)
    expected = wide_weights(made, raw, q, k)
    made.exact = False
    with torch.no_grad(), half():
        rough = made.weights(q.bfloat16(), remembered(made, k.bfloat16()))
    assert distance_between(rough, expected) > 0.01


@pytest.mark.parametrize("kind", ["standard", "projection"])
@pytest.mark.parametrize("normalize", ["none", "head", "model"])
@pytest.mark.parametrize(("heads", "head_width"), [(4, 64), (8, 32), (8, 128), (1, 512)])
def test_the_default_sigma_stays_in_bfloat16(kind: str, normalize: str, heads: int, head_width: int) -> None:
    raw = {"kind": kind, "normalize": normalize}
    made = module(raw, heads=heads, head_width=head_width, dtype=torch.float32)
    assert not made.exact
    with torch.no_grad(), half():
        q, kv = made.project(normal(B, T, D, dtype=torch.float32))
    assert q.dtype == kv.k_BHSK.dtype == kv.v_BHSK.dtype == torch.bfloat16
    assert kv.length_BHS1 is None or kv.length_BHS1.dtype == torch.float32


@pytest.mark.parametrize("use", COVERING, ids=str)
def test_bfloat16_weights_come_close_at_the_default_sigma(use: Use) -> None:
    made = module(dict(use.raw) | {"values": "own"}, use.role, width=32, heads=2, head_width=16, dtype=torch.float32)
    with torch.no_grad():
        expected = made.weights(*meeting(made, 16, 16))
        with half():
            found = weights_of_the_paths(made, *meeting(made, 16, 16))
    for name, weights in found.items():
        assert weights.dtype == torch.float32
        assert distance_between(weights, expected) < 0.03, name


@pytest.mark.parametrize("use", COVERING, ids=str)
def test_the_output_under_bfloat16_comes_close_on_every_path_and_so_do_the_gradients(use: Use) -> None:
    """Within some roundings of 2⁻⁹ of the largest number; not the gradients of |q - k|, which turn fast near 0."""
    made = of(use, width=32, heads=2, head_width=16, dtype=torch.float32)
    for name in paths(made):
        outcomes = []
        for autocast in (False, True):
            x, memory = (tensor.requires_grad_() for tensor in sequences(made, S))
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                q, kv = made.project_queries(x), made.project_keys(memory)
                y = made.output(paths(made)[name](q, kv, PADDING, False).transpose(1, 2).flatten(2))
            outcomes.append({"y": y.float()} | (gradients(y.float(), x, memory, made) if made.dot_form else {}))
        for wanted, expected in outcomes[0].items():
            scale = expected.abs().max()
            assert (outcomes[1][wanted] - expected).abs().max() < 0.05 * scale + 1e-5, f"{name}: {wanted}"


def test_the_bias_of_a_key_is_not_rounded_to_bfloat16() -> None:
    """With σ = 1 and vectors that bfloat16 represents exactly, only -|k|²/2 could be rounded: by up to 0.25 nats."""
    raw = {"normalize": "none", "learn_sigma": "none", "sigma": {"self": 1.0}}
    made = module(raw, heads=1, head_width=16, dtype=torch.float32)
    assert not made.exact
    directions = F.normalize(normal(1, 1, 16, 16, seed=2), dim=-1)
    k = (12 * directions * (1 + 0.01 * normal(1, 1, 16, 1, seed=3))).bfloat16()  # |k|²/2 about 72 ± 1.5
    q = (0.1 * normal(1, 1, 16, 16, seed=1)).bfloat16()
    expected = wide_weights(made, raw, q, k)
    one_each = remembered(made, k, torch.eye(16, dtype=torch.bfloat16).expand(1, 1, 16, 16))
    with torch.no_grad(), half():
        found = {name: path(q, one_each, None, False) for name, path in paths(made).items()}
    assert len(found) == 3
    for name, weights in found.items():
        assert weights.dtype == torch.bfloat16
        assert distance_between(weights, expected) < 0.02, name


@pytest.mark.parametrize("use", EVERY, ids=str)
def test_weights_are_float32_or_wider(use: Use) -> None:
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        made = of(use, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        q, kv = meeting(made)
        weights = made.weights(q.to(dtype), remembered(made, kv.k_BHSK.to(dtype)), PADDING)
        assert weights.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
