"""What all kinds of attention share, for every case: masks, causality, caches, gradients, ties, the path taken.

Most are checks that know nothing of the attention (every_attention.py): test_new_attention.py gives them one more.
Axes: B sentences, T queries, S keys, D model width, H heads, K head width. Masks: True = may attend.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from projtrans.model.multihead import KeysValues, Role
from tests.attention_cases import (
    COVERING,
    EVERY,
    B,
    D,
    H,
    K,
    S,
    Use,
    close,
    gradients,
    meeting,
    module,
    normal,
    of,
    paths,
    remembered,
    scenes,
    sequences,
)
from tests.model.every_attention import CHECKS, DEAR_CHECKS

each_use = pytest.mark.parametrize("use", EVERY, ids=str)
each_case = pytest.mark.parametrize("use", COVERING, ids=str)


@each_use
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_what_every_attention_does(check: Callable[[Use], None], use: Use) -> None:
    check(use)


@each_case
@pytest.mark.parametrize("check", DEAR_CHECKS, ids=lambda check: check.__name__)
def test_what_every_pair_of_settings_does(check: Callable[[Use], None], use: Use) -> None:
    check(use)


# ------------------------------------------------------------------------------------------------- the path is chosen

CHOICES: list[tuple[str, dict[str, Any], Role, int, float, str]] = [
    ("short", {}, "encoder", S, 0.0, "_products"),
    ("long", {}, "encoder", 300, 0.0, "_fused"),
    ("long, with the decay of a decoder", {"decay": 2.0}, "decoder", 300, 0.0, "_fused"),
    ("long, with decay to both sides, which no kernel knows", {"decay": 2.0}, "encoder", 300, 0.0, "_products"),
    ("a distance that is no product", {"distance": "euclidean"}, "cross", 300, 0.0, "_plain"),
    ("short, with dropout of weights", {}, "decoder", S, 0.1, "_plain"),
    ("long, with dropout of weights, which no kernel of a CPU has", {}, "decoder", 300, 0.1, "_plain"),
]


@pytest.mark.parametrize(
    ("raw", "role", "length", "dropout", "path"), [row[1:] for row in CHOICES], ids=[row[0] for row in CHOICES]
)
def test_the_path_is_one_that_can_do_it(
    raw: dict[str, Any], role: Role, length: int, dropout: float, path: str
) -> None:
    made = module(raw, role, dropout=dropout)
    x = normal(1, length, D)
    q, kv = made.project(x)
    assert made._path(q, kv) == getattr(made, path)
    made.eval()
    plain = made.output(made._plain(q, kv, None, role == "decoder").transpose(1, 2).flatten(2))
    close(made(q, kv, causal=role == "decoder"), plain)


@pytest.mark.parametrize("use", [use for use in EVERY if "_fused" in paths(of(use))], ids=str)
def test_the_fused_path_takes_a_fused_kernel(use: Use) -> None:
    """Torch falls back to T × S products silently; restricted to the fused kernel, it raises instead."""
    made = of(use, dtype=torch.float32)
    for scene in scenes(use.role):
        x, memory = (tensor.requires_grad_() for tensor in sequences(made, scene.queries))
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            y = made._fused(made.project_queries(x), made.project_keys(memory), scene.mask, scene.causal)
            gradients(y, x, memory, made)


# ------------------------------------------------------------------------------------------------------------ caches


def test_caches_append_and_select_as_tensors_do() -> None:
    first, second = (
        KeysValues(normal(3, H, s, K, seed=s), normal(3, H, s, K, seed=s + 10), normal(3, 1, s, 1, seed=s + 20))
        for s in (2, 4)
    )
    grown, rows = first.append(second), torch.tensor([2, 0, 2, 2])
    chosen = grown.select(rows)
    for name, tensor in vars(grown).items():
        assert torch.equal(tensor, torch.cat([getattr(first, name), getattr(second, name)], 2))
        assert torch.equal(getattr(chosen, name), tensor[rows])


def test_a_tied_matrix_is_moved_by_queries_and_keys_and_is_learned_once() -> None:
    made = module({"tie_query_key": True})
    x = normal(B, S, D).requires_grad_()
    whole = gradients(made(*made.project(x)), x, x, made)["qkv.weight"][: H * K]
    parts = []
    for still in ("queries", "keys"):
        q, kv = made.project_queries(x), made.project_keys(x)
        q, kv = (q.detach(), kv) if still == "queries" else (q, remembered(made, kv.k_BHSK.detach(), kv.v_BHSK))
        parts.append(gradients(made(q, kv), x, x, made)["qkv.weight"][: H * K])
    close(sum(parts), whole, 1e-12)  # type: ignore[arg-type]


@each_case
def test_weights_that_take_no_gradient_keep_what_they_learned(use: Use) -> None:
    """In a moving average or a translator's model nothing takes a gradient; κ is still that of the learned σ."""
    made = of(use)
    q, kv = meeting(made)
    before = {name: path(q, kv, None, use.role == "decoder") for name, path in paths(made).items()}
    made.requires_grad_(False)
    for name, path in paths(made).items():
        close(path(q, kv, None, use.role == "decoder"), before[name], 1e-14, name)
