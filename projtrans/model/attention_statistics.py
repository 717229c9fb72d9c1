"""Statistics of attention by module and head: over how many keys a query spreads.

    H_i = -Σ_j p_ij log p_ij        entropy of a row, in nats; exp(H_i) is its effective number of keys
    max_j p_ij > 0.99               a saturated row: the query sees one key only, and gets almost no gradient

Hooks ask every attention for its `weights`, so the modules know nothing of it and the forward pass keeps its fast
paths. Falling entropy is a sign of diverging training (Zhai et al. 2023, "Stabilizing Transformer Training by
Preventing Attention Entropy Collapse", arXiv 2303.06296).

Axes: B sentences, H heads, T queries, S keys. Masks: True = may attend, a real token. Knows ids and tensors only.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from projtrans.model.batching import Batch
from projtrans.model.multihead import KeysValues, MultiHeadAttention, attentions, sigmas, taus, visible

SATURATED = 0.99
"""A row is saturated if its largest weight exceeds this."""

Statistics = dict[str, dict[str, list[float | None]]]
"""By module name: `entropy`, `effective_keys` and `saturated` per head; `sigma` and `tau` if the module has them."""

FIGURES = ("entropy", "effective_keys", "saturated")


@torch.no_grad()
def attention_statistics(model: nn.Module, batches: Iterable[Batch], pad_id: int) -> Statistics:
    """σ, τ and the mean statistics of every attention module of a network, from a forward pass of each batch.

    A row counts if its query is a real token and may attend to two keys or more: the first row under a causal mask is
    one-hot whatever the head does. A mean is None if no row counts.
    """
    sums = {
        name: torch.zeros(1 + len(FIGURES), module.heads, dtype=torch.float64) for name, module in attentions(model)
    }
    for batch in batches:
        source_BS, target_BT = batch.source_BS != pad_id, batch.counted_BT
        hooks = [
            _watch(module, source_BS if module.role == "encoder" else target_BT, sums[name])
            for name, module in attentions(model)
        ]
        try:
            model(batch.source_BS, batch.source_mask_BS, batch.target_in_BT)
        finally:
            for hook in hooks:
                hook.remove()
    found = {name: _means(total) for name, total in sums.items()}
    for key, numbers in (("sigma", sigmas(model)), ("tau", taus(model))):
        for name, values in numbers.items():
            found[name][key] = list(values)
    return found


def row_sums(p_BHTS: Tensor, counted_BT: Tensor) -> Tensor:
    """Per head, over the rows that count: their number, and the sums of H, exp(H) and saturation, float64 [4, H].

    p: rows that sum to 1, float32 or wider. entr(0) is 0, so a masked key adds nothing.
    """
    entropy_BHT = torch.special.entr(p_BHTS).sum(-1)
    rows_BHT = torch.stack(
        [torch.ones_like(entropy_BHT), entropy_BHT, entropy_BHT.exp(), (p_BHTS.amax(-1) > SATURATED).to(p_BHTS.dtype)]
    )
    return rows_BHT.where(counted_BT[:, None], 0.0).sum((1, 3), dtype=torch.float64)


def _watch(module: MultiHeadAttention, real_BT: Tensor, sums_4H: Tensor) -> RemovableHandle:
    """Add the rows of every forward pass of the module to the sums until the hook is removed."""

    def before(module: MultiHeadAttention, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        sums_4H.add_(_rows(module, real_BT, *arguments, **named).cpu())

    return module.register_forward_pre_hook(before, with_kwargs=True)


def _rows(
    module: MultiHeadAttention,
    real_BT: Tensor,
    q_BHTK: Tensor,
    memory: KeysValues,
    mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """`row_sums` for the arguments of `MultiHeadAttention.forward`."""
    p_BHTS = module.weights(q_BHTK, memory, mask, causal)
    B, _, T, S = p_BHTS.shape
    seen = visible(mask, causal, p_BHTS)
    seen = torch.ones((), dtype=torch.bool, device=p_BHTS.device) if seen is None else seen
    return row_sums(p_BHTS, real_BT & (seen.expand(B, 1, T, S).sum(-1)[:, 0] > 1))


def _means(sums_4H: Tensor) -> dict[str, list[float | None]]:
    rows_H, *figures = sums_4H.tolist()
    return {
        name: [round(total / rows, 4) if rows else None for total, rows in zip(totals, rows_H, strict=True)]
        for name, totals in zip(FIGURES, figures, strict=True)
    }
