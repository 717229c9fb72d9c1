"""Embeddings from co-occurrences against counts by hand, PMI in NumPy, and torch's dense decompositions."""

import itertools
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from projtrans.errors import DataError
from projtrans.model import cooccurrence
from projtrans.model.cooccurrence import concatenate, initialise, neighbours, ppmi, truncated_svd, vectors

SIZE = 12
RESERVED = (0, 1, 2, 3)
Sentences = list[list[int]]

sentences = st.lists(st.lists(st.integers(0, SIZE - 1), max_size=9), max_size=8)
blocks = st.sampled_from([1, 2, 3, 7, 1 << 17])


def dense(counts: Tensor) -> np.ndarray:
    assert counts.is_coalesced()
    return counts.to_dense().numpy()


def zipf(count: int, size: int, seed: int = 0) -> Sentences:
    """Sentences of 1 to 12 tokens, each near the one before it, the small ids frequent."""
    generator, made = random.Random(seed), []
    for _ in range(count):
        token, sentence = generator.randrange(4, size), []
        for _ in range(generator.randint(1, 12)):
            sentence.append(token)
            near = 4 + (token - 4 + generator.randint(-3, 3)) % (size - 4)
            token = near if generator.random() < 0.6 else 4 + int((size - 4) * generator.random() ** 3)
        made.append(sentence)
    return made


# --------------------------------------------------------------------------------------------------------- counting


def neighbours_by_hand(texts: Sentences, window: int) -> np.ndarray:
    counts = np.zeros((SIZE, SIZE))
    for text in texts:
        for t, s in itertools.product(range(len(text)), repeat=2):
            if 0 < abs(t - s) <= window and not {text[t], text[s]} & set(RESERVED):
                counts[text[t], text[s]] += 1
    return counts


@settings(max_examples=60)
@given(sentences, st.integers(1, 12), blocks)
@example([], 5, 1)
@example([[4, 1, 5]], 2, 1)
def test_neighbours_are_those_counted_by_hand(texts: Sentences, window: int, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cooccurrence, "BLOCK", block)
        found = dense(neighbours(concatenate(texts, RESERVED), SIZE, window))
    assert (found == neighbours_by_hand(texts, window)).all()


def test_a_reserved_token_keeps_its_place() -> None:
    """Two tokens with an unknown word between them are two positions apart."""
    text = concatenate([[4, 1, 5]], RESERVED)
    assert dense(neighbours(text, SIZE, 1)).sum() == 0
    assert dense(neighbours(text, SIZE, 2))[4, 5] == 1


# ------------------------------------------------------------------------------------------------------------- PPMI


def ppmi_by_hand(counts: np.ndarray) -> np.ndarray:
    """One pair at a time, by probabilities: log p(i, j) / p(i) p(j), where positive."""
    found, total = np.zeros_like(counts), counts.sum()
    for i, j in zip(*counts.nonzero(), strict=True):
        together, alone = counts[i, j] / total, (counts[i].sum() / total) * (counts[j].sum() / total)
        found[i, j] = max(0.0, math.log(together / alone))
    return found


@settings(max_examples=60)
@given(sentences, st.integers(1, 5))
def test_ppmi_is_that_of_the_probabilities(texts: Sentences, window: int) -> None:
    found = ppmi(neighbours(concatenate(texts, RESERVED), SIZE, window))
    np.testing.assert_allclose(dense(found), ppmi_by_hand(neighbours_by_hand(texts, window)), atol=1e-12)
    assert (found.values() > 0).all(), "what is 0 is not stored"


def test_tokens_that_occur_together_by_chance_have_no_entry() -> None:
    """N_ij = a_i a_j, independence itself: whatever rounding makes of log 1 is not association."""
    often = torch.tensor([3.0, 7.0, 11.0, 13.0, 0.1], dtype=torch.float64)
    assert ppmi(torch.outer(often, often).to_sparse()).values().numel() == 0


# -------------------------------------------------------------------------------------------------------------- SVD


def matrix_of(texts: Sentences, size: int) -> Tensor:
    return ppmi(neighbours(concatenate(texts, RESERVED), size, 5))


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 40))
def test_a_small_svd_is_the_dense_one(seed: int, rank: int) -> None:
    """The random subspace is then the whole space: singular values to rounding, and U spans the best subspace."""
    matrix = matrix_of(zipf(30, 30, seed), 30)
    u, s = truncated_svd(matrix, rank, seed)
    exact = torch.linalg.svdvals(matrix.to_dense())
    kept = min(rank, 30)
    assert u.shape == (30, kept)
    torch.testing.assert_close(s, exact[:rank], rtol=0, atol=1e-10)
    torch.testing.assert_close(u.mT @ u, torch.eye(kept, dtype=u.dtype), rtol=0, atol=1e-10)
    rest = matrix.to_dense() - u @ (u.mT @ matrix.to_dense())
    best = exact[rank:].square().sum().sqrt()  # Eckart & Young 1936: no subspace of this rank leaves less
    torch.testing.assert_close(rest.norm(), best, rtol=0, atol=1e-8)


def test_a_large_svd_comes_close_to_the_dense_one() -> None:
    matrix = matrix_of(zipf(3000, 500), 500)
    exact_u, exact, _ = torch.linalg.svd(matrix.to_dense())
    u, s = truncated_svd(matrix, 40, seed=1)
    torch.testing.assert_close(s[:20], exact[:20], rtol=1e-4, atol=0)
    torch.testing.assert_close(s, exact[:40], rtol=0.01, atol=0)
    rest = (matrix.to_dense() - u @ (u.mT @ matrix.to_dense())).norm()
    assert rest <= 1.001 * exact[40:].square().sum().sqrt()
    cosines = torch.linalg.svdvals(exact_u[:, :10].mT @ u)  # of the angles between the leading subspaces
    assert cosines.min() > 1 - 1e-6


def test_the_svd_depends_on_its_arguments_alone() -> None:
    matrix = matrix_of(zipf(300, 100), 100)
    found = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        found.append(truncated_svd(matrix, 8, seed=3))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_the_sign_of_a_column_is_that_of_its_largest_entry() -> None:
    matrix = matrix_of(zipf(300, 100), 100)
    first, second = (truncated_svd(matrix, 8, seed)[0] for seed in (1, 2))
    assert (first.gather(0, first.abs().argmax(0, keepdim=True)) > 0).all()
    torch.testing.assert_close(first, second, rtol=0, atol=1e-2)


def test_vectors_are_the_square_root_of_the_matrix() -> None:
    """E = U√Σ with all ranks kept: E Eᵀ = UΣUᵀ = (PPMI PPMIᵀ)^½, whose eigenvalues are |λ|."""
    counts = neighbours(concatenate(zipf(60, 25), RESERVED), 25, 5)
    rows = vectors(counts, 30, seed=1)
    assert rows.shape == (25, 30)
    assert not rows[:, 25:].any(), "wider than there are tokens"
    values, basis = torch.linalg.eigh(ppmi(counts).to_dense())
    torch.testing.assert_close(rows @ rows.mT, (basis * values.abs() @ basis.mT).float(), rtol=0, atol=1e-4)


# ---------------------------------------------------------------------------------------------------- initialisation

OPTIONS: dict[str, Any] = {"window": 5, "reserved": RESERVED, "seed": 1}


def fresh(size: int, width: int = 8, seed: int = 1) -> Tensor:
    return torch.randn(size, width, generator=torch.Generator().manual_seed(seed)) / math.sqrt(width)


def test_one_matrix_counts_both_languages_together() -> None:
    sources, targets = zipf(80, 20, seed=1), zipf(80, 20, seed=2)
    weight = fresh(30)
    given = initialise(weight, weight, sources, targets, **OPTIONS)
    together = neighbours(concatenate(sources + targets, RESERVED), 30, 5)
    expected = vectors(together, 8, seed=1)
    assert given == 16
    assert torch.equal(weight[:4], fresh(30)[:4]), "reserved tokens keep their random vectors"
    assert torch.equal(weight[20:], fresh(30)[20:]), "and so do those that training never shows"
    length = expected[4:20].norm(dim=1).mean()
    torch.testing.assert_close(weight[4:20], expected[4:20] / length, rtol=0, atol=1e-6)
    assert weight[4:20].norm(dim=1).mean().item() == pytest.approx(1, abs=1e-6)


def test_two_matrices_count_a_language_each() -> None:
    sources, targets = zipf(80, 20, seed=1), zipf(80, 26, seed=2)
    left, right = fresh(20), fresh(26)
    assert initialise(left, right, sources, targets, **OPTIONS) == 16 + 22
    for weight, texts in ((left, sources), (right, targets)):
        alone = fresh(len(weight))
        initialise(alone, alone, texts, [[]] * 80, **OPTIONS)
        torch.testing.assert_close(weight, alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("texts", [[], [[]], [[4], [5]], [[4, 4, 4]], [[4, 1, 2]]], ids=str)
def test_where_nothing_stands_together_the_error_says_what_to_do(texts: Sentences) -> None:
    weight = fresh(SIZE)
    with pytest.raises(DataError, match=r"^model\.embeddings\.init: .*; set it to normal$"):
        initialise(weight, weight, texts, [[]] * len(texts), **OPTIONS)
    assert torch.equal(weight, fresh(SIZE))
