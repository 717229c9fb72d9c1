"""Initial embeddings from co-occurrences: tokens with the same neighbours in the training data start close together.

    N_ij = how often tokens i and j occur together
    PPMI_ij = max(0, log(N_ij N / N_i N_j))            Church & Hanks 1990 (mutual information of words)
    PPMI ≈ U Σ Vᵀ,  E = U √Σ                           Levy & Goldberg 2014 (embedding as matrix factorisation)

Why: Mehta 2025 ("Self-attention as distributional projection", arXiv 2511.13780) reads attention as the projection
Q S Qᵀ of corpus-wide co-occurrences S into a sentence Q. Here S is counted before training instead of being learned
from scratch; E Eᵀ = (S Sᵀ)^½, which is S itself if S has no negative eigenvalue.
Axes: N positions of all sentences, concatenated, V vocabulary, D width, R rank. Knows ids and tensors only; no text, no
model.
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
"""Tokens before and after a token that co-occur with it, unless the settings say otherwise."""

BLOCK = 1 << 17
"""Positions counted at once, so that a large corpus needs little more memory than its matrix."""

OVERSAMPLING = 32
"""Extra directions beyond the rank asked for: the last ones of a random subspace are the least accurate."""

ITERATIONS = 4
"""Subspace iterations; PPMI spectra decay slowly, and each damps the rest by a squared ratio of singular values."""

CHANCE = 1e-12
"""A PMI up to this is 0 with rounding error."""

NOTHING = 1e-3
"""A vector shorter than this share of the longest one is a residue of rounding or truncation and is not used."""


class Sentences(NamedTuple):
    """The sentences of one language, concatenated."""

    token_N: Tensor
    sentence_N: Tensor  # index of the sentence, ascending
    counted_N: Tensor  # False at reserved tokens, which keep their position but never count


def concatenate(sentences: Sequence[Sequence[int]], reserved: Sequence[int]) -> Sentences:
    """Concatenate the sentences, and mark the reserved tokens among them."""
    lengths = np.fromiter(map(len, sentences), np.int64, len(sentences))
    token_N = torch.from_numpy(np.fromiter(chain.from_iterable(sentences), np.int64, int(lengths.sum())))
    sentence_N = torch.arange(len(sentences)).repeat_interleave(torch.from_numpy(lengths))
    return Sentences(token_N, sentence_N, torch.isin(token_N, torch.tensor(reserved), invert=True))


# --------------------------------------------------------------------------------------------------------- counting


def neighbours(text: Sentences, size: int, window: int) -> Tensor:
    """N_ij = |{(t, s): x_t = i, x_s = j, 0 < |t - s| ≤ window}|, t and s in one sentence; sparse [V, V], symmetric."""
    total = _nothing(size)
    for block in _blocks(len(text.token_N)):
        total = total + _count(torch.cat(list(_ahead(text, block, window)), 1), size)
    return (total + total.mT).coalesce()


def _ahead(text: Sentences, block: slice, window: int) -> Iterator[Tensor]:
    """The tokens of the block paired with those 1, 2, ... `window` positions later in their sentences: [2, n] each."""
    for distance in range(1, window + 1):
        right = Sentences(*(tensor[block.start + distance : block.stop + distance] for tensor in text))
        left = Sentences(*(tensor[block.start : block.start + len(right.token_N)] for tensor in text))
        same = left.sentence_N == right.sentence_N
        yield torch.stack([left.token_N, right.token_N])[:, same & left.counted_N & right.counted_N]
        if not same.any():  # no sentence of the block is longer
            return


def _blocks(positions: int) -> Iterator[slice]:
    return (slice(first, first + BLOCK) for first in range(0, positions, BLOCK))


def _nothing(size: int) -> Tensor:
    return _count(torch.empty(2, 0, dtype=torch.int64), size)


def _count(together_2N: Tensor, size: int) -> Tensor:
    """How often each pair (row, column) occurs; sparse [V, V] in float64, which counts exactly up to 2^53."""
    cell, times = (together_2N[0] * size + together_2N[1]).unique(return_counts=True)
    return _sparse(torch.stack([cell // size, cell % size]), times.double(), size)


def _sparse(index: Tensor, value: Tensor, size: int) -> Tensor:
    """The sparse matrix [V, V] with these values; the indices are distinct and sorted."""
    return torch.sparse_coo_tensor(index, value, (size, size), check_invariants=True, is_coalesced=True)


# ----------------------------------------------------------------------------------------------------- factorisation


def ppmi(counts_VV: Tensor) -> Tensor:
    """max(0, log(N_ij N / N_i N_j)) of symmetric counts, N_i = Σ_j N_ij, N = Σ_ij N_ij; sparse [V, V]."""
    counts_VV = counts_VV.coalesce()
    (i, j), n = counts_VV.indices(), counts_VV.values()
    log_total_V = torch.zeros(len(counts_VV), dtype=n.dtype).index_add_(0, i, n).log()
    pmi = n.log() + n.sum().log() - log_total_V[i] - log_total_V[j]
    positive = pmi > CHANCE
    return _sparse(counts_VV.indices()[:, positive], pmi[positive], len(counts_VV))


def truncated_svd(matrix_VV: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """U [V, R] and Σ [R] of the largest singular values, by randomised subspace iteration (Halko et al. 2011).

    A function of its arguments alone: torch's generator keeps its state, and the largest entry of every column of U is
    made positive.
    """
    carried = min(rank + OVERSAMPLING, len(matrix_VV))
    with torch.random.fork_rng(devices=[]):  # svd_lowrank takes no generator
        torch.default_generator.manual_seed(seed)
        u, s, _ = torch.svd_lowrank(matrix_VV, q=carried, niter=ITERATIONS)
    u_VR, s_R = u[:, :rank], s[:rank]
    largest_R = u_VR.gather(0, u_VR.abs().argmax(0, keepdim=True))
    return u_VR * largest_R.sign(), s_R


def vectors(counts_VV: Tensor, width: int, seed: int) -> Tensor:
    """The rows of U√Σ, PPMI ≈ UΣVᵀ; float32 [V, D], with columns beyond V set to 0.

    Raises DataError if no two tokens occur together more often than by chance.
    """
    matrix_VV = ppmi(counts_VV)
    if not matrix_VV.values().numel():
        raise DataError(
            "model.embeddings.init: cooccurrence needs training sentences in which some tokens occur together more "
            "often than by chance, and in these none do; set it to normal"
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
    """Write the vectors into the embedding matrices; returns how many tokens got one.

    If source and target share a matrix, both languages are counted together, otherwise each for its own matrix. The
    vectors of a matrix are scaled to a mean norm of 1, as that of N(0, 1/D); all other rows are left as they are.
    """
    tables = [(source_VD, [sources]), (target_VD, [targets])]
    if source_VD is target_VD:
        tables = [(source_VD, [sources, targets])]
    given = 0
    for weight_VD, texts in tables:
        size, width = weight_VD.shape
        counts_VV = sum((neighbours(concatenate(text, reserved), size, window) for text in texts), _nothing(size))
        given += _place(weight_VD, vectors(counts_VV, width, seed))
    return given


def _place(weight_VD: Tensor, rows_VD: Tensor) -> int:
    """Overwrite the rows of the weight that have a vector."""
    length_V = rows_VD.norm(dim=1)
    given_V = length_V > NOTHING * length_V.max()
    weight_VD[given_V] = (rows_VD[given_V] / length_V[given_V].mean()).to(weight_VD)
    return int(given_V.sum())
