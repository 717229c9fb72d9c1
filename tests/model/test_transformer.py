"""The Transformer against a transcription, a parameter count by hand, and its own equivalences.

Cached = uncached, batch = single, padded = unpadded. Axes: B sentences, M hypotheses, S source and T target positions,
D width, V vocabulary. Masks: True = may attend.
"""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from projtrans.config import build
from projtrans.errors import ConfigError
from projtrans.model.multihead import KeysValues
from projtrans.model.transformer import FeedForward, ModelConfig, Transformer, sinusoids
from tests.attention_cases import COVERING, PRESETS, Use
from tests.model.small_transformer import LONGEST, PAD, SOURCES, TARGETS, padded, same, sentences, transformer

CASES = [
    {"kind": kind, "norm": norm, "positions": positions, "embeddings": {"tie": tie}}
    for kind, norm, positions, tie in itertools.product(
        ["standard", "projection"], ["pre", "post"], ["sinusoidal", "learned"], ["all", "output", "none"]
    )
]


def of(case: dict[str, Any]) -> Transformer:
    """The model of a case."""
    joint = case["embeddings"]["tie"] == "all"
    return transformer(joint=joint, source_size=TARGETS if joint else SOURCES, **case)


def words(case: dict[str, Any]) -> str:
    return "-".join([case["kind"], case["norm"], case["positions"], case["embeddings"]["tie"]])


cases = pytest.mark.parametrize("case", CASES, ids=words)
# Ties change no arithmetic behind the embeddings: most tests need one of them.
untied = pytest.mark.parametrize("case", [case for case in CASES if case["embeddings"]["tie"] == "none"], ids=words)

# ----------------------------------------------------------------------------------------------------- composition


@cases
def test_forward_is_decode_after_encode(case: dict[str, Any]) -> None:
    model = of(case)
    source, mask, target = padded()
    assert torch.equal(model(source, mask, target), model.decode(target, model.encode(source, mask)))


def layer_norm(x: Tensor, norm: Any) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, 1e-6)


def attention(module: Any, x: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
    """Multi-head attention by torch alone; projection as SDPA with a bias on each key."""
    matrices = zip((x, memory, memory), module.qkv.weight.chunk(3), module.qkv.bias.chunk(3), strict=True)
    q, k, v = (F.linear(*given).unflatten(-1, (2, -1)).transpose(1, 2) for given in matrices)
    if module.has_sigma:
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        q, scale = q * module.log_sigma.exp().pow(-2).view(-1, 1, 1), 1.0
    else:
        scale = q.shape[-1] ** -0.5
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return F.linear(y.transpose(1, 2).flatten(2), module.output.weight, module.output.bias)


def feedforward(module: FeedForward, x: Tensor) -> Tensor:
    hidden = F.relu(F.linear(x, module.expand.weight, module.expand.bias))
    return F.linear(hidden, module.contract.weight, module.contract.bias)


def embedded(model: Transformer, side: str, ids: Tensor) -> Tensor:
    table, positions = getattr(model, f"{side}_embedding").weight, getattr(model, f"{side}_positions")
    width = table.shape[1]
    if positions.learned is not None:
        return F.embedding(ids, table) * math.sqrt(width) + positions.learned.weight[: ids.shape[1]]
    return F.embedding(ids, table) * math.sqrt(width) + positions.table[: ids.shape[1]]


@untied
def test_a_layer_puts_norm_sum_and_sublayer_in_the_order_of_its_kind(case: dict[str, Any]) -> None:
    """Pre-norm: x + f(norm(x)) and a norm at the end; post-norm: norm(x + f(x)). Written in torch's functions."""
    model = of(case | {"layers": {"encoder": 1, "decoder": 1}})
    pre = case["norm"] == "pre"
    source, mask, target = padded()
    triangle = torch.ones(4, 4, dtype=torch.bool).tril()
    visible = mask[:, None, None]

    def sublayer(x: Tensor, part: Any, change: Any) -> Tensor:
        return x + change(layer_norm(x, part.norm)) if pre else layer_norm(x + change(x), part.norm)

    encoder, decoder = model.encoder[0], model.decoder[0]
    x = embedded(model, "source", source)
    x = sublayer(x, encoder.self_attention, lambda x: attention(encoder.self_attention.attention, x, x, visible))
    x = sublayer(x, encoder.feedforward, lambda x: feedforward(encoder.feedforward, x))
    memory = F.layer_norm(x, x.shape[-1:], model.encoder_norm.weight, model.encoder_norm.bias) if pre else x
    y = embedded(model, "target", target)
    y = sublayer(y, decoder.self_attention, lambda y: attention(decoder.self_attention.attention, y, y, triangle))
    y = sublayer(y, decoder.cross, lambda y: attention(decoder.cross.attention, y, memory, visible))
    y = sublayer(y, decoder.feedforward, lambda y: feedforward(decoder.feedforward, y))
    y = F.layer_norm(y, y.shape[-1:], model.decoder_norm.weight, model.decoder_norm.bias) if pre else y
    same(model(source, mask, target), y)


def test_only_pre_norm_ends_in_a_norm_of_its_own() -> None:
    for norm, count in (("pre", 2), ("post", 0)):
        model = transformer(norm=norm)
        own = [name for name, _ in model.named_parameters() if name.startswith(("encoder_norm", "decoder_norm"))]
        assert len(own) == 2 * count


# ------------------------------------------------------------------------------------------------------ invariances


@cases
def test_more_padding_changes_no_real_position(case: dict[str, Any]) -> None:
    model = of(case)
    source, mask, target = padded()
    expected = model(source, mask, target)
    wider = model(F.pad(source, (0, 4), value=PAD), F.pad(mask, (0, 4)), F.pad(target, (0, 5), value=PAD))
    same(wider[:, :4], expected)


@untied
def test_what_stands_in_the_padding_does_not_matter(case: dict[str, Any]) -> None:
    model = of(case)
    source, mask, target = padded()
    same(model(source.masked_fill(~mask, 7), mask, target), model(source, mask, target))


def test_unmasked_padding_does_matter() -> None:
    model = transformer(mask_padding=False)
    source, _, target = padded()
    change = model(F.pad(source, (0, 1), value=PAD), None, target) - model(source, None, target)
    assert change.abs().max() > 1e-3


@cases
def test_a_batch_gives_what_its_sentences_give_alone(case: dict[str, Any]) -> None:
    model = of(case)
    source, mask, target = padded()
    together = model(source, mask, target)
    for row in range(len(source)):
        length = int(mask[row].sum())
        alone = model(source[row : row + 1, :length], mask[row : row + 1, :length], target[row : row + 1])
        same(together[row : row + 1], alone)


@cases
def test_a_target_position_sees_itself_and_those_before(case: dict[str, Any]) -> None:
    model = of(case)
    source, mask, target = padded()
    expected = model(source, mask, target)
    for t in range(target.shape[1]):
        other = target.clone()
        other[:, t] = target[:, t] % (TARGETS - 1) + 1
        found = model(source, mask, other)
        same(found[:, :t], expected[:, :t])
        assert (found[:, t:] - expected[:, t:]).abs().amax(-1).min() > 1e-6, "it and all after it do change"


def test_a_source_of_padding_alone_is_no_nan() -> None:
    for kind in ("standard", "projection"):
        model = transformer(kind=kind)
        source, mask, target = padded()
        mask[2] = False
        hidden = model(source, mask, target)
        assert torch.isfinite(hidden).all()
        hidden.sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


# ---------------------------------------------------------------------------------------------------- step by step


def stepped(model: Transformer, source: Tensor, mask: Tensor | None, target_BMT: Tensor) -> Tensor:
    """Logits [B, M, T, V], one token per hypothesis at a time."""
    memory = model.encode(source, mask)
    past: list[KeysValues | None] = [None] * len(memory.layers)
    logits = []
    for t in range(target_BMT.shape[2]):
        found, caches = model.step(target_BMT[:, :, t], memory, past)
        past = list(caches)
        logits.append(found)
        assert [cache.k_BHSK.shape[:3] for cache in caches] == [(target_BMT[:, :, 0].numel(), 2, t + 1)] * len(caches)
        assert all(kept.k_BHSK.shape[0] == len(source) for kept in memory.layers), "the memory is not repeated"
    return torch.stack(logits, 2)


@cases
@pytest.mark.parametrize("m", [1, 3], ids=["greedy", "three hypotheses"])
def test_step_by_step_is_decode_position_by_position(case: dict[str, Any], m: int) -> None:
    model = of(case)
    source, mask, _ = padded()
    target = sentences(3 * m, 4, TARGETS, seed=5).view(3, m, 4)
    found = stepped(model, source, mask, target)
    for hypothesis in range(m):
        expected = model.output(model(source, mask, target[:, hypothesis]))
        same(found[:, hypothesis], expected)


@pytest.mark.parametrize("use", [*COVERING, *PRESETS[::3]], ids=str)
@pytest.mark.parametrize("mask_padding", [True, False])
def test_step_by_step_is_decode_for_every_pair_of_settings_and_every_preset(use: Use, mask_padding: bool) -> None:
    model = transformer(attention=use.raw, mask_padding=mask_padding)
    source, mask, _ = padded()
    seen = mask if mask_padding else None
    target = sentences(6, 4, TARGETS, seed=5).view(3, 2, 4)
    found = stepped(model, source, seen, target)
    for hypothesis in range(2):
        same(found[:, hypothesis], model.output(model(source, seen, target[:, hypothesis])))


def test_caches_follow_their_hypotheses_and_memories_their_sentences() -> None:
    """After a selection, a step continues as if the selected hypotheses had been there from the start."""
    model = transformer()
    source, mask, _ = padded()
    target = sentences(6, 2, TARGETS, seed=5).view(3, 2, 2)
    memory = model.encode(source, mask)
    _, caches = model.step(target[:, :, 0], memory, [None, None])
    kept, parents = torch.tensor([0, 2]), torch.tensor([[1, 1], [0, 1]])
    rows = (kept[:, None] * 2 + parents).flatten()
    past: list[KeysValues | None] = [cache.select(rows) for cache in caches]
    logits, _ = model.step(target[kept][:, :, 1], memory.select(kept), past)
    for place, sentence in enumerate(kept.tolist()):
        for slot in range(2):
            history = torch.stack([target[sentence, parents[place, slot], 0], target[sentence, slot, 1]])[None]
            whole = model.output(model(source[sentence : sentence + 1], mask[sentence : sentence + 1], history))
            same(logits[place, slot], whole[0, 1])


# ------------------------------------------------------------------------------------------------- size, ties, errors


@cases
@pytest.mark.parametrize("head_width", [None, 5])
def test_there_are_as_many_parameters_as_by_hand(case: dict[str, Any], head_width: int | None) -> None:
    model = of(case | {"layers": {"encoder": 3, "decoder": 2}, "head_width": head_width})
    d, h, f = 8, 2, 12
    inner = h * (head_width or d // h)
    tie = case["embeddings"]["tie"]
    source = TARGETS if tie == "all" else SOURCES
    sigma = h if case["kind"] == "projection" else 0
    attend = 3 * (d * inner + inner) + (inner * d + d) + sigma + 2 * d
    feed = (d * f + f) + (f * d + d) + 2 * d
    tables = {"all": source * d, "output": (source + TARGETS) * d, "none": (source + 2 * TARGETS) * d}[tie] + TARGETS
    positions = 2 * LONGEST * d if case["positions"] == "learned" else 0
    final = 2 * 2 * d if case["norm"] == "pre" else 0
    expected = 3 * (attend + feed) + 2 * (2 * attend + feed) + tables + positions + final
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_keys_as_values_save_a_quarter_of_every_attention() -> None:
    own, keys = (transformer(attention={"kind": "projection", "values": values}) for values in ("own", "keys"))
    saved = sum(p.numel() for p in own.parameters()) - sum(p.numel() for p in keys.parameters())
    assert saved == 6 * (8 * 8 + 8), "W_v and its bias in 2 + 2 × 2 modules"


TIES = [("all", {"source", "target", "output"}), ("output", {"target", "output"}), ("none", {"target"})]


@pytest.mark.parametrize(("tie", "together"), TIES, ids=[row[0] for row in TIES])
def test_tied_matrices_are_one(tie: str, together: set[str]) -> None:
    model = transformer(embeddings={"tie": tie}, joint=True, source_size=TARGETS)
    weights = {
        "source": model.source_embedding.weight,
        "target": model.target_embedding.weight,
        "output": model.output.weight,
    }
    with_target = {name for name, weight in weights.items() if weight.data_ptr() == weights["target"].data_ptr()}
    assert with_target == together
    model(*padded()).sum().backward()
    assert {name for name, weight in weights.items() if weight is weights["target"]} == together, "one gradient, too"


def refused(**settings: Any) -> str:
    joint = settings.pop("joint", True)
    with pytest.raises(ConfigError) as caught:
        transformer(joint=joint, source_size=TARGETS, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_settings_that_make_no_model_are_refused() -> None:
    assert refused(width=10, heads=4).startswith("heads: 4 does not divide width 10")
    assert refused(embeddings={"tie": "all"}, joint=False).startswith("model.embeddings.tie: ")
    assert refused(width=9, heads=3, positions="sinusoidal").startswith("width: ")
    assert refused(width=9, heads=3, positions="sinusoidal", head_width=4).startswith("width: ")


def test_settings_on_the_edge_make_a_model() -> None:
    for settings in ({"width": 9, "heads": 3, "positions": "learned"}, {"width": 10, "heads": 4, "head_width": 3}):
        hidden = transformer(**settings)(*padded())
        assert hidden.shape == (3, 4, settings["width"])


# -------------------------------------------------------------------------------------------------------- positions


def test_sinusoids_are_those_of_the_formula() -> None:
    """Vaswani et al. 2017, section 3.5: sin(t / 10000^(2i/D)) at 2i, cos at 2i + 1."""
    table = sinusoids(200, 16)
    for t, i in itertools.product(range(200), range(8)):
        angle = t / 10000 ** (2 * i / 16)
        assert table[t, 2 * i].item() == pytest.approx(math.sin(angle), abs=2e-5)
        assert table[t, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=2e-5)


def test_sinusoidal_positions_have_no_end() -> None:
    model = transformer()
    short = model.source_positions(0, 5)
    grown = model.source_positions(0, 10 * LONGEST)
    torch.testing.assert_close(grown, sinusoids(10 * LONGEST, 8).double(), rtol=0, atol=1e-6)
    assert torch.equal(grown[:5], short)
    assert torch.equal(model.source_positions(7, 2), grown[7:9])


def test_positions_are_no_part_of_the_state_and_learned_ones_are() -> None:
    assert not [name for name in transformer().state_dict() if "positions" in name]
    learned = transformer(positions="learned")
    assert sorted(name for name in learned.state_dict() if "positions" in name) == [
        "source_positions.learned.weight",
        "target_positions.learned.weight",
    ]
    assert torch.equal(learned.target_positions(3, 2), learned.target_positions.learned.weight[3:5])


def test_fresh_embeddings_are_drawn_as_configured() -> None:
    drawn = [("normal", 1 / 64, 8.0), ("uniform", 0.05**2 / 3, 1.0), ("cooccurrence", 1 / 64, 8.0)]
    for init, variance, scale in drawn:
        torch.manual_seed(0)
        config = build(ModelConfig, {"width": 64, "embeddings": {"tie": "none", "init": init}})
        model = Transformer(config, source_size=500, target_size=400, max_length=9, joint=False)
        assert model.scale == scale
        for table in (model.source_embedding.weight, model.target_embedding.weight):
            # The mean square of n numbers has a relative standard error of at most √(2/n): normal numbers have that.
            assert table.square().mean().item() == pytest.approx(variance, rel=5 * math.sqrt(2 / table.numel()))


def test_fresh_learned_positions_are_as_small_as_uniform_embeddings() -> None:
    """U(±0.05) as in Keras; torch's own N(0, 1) would drown out the token embeddings."""
    config = build(ModelConfig, {"width": 64, "positions": "learned"})
    model = Transformer(config, source_size=50, target_size=50, max_length=40, joint=True)
    for positions in (model.source_positions, model.target_positions):
        table = positions.learned.weight
        assert table.abs().max().item() <= 0.05
        assert table.square().mean().item() == pytest.approx(0.05**2 / 3, rel=0.15)


# --------------------------------------------------------------------------------------------------------- bfloat16


@pytest.mark.parametrize("kind", ["standard", "projection"])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_bfloat16_comes_close_to_float32(kind: str, norm: str) -> None:
    model = transformer(kind=kind, norm=norm, width=64, feedforward=128).float()
    source, mask, target = padded()
    with torch.no_grad():
        expected = model.output(model(source, mask, target)).log_softmax(-1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model.output(model(source, mask, target)).float().log_softmax(-1)
    assert (found.exp() - expected.exp()).abs().sum(-1).max() / 2 < 0.1
    assert (found - expected).abs().max() > 0, "it is another precision"
