"""Encoded sentence pairs to batches: buckets of equal length under a token budget, in an order that can be resumed.

Axes: B sentences, S source positions, T target positions; of a whole corpus N examples, P ids, and B batches. Masks:
True = a real piece. Knows ids only: no text (the caller encodes it), no model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from projtrans.sequences import Ids, Ragged, Rows


@dataclass(frozen=True)
class Example:
    """One sentence pair in pieces, as the model sees it."""

    source: Ids  # with its end, where the tokenizer gives sources one
    target: Ids  # without begin, with end (unless it was cut off)


@dataclass(frozen=True)
class PaddedBatch:
    """Examples padded to one length a side."""

    source_BS: Tensor
    source_mask_BS: Tensor | None  # None: padding is attended to
    target_in_BT: Tensor  # begin and all pieces but the last
    target_out_BT: Tensor  # all pieces: position t is to be predicted from target_in[: t + 1]
    counted_BT: Tensor  # positions that loss and accuracy count: True at real pieces


@dataclass(frozen=True)
class Batch(PaddedBatch):
    """Examples padded into one rectangle, and where in it the real pieces stand."""

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
    cut_sources: bool = False  # whether longer lines are cut when they are translated, instead of split

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


class Examples(Rows[Example]):
    """Encoded pairs as the model sees them, each made when it is asked for."""

    def __init__(self, layout: Layout, sources: Ragged, targets: Ragged, *, cut: bool) -> None:
        """cut: those that are too long for the model are cut, or else left out."""
        self.layout, self._sources, self._targets = layout, sources, targets
        lengths_N2 = np.stack([np.diff(sources.starts_N), np.diff(targets.starts_N) + 1], 1).astype(np.int32)
        self.rows = np.arange(len(sources)) if cut else np.flatnonzero(lengths_N2.max(1) <= layout.max_length)
        self.lengths = lengths_N2[self.rows].clip(max=layout.max_length)  # source and target of every example

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, index: int) -> Example:
        """The example."""
        row = int(self.rows[index])
        return self.layout.example(self._sources[row], self._targets[row])

    def packed(self, side: int) -> np.ndarray:
        """The ids of one side (0: sources, 1: targets) of all examples, one after the other, int32."""
        lists, lengths_N = (self._sources, self._targets)[side], self.lengths[:, side].astype(np.int64)
        ends_N = np.cumsum(lengths_N)
        ids_P = np.full(lengths_N.sum(), self.layout.eos_id, np.int32)
        for first in range(0, len(self), PACKED):
            window = slice(first, first + PACKED)
            rows = self.rows[window]
            kept_N = np.minimum(lists.starts_N[rows + 1] - lists.starts_N[rows], lengths_N[window])  # without the end
            ahead_P = np.arange(kept_N.sum()) - np.repeat(np.cumsum(kept_N) - kept_N, kept_N)
            begin_N = ends_N[window] - lengths_N[window]
            ids_P[np.repeat(begin_N, kept_N) + ahead_P] = lists.ids_P[np.repeat(lists.starts_N[rows], kept_N) + ahead_P]
        return ids_P


PACKED = 1 << 18
"""Examples packed at a time: some 50 MB beside the result."""


class Batches(Rows[Ids]):
    """Which examples stand in every batch: indices in one row, cut where a batch begins."""

    def __init__(self, order_N: np.ndarray, starts_B: np.ndarray, ends_B: np.ndarray) -> None:
        self.order_N, self.starts_B, self.ends_B = order_N, starts_B, ends_B

    def __len__(self) -> int:
        return len(self.starts_B)

    def row(self, index: int) -> Ids:
        """The examples of the batch, by index."""
        return self.order_N[self.starts_B[index] : self.ends_B[index]].tolist()


def bucket(lengths: ArrayLike, *, tokens: int, sentences: int | None) -> Batches:
    """Indices of examples in batches of like length.

    lengths: (source, target) of every example [N, 2], in pieces. A batch holds at most `sentences` examples, and
    examples × its longest side ≤ `tokens`, padding included; an example longer than that is a batch of its own.
    """
    lengths_N2 = np.asarray(lengths, np.int64).reshape(-1, 2)
    longer_N = lengths_N2.max(1)
    order_N = np.lexsort((lengths_N2[:, 1], lengths_N2[:, 0], longer_N))  # stable: equal ones keep their order
    starts = list(_cuts(longer_N[order_N], tokens, sentences))
    return Batches(order_N, np.array(starts, np.int64), np.array([*starts[1:], len(order_N)][: len(starts)], np.int64))


def _cuts(longer_N: np.ndarray, tokens: int, sentences: int | None) -> Iterator[int]:
    """Where batches begin among ascending lengths: each takes as many as it may hold."""
    start = 0
    while start < len(longer_N):
        yield start
        most = tokens // max(1, int(longer_N[start]))
        ahead_M = longer_N[start : start + max(1, most if sentences is None else min(most, sentences))]
        start += max(1, int(np.count_nonzero(ahead_M * np.arange(1, len(ahead_M) + 1) <= tokens)))


def epoch(
    lengths: ArrayLike, *, tokens: int, sentences: int | None, by_length: bool, seed: int, number: int
) -> Batches:
    """The batches of epoch `number`, every example in exactly one of them: a function of its arguments alone.

    by_length: bucket examples of like length (ties in random order) and shuffle the batches; False: shuffle the
    examples and cut them into batches of `sentences`.
    """
    lengths_N2 = np.asarray(lengths).reshape(-1, 2)
    random = np.random.Generator(np.random.PCG64([seed, number]))
    order_N = random.permutation(len(lengths_N2))
    if by_length:
        batches = bucket(lengths_N2[order_N], tokens=tokens, sentences=sentences)
        shuffled = random.permutation(len(batches))
        return Batches(order_N[batches.order_N], batches.starts_B[shuffled], batches.ends_B[shuffled])
    size = sentences or max(1, tokens // int(lengths_N2.max(initial=1)))
    starts_B = np.arange(0, len(order_N), size)
    return Batches(order_N, starts_B, np.minimum(starts_B + size, len(order_N)))


def sizes(batches: Batches, lengths_N2: np.ndarray, layout: Layout) -> np.ndarray:
    """Sentence pairs, source and target positions of every batch [B, 3]."""
    if not len(batches):
        return np.zeros((0, 3), np.int64)
    order_B = np.argsort(batches.starts_B)
    longest_B2 = np.maximum.reduceat(lengths_N2[batches.order_N], batches.starts_B[order_B]).clip(min=1)
    sizes_B3 = np.empty((len(batches), 3), np.int64)
    sizes_B3[:, 0] = batches.ends_B - batches.starts_B
    sizes_B3[order_B, 1:] = longest_B2 if layout.mask_padding else layout.max_length
    return sizes_B3


def padding(batches: Batches, lengths_N2: np.ndarray, layout: Layout) -> tuple[float, float]:
    """The shares of padding among the source and the target positions of all batches, 0 to 1."""
    sizes_B3 = sizes(batches, lengths_N2, layout)
    positions_2 = (sizes_B3[:, :1] * sizes_B3[:, 1:]).sum(0)
    source, target = (1 - lengths_N2.sum(0, np.int64) / positions_2).tolist()
    return source, target


def heaviest(batches: Batches, lengths_N2: np.ndarray, *, by_length: bool, width: int, heads: int) -> list[int]:
    """The examples of the batch that takes the most memory of all that any epoch can have.

    batches: those of one epoch; with by_length every other epoch's are of the same sizes, and otherwise it is the
    longest examples together. Memory: n (S + T) width for what a position holds, n (S² + T² + TS) heads for attention.
    """
    if not by_length:
        most = max(len(batch) for batch in batches)
        return np.argsort(lengths_N2.max(1), kind="stable")[-most:].tolist()
    sizes_B = batches.ends_B - batches.starts_B
    order_B = np.argsort(batches.starts_B)
    longest_B2 = np.maximum.reduceat(lengths_N2[batches.order_N], batches.starts_B[order_B]).astype(np.int64)
    S_B, T_B = longest_B2.T
    memory_B = sizes_B[order_B] * ((S_B + T_B) * width + (S_B**2 + T_B**2 + T_B * S_B) * heads)
    return batches[int(order_B[memory_B.argmax()])]


def fixed_batches(examples: Examples, layout: Layout, tokens: int) -> Iterator[tuple[list[int], Batch]]:
    """Every example once, bucketed by length, with the indices of each batch: for validation and test sets."""
    lengths = examples.lengths
    if not layout.mask_padding:
        lengths = np.full_like(lengths, layout.max_length)
    for indices in bucket(lengths, tokens=tokens, sentences=None):
        yield indices, layout.batch([examples[i] for i in indices])
