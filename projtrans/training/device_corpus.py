"""A whole corpus on the device, and its batches there in a few fixed shapes: no id is copied while an epoch lasts.

    shapes       which shapes padded batches have, so that a graph can be recorded for each
    Resident     the ids of all examples, and padded batches of some of them by operations of the device alone
    Schedule     the batches of an epoch, each with its shape and its examples

Axes: B sentences, S source positions, T target positions; of a corpus N examples, P ids; of an epoch B batches, M
places in them. Masks: True = may attend. Knows ids only; no model.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from projtrans.model.batching import Batches, Examples, Layout, PaddedBatch, sizes

MOST_SHAPES = 32
"""Shapes of one run: recording each takes as long as a few updates."""

EMPTY_ROW = 0
"""The example without a token that fills a batch up to its shape; the others are counted from 1."""

ROOM = 1.05
"""Memory for ids relative to those of the first epoch: with subword dropout another epoch may have more."""


class Shape(NamedTuple):
    """The size of a padded batch."""

    sentences: int
    source: int  # positions
    target: int

    @property
    def positions(self) -> int:
        """Source and target positions."""
        return self.sentences * (self.source + self.target)


def shapes(sizes_B3: np.ndarray, most: int = MOST_SHAPES) -> list[Shape]:
    """At most so many shapes that all batches of these sizes fit into, with little padding; the largest first.

    Starts from one shape for every size, ordered by length, and merges the two neighbours that add the least padding
    until few enough are left.
    """
    found, counts = np.unique(sizes_B3, axis=0, return_counts=True)
    order = np.lexsort((found[:, 2], found[:, 1], found[:, 1:].max(1)))
    found, counts = found[order], counts[order]
    while len(found) > most:
        pairs = np.maximum(found[:-1], found[1:])
        before = _positions(found) * counts
        added = _positions(pairs) * (counts[:-1] + counts[1:]) - before[:-1] - before[1:]
        first = int(added.argmin())
        found[first], counts[first] = pairs[first], counts[first] + counts[first + 1]
        found, counts = np.delete(found, first + 1, 0), np.delete(counts, first + 1)
    return sorted((Shape(*row) for row in found.tolist()), key=lambda shape: (-shape.positions, shape))


def fitting(sizes_B3: np.ndarray, planned: Sequence[Shape]) -> list[Shape | None]:
    """The smallest of the planned shapes that each batch fits into; None where it fits into none."""
    table_K3 = np.array(planned, np.int64).reshape(-1, 3)
    cost_BK = np.where((sizes_B3[:, None] <= table_K3).all(2), _positions(table_K3), np.iinfo(np.int64).max)
    best_B = cost_BK.argmin(1)
    fits_B = (sizes_B3 <= table_K3[best_B]).all(1)
    return [planned[best] if fits else None for best, fits in zip(best_B.tolist(), fits_B.tolist(), strict=True)]


def _positions(sizes_K3: np.ndarray) -> np.ndarray:
    return sizes_K3[:, 0] * (sizes_K3[:, 1] + sizes_K3[:, 2])


class Resident:
    """The ids of a corpus on the device."""

    def __init__(self, examples: Examples, device: torch.device) -> None:
        self.layout, self.device = examples.layout, device
        self.packed = [packed.on(device) for packed in _both(examples)]  # sources, targets

    def load(self, examples: Examples) -> bool:
        """Replace the corpus; False where it needs more room than there is, so that recorded graphs are void."""
        made = _both(examples)
        kept = all(old.take(new) for old, new in zip(self.packed, made, strict=True))
        if not kept:
            self.packed = [packed.on(self.device) for packed in made]
        return kept

    @staticmethod
    def bytes(examples: Examples) -> int:
        """Roughly the memory of the device that the corpus will take."""
        return int(ROOM * (examples.lengths.sum(dtype=np.int64) * 4 + examples.lengths.size * 12))

    def padded_batch(self, rows_B: Tensor, shape: Shape) -> PaddedBatch:
        """The examples of those rows (`Schedule`) as `Layout.batch` has them, padded to the shape.

        An empty row is padding that may attend to one padding position, since attention needs one.
        """
        source_BS = self._ids(0, rows_B, shape.source)
        out_BT = self._ids(1, rows_B, shape.target)
        in_BT = torch.cat([torch.full_like(out_BT[:, :1], self.layout.bos_id), out_BT[:, :-1]], 1)
        mask_BS = None
        if self.layout.mask_padding:
            mask_BS = source_BS != self.layout.pad_id
            mask_BS[:, 0].logical_or_(rows_B == EMPTY_ROW)
        return PaddedBatch(source_BS, mask_BS, in_BT, out_BT, out_BT != self.layout.pad_id)

    def _ids(self, number: int, rows_B: Tensor, width: int) -> Tensor:
        packed, t = self.packed[number], torch.arange(width, device=self.device)
        places_BT = (packed.starts_N.index_select(0, rows_B)[:, None] + t).clamp_(max=len(packed.ids_P) - 1)
        ids_BT = packed.ids_P.index_select(0, places_BT.flatten()).view_as(places_BT).long()
        return ids_BT.masked_fill_(t >= packed.lengths_N.index_select(0, rows_B)[:, None], self.layout.pad_id)


class _Packed:
    """The sources or the targets of all examples, after the empty one: their ids in one row, starts and lengths."""

    def __init__(self, ids_P: np.ndarray, lengths_N: np.ndarray) -> None:
        self.ids_P = torch.from_numpy(ids_P)
        self.lengths_N = torch.from_numpy(np.append(0, lengths_N).astype(np.int32))
        self.starts_N = self.lengths_N.long().cumsum(0) - self.lengths_N

    def on(self, device: torch.device) -> "_Packed":
        """The same on a device, with room for a little more."""
        for name, tensor in vars(self).items():
            room = torch.zeros(int(len(tensor) * ROOM) + 1, dtype=tensor.dtype, device=device)
            room[: len(tensor)].copy_(tensor)
            setattr(self, name, room)
        return self

    def take(self, other: "_Packed") -> bool:
        """Copy the other's tensors into the memory of these; False where there is too little of it."""
        pairs = list(zip(vars(self).values(), vars(other).values(), strict=True))
        if any(len(ours) < len(theirs) for ours, theirs in pairs):
            return False
        for ours, theirs in pairs:
            ours[: len(theirs)].copy_(theirs)
        return True


def _both(examples: Examples) -> list[_Packed]:
    return [_Packed(examples.packed(number), examples.lengths[:, number]) for number in (0, 1)]


class Schedule:
    """The batches of an epoch in order, with what an update needs to know of each.

    planned: whether the batch has one of the planned shapes; tokens: its target tokens; positions: its target
    positions, without the padding to its shape; padding: the share of all positions that is such padding.
    """

    def __init__(
        self, batches: Batches, lengths_N2: np.ndarray, layout: Layout, planned: Sequence[Shape], device: torch.device
    ) -> None:
        sizes_B3 = sizes(batches, lengths_N2, layout)
        fitted = fitting(sizes_B3, planned)
        self.planned = [shape is not None for shape in fitted]
        self.shapes = [shape or Shape(*size) for shape, size in zip(fitted, sizes_B3.tolist(), strict=True)]
        self.tokens = [int(lengths_N2[batches[number], 1].sum()) for number in range(len(batches))]
        self.positions = (sizes_B3[:, 0] * sizes_B3[:, 2]).tolist()
        self.padding = 1 - int(_positions(sizes_B3).sum()) / max(1, sum(shape.positions for shape in self.shapes))
        self._ends = np.cumsum([shape.sentences for shape in self.shapes]).tolist()
        rows_M = np.full(self._ends[-1] if self._ends else 0, EMPTY_ROW, np.int64)
        for number, shape in enumerate(self.shapes):
            begin = self._ends[number] - shape.sentences
            rows = batches.order_N[batches.starts_B[number] : batches.ends_B[number]]
            rows_M[begin : begin + len(rows)] = rows + 1
        self.rows_M = torch.from_numpy(rows_M).to(device)

    def rows(self, number: int) -> Tensor:
        """The rows of one batch, padded with empty ones."""
        end = self._ends[number]
        return self.rows_M[end - self.shapes[number].sentences : end]
