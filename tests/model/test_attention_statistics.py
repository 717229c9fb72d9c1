"""Attention statistics against loops in float64; and that computing them changes nothing.

Axes: B sentences, H heads, T queries, S keys, K head width.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from projtrans.model.attention_statistics import FIGURES, SATURATED, attention_statistics, row_sums
from projtrans.model.batching import Batch, Layout
from projtrans.model.multihead import MultiHeadAttention, attentions
from projtrans.model.transformer import Transformer
from tests.attention_cases import ATTENTIONS
from tests.tiny_training import BOS, EOS, PAD, PIECES, fresh

kinds = pytest.mark.parametrize("attention", ATTENTIONS.values(), ids=ATTENTIONS.keys())

EXAMPLES = [([5, 6, 7, 3, EOS], [4, 9, EOS]), ([8, EOS], [3, 4, 5, 6, EOS]), ([9], [EOS]), ([], [4, 4, EOS])]
"""Sources of five tokens, two, one and none; targets of three, five, one and three."""


def batch_of(examples: Sequence[tuple[list[int], list[int]]], *, mask_padding: bool = True) -> Batch:
    layout = Layout(pad_id=PAD, bos_id=BOS, eos_id=EOS, max_length=7, mask_padding=mask_padding)
    return layout.batch([layout.example(source, target[:-1]) for source, target in examples])


def model_of(attention: dict[str, Any]) -> Transformer:
    """A model in float64 whose weights are far enough from initialisation for heads to differ."""
    model = fresh(attention).double().eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def log_weight(module: MultiHeadAttention, q_K: Tensor, k_K: Tensor, head: int, apart: int) -> float:
    """log of the unnormalised weight of one key for one query, from the paper's equations as printed."""
    if module.normalize == "head":
        q_K, k_K = q_K / q_K.norm(), k_K / k_K.norm()
    sigma = module.log_sigma.exp()
    sigma = sigma[head % len(sigma)].item()
    distance = (q_K - k_K).square().sum().item()
    if not module.has_sigma:
        s = (q_K @ k_K).item() / sigma**2  # 1/√K at σ = K^¼
    else:
        s = -(distance if module.dot_form else math.sqrt(distance)) / (2 * sigma**2)
    return s - apart / module.log_tau.exp()[head].item() if module.decay else s


def rows_by_hand(
    module: MultiHeadAttention, arguments: tuple[Any, ...], real_BT: Tensor
) -> Iterator[tuple[int, list[float]]]:
    """Head and weights of every row that counts, one number at a time, without the masked keys."""
    q_BHTK, memory, mask, causal = (*arguments, False)[:4]
    B, H, T, S = *q_BHTK.shape[:3], memory.k_BHSK.shape[2]
    for b in range(B):
        for t in range(T):
            seen = [s for s in range(S) if (mask is None or bool(mask.expand(B, 1, T, S)[b, 0, t, s]))
                    and (not causal or s <= t)]  # fmt: skip
            if not real_BT[b, t] or len(seen) < 2:
                continue
            for head in range(H):
                logs = [
                    log_weight(module, q_BHTK[b, head, t], memory.k_BHSK[b, head, s], head, abs(t - s)) for s in seen
                ]
                total = max(logs) + math.log(math.fsum(math.exp(value - max(logs)) for value in logs))
                yield head, [math.exp(value - total) for value in logs]


def by_hand(model: Transformer, batch: Batch, name: str) -> dict[str, list[float]]:
    """The three statistics of a module, from the queries and keys of a forward pass."""
    module, given_to = dict(attentions(model))[name], []
    hook = module.register_forward_pre_hook(
        lambda _, arguments, named: given_to.append((*arguments, *named.values())), with_kwargs=True
    )
    with torch.no_grad():
        model(batch.source_BS, batch.source_mask_BS, batch.target_in_BT)
    hook.remove()
    ((arguments),) = given_to
    real_BT = batch.source_BS != PAD if module.role == "encoder" else batch.target_out_BT != PAD
    rows = list(rows_by_hand(module, arguments, real_BT))
    assert rows
    entropies = [[-math.fsum(p * math.log(p) for p in row if p) for head, row in rows if head == h] for h in range(2)]
    return {
        "entropy": [math.fsum(values) / len(values) for values in entropies],
        "effective_keys": [math.fsum(map(math.exp, values)) / len(values) for values in entropies],
        "saturated": [
            sum(max(row) > SATURATED for head, row in rows if head == h) / len(entropies[h]) for h in range(2)
        ],
    }


@kinds
@pytest.mark.parametrize("mask_padding", [True, False])
def test_figures_are_those_of_loops_in_float64(attention: dict[str, Any], mask_padding: bool) -> None:
    """In float64 and as in training, with weights in float32; short and long sentences, with and without padding."""
    model, batch = model_of(attention), batch_of(EXAMPLES, mask_padding=mask_padding)
    wanted = {name: by_hand(model, batch, name) for name, _ in attentions(model)}
    assert len(wanted) == 3
    for found, tolerance in (
        (attention_statistics(model, [batch], PAD), 6e-5),  # they are rounded to four places
        (attention_statistics(model.float(), [batch], PAD), 3e-3),
    ):
        assert found.keys() == wanted.keys()
        for name, figures in wanted.items():
            for figure in FIGURES:
                assert found[name][figure] == pytest.approx(figures[figure], abs=tolerance), (name, figure)


def test_several_batches_weigh_by_their_rows() -> None:
    model = model_of({"kind": "projection"})
    apart = attention_statistics(model, [batch_of(EXAMPLES[:1]), batch_of(EXAMPLES[1:])], PAD)
    assert apart == attention_statistics(model, [batch_of(EXAMPLES)], PAD)


def test_queries_of_zero_see_all_keys_alike() -> None:
    """Uniform rows have as many effective keys as are visible, in every head; causal row t sees t + 1."""
    model = fresh({"kind": "standard"})
    with torch.no_grad():
        for _, module in attentions(model):
            module.qkv.weight[:32] = 0.0
            module.qkv.bias[:32] = 0.0
    found = attention_statistics(model, [batch_of([([5, 6, 7], [3, 4, 5, EOS]), ([5, 6], [3, EOS])])], PAD)
    figures = {name.split(".")[2 if name.startswith("decoder") else 0]: value for name, value in found.items()}
    assert figures["encoder"]["effective_keys"] == pytest.approx([(3 * 3 + 2 * 2) / 5] * 2, abs=1e-4)
    assert figures["encoder"]["entropy"] == pytest.approx([(3 * math.log(3) + 2 * math.log(2)) / 5] * 2, abs=1e-4)
    assert figures["self_attention"]["effective_keys"] == pytest.approx([(2 + 3 + 4 + 2) / 4] * 2, abs=1e-4)
    assert figures["cross"]["effective_keys"] == pytest.approx([(4 * 3 + 2 * 2) / 6] * 2, abs=1e-4)
    assert all(value["saturated"] == [0.0, 0.0] for value in figures.values())


def test_where_no_row_has_a_choice_there_is_no_figure() -> None:
    """One source and one target token: every row is one-hot, so no head has statistics."""
    model = fresh({"kind": "projection"})
    for figures in attention_statistics(model, [batch_of([([7], [EOS])])], PAD).values():
        assert all(figures[name] == [None, None] for name in FIGURES)
        assert len(figures["sigma"]) == 2


@given(st.data())
def test_sums_over_rows_are_those_of_the_definition(data: st.DataObject) -> None:
    shape = [data.draw(st.integers(1, 4), label) for label in "BHTS"]
    count = math.prod(shape)
    logits = torch.tensor(data.draw(st.lists(st.floats(-1e5, 1e5), min_size=count, max_size=count))).view(*shape)
    counted_BT = torch.tensor(
        data.draw(st.lists(st.booleans(), min_size=shape[0] * shape[2], max_size=shape[0] * shape[2]))
    ).view(shape[0], shape[2])
    p_BHTS = logits.double().softmax(-1)
    found = row_sums(p_BHTS, counted_BT)
    for head in range(shape[1]):
        rows = [p_BHTS[b, head, t].tolist() for b, t in counted_BT.nonzero().tolist()]
        entropies = [-math.fsum(p * math.log(p) for p in row if p > 0) for row in rows]
        wanted = [len(rows), sum(entropies), sum(map(math.exp, entropies)), sum(max(row) > 0.99 for row in rows)]
        assert found[:, head].tolist() == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def test_looking_changes_nothing_and_leaves_nothing_behind() -> None:
    model, batch = fresh({"kind": "projection"}).eval(), batch_of(EXAMPLES[:2])
    inputs = (batch.source_BS, batch.source_mask_BS, batch.target_in_BT)
    before, random = model(*inputs), torch.get_rng_state()
    attention_statistics(model, [batch], PAD)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(model(*inputs), before)
    beyond = Batch.of(torch.full((1, 2), PIECES), None, *(torch.ones(1, 2, dtype=torch.int64) for _ in range(3)))
    with pytest.raises(IndexError):  # a token that the model does not have
        attention_statistics(model, [beyond], PAD)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_learned_numbers_are_reported_and_no_others() -> None:
    reported = {
        name: {key for values in attention_statistics(fresh(attention), [batch_of(EXAMPLES)], PAD).values()
               for key in values} - set(FIGURES)
        for name, attention in ATTENTIONS.items()
    }  # fmt: skip
    assert reported == {
        "standard": set(),
        "QK-norm": {"sigma"},
        "projection": {"sigma"},
        "the paper's σ": {"sigma"},
        "Euclidean, not normalised": {"sigma"},
        "decay, the keys as values": {"sigma", "tau"},
    }
    model = fresh({"kind": "projection", "decay": "learned"})
    with torch.no_grad():
        for _, module in attentions(model):
            module.log_sigma.copy_(torch.tensor([0.5, 0.25]).log())
            if module.decay:
                module.log_tau.copy_(torch.tensor([2.0, 8.0]).log())
    for name, values in attention_statistics(model, [batch_of(EXAMPLES)], PAD).items():
        assert values["sigma"] == pytest.approx([0.5, 0.25], abs=1e-5)
        assert values.get("tau") == (None if "cross" in name else pytest.approx([2.0, 8.0], abs=1e-4))
