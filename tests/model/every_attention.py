"""What every attention must do, whatever its equation: checks that take one use of attention and know no kind.

Axes: B sentences, T queries, S keys, D model width, H heads, K head width. Masks: True = may attend.
"""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from projtrans.model.multihead import KeysValues, MultiHeadAttention
from tests.attention_cases import (
    EMPTY_ROWS,
    PADDING,
    B,
    D,
    H,
    K,
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
    projected,
    remembered,
    scenes,
    sequences,
)


def weights_are_probabilities_and_zero_where_nothing_may_be_seen(use: Use) -> None:
    made = of(use)
    for scene in scenes(use.role):
        weights = made.weights(*meeting(made, scene.queries), scene.mask, scene.causal)
        assert (weights >= 0).all()
        assert not weights.masked_select(~scene.seen).any()
        close(weights.sum(-1), scene.seen.any(-1).expand(B, H, scene.queries).double(), 1e-12, scene.name)


def a_masked_key_cannot_matter(use: Use) -> None:
    made = of(use)
    q, kv = meeting(made)
    hidden = ~PADDING[:, 0, 0, :, None][:, None]
    v = None if kv.v_BHSK is None else kv.v_BHSK + 1e3 * hidden
    other = remembered(made, kv.k_BHSK + 1e3 * normal(*kv.k_BHSK.shape, seed=6) * hidden, v)
    for name, path in paths(made).items():
        close(path(q, other, PADDING, False), path(q, kv, PADDING, False), 1e-12, name)


def padding_cannot_matter_and_a_batch_gives_what_its_sentences_give_alone(use: Use) -> None:
    """Sentences of five and two tokens padded to eight, in self-attention or cross-attention."""
    made, causal = of(use), use.role == "decoder"
    lengths, rectangle = (S, S - 3), torch.cat([normal(B, S, D, seed=2), normal(B, 3, D, seed=8)], 1)
    mask = torch.tensor([[s < length for s in range(S + 3)] for length in lengths])[:, None, None, :]
    asking = made.project_queries(normal(B, T, D, seed=1))
    for name, path in paths(made).items():
        q, kv = (asking, made.project_keys(rectangle)) if use.role == "cross" else made.project(rectangle)
        together = path(q, kv, mask, causal)
        for row, length in enumerate(lengths):
            own_q, own_kv = made.project(rectangle[row : row + 1, :length])
            own_q = asking[row : row + 1] if use.role == "cross" else own_q
            alone = path(own_q, own_kv, None, causal)
            close(together[row : row + 1, :, : alone.shape[2]], alone, 1e-12, name)


def rows_that_see_nothing_give_zeros_and_finite_gradients(use: Use) -> None:
    made = of(use)
    empty = ~EMPTY_ROWS.any(-1)[:, 0]
    for name in paths(made):
        x, memory = (tensor.requires_grad_() for tensor in sequences(made, S))
        y = paths(made)[name](made.project_queries(x), made.project_keys(memory), EMPTY_ROWS, False)
        assert not y.transpose(1, 2)[empty].any()
        slopes = gradients(y, x, memory, made)
        assert all(torch.isfinite(slope).all() for slope in slopes.values())
        assert not slopes["x"][empty].any()
        assert slopes["x"][~empty].any()


def no_position_sees_what_comes_after_it(use: Use) -> None:
    made = of(use)
    x = normal(B, S, D)
    for (name, path), t in itertools.product(paths(made).items(), range(S - 1)):
        future = x.clone()
        future[:, t + 1 :] = 50 * normal(B, S - t - 1, D, seed=7)
        now, then = (path(*made.project(sequence), None, True) for sequence in (x, future))
        close(now[:, :, : t + 1], then[:, :, : t + 1], 1e-13, name)
        assert (now[:, :, t + 1 :] - then[:, :, t + 1 :]).abs().max() > 1e-3, "the future itself does change"


def cached_queries_are_aligned_with_the_last_keys(use: Use) -> None:
    made = of(use)
    q, kv = made.project(normal(B, S, D))
    for (name, path), mask in itertools.product(paths(made).items(), [None, PADDING]):
        whole = path(q, kv, mask, True)
        for t in range(1, S):
            close(path(q[:, :, -t:], kv, mask, True), whole[:, :, -t:], 1e-12, name)


def step_by_step_with_a_cache_is_the_whole_causal_pass(use: Use) -> None:
    made = of(use)
    x = normal(B, S, D)
    whole = made(*made.project(x), causal=True)
    cache: KeysValues | None = None
    for t in range(S):
        q, new = made.project(x[:, t : t + 1])
        cache = new if cache is None else cache.append(new)
        close(made(q, cache, causal=True), whole[:, t : t + 1], message="a row of a square")
        close(made(q, cache), whole[:, t : t + 1], message="one query needs no triangle")


class Whole(nn.Module):
    """Queries of x attending to a memory on one path, as one function."""

    def __init__(self, attention: MultiHeadAttention, path: str, scene: Any) -> None:
        super().__init__()
        self.attention, self.path, self.scene = attention, path, scene

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """The heads' outputs."""
        q, kv = self.attention.project_queries(x), self.attention.project_keys(memory)
        return getattr(self.attention, self.path)(q, kv, self.scene, self.attention.role == "decoder")


def gradients_are_those_of_finite_differences(use: Use) -> None:
    """In both sequences, log σ and log τ, on every path, with a masked key."""
    made = of(use, width=4, head_width=2)
    x, memory = normal(1, 2, 4, seed=1).requires_grad_(), normal(1, 3, 4, seed=2).requires_grad_()
    learned = {f"attention.{name}": p for name, p in made.named_parameters() if name.startswith("log_")}
    mask = torch.tensor([[True, True, True], [False, True, True]])
    for name in paths(made):
        whole = Whole(made, name, mask)

        def of_all(x: Tensor, memory: Tensor, *numbers: Tensor, whole: Whole = whole) -> Any:
            return torch.func.functional_call(whole, dict(zip(learned, numbers, strict=True)), (x, memory))

        numbers = [parameter.detach().clone().requires_grad_() for parameter in learned.values()]
        assert torch.autograd.gradcheck(of_all, (x, memory, *numbers))


def the_paths_agree_in_float32_with_float64(use: Use) -> None:
    wide, narrow = of(use), of(use, dtype=torch.float32)
    tolerance = 5e-3 if wide.exact else 2e-5  # logits of 10⁴ err by 10⁻³ in float32
    for name in paths(wide):
        found, expected = (paths(made)[name](*meeting(made), PADDING, False) for made in (narrow, wide))
        close(found.double(), expected, tolerance, name)


def dropout_takes_weights_out_in_training_alone(use: Use) -> None:
    made = module(dict(use.raw) | {"values": "own"}, use.role, dropout=0.25)
    q, kv = meeting(made, S)
    see_weights = remembered(made, kv.k_BHSK, torch.eye(S, dtype=torch.float64).expand(B, H, S, S))
    p = made.weights(q, kv)
    for name, path in paths(made).items():
        made.train()
        if name != "_products":  # which is not chosen then
            dropped = path(q, see_weights, None, False)
            gone = dropped == 0
            assert gone.any()
            assert not gone.all()
            close(dropped[~gone], (p / 0.75)[~gone], 1e-12, name)
        made.eval()
        close(path(q, see_weights, None, False), p, 1e-12, name)


def a_long_sentence_gives_what_the_equation_gives(use: Use) -> None:
    made = of(use)
    q, kv = made.project(normal(1, 260, D))
    assert q.shape[2] * kv.k_BHSK.shape[2] > 256 * 256, "the path is another one"
    plain = made.output(made._plain(q, kv, None, True).transpose(1, 2).flatten(2))
    close(made(q, kv, causal=True), plain, 1e-9 if made.exact else 1e-10)


def a_cache_holds_what_is_needed_and_nothing_twice(use: Use) -> None:
    """Keys as projected, values only if they are not the keys, and norms only if normalised, one if heads share it."""
    made, config = of(use), use.config
    _, kv = made.project(normal(B, T, D))
    for cache in (kv, made.project_keys(normal(B, S, D)), kv.append(kv), kv.select(torch.tensor([1, 1]))):
        assert cache.k_BHSK.shape[1:] == (H, cache.k_BHSK.shape[2], K)
        assert (cache.v_BHSK is not None) == (config.values == "own")
        heads = {"none": None, "head": H, "model": 1}[config.normalize]
        found = None if cache.length_BHS1 is None else cache.length_BHS1.shape
        assert found == (None if heads is None else (B, heads, cache.k_BHSK.shape[2], 1))


def there_is_a_matrix_for_each_of_what_is_asked_for_and_no_other(use: Use) -> None:
    """W_q = W_k in self-attention if tied, W_v if values have their own; all are slices of one matrix."""
    made, config = of(use), use.config
    tied = config.tie_query_key and use.role != "cross"
    count = (1 if tied else 2) + (config.values == "own")
    assert made.qkv.weight.shape == (count * H * K, D)
    memory = sequences(made)[1]
    kv = made.project_keys(memory)
    close(kv.k_BHSK, projected(made, memory, 0 if tied else 1), 1e-12)
    if tied:
        q, own = made.project(memory)
        assert torch.equal(q, own.k_BHSK), "to the last bit: the distance of a token to itself is 0"
    expected = {
        "own": lambda: projected(made, memory, count - 1),
        "raw_keys": lambda: kv.k_BHSK,
        "keys": lambda: made.keys(kv),
    }[config.values]()
    close(made.values(kv), expected, 1e-12)


CHECKS: list[Callable[[Use], None]] = [
    weights_are_probabilities_and_zero_where_nothing_may_be_seen,
    a_masked_key_cannot_matter,
    padding_cannot_matter_and_a_batch_gives_what_its_sentences_give_alone,
    rows_that_see_nothing_give_zeros_and_finite_gradients,
    no_position_sees_what_comes_after_it,
    cached_queries_are_aligned_with_the_last_keys,
    step_by_step_with_a_cache_is_the_whole_causal_pass,
    the_paths_agree_in_float32_with_float64,
    a_long_sentence_gives_what_the_equation_gives,
    a_cache_holds_what_is_needed_and_nothing_twice,
    there_is_a_matrix_for_each_of_what_is_asked_for_and_no_other,
]

DEAR_CHECKS: list[Callable[[Use], None]] = [
    gradients_are_those_of_finite_differences,
    dropout_takes_weights_out_in_training_alone,
]
"""Checks for every pair of settings that presets need not pass too, since they take longer."""
