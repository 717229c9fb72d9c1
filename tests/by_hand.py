"""Teacher-forced figures computed one sentence and one position at a time, without batches, masks or caches."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class ByHand:
    """Teacher-forced figures, over the tokens alone and over tokens and padding."""

    loss: float
    accuracy: float
    loss_with_padding: float
    accuracy_with_padding: float


def forced_by_hand(model: Any, tokenizer: Any, pairs: Iterable[Any], longest: int, *, padded: bool) -> ByHand:
    """The figures; padded: every sequence is padded to `longest`, and the model attends to the padding."""
    rows: list[tuple[bool, float, bool]] = []  # no padding, its negative log-likelihood, predicted
    for text, reference in pairs:
        (source,), (target,) = tokenizer.encode_source([text]), tokenizer.encode_target([reference])
        source, target = source[:longest], [*target, tokenizer.eos_id][:longest]
        if padded:
            source, target = (ids + [tokenizer.pad_id] * (longest - len(ids)) for ids in (source, target))
        before = torch.tensor([[tokenizer.bos_id, *target[:-1]]])
        with torch.no_grad():
            logits = model.output(model.decode(before, model.encode(torch.tensor([source]), None)))[0].double()
        logprob = logits - logits.logsumexp(-1, keepdim=True)
        for position, token in enumerate(target):
            nll, best = -logprob[position, token].item(), int(logprob[position].argmax())
            rows.append((token != tokenizer.pad_id, nll, best == token))
    real = [row for row in rows if row[0]]
    return ByHand(
        loss=statistics.fmean(nll for _, nll, _ in real),
        accuracy=statistics.fmean(right for _, _, right in real),
        loss_with_padding=statistics.fmean(nll for _, nll, _ in rows),
        accuracy_with_padding=statistics.fmean(right for _, _, right in rows),
    )
