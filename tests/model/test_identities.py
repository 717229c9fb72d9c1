"""Identities of the paper and of related work, in float64: dot product, energy, transport, advantage, entropy.

Axes: B sentences, T queries, S keys, H heads, K head width. Masks: True = may attend.
"""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.attention_cases import (
    COVERING,
    EVERY,
    STANDARD,
    B,
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
    remembered,
    scenes,
)

every = pytest.mark.parametrize("use", EVERY, ids=str)
covering = pytest.mark.parametrize("use", COVERING, ids=str)

# --------------------------------------------------------------------------------------------------- the dot product


def free(raw: dict[str, Any] | None = None, **sizes: Any) -> tuple[Any, Tensor, Tensor]:
    """Projection attention without normalisation, queries and keys of any length."""
    made = module({"normalize": "none"} | (raw or {}), "cross", **sizes)
    return made, normal(B, H, T, K, seed=1), normal(B, H, S, K, seed=2)


def test_unit_keys_make_it_scaled_dot_product_attention_for_any_queries_and_unit_queries_do_not() -> None:
    made, q, k = free()
    unit_q, unit_k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)

    def difference(q: Tensor, k: Tensor) -> float:
        return (made.weights(q, remembered(made, k)) - (made.kappa() * q @ k.mT).softmax(-1)).abs().max().item()

    assert difference(q, unit_k) < 1e-12
    assert difference(q, k) > 0.05
    assert difference(unit_q, k) > 0.05


@pytest.mark.parametrize("normalize", ["none", "head", "model"])
def test_augmented_keys_a_bias_and_the_distances_themselves_give_one_result(normalize: str) -> None:
    made = module({"normalize": normalize}, "cross")
    q, kv = meeting(made)
    k, v = kv.k_BHSK, kv.v_BHSK
    if normalize != "none":
        q, k = (
            x / torch.linalg.vector_norm(x, dim=-1 if normalize == "head" else (1, 3), keepdim=True) for x in (q, k)
        )
    kappa = made.log_sigma.exp().pow(-2).view(H, 1, 1)
    half = k.square().sum(-1, keepdim=True) / 2
    ones = torch.ones_like(q[..., :1])
    augmented = F.scaled_dot_product_attention(
        torch.cat([kappa * q, kappa * ones], -1), torch.cat([k, -half], -1), F.pad(v, (0, 1)), scale=1
    )[..., :-1]
    bias = F.scaled_dot_product_attention(kappa * q, k, v, attn_mask=-(kappa * half).mT.expand(B, H, T, S), scale=1)
    direct = (-kappa * torch.cdist(q, k, compute_mode="donot_use_mm_for_euclid_dist").square() / 2).softmax(-1) @ v
    for name, path in paths(made).items():
        ours = path(*meeting(made), None, False)  # which normalises for itself
        for form in (augmented, bias, direct):
            close(ours, form, 1e-12, name)


def test_scaled_dot_product_attention_is_gaussian_attention_with_a_prior_on_long_keys() -> None:
    """softmax(κ q·k) ∝ exp(-κ|q - k|²/2) π_j, π_j = exp(κ|k_j|²/2)."""
    made, q, k = free()
    prior = (made.kappa() * k.square().sum(-1)[:, :, None] / 2).exp()
    weighted = made.weights(q, remembered(made, k)) * prior
    close(weighted / weighted.sum(-1, keepdim=True), (made.kappa() * q @ k.mT).softmax(-1), 1e-12)


@pytest.mark.parametrize("distance", ["squared", "euclidean"])
def test_moving_queries_and_keys_together_changes_no_weight_without_normalisation(distance: str) -> None:
    made, q, k = free({"distance": distance})
    shift = normal(K, seed=9) * 3
    close(made.weights(q - shift, remembered(made, k - shift)), made.weights(q, remembered(made, k)), 1e-12)


def test_moving_them_does_change_the_weights_of_standard_attention() -> None:
    made = module(STANDARD)
    q, kv = meeting(made)
    shift = normal(K, seed=9) * 3
    moved = made.weights(q - shift, remembered(made, kv.k_BHSK - shift))
    assert (moved - made.weights(q, kv)).abs().max() > 0.05


@every
def test_turning_queries_and_keys_together_changes_no_weight(use: Use) -> None:
    turn, _ = torch.linalg.qr(normal(K, K, seed=8))
    made = of(use)
    q, kv = meeting(made)
    close(made.weights(q @ turn, remembered(made, kv.k_BHSK @ turn)), made.weights(q, kv))


def test_the_norm_of_a_query_cancels() -> None:
    """For given products q·k, the constant -|q|²/2σ² of a row may be anything: queries longer along a new axis."""
    made, q, k = free()
    wider = module({"normalize": "none"}, "cross", head_width=K + 1)
    wider.log_sigma.data = made.log_sigma.data
    lengths = 100 * normal(B, H, T, 1, seed=3)
    weights = wider.weights(torch.cat([q, lengths], -1), remembered(wider, F.pad(k, (0, 1))))
    close(weights, made.weights(q, remembered(made, k)), 1e-12)


@pytest.mark.parametrize("kind", ["standard", "projection"])
def test_unit_vectors_forget_how_long_they_were(kind: str) -> None:
    positive = [normal(B, H, length, 1, seed=seed).exp() for length, seed in ((T, 3), (S, 4))]
    made = module({"kind": kind, "normalize": "head"})
    q, kv = meeting(made)
    stretched = made.weights(q * positive[0], remembered(made, kv.k_BHSK * positive[1]))
    close(stretched, made.weights(q, kv), 1e-12)


@pytest.mark.parametrize("kind", ["standard", "projection"])
def test_model_normalisation_makes_every_key_a_unit_vector_over_all_heads(kind: str) -> None:
    made = module({"kind": kind, "normalize": "model"})
    _, kv = meeting(made)
    keys = made.keys(kv)
    lengths = keys.transpose(1, 2).flatten(2).norm(dim=-1)
    close(lengths, torch.ones_like(lengths), 1e-13)
    assert (keys.norm(dim=-1) < 0.999).any(), "slices are not of unit length"


# --------------------------------------------------------------------------------------------- one step on the surface


@pytest.fixture(name="surface")
def one_head() -> tuple[Any, Tensor, Tensor, float]:
    """Eq. (14) with one head and no normalisation: module, queries [1, 1, T, K], keys [1, 1, S, K], σ."""
    raw = {"normalize": "none", "learn_sigma": "module", "values": "keys", "sigma": {"cross": 0.8}}
    made = module(raw, "cross", heads=1)
    return made, normal(1, 1, T, K, seed=1), normal(1, 1, S, K, seed=2), made.sigma().item()


def test_the_output_is_one_step_down_the_energy_of_the_surface(surface: tuple[Any, Tensor, Tensor, float]) -> None:
    """y = q - ∇E(q) with E(q) = -σ² log Σ_j exp(-|q - k_j|² / 2σ²)."""
    made, q, k, sigma = surface
    q.requires_grad_()
    energy = -(sigma**2) * (-(q[0, 0][:, None] - k[0, 0]).square().sum(-1) / (2 * sigma**2)).logsumexp(-1)
    gradient = torch.autograd.grad(energy.sum(), q)[0]
    for name, path in paths(made).items():
        close(path(q, remembered(made, k), None, False), q - gradient, 1e-12, name)


def test_the_jacobian_in_the_query_is_the_covariance_of_the_keys(surface: tuple[Any, Tensor, Tensor, float]) -> None:
    """∂y/∂q = Cov_p(k) / σ²: symmetric, and no eigenvalue below 0."""
    made, q, k, sigma = surface
    for (name, path), i in itertools.product(paths(made).items(), range(T)):
        row = q[:, :, i : i + 1]
        jacobian = torch.autograd.functional.jacobian(
            lambda row, path=path: path(row.view(1, 1, 1, K), remembered(made, k), None, False).flatten(), row.flatten()
        )
        p = made.weights(row, remembered(made, k))[0, 0, 0].detach()
        centred = k[0, 0] - p @ k[0, 0]
        close(jacobian, centred.T @ (p[:, None] * centred) / sigma**2, 1e-12, name)
        assert torch.linalg.eigvalsh((jacobian + jacobian.T) / 2).min() > -1e-12


def test_the_jacobian_in_a_key_moves_it_as_value_and_as_key(surface: tuple[Any, Tensor, Tensor, float]) -> None:
    """∂y/∂k_j = p_j [I + (k_j - y)(q - k_j)ᵀ / σ²]."""
    made, q, k, sigma = surface
    for (name, path), i in itertools.product(paths(made).items(), range(T)):
        row = q[:, :, i : i + 1]
        jacobian = torch.autograd.functional.jacobian(
            lambda keys, row=row, path=path: path(row, remembered(made, keys), None, False).flatten(), k
        )[:, 0, 0]
        p = made.weights(row, remembered(made, k))[0, 0, 0].detach()
        y, k_SK = p @ k[0, 0], k[0, 0]
        for j in range(S):
            outer = (k_SK[j] - y)[:, None] * (row[0, 0, 0] - k_SK[j])[None] / sigma**2
            close(jacobian[:, j], p[j] * (torch.eye(K, dtype=torch.float64) + outer), 1e-12, name)


def test_the_mean_square_distance_is_that_to_the_output_and_the_spread_of_the_keys(
    surface: tuple[Any, Tensor, Tensor, float],
) -> None:
    """E_p|k - q|² = |y - q|² + tr Cov_p(k)."""
    made, q, k, _ = surface
    p, y = made.weights(q, remembered(made, k))[0, 0], made._products(q, remembered(made, k), None, False)[0, 0]
    square = (k[0, 0] - q[0, 0][:, None]).square().sum(-1)
    spread = p @ k[0, 0].square().sum(-1) - (p @ k[0, 0]).square().sum(-1)
    close((p * square).sum(-1), (y - q[0, 0]).square().sum(-1) + spread, 1e-12)


# ------------------------------------------------------------------------------------- transport, advantage, entropy


def transport(raw: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """The weights, the costs |q - k|² and ε = 2σ² of a module, [B, H, T, S] and [1, H, 1, 1]."""
    made = module(raw, "cross")
    q, kv = meeting(made)
    unit = (lambda x: F.normalize(x, dim=-1)) if made.normalize == "head" else (lambda x: x)
    cost = torch.cdist(unit(q), unit(kv.k_BHSK), compute_mode="donot_use_mm_for_euclid_dist").square()
    return made.weights(q, kv), cost, 2 * made.sigma().square().view(1, -1, 1, 1)


@pytest.mark.parametrize("normalize", ["none", "head"])
def test_a_row_is_the_cheapest_transport_with_entropy_and_every_other_costs_its_divergence_more(normalize: str) -> None:
    """p = argmin ⟨p, C⟩ - ε H(p), C = |q - k|², ε = 2σ²; F(r) - F(p) = ε KL(r‖p); no duality gap (Litman 2025)."""
    p, cost, epsilon = transport({"normalize": normalize})

    def price(r: Tensor) -> Tensor:
        return (r * cost + epsilon * torch.special.xlogy(r, r)).sum(-1, keepdim=True)

    close(price(p) + epsilon * torch.logsumexp(-cost / epsilon, -1, keepdim=True), torch.zeros_like(price(p)))
    for seed in range(20):
        other = (2 * normal(*p.shape, seed=seed)).softmax(-1)
        divergence = (other * (other / p).log()).sum(-1, keepdim=True)
        close(price(other) - price(p), epsilon * divergence)
        assert (price(other) > price(p)).all()


def logit_gradients(made: Any, q: Tensor, kv: Any, dy: Tensor) -> dict[str, Tensor]:
    """∂L/∂s on every path where s may be given a further bias: `decay_bias` is added to the logits as it stands."""
    found = {}
    for name in [name for name in paths(made) if name != "_fused"]:  # whose bias is one of keys alone
        further = torch.zeros(B, H, T, S, dtype=torch.float64, requires_grad=True)
        made.decay_bias = lambda queries, keys, further=further: further
        found[name] = torch.autograd.grad((paths(made)[name](q, kv, None, False) * dy).sum(), further)[0]
        del made.decay_bias
    return found


@covering
def test_the_gradient_in_the_logits_is_the_advantage_of_each_key(use: Use) -> None:
    """∂L/∂s = p (u - E_p u) = (diag p - ppᵀ) u, u_j = ⟨∂L/∂y, v_j⟩, and its natural gradient is u - mean(u)."""
    made = module(dict(use.raw) | {"decay": None}, use.role)
    q, kv = meeting(made)
    dy = normal(B, H, T, K, seed=5)
    p, u = made.weights(q, kv).detach(), dy @ made.values(kv).mT.detach()
    fisher = torch.diag_embed(p) - p[..., :, None] * p[..., None, :]
    close(fisher, fisher.mT, 1e-14)
    assert torch.linalg.eigvalsh(fisher).min() > -1e-14
    close(fisher.sum(-1), torch.zeros_like(p), 1e-14)
    for name, found in logit_gradients(made, q, kv, dy).items():
        close(found, p * (u - (p * u).sum(-1, keepdim=True)), 1e-12, name)
        close(found, (fisher @ u[..., None])[..., 0], 1e-12, name)
        natural = (torch.linalg.pinv(fisher, hermitian=True) @ found[..., None])[..., 0]
        close(natural, u - u.mean(-1, keepdim=True), 1e-8, name)  # the condition of F


LEARNED = [
    {"kind": kind, "normalize": normalize, learn: count, "decay": decay}
    for (kind, learn), normalize, count, decay in itertools.product(
        [("standard", "learn_scale"), ("projection", "learn_sigma")],
        ["none", "head", "model"],
        ["module", "head"],
        [None, 2.5],
    )
]


@pytest.mark.parametrize("raw", LEARNED, ids=lambda raw: "-".join(map(str, raw.values())))
@pytest.mark.parametrize("role", ["encoder", "decoder"])
def test_sigma_moves_loss_and_entropy_by_covariances_of_the_logits(raw: dict[str, Any], role: Any) -> None:
    """∂L/∂log σ = -2 Σ Cov_p(u, s); ∂H/∂log σ = 2 Var_p(s), with a bias b that σ does not scale 2 Cov_p(s, s + b)."""
    made = module(raw, role)
    scene = scenes(role)[0]
    q, kv = meeting(made, S)
    p = made.weights(q, kv, scene.mask, scene.causal)
    unit_q = q if made.normalize == "none" else q / made._length(q)
    s = made.logits(unit_q, made.keys(kv))
    decay = made.decay_bias(S, S)
    b = torch.zeros_like(s) if decay is None else decay.expand_as(s)

    def covariance(one: Tensor, other: Tensor) -> Tensor:
        by_row = (p * one * other).sum(-1) - (p * one).sum(-1) * (p * other).sum(-1)
        return by_row.sum((0, 2)) if len(made.log_sigma) == H else by_row.sum()[None]

    entropy = torch.autograd.grad(-torch.special.xlogy(p, p).sum(), made.log_sigma, retain_graph=True)[0]
    close(entropy, 2 * covariance(s, s + b))
    if decay is None:
        assert (entropy > 0).all(), "a variance"
    dy = normal(B, H, S, K, seed=5)
    expected = -2 * covariance(dy @ made.values(kv).mT, s)
    for name, path in paths(made).items():
        loss = (path(q, kv, scene.mask, scene.causal) * dy).sum()
        close(torch.autograd.grad(loss, made.log_sigma)[0], expected, message=name)
