"""The exported graphs against the modules they were traced from: every setting, any sizes, step by step; and int8.

One model holds all cases of the covering array, each at its place, because a trace takes seconds.
Axes: B sentences, M hypotheses of a sentence, S source positions, V vocabulary.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnxruntime import InferenceSession
from torch import Tensor, nn

from projtrans.config import build
from projtrans.errors import RunError
from projtrans.inference import onnx_export as export
from projtrans.inference import onnx_translator
from projtrans.model.multihead import (
    VARIANTS,
    AttentionConfig,
    KeysValues,
    build_attention,
    exact_modules,
    for_any_length,
)
from projtrans.model.transformer import ModelConfig, Transformer
from tests.attention_cases import covering_array, raw_of
from tests.model.laplace import LaplaceAttention
from tests.tiny_training import LONGEST, PAD, fresh, pairs, train

pytestmark = pytest.mark.slow  # exporting takes seconds

Graphs = tuple[InferenceSession, InferenceSession]
SIZES = [(1, 1, 1), (1, 3, 7), (3, 2, 5), (2, 5, 1), (4, 1, 9)]
"""Sentences, hypotheses, source positions: ones and others, none of them as in the trace alone."""


def model_of(model: dict[str, Any], attention: dict[str, Any]) -> Transformer:
    """A model whose every weight is drawn, so that none is 0 or 1 by chance of its initialisation."""
    settings = (
        {"layers": {"encoder": 1, "decoder": 1}, "width": 16, "heads": 2, "feedforward": 24}
        | model
        | {"attention": attention}
    )
    torch.manual_seed(5)
    made = Transformer(build(ModelConfig, settings), source_size=40, target_size=40, max_length=12, joint=True).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return made


def put(layer: nn.Module, attention: dict[str, Any], role: Any) -> None:
    """Give a sub-layer another attention."""
    config: Any = build(AttentionConfig, attention)
    made = build_attention(config, role, width=16, heads=2, head_width=8, dropout=0.0)
    made.reset_parameters()
    layer.attention = made.eval()


def of_every_setting() -> Transformer:
    """As many layers as it takes to have every case of the covering array at its place once."""
    cases = covering_array()
    at = {role: [raw_of(case) for case in cases if case["role"] == role] for role in ("encoder", "decoder", "cross")}
    made = model_of({"layers": {"encoder": len(at["encoder"]), "decoder": max(map(len, at.values()))}}, {})
    for layer, attention in zip(made.encoder, at["encoder"], strict=True):
        put(layer.self_attention, attention, "encoder")
    for number, layer in enumerate(made.decoder):
        for name, role in (("self_attention", "decoder"), ("cross", "cross")):
            put(getattr(layer, name), at[role][number % len(at[role])], role)
    return made


def graphs_of(model: Transformer, folder: Path, precision: str = "float32") -> Graphs:
    """Sessions of a model's graphs, as `translate` opens them."""
    export._positions(model, 20)
    for_any_length(model)
    exact = exact_modules(model)
    sessions = []
    for name, trace in (("encoder", export._encoder), ("decoder", export._decoder)):
        export._write(folder / name, trace(model), precision, exact)
        sessions.append(onnx_translator._session(folder / name, 1, None))  # type: ignore[arg-type]
    return sessions[0], sessions[1]


def sources(B: int, S: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random sources and their mask; the first is the longest, others end with padding."""
    generator = torch.Generator().manual_seed(seed)
    source_BS = torch.randint(4, 40, (B, S), generator=generator)
    mask_BS = torch.arange(S) < torch.randint(1, S + 1, (B, 1), generator=generator)
    mask_BS[0] = True
    return source_BS.masked_fill(~mask_BS, PAD), mask_BS


@torch.no_grad()
def differences(model: Transformer, graphs: Graphs, B: int, M: int, S: int, steps: int = 6) -> list[float]:
    """The largest difference of a logit at every step, with hypotheses that change places and sentences that leave."""
    source_BS, mask_BS = sources(B, S, 10 * B + M)
    masked = model.config.mask_padding
    memory = model.encode(source_BS, mask_BS if masked else None)
    given = {"source": source_BS.numpy()} | ({"mask": mask_BS.numpy()} if masked else {})
    decoder = onnx_translator.OnnxStepper(graphs[1], graphs[0].run(None, given), given.get("mask"))
    past: list[KeysValues | None] = [None] * len(memory.layers)
    generator, found = torch.Generator().manual_seed(B), []
    token_BM = torch.full((B, 1), 2)
    for step in range(steps):
        logits_BMV, caches = model.step(token_BM, memory, past)
        ours = torch.from_numpy(np.array(decoder.step(token_BM.numpy()).logits_BMV))
        found.append((ours - logits_BMV).abs().max().item())
        kept_B = torch.arange(len(token_BM))[: max(1, B - step // 3)]
        parent_BM = torch.randint(0, token_BM.shape[1], (len(kept_B), M), generator=generator)
        rows = (kept_B[:, None] * token_BM.shape[1] + parent_BM).flatten()
        past, memory = [layer.select(rows) for layer in caches], memory.select(kept_B)
        decoder.select(kept_B.numpy(), parent_BM.numpy())
        token_BM = torch.randint(4, 40, parent_BM.shape, generator=generator)
    return found


def test_every_setting_of_attention_computes_what_its_module_computes(tmp_path: Path) -> None:
    model = of_every_setting()
    graphs = graphs_of(model, tmp_path)
    for sizes in SIZES:
        assert max(differences(model, graphs, *sizes)) < 2e-5, sizes


OTHERS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "the paper's model",
        {
            "norm": "post",
            "positions": "learned",
            "mask_padding": False,
            "head_width": 5,
            "embeddings": {"tie": "none", "init": "uniform"},
        },
        {"kind": "projection", "sigma": {"encoder": 0.19, "decoder": 0.4, "cross": 0.4}, "learn_sigma": "none"},
    ),
    ("output tied alone", {"embeddings": {"tie": "output"}}, {"kind": "standard"}),
]


@pytest.mark.parametrize(("reason", "settings", "attention"), OTHERS, ids=[row[0] for row in OTHERS])
def test_every_other_setting_too(
    reason: str, settings: dict[str, Any], attention: dict[str, Any], tmp_path: Path
) -> None:
    model = model_of(settings, attention)
    graphs = graphs_of(model, tmp_path)
    for sizes in SIZES:
        assert max(differences(model, graphs, *sizes)) < 1e-4, sizes


# -------------------------------------------------------------------------------------------------------------- int8


def matrices(graph: onnx.GraphProto) -> dict[str, list[tuple[int, ...]]]:
    """The shapes of the constant matrices of the products, by kind of product."""
    shapes = {constant.name: tuple(constant.dims) for constant in graph.initializer}
    found: dict[str, list[tuple[int, ...]]] = {"MatMul": [], "MatMulNBits": []}
    for node in graph.node:
        if node.op_type in found and node.input[1] in shapes:
            found[node.op_type].append(shapes[node.input[1]])
    return found


def test_all_matrices_are_int8_but_those_that_small_widths_depend_on(tmp_path: Path) -> None:
    """σ = 0.15 on unit vectors in self-attention: its [W_q; W_k; W_v] stay, those of cross-attention do not."""
    model = model_of({}, {"kind": "projection", "sigma": {"self": 0.15, "cross": 0.5}, "learn_sigma": "none"})
    wide = {name: len(layer) for name, layer in (("encoder", model.encoder), ("decoder", model.decoder))}
    graphs_of(model, tmp_path, "int8")
    encoder, decoder = (matrices(onnx.load(tmp_path / name).graph) for name in ("encoder", "decoder"))
    assert encoder["MatMul"] == [(16, 16)] * 3 * wide["encoder"]  # q, k and v apart, as exact modules compute them
    assert decoder["MatMul"] == [(16, 16)] * 3 * wide["decoder"]
    assert len(encoder["MatMulNBits"]) == 3 * wide["encoder"] + wide["decoder"]  # W_o, feed-forward; cross-attention
    assert len(decoder["MatMulNBits"]) == 5 * wide["decoder"] + 1  # the output layer


@pytest.mark.parametrize("shape", [(64, 5), (24, 7), (200, 3)])
def test_blocks_are_the_matrix_to_half_a_step(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    matrix[:, 0] = 0
    blocks, scales = export._blocks(matrix)
    steps = scales.reshape(shape[1], -1, 1)
    back = ((blocks.astype(np.float32) - 128) * steps).reshape(shape[1], -1)[:, : shape[0]].T
    widest = np.repeat(steps, export.BLOCK, -1).reshape(shape[1], -1)[:, : shape[0]].T
    assert (np.abs(back - matrix) <= widest * 0.5001).all()
    assert not back[:, 0].any()


def test_int8_is_near_and_independent_of_the_batch(tmp_path: Path) -> None:
    """A trained model, so that there is something to lose: other sentences in the batch change nothing but rounding."""
    model = fresh({"kind": "projection"})
    train(model, 150)
    encoder, _ = graphs_of(model.eval(), tmp_path, "int8")
    (source, _), mask = pairs(), pairs()[0] != PAD
    with torch.no_grad():
        exact = export._flat(model.encode(source, mask).layers)
    crowd = encoder.run(None, {"source": source.numpy(), "mask": mask.numpy()})
    alone = encoder.run(None, {"source": source[:1].numpy(), "mask": mask[:1].numpy()})
    real = mask[:, None, :, None].numpy()
    for ours, one, theirs in zip(crowd, alone, exact, strict=True):
        error = np.abs(ours - theirs.numpy())[np.broadcast_to(real, ours.shape)]
        assert 1e-5 < error.max() < 0.1 * np.abs(theirs.numpy()).max()
        np.testing.assert_allclose(one[:, :, : LONGEST + 1], ours[:1], atol=1e-5)


# ------------------------------------------------------------------------------------------------- attentions to come


def test_an_attention_that_is_only_registered_can_be_exported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(VARIANTS, "laplace", LaplaceAttention)
    model = model_of({}, {"kind": "laplace", "normalize": "head", "decay": "learned"})
    graphs = graphs_of(model, tmp_path)
    for sizes in SIZES[:3]:
        assert max(differences(model, graphs, *sizes)) < 1e-4, sizes


def test_an_attention_of_unknown_operators_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = model_of({"layers": {"encoder": 1, "decoder": 1}}, {"kind": "standard"})
    attention: Any = model.encoder[0].self_attention.attention
    attention.dot_form = False
    monkeypatch.setattr(attention, "logits", lambda q, k: torch.special.bessel_j0(q @ k.mT))
    with pytest.raises(RunError, match="cannot become an ONNX graph") as caught:
        export._encoder(model)
    assert "bessel" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_distances_are_those_of_torch(p: float, tmp_path: Path) -> None:
    """Any attention may speak of torch.cdist, which torch's own exporter does not know."""

    class Distances(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.cdist(x, y, p=p, compute_mode="donot_use_mm_for_euclid_dist")

    size = export._size(0, 1)
    x, y = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    graph = export._traced(Distances(), (x, y), (size, size), ["x", "y"], ["d"])
    export._write(tmp_path / "distances", graph, "float32", [])
    session = onnx_translator._session(tmp_path / "distances", 1, None)  # type: ignore[arg-type]
    x, y = torch.randn(3, 1, 4), torch.randn(3, 6, 4)
    [found] = session.run(None, {"x": x.numpy(), "y": y.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), torch.cdist(x, y, p=p))
