"""What the tests of attention share: cases that cover every pair of settings, modules, masks, and an oracle.

The oracle transcribes the paper with loops over sentences, heads, queries and keys; its gradients are autograd's.
Axes: B sentences, T queries, S keys, D model width, H heads, K head width. Masks: True = may attend.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from projtrans.config import build, dump, find, read_yaml, shipped_names
from projtrans.model.attention import AttentionConfig, ProjectionConfig, StandardConfig
from projtrans.model.multihead import KeysValues, MultiHeadAttention, Role, build_attention
from projtrans.runs.settings import resolve

B, T, S, D, H, K = 2, 4, 5, 6, 2, 3
ROLES: tuple[Role, ...] = ("encoder", "decoder", "cross")

# ------------------------------------------------------------------------------------------------------------- cases

SETTINGS: dict[str, list[Any]] = {
    "kind": ["standard", "projection"],
    "normalize": ["none", "head", "model"],
    "values": ["own", "keys", "raw_keys"],
    "tie_query_key": [False, True],
    "decay": [None, 2.5, "learned"],
    "learn": ["none", "module", "head"],
    "distance": ["dot product", "squared", "euclidean"],
    "role": list(ROLES),
}
"""Every switch with its values; `standard` has the dot product in place of a distance."""

Case = dict[str, Any]


def goes_together(case: Case) -> bool:
    """Whether the settings can be combined."""
    named = (case["kind"] == "standard") == (case["distance"] == "dot product")
    return named and not (case["values"] == "raw_keys" and case["normalize"] == "none")


def all_cases() -> Iterator[Case]:
    """Every combination, valid or not."""
    return (dict(zip(SETTINGS, values, strict=True)) for values in itertools.product(*SETTINGS.values()))


def pairs(case: Case) -> frozenset[Any]:
    """The pairs of settings in a case."""
    return frozenset(itertools.combinations(case.items(), 2))


def covering_array() -> list[Case]:
    """Cases that cover every valid pair of settings, chosen greedily by the number of pairs still missing."""
    cases = [(case, pairs(case)) for case in all_cases() if goes_together(case)]
    missing = set().union(*(held for _, held in cases))
    rows = []
    while missing:
        case, held = max(cases, key=lambda row: len(row[1] & missing))
        rows.append(case)
        missing -= held
    return rows


def raw_of(case: Case) -> dict[str, Any]:
    """The attention section of a case as in YAML."""
    learn = "learn_scale" if case["kind"] == "standard" else "learn_sigma"
    raw = {key: case[key] for key in ("kind", "normalize", "values", "tie_query_key", "decay")} | {learn: case["learn"]}
    return raw if goes_by_dot_product(case) else raw | {"distance": case["distance"]}


def goes_by_dot_product(case: Case) -> bool:
    """Whether there is no distance setting."""
    return case["kind"] == "standard" and case["distance"] == "dot product"


@dataclass(frozen=True)
class Use:
    """An attention section in one role."""

    name: str
    raw: Mapping[str, Any]
    role: Role

    def __str__(self) -> str:
        return self.name

    @property
    def config(self) -> Any:
        """The settings."""
        return build(AttentionConfig, dict(self.raw))


def use_of(case: Case) -> Use:
    """The use of a case, named by its settings."""
    words = [f"{key} {value}" if key in ("decay", "learn") else str(value) for key, value in case.items()]
    words[3] = "tied" if case["tie_query_key"] else "untied"
    return Use("-".join(words).replace(" ", "_"), raw_of(case), case["role"])


COVERING = [use_of(case) for case in covering_array()]
"""Covers every pair of settings."""

PRESETS = [
    Use(f"{name}-{role}", dump(resolve(read_yaml(find(name))).model.attention), role)
    for name, role in itertools.product(shipped_names(), ROLES)
]
"""The attention of every shipped configuration, the paper's σ among them."""

EVERY = COVERING + PRESETS


ATTENTIONS: dict[str, dict[str, Any]] = {
    "standard": {"kind": "standard"},
    "QK-norm": {"kind": "standard", "normalize": "head", "learn_scale": "head"},
    "projection": {"kind": "projection"},
    "the paper's σ": {"kind": "projection", "sigma": {"self": 0.01, "cross": 0.05}, "learn_sigma": "none"},
    "Euclidean, not normalised": {"kind": "projection", "normalize": "none", "distance": "euclidean"},
    "decay, the keys as values": {"kind": "projection", "decay": "learned", "values": "keys"},
}
"""A few typical sections by name, for tests that need not cover every pair of settings."""

STANDARD, PROJECTION = {"kind": "standard"}, {"kind": "projection"}

# ----------------------------------------------------------------------------------------------------------- modules


def module(
    raw: Mapping[str, Any],
    role: Role = "encoder",
    *,
    heads: int = H,
    head_width: int = K,
    width: int = D,
    dropout: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Any:
    """An attention module whose weights, biases, σ and τ all differ."""
    torch.manual_seed(5)
    config = build(AttentionConfig, dict(raw))
    made = build_attention(config, role, width=width, heads=heads, head_width=head_width, dropout=dropout)
    made.double().reset_parameters()
    with torch.no_grad():
        made.qkv.bias.normal_(std=0.5)
        made.output.bias.normal_(std=0.5)
        if made.log_sigma.requires_grad:
            made.log_sigma += torch.linspace(-0.3, 0.4, len(made.log_sigma), dtype=torch.float64)
        if made.decay == "learned":
            made.log_tau.copy_(torch.linspace(0.2, 1.1, heads, dtype=torch.float64))
    return made.to(dtype)


def of(use: Use, **sizes: Any) -> Any:
    """The module of a use."""
    return module(use.raw, use.role, **sizes)


def paths(made: MultiHeadAttention) -> dict[str, Callable[..., Tensor]]:
    """The implementations that can compute its equation."""
    of_keys_alone = made.decay is None or made.role == "decoder"  # decay in both directions is no bias per key
    names = {"_plain": True, "_products": made.dot_form, "_fused": made.dot_form and of_keys_alone}
    return {name: getattr(made, name) for name, holds in names.items() if holds}


def normal(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal random numbers; a seed gives the same ones in every precision."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def remembered(made: MultiHeadAttention, k_BHSK: Tensor, v_BHSK: Tensor | None = None) -> KeysValues:
    """A memory with the given keys and values."""
    return KeysValues(k_BHSK, v_BHSK, made._length(k_BHSK))


def meeting(made: MultiHeadAttention, t: int = T, s: int = S) -> tuple[Tensor, KeysValues]:
    """Queries and their memory: of two sequences, or in self-attention the last queries of one sequence.

    Queries and keys are projected separately.
    """
    x, memory = sequences(made, t, s)
    return made.project_queries(x), made.project_keys(memory)


def sequences(made: MultiHeadAttention, t: int = T, s: int = S) -> tuple[Tensor, Tensor]:
    """The sequence of the queries [B, T, D] and that of the keys [B, S, D], in the module's precision."""
    width, dtype = made.qkv.weight.shape[1], made.qkv.weight.dtype
    memory = normal(B, s, width, seed=2, dtype=dtype)
    return (normal(B, t, width, seed=1, dtype=dtype) if made.role == "cross" else memory[:, s - t :].clone()), memory


# ------------------------------------------------------------------------------------------------------------- masks

PADDING = torch.tensor([[True] * S, [True, True, False, True, False]])[:, None, None, :]
EMPTY_ROWS = torch.rand(B, 1, S, S, generator=torch.Generator().manual_seed(4)) < 0.6
EMPTY_ROWS[0, 0, 2] = EMPTY_ROWS[1, 0, 4] = False
BLIND = torch.tensor([True, False])[:, None, None, None].expand(B, 1, 1, S)


@dataclass(frozen=True)
class Scene:
    """How many queries meet the S keys, and what they may attend to."""

    name: str
    queries: int
    mask: Tensor | None
    causal: bool

    @property
    def seen(self) -> Tensor:
        """The whole mask, [B, 1, T, S]."""
        full = torch.ones(B, 1, self.queries, S, dtype=torch.bool)
        full = full if self.mask is None else full & self.mask
        return full & torch.ones(self.queries, S, dtype=torch.bool).tril(S - self.queries) if self.causal else full


def scenes(role: Role) -> list[Scene]:
    """The masks that occur in a role, and others that the interface allows."""
    if role == "decoder":
        return [
            Scene("causal", S, None, True),
            Scene("causal with padding", S, PADDING, True),
            Scene("causal, only the last queries, as with a cache", 2, None, True),
            Scene("causal with padding, only the last queries", 3, PADDING, True),
            Scene("causal, with empty rows", S, EMPTY_ROWS, True),
        ]
    queries = S if role == "encoder" else T
    return [
        Scene("nothing masked", queries, None, False),
        Scene("padding", queries, PADDING, False),
        Scene("any mask, with empty rows", queries, EMPTY_ROWS[:, :, :queries], False),
        Scene("a whole sentence masked", queries, BLIND, False),
    ]


# ------------------------------------------------------------------------------------------------------- comparisons


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-10, message: str = "") -> None:
    """Equal within `tolerance` times the largest expected number, or times 1."""
    assert found.shape == expected.shape, f"{message}: {found.shape} is not {expected.shape}"
    error = (found - expected).abs().max().item() if found.numel() else 0.0
    scale = max(1.0, expected.abs().max().item()) if found.numel() else 1.0
    assert error <= tolerance * scale, f"{message}: off by {error:.3g}; the largest is {scale:.3g}"


def gradients(y: Tensor, x: Tensor, memory: Tensor, made: MultiHeadAttention) -> dict[str, Tensor]:
    """The gradients of a fixed mixture of the outputs, in both sequences and in every parameter."""
    inputs = {"x": x, "memory": memory} | dict(made.named_parameters())
    found = torch.autograd.grad((y * normal(*y.shape, seed=11)).sum(), list(inputs.values()), allow_unused=True)
    pairs_of = zip(inputs, found, inputs.values(), strict=True)
    return {name: torch.zeros_like(value) if grad is None else grad for name, grad, value in pairs_of}


# ------------------------------------------------------------------------------------------- slow and obvious oracle


def projected(made: MultiHeadAttention, x_BTD: Tensor, part: int) -> Tensor:
    """Matrix `part` of [W_q; W_k; W_v] applied to x, sliced into heads [B, H, T, K], before any normalisation."""
    inner = made.heads * made.head_width
    weight, bias = made.qkv.weight[part * inner :][:inner], made.qkv.bias[part * inner :][:inner]
    flat = torch.einsum("btd,id->bti", x_BTD, weight) + bias
    return torch.stack([flat[..., h * made.head_width :][..., : made.head_width] for h in range(made.heads)], 1)


def of_unit_length(x_BHTK: Tensor, normalize: str) -> Tensor:
    """Every vector divided by its norm: in its head, or over all heads of its position."""
    if normalize == "none":
        return x_BHTK
    square = x_BHTK.square().sum(-1, keepdim=True)
    return x_BHTK / (square if normalize == "head" else square.sum(1, keepdim=True)).sqrt()


def equation(config: Any, q: Tensor, k: Tensor, sigma: Tensor) -> Tensor:
    """Eq. (1): q_i · k_j / √K, or with another scale 1/σ²; eq. (10): -|q_i - k_j|² / 2σ², or the norm itself."""
    if isinstance(config, StandardConfig):
        return (q * k).sum() / sigma**2
    assert isinstance(config, ProjectionConfig)
    square = ((q - k) ** 2).sum()
    if config.distance == "euclidean" and square > 0:  # the slope of the root at 0 is taken to be 0
        square = square.sqrt()
    return -square / (2 * sigma**2)


def transcribed(made: Any, config: Any, x_BTD: Tensor, memory_BSD: Tensor, seen_B1TS: Tensor) -> tuple[Tensor, Tensor]:
    """The weights [B, H, T, S] and the outputs [B, T, D]: eq. (10), decay, eq. (15) and (16), eq. (14), W_o.

    The largest logit of a row is subtracted before exp(); eq. (16) cancels it.
    """
    key = 0 if config.tie_query_key and made.role != "cross" else 1
    raw_k = projected(made, memory_BSD, key)
    q, k = (of_unit_length(vectors, config.normalize) for vectors in (projected(made, x_BTD, 0), raw_k))
    v = {"own": lambda: projected(made, memory_BSD, key + 1), "keys": lambda: k, "raw_keys": lambda: raw_k}
    v_BHSK = v[config.values]()
    queries, keys = x_BTD.shape[1], memory_BSD.shape[1]
    p = torch.zeros(len(q), made.heads, queries, keys, dtype=torch.float64)
    y = torch.zeros(len(q), made.heads, queries, made.head_width, dtype=torch.float64)
    for b, h, i in itertools.product(range(len(q)), range(made.heads), range(queries)):
        seen = [j for j in range(keys) if seen_B1TS[b, 0, i, j]]
        if not seen:
            continue
        sigma = made.log_sigma[h % len(made.log_sigma)].exp()
        s = [equation(config, q[b, h, i], k[b, h, j], sigma) for j in seen]
        largest = max(value.item() for value in s)
        z = [(value - largest).exp() for value in s]
        if config.decay is not None and made.role != "cross":
            tau = made.log_tau[h % len(made.log_tau)].exp()
            z = [value * torch.exp(-abs(i + keys - queries - j) / tau) for value, j in zip(z, seen, strict=True)]
        row = torch.stack(z) / sum(z)
        p[b, h, i, seen] = row
        y[b, h, i] = sum(weight * v_BHSK[b, h, j] for weight, j in zip(row, seen, strict=True))
    joined = torch.cat([y[:, h] for h in range(made.heads)], -1)
    return p, joined @ made.output.weight.T + made.output.bias


def root_of_the_matched_scale(config: Any, heads: int, head_width: int) -> float:
    """σ at which attention starts as q·k/√K: K^¼, K^-¼, (K/D²)^¼; of |q - k| that of the same slope at √2."""
    sigma = {"none": head_width**0.25, "head": head_width**-0.25}.get(
        config.normalize, (head_width / (heads * head_width) ** 2) ** 0.25
    )
    if getattr(config, "distance", "squared") == "squared":
        return sigma
    # d/2σ² has the slope 1/2σ'², d²/2σ² the slope d/σ², where d = √2 times the length of a vector.
    length = {"none": math.sqrt(head_width), "head": 1.0, "model": 1 / math.sqrt(heads)}[config.normalize]
    return sigma / math.sqrt(2 * math.sqrt(2) * length)
