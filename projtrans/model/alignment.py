"""Which source words the words of a translation come from, read off cross-attention.

    w_tj = 1/H Σ_h p_htj                              one decoder layer, averaged over its heads
    a(u) = argmax_v Σ_{t in u} Σ_{j in v} w_tj        the source word v that the target word u is aligned to

p_t is the row that predicts piece t, when the translation is forced on the model; the layer is the last but one (Garg
et al. 2019, "Jointly Learning to Align and Translate with Transformer Models", arXiv 1909.02074). What other choices
give is measured in docs/translate.md.

Watches from outside, as telemetry.py does. Axes: B sentences, H heads, T target positions, S source positions, L
decoder layers, U target words, V source words. Knows ids and tensors only: which pieces make a word, the caller says.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from projtrans.model.batching import Layout
from projtrans.model.multihead import MultiHeadAttention, attentions
from projtrans.model.transformer import Transformer

Links = list[tuple[int, int]]
"""Pairs (source word, target word), counted from 0, in the order of the target."""


@torch.inference_mode()
def cross_attention(
    model: Transformer, layout: Layout, sources: Sequence[list[int]], targets: Sequence[list[int]]
) -> list[Tensor]:
    """The weights of cross-attention where each piece of the targets is predicted, float32 [L, H, T, S] a pair.

    sources with their end, targets without begin. A row sums to 1, or to less where the model attends to padding too.
    """
    longest = max(1, *map(len, targets))
    rows = [[layout.bos_id, *target, *[layout.pad_id] * longest][:longest] for target in targets]
    source_BS, mask_BS = layout.sources(sources)
    device = model.output.weight.device
    weights: list[Tensor] = []
    hooks = [_watch(module, weights) for _, module in attentions(model) if module.role == "cross"]
    try:
        model(source_BS.to(device), None if mask_BS is None else mask_BS.to(device), torch.tensor(rows, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    weights_BLHTS = torch.stack(weights, 1).float().cpu()
    return [
        weights_LHTS[:, :, : len(target), : len(source)]
        for weights_LHTS, target, source in zip(weights_BLHTS, targets, sources, strict=True)
    ]


def averaged(weights_LHTS: Tensor) -> Tensor:
    """The weights [T, S] that alignment reads: of the last layer but one, or the only one, the mean of its heads."""
    return weights_LHTS[read_layer(len(weights_LHTS))].mean(0)


def read_layer(layers: int) -> int:
    """Which of so many decoder layers alignment reads."""
    return max(0, layers - 2)


def links(weights_TS: Tensor, source_words: list[list[int]], target_words: list[list[int]]) -> Links:
    """The source word of every target word that has pieces; none, where no source word has.

    source_words, target_words: as `summed_to_words`.
    """
    weights_UV = summed_to_words(weights_TS, source_words, target_words)
    if not weights_UV.shape[1]:
        return []
    return [(v, u) for u, v in enumerate(weights_UV.argmax(1).tolist())]


def _watch(module: MultiHeadAttention, found: list[Tensor]) -> RemovableHandle:
    def before(module: MultiHeadAttention, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        found.append(module.weights(*arguments, **named))

    return module.register_forward_pre_hook(before, with_kwargs=True)


def summed_to_words(weights_TS: Tensor, source_words: list[list[int]], target_words: list[list[int]]) -> Tensor:
    """The weights of pieces summed to words [target words, source words].

    source_words, target_words: the words that each piece belongs to. Rows and columns beyond them, such as the end's,
    belong to none.
    """
    source_SV, target_TU = _membership(source_words), _membership(target_words)
    return target_TU.T @ weights_TS[: len(target_TU), : len(source_SV)] @ source_SV


def _membership(words: list[list[int]]) -> Tensor:
    """[pieces, words], 1 where a piece belongs to a word."""
    count = 1 + max((word for piece in words for word in piece), default=-1)
    return torch.tensor([[float(word in piece) for word in range(count)] for piece in words]).view(len(words), count)
