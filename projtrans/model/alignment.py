"""Word alignment read from cross-attention: the source word of every word of a translation.

    w_tj = 1/H Σ_h p_htj                              one decoder layer, averaged over its heads
    a(u) = argmax_v Σ_{t in u} Σ_{j in v} w_tj        the source word v that the target word u is aligned to

p_t is the row that predicts token t in a teacher-forced pass; the layer is the last but one (Garg et al. 2019, "Jointly
Learning to Align and Translate with Transformer Models", arXiv 1909.02074). Other choices are measured in
docs/translate.md.

Reads the weights through hooks, as attention_statistics.py does. Axes: B sentences, H heads, T target positions,
S source positions, L decoder layers, U target words, V source words. Knows ids and tensors only; the caller says which
tokens make a word.
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
"""Pairs (source word, target word), both counted from 0, in target order."""


@torch.inference_mode()
def cross_attention(
    model: Transformer, layout: Layout, sources: Sequence[list[int]], targets: Sequence[list[int]]
) -> list[Tensor]:
    """The cross-attention weights that predict each target token, float32 [L, H, T, S] for every pair.

    sources: EOS included; targets: without BOS. A row sums to 1, or to less if the model attends to padding too.
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
    """The weights [T, S] used for alignment: those of layer `read_layer`, averaged over its heads."""
    return weights_LHTS[read_layer(len(weights_LHTS))].mean(0)


def read_layer(layers: int) -> int:
    """The decoder layer used for alignment, of so many: the last but one, or the only one."""
    return max(0, layers - 2)


def links(weights_TS: Tensor, source_words: list[list[int]], target_words: list[list[int]]) -> Links:
    """The source word of every target word; empty if the source has no words.

    source_words, target_words: as in `summed_to_words`.
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
    """The weights of tokens summed to words [U, V].

    source_words, target_words: the words that each token belongs to. Rows and columns beyond them,
    such as EOS, belong to none.
    """
    source_SV, target_TU = _membership(source_words), _membership(target_words)
    return target_TU.T @ weights_TS[: len(target_TU), : len(source_SV)] @ source_SV


def _membership(words: list[list[int]]) -> Tensor:
    """[tokens, words], 1 where a token belongs to a word."""
    count = 1 + max((word for token in words for word in token), default=-1)
    return torch.tensor([[float(word in token) for word in range(count)] for token in words]).view(len(words), count)
