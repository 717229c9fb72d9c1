"""Encoded sentence pairs to batches: buckets of equal length under a token budget, in an order that can be resumed.

Axes: B sentences, S source positions, T target positions. Masks: True = a real piece. Knows ids only: no text (the
caller encodes it), no model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

Ids = list[int]


@dataclass(frozen=True)
class Example:
    """One sentence pair in pieces, as the model sees it."""

    source: Ids  # with its end, where the tokenizer gives sources one
    target: Ids  # without begin, with end (unless it was cut off)


@dataclass(frozen=True)
class Batch:
    """Examples padded into one rectangle."""

    source_BS: Tensor
    source_mask_BS: Tensor | None  # None: padding is attended to
    target_in_BT: Tensor  # begin and all pieces but the last
    target_out_BT: Tensor  # all pieces: position t is to be predicted from target_in[: t + 1]
    counted_BT: Tensor  # positions that loss and accuracy count: True at real pieces
    real_N: Tensor  # the places of these in B·T, found before the batch is on a device that would have to be waited for
    padding_N: Tensor  # the other places

    @classmethod
    def of(
        cls,
        source_BS: Tensor,
        source_mask_BS: Tensor | None,
        target_in_BT: Tensor,
        target_out_BT: Tensor,
        counted_BT: Tensor,
    ) -> "Batch":
        """The batch of these rectangles, which are in main memory."""
        places = [mask.flatten().nonzero()[:, 0] for mask in (counted_BT, ~counted_BT)]
        return cls(source_BS, source_mask_BS, target_in_BT, target_out_BT, counted_BT, *places)

    @property
    def sentences(self) -> int:
        """Sentence pairs."""
        return len(self.source_BS)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device, which nobody waits for: the copies are made from pinned memory."""
        if device.type == "cpu":
            return self
        tensors = self._tensors()
        if device.type == "cuda":
            tensors = [None if tensor is None else tensor.pin_memory() for tensor in tensors]
        return Batch(*(None if tensor is None else tensor.to(device, non_blocking=True) for tensor in tensors))  # type: ignore[arg-type]

    def parts(self, count: int) -> "list[Batch]":
        """The batch, which is in main memory, in `count` parts of equal size, or of one sentence pair."""
        if count == 1:
            return [self]
        rows = -(-self.sentences // count)
        return [
            Batch.of(*(None if x is None else x[first : first + rows] for x in self._tensors()[:5]))  # type: ignore[arg-type]
            for first in range(0, self.sentences, rows)
        ]

    def _tensors(self) -> list[Tensor | None]:
        return [getattr(self, field.name) for field in fields(self)]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How examples become rectangles of ids."""

    pad_id: int
    bos_id: int
    eos_id: int
    max_length: int  # pieces a side, end included
    mask_padding: bool  # False: pad every sentence to max_length, and let the model attend to it

    def example(self, source: Ids, target: Ids) -> Example:
        """A pair from its encoded sides (the target without begin and end), each cut to `max_length`."""
        return Example(source[: self.max_length], [*target, self.eos_id][: self.max_length])

    def fits(self, source: Ids, target: Ids) -> bool:
        """Whether nothing would be cut off."""
        return len(source) <= self.max_length and len(target) < self.max_length

    def sources(self, sources: Sequence[Ids]) -> tuple[Tensor, Tensor | None]:
        """Ids [B, S], and their mask where padding is masked; a batch of empty sources still has one position."""
        source_BS = self._rectangle(sources)
        return source_BS, (source_BS != self.pad_id) if self.mask_padding else None

    def batch(self, examples: Sequence[Example]) -> Batch:
        """The examples as one batch."""
        source_BS, mask_BS = self.sources([example.source for example in examples])
        out_BT = self._rectangle([example.target for example in examples])
        in_BT = torch.cat([torch.full((len(examples), 1), self.bos_id), out_BT[:, :-1]], 1)
        return Batch.of(source_BS, mask_BS, in_BT, out_BT, out_BT != self.pad_id)

    def _rectangle(self, rows: Sequence[Ids]) -> Tensor:
        width = max(1, max(map(len, rows))) if self.mask_padding else self.max_length
        table = np.full((len(rows), width), self.pad_id, dtype=np.int64)
        for row, ids in zip(table, rows, strict=True):
            row[: len(ids)] = ids
        return torch.from_numpy(table)


def bucket(lengths: Sequence[tuple[int, int]], *, tokens: int, sentences: int | None) -> list[list[int]]:
    """Indices of examples in batches of like length.

    lengths: (source, target) of every example, in pieces. A batch holds at most `sentences` examples, and
    examples × its longest side ≤ `tokens`, padding included; an example longer than that is a batch of its own.
    """
    batches: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: (max(lengths[i]), lengths[i])):
        longest = max(longest, *lengths[index])  # ascending, but only in the longer side
        full = batches and (
            (len(batches[-1]) + 1) * longest > tokens or (sentences is not None and len(batches[-1]) >= sentences)
        )
        if not batches or full:
            batches.append([])
        batches[-1].append(index)
    return batches


def epoch(
    lengths: Sequence[tuple[int, int]], *, tokens: int, sentences: int | None, by_length: bool, seed: int, number: int
) -> list[list[int]]:
    """The batches of epoch `number`, every example in exactly one of them: a function of its arguments alone.

    by_length: bucket examples of like length (ties in random order) and shuffle the batches; False: shuffle the
    examples and cut them into batches of `sentences`.
    """
    random = np.random.Generator(np.random.PCG64([seed, number]))
    order = random.permutation(len(lengths))
    if by_length:
        batches = bucket([lengths[i] for i in order], tokens=tokens, sentences=sentences)
        batches = [[int(order[i]) for i in batch] for batch in batches]
        return [batches[i] for i in random.permutation(len(batches))]
    size = sentences or max(1, tokens // max(max(pair) for pair in lengths))
    return [[int(i) for i in order[first : first + size]] for first in range(0, len(order), size)]


def heaviest(
    batches: Sequence[list[int]], lengths: Sequence[tuple[int, int]], *, by_length: bool, width: int, heads: int
) -> list[int]:
    """The examples of the batch that takes the most memory of all that any epoch can have.

    batches: those of one epoch; with by_length every other epoch's are of the same sizes, and otherwise it is the
    longest examples together. Memory: n (S + T) width for what a position holds, n (S² + T² + TS) heads for attention.
    """
    if not by_length:
        return sorted(range(len(lengths)), key=lambda i: max(lengths[i]))[-max(map(len, batches)) :]

    def memory(batch: list[int]) -> int:
        S, T = (max(lengths[i][side] for i in batch) for side in (0, 1))
        return len(batch) * ((S + T) * width + (S * S + T * T + T * S) * heads)

    return max(batches, key=memory)


def fixed_batches(examples: Sequence[Example], layout: Layout, tokens: int) -> Iterator[tuple[list[int], Batch]]:
    """Every example once, bucketed by length, with the indices of each batch: for validation and test sets."""
    lengths = [(len(example.source), len(example.target)) for example in examples]
    if not layout.mask_padding:
        lengths = [(layout.max_length, layout.max_length)] * len(examples)
    for indices in bucket(lengths, tokens=tokens, sentences=None):
        yield indices, layout.batch([examples[i] for i in indices])
