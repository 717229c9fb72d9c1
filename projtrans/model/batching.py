"""Batches of encoded sentence pairs: bucketed by length under a token budget, in an order that can be resumed.

Axes: B sentences, S source positions, T target positions; over a corpus: N examples, P ids, B batches. Masks: True = a
real token. Knows ids only: no text (the caller encodes it), no model.
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
    """One sentence pair as token ids, as the model takes it."""

    source: Ids  # EOS included, if the tokenizer ends sources with one
    target: Ids  # without BOS, EOS included (unless it was cut off)


@dataclass(frozen=True)
class PaddedBatch:
    """Sentence pairs padded to one source and one target length."""

    source_BS: Tensor
    source_mask_BS: Tensor | None  # None: padding is attended to
    target_in_BT: Tensor  # BOS and all tokens but the last
    target_out_BT: Tensor  # all tokens: position t is predicted from target_in[: t + 1]
    counted_BT: Tensor  # positions that loss and accuracy count: True at real tokens


@dataclass(frozen=True)
class Batch(PaddedBatch):
    """A padded batch with the positions of its real tokens."""

    real_N: Tensor  # counted positions in B·T; found on the CPU, since a device would have to synchronize for it
    padding_N: Tensor  # the other positions

    @classmethod
    def of(
        cls,
        source_BS: Tensor,
        source_mask_BS: Tensor | None,
        target_in_BT: Tensor,
        target_out_BT: Tensor,
        counted_BT: Tensor,
    ) -> "Batch":
        """The batch of these tensors, which lie in main memory."""
        positions = [mask.flatten().nonzero()[:, 0] for mask in (counted_BT, ~counted_BT)]
        return cls(source_BS, source_mask_BS, target_in_BT, target_out_BT, counted_BT, *positions)

    @property
    def sentences(self) -> int:
        """The number of sentence pairs."""
        return len(self.source_BS)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device, copied from pinned memory without waiting."""
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
    """How examples become padded batches of ids."""

    pad_id: int
    bos_id: int
    eos_id: int
    max_length: int  # tokens of a source or a target, EOS included
    mask_padding: bool  # False: every sentence is padded to max_length, and padding is attended to
    cut_sources: bool = False  # when translating: longer lines are cut instead of split

    def example(self, source: Ids, target: Ids) -> Example:
        """A pair from its ids (the target without BOS and EOS), both cut to `max_length`."""
        return Example(source[: self.max_length], [*target, self.eos_id][: self.max_length])

    def sources(self, sources: Sequence[Ids]) -> tuple[Tensor, Tensor | None]:
        """Ids [B, S] and their mask, None if padding is attended to; a batch of empty sources has one position."""
        source_BS = self._padded(sources)
        return source_BS, (source_BS != self.pad_id) if self.mask_padding else None

    def batch(self, examples: Sequence[Example]) -> Batch:
        """The examples as one batch."""
        source_BS, mask_BS = self.sources([example.source for example in examples])
        out_BT = self._padded([example.target for example in examples])
        in_BT = torch.cat([torch.full((len(examples), 1), self.bos_id), out_BT[:, :-1]], 1)
        return Batch.of(source_BS, mask_BS, in_BT, out_BT, out_BT != self.pad_id)

    def _padded(self, rows: Sequence[Ids]) -> Tensor:
        width = max(1, max(map(len, rows))) if self.mask_padding else self.max_length
        table = np.full((len(rows), width), self.pad_id, dtype=np.int64)
        for row, ids in zip(table, rows, strict=True):
            row[: len(ids)] = ids
        return torch.from_numpy(table)


class Examples(Rows[Example]):
    """Encoded pairs as the model takes them, each made on demand."""

    def __init__(self, layout: Layout, sources: Ragged, targets: Ragged, *, cut: bool) -> None:
        """cut: pairs longer than `max_length` are cut; False: they are left out."""
        self.layout, self._sources, self._targets = layout, sources, targets
        lengths_N2 = np.stack([np.diff(sources.starts_N), np.diff(targets.starts_N) + 1], 1).astype(np.int32)
        self.rows = np.arange(len(sources)) if cut else np.flatnonzero(lengths_N2.max(1) <= layout.max_length)
        self.lengths = lengths_N2[self.rows].clip(max=layout.max_length)  # of source and target, EOS included

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, index: int) -> Example:
        """The example."""
        row = int(self.rows[index])
        return self.layout.example(self._sources[row], self._targets[row])

    def packed(self, which: int) -> np.ndarray:
        """All ids of the sources (0) or targets (1) one after the other, int32."""
        lists, lengths_N = (self._sources, self._targets)[which], self.lengths[:, which].astype(np.int64)
        ends_N = np.cumsum(lengths_N)
        ids_P = np.full(lengths_N.sum(), self.layout.eos_id, np.int32)
        for first in range(0, len(self), PACKED):
            chunk = slice(first, first + PACKED)
            rows = self.rows[chunk]
            kept_N = np.minimum(lists.starts_N[rows + 1] - lists.starts_N[rows], lengths_N[chunk])  # without EOS
            ahead_P = np.arange(kept_N.sum()) - np.repeat(np.cumsum(kept_N) - kept_N, kept_N)
            begin_N = ends_N[chunk] - lengths_N[chunk]
            ids_P[np.repeat(begin_N, kept_N) + ahead_P] = lists.ids_P[np.repeat(lists.starts_N[rows], kept_N) + ahead_P]
        return ids_P


PACKED = 1 << 18
"""Examples packed at a time, which takes some 50 MB besides the result."""


class Batches(Rows[Ids]):
    """The example indices of every batch: one array of indices, and where in it each batch begins and ends."""

    def __init__(self, order_N: np.ndarray, starts_B: np.ndarray, ends_B: np.ndarray) -> None:
        self.order_N, self.starts_B, self.ends_B = order_N, starts_B, ends_B

    def __len__(self) -> int:
        return len(self.starts_B)

    def row(self, index: int) -> Ids:
        """The example indices of one batch."""
        return self.order_N[self.starts_B[index] : self.ends_B[index]].tolist()


def bucket(lengths: ArrayLike, *, tokens: int, sentences: int | None) -> Batches:
    """Bucket examples of similar length into batches.

    lengths: source and target length of every example [N, 2], in tokens. A batch holds at most `sentences` examples,
    and examples × its longest sequence ≤ `tokens`, padding included; a longer example is a batch of its own.
    """
    lengths_N2 = np.asarray(lengths, np.int64).reshape(-1, 2)
    longer_N = lengths_N2.max(1)
    order_N = np.lexsort((lengths_N2[:, 1], lengths_N2[:, 0], longer_N))  # stable: ties keep their order
    starts = list(_cuts(longer_N[order_N], tokens, sentences))
    return Batches(order_N, np.array(starts, np.int64), np.array([*starts[1:], len(order_N)][: len(starts)], np.int64))


def _cuts(longer_N: np.ndarray, tokens: int, sentences: int | None) -> Iterator[int]:
    """Where batches begin among ascending lengths; each takes as many examples as it may."""
    start = 0
    while start < len(longer_N):
        yield start
        most = tokens // max(1, int(longer_N[start]))
        ahead_M = longer_N[start : start + max(1, most if sentences is None else min(most, sentences))]
        start += max(1, int(np.count_nonzero(ahead_M * np.arange(1, len(ahead_M) + 1) <= tokens)))


def epoch(
    lengths: ArrayLike, *, tokens: int, sentences: int | None, by_length: bool, seed: int, number: int
) -> Batches:
    """The batches of epoch `number`, with every example in exactly one; a function of its arguments alone.

    by_length: bucket by length (ties in random order) and shuffle the batches; False: shuffle the examples and cut them
    into batches of `sentences`.
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
    """Sentence pairs, source length and target length of every batch, padded [B, 3]."""
    if not len(batches):
        return np.zeros((0, 3), np.int64)
    order_B = np.argsort(batches.starts_B)
    longest_B2 = np.maximum.reduceat(lengths_N2[batches.order_N], batches.starts_B[order_B]).clip(min=1)
    sizes_B3 = np.empty((len(batches), 3), np.int64)
    sizes_B3[:, 0] = batches.ends_B - batches.starts_B
    sizes_B3[order_B, 1:] = longest_B2 if layout.mask_padding else layout.max_length
    return sizes_B3


def padding(batches: Batches, lengths_N2: np.ndarray, layout: Layout) -> tuple[float, float]:
    """The share of padding among the source positions and among the target positions of all batches, 0 to 1."""
    sizes_B3 = sizes(batches, lengths_N2, layout)
    positions_2 = (sizes_B3[:, :1] * sizes_B3[:, 1:]).sum(0)
    source, target = (1 - lengths_N2.sum(0, np.int64) / positions_2).tolist()
    return source, target


def heaviest(batches: Batches, lengths_N2: np.ndarray, *, by_length: bool, width: int, heads: int) -> list[int]:
    """The examples of the batch that takes the most memory in any epoch.

    batches: those of one epoch. With by_length all epochs have batches of the same sizes; otherwise the worst case is
    the longest examples together. Memory of n pairs: n (S + T) width for the positions, n (S² + T² + TS) heads for
    attention.
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
    """Every example once, bucketed by length, with the indices of each batch; for validation and test sets."""
    lengths = examples.lengths
    if not layout.mask_padding:
        lengths = np.full_like(lengths, layout.max_length)
    for indices in bucket(lengths, tokens=tokens, sentences=None):
        yield indices, layout.batch([examples[i] for i in indices])
