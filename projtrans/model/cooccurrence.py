"""Initial embeddings from the training pieces: pieces that stand beside the same pieces begin near each other.

    N_ij = how often pieces i and j stand together
    PPMI_ij = max(0, log(N_ij N / N_i N_j))            Church & Hanks 1990 (mutual information of words)
    PPMI ≈ U Σ Vᵀ,  E = U √Σ                           Levy & Goldberg 2014 (embedding as matrix factorisation)

Why: Mehta 2025 ("Self-attention as distributional projection", arXiv 2511.13780) reads attention as the projection
Q S Qᵀ of corpus-wide co-occurrences S into a sentence Q. Here S is counted before training instead of learnt from
nothing; E Eᵀ = (S Sᵀ)^½, which is S itself where S has no negative eigenvalue.
Axes: N positions of all sentences in one row, V pieces, D width, R rank. Knows ids and tensors only; no text, no model.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from projtrans.errors import DataError

WINDOW = 5
"""Pieces on either side that count as standing together, where the settings name no other number."""

BLOCK = 1 << 17
"""Positions counted at once, so that a large corpus needs no more memory than its matrix."""

OVERSAMPLING = 32
"""Directions carried beyond the rank that is asked for: the last ones of a random subspace are the least exact."""

ITERATIONS = 4
"""Subspace iterations; PPMI spectra fall slowly, and every iteration sharpens the gap by its square."""

CHANCE = 1e-12
"""What rounding makes of a PMI of 0."""

NOTHING = 1e-3
"""A vector shorter than this share of the longest one is what rounding or truncation left over, not a vector."""


class Side(NamedTuple):
    """One language of the training pairs: its sentences one after the other."""

    piece_N: Tensor
    sentence_N: Tensor  # the number of the sentence, ascending
    counted_N: Tensor  # False at reserved pieces, which keep their place but never count


def side(sentences: Sequence[Sequence[int]], reserved: Sequence[int]) -> Side:
    """The sentences as a side."""
    lengths = np.fromiter(map(len, sentences), np.int64, len(sentences))
    piece_N = torch.from_numpy(np.fromiter(chain.from_iterable(sentences), np.int64, int(lengths.sum())))
    sentence_N = torch.arange(len(sentences)).repeat_interleave(torch.from_numpy(lengths))
    return Side(piece_N, sentence_N, torch.isin(piece_N, torch.tensor(reserved), invert=True))


# --------------------------------------------------------------------------------------------------------- counting


def neighbours(text: Side, size: int, window: int) -> Tensor:
    """N_ij = |{(t, s): x_t = i, x_s = j, 0 < |t - s| ≤ window}|, t and s in one sentence: sparse [V, V], symmetric."""
    total = _nothing(size)
    for block in _blocks(len(text.piece_N)):
        total = total + _tally(torch.cat(list(_ahead(text, block, window)), 1), size)
    return (total + total.mT).coalesce()


def _ahead(text: Side, block: slice, window: int) -> Iterator[Tensor]:
    """The pieces of the block with those 1, 2, ... `window` positions ahead of them in their sentences: [2, n] each."""
    for distance in range(1, window + 1):
        right = Side(*(tensor[block.start + distance : block.stop + distance] for tensor in text))
        left = Side(*(tensor[block.start : block.start + len(right.piece_N)] for tensor in text))
        same = left.sentence_N == right.sentence_N
        yield torch.stack([left.piece_N, right.piece_N])[:, same & left.counted_N & right.counted_N]
        if not same.any():  # no sentence of the block is that long
            return


def _blocks(positions: int) -> Iterator[slice]:
    return (slice(first, first + BLOCK) for first in range(0, positions, BLOCK))


def _nothing(size: int) -> Tensor:
    return _tally(torch.empty(2, 0, dtype=torch.int64), size)


def _tally(together_2N: Tensor, size: int) -> Tensor:
    """How often each (row, column) occurs: sparse [V, V], float64, which counts exactly up to 2^53."""
    cell, times = (together_2N[0] * size + together_2N[1]).unique(return_counts=True)
    return _sparse(torch.stack([cell // size, cell % size]), times.double(), size)


def _sparse(index: Tensor, value: Tensor, size: int) -> Tensor:
    """The sparse matrix [V, V] of these values, whose indices are distinct and in order."""
    return torch.sparse_coo_tensor(index, value, (size, size), check_invariants=True, is_coalesced=True)


# ----------------------------------------------------------------------------------------------------- factorisation


def ppmi(counts_VV: Tensor) -> Tensor:
    """max(0, log(N_ij N / N_i N_j)) of symmetric counts, N_i = Σ_j N_ij, N = Σ_ij N_ij: sparse [V, V]."""
    counts_VV = counts_VV.coalesce()
    (i, j), n = counts_VV.indices(), counts_VV.values()
    log_total_V = torch.zeros(len(counts_VV), dtype=n.dtype).index_add_(0, i, n).log()
    pmi = n.log() + n.sum().log() - log_total_V[i] - log_total_V[j]
    positive = pmi > CHANCE
    return _sparse(counts_VV.indices()[:, positive], pmi[positive], len(counts_VV))


def truncated_svd(matrix_VV: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """U [V, R] and Σ [R] of the largest singular values, by randomised subspace iteration (Halko et al. 2011).

    A function of its arguments alone: torch's generator is left where it was, and the largest entry of every column
    of U is positive.
    """
    carried = min(rank + OVERSAMPLING, len(matrix_VV))
    with torch.random.fork_rng(devices=[]):  # svd_lowrank takes no generator
        torch.default_generator.manual_seed(seed)
        u, s, _ = torch.svd_lowrank(matrix_VV, q=carried, niter=ITERATIONS)
    u_VR, s_R = u[:, :rank], s[:rank]
    largest_R = u_VR.gather(0, u_VR.abs().argmax(0, keepdim=True))
    return u_VR * largest_R.sign(), s_R


def vectors(counts_VV: Tensor, width: int, seed: int) -> Tensor:
    """Rows U√Σ of PPMI ≈ UΣVᵀ: float32 [V, D], columns beyond the number of pieces 0.

    Raises DataError where no two pieces stand together more often than chance has it.
    """
    matrix_VV = ppmi(counts_VV)
    if not matrix_VV.values().numel():
        raise DataError(
            "model.embeddings.init: cooccurrence needs training sentences in which some pieces stand together more "
            "often than by chance, and these have none; set it to normal"
        )
    u_VR, s_R = truncated_svd(matrix_VV.float(), width, seed)
    return F.pad(u_VR * s_R.sqrt(), (0, width - len(s_R)))


# ---------------------------------------------------------------------------------------------------- initialisation


@torch.no_grad()
def initialise(
    source_VD: Tensor,
    target_VD: Tensor,
    sources: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    *,
    window: int,
    reserved: Sequence[int],
    seed: int,
) -> int:
    """Give the embedding matrices the vectors of their pieces, and return how many pieces have one.

    One matrix for both sides counts both sides together, two count a side each. Every matrix is scaled to a mean
    length of 1 over the rows given, as N(0, 1/D) has it; the other rows are left as they are.
    """
    tables = [(source_VD, [sources]), (target_VD, [targets])]
    if source_VD is target_VD:
        tables = [(source_VD, [sources, targets])]
    given = 0
    for weight_VD, texts in tables:
        size, width = weight_VD.shape
        counts_VV = sum((neighbours(side(text, reserved), size, window) for text in texts), _nothing(size))
        given += _place(weight_VD, vectors(counts_VV, width, seed))
    return given


def _place(weight_VD: Tensor, rows_VD: Tensor) -> int:
    """Overwrite the rows of the weight for which there is a vector."""
    length_V = rows_VD.norm(dim=1)
    given_V = length_V > NOTHING * length_V.max()
    weight_VD[given_V] = (rows_VD[given_V] / length_V[given_V].mean()).to(weight_VD)
    return int(given_V.sum())
