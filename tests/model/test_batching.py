"""Properties of batches: every example once, no budget exceeded, an order that depends on the arguments alone.

Axes: B sentences, S source and T target positions. Masks: True = a real token.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from projtrans.model.batching import Batch, Example, bucket, epoch, fixed_batches, padding
from tests.batching_cases import BOS, EOS, PAD, examples_of, ids, layout, pairs

Lengths = list[tuple[int, int]]

some_lengths = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), max_size=60)
token_budgets = st.integers(1, 200)
sentence_budgets = st.none() | st.integers(1, 20)


def flat(batches: Sequence[Sequence[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


def rectangle(batch: Sequence[int], lengths: Lengths) -> int:
    """Sentences × longest sequence."""
    return len(batch) * max(max(lengths[index]) for index in batch)


# ---------------------------------------------------------------------------------------------------------- buckets


@given(some_lengths, token_budgets, sentence_budgets)
def test_every_example_is_in_exactly_one_batch(lengths: Lengths, tokens: int, sentences: int | None) -> None:
    batches = bucket(lengths, tokens=tokens, sentences=sentences)
    assert sorted(flat(batches)) == list(range(len(lengths)))
    assert all(batches)


@given(some_lengths, token_budgets, sentence_budgets)
def test_no_batch_is_over_its_budget_unless_one_example_alone_is(
    lengths: Lengths, tokens: int, sentences: int | None
) -> None:
    for batch in bucket(lengths, tokens=tokens, sentences=sentences):
        assert rectangle(batch, lengths) <= tokens or len(batch) == 1
        assert sentences is None or len(batch) <= sentences


@given(some_lengths, token_budgets, sentence_budgets)
def test_no_two_neighbouring_batches_would_fit_into_one(lengths: Lengths, tokens: int, sentences: int | None) -> None:
    batches = bucket(lengths, tokens=tokens, sentences=sentences)
    for batch, after in pairwise(batches):
        grown = [*batch, after[0]]
        assert rectangle(grown, lengths) > tokens or (sentences is not None and len(grown) > sentences)


@given(some_lengths, token_budgets)
def test_batches_ascend_in_length(lengths: Lengths, tokens: int) -> None:
    longest = [max(lengths[index]) for index in flat(bucket(lengths, tokens=tokens, sentences=None))]
    assert longest == sorted(longest)


BUCKETS = [
    ("nothing to do", [], 10, None, []),
    ("one over-long example is a batch of its own", [(3, 3), (50, 2), (60, 1)], 10, None, [[0], [1], [2]]),
    ("the longer of source and target counts", [(1, 5), (5, 1), (2, 6)], 10, None, [[0, 1], [2]]),
    ("exactly the budget", [(5, 5), (5, 5), (5, 5)], 10, None, [[0, 1], [2]]),
    ("exactly the sentences", [(1, 1)] * 5, 100, 2, [[0, 1], [2, 3], [4]]),
    ("an empty source is an example", [(0, 1), (0, 1)], 100, None, [[0, 1]]),
]


@pytest.mark.parametrize(
    ("reason", "lengths", "tokens", "sentences", "expected"), BUCKETS, ids=[row[0] for row in BUCKETS]
)
def test_where_a_batch_ends(
    reason: str, lengths: Lengths, tokens: int, sentences: int | None, expected: list[list[int]]
) -> None:
    assert list(bucket(lengths, tokens=tokens, sentences=sentences)) == expected, reason


def bucket_slowly(lengths: Lengths, tokens: int, sentences: int | None) -> list[list[int]]:
    """The definition: examples by length, each added to the last batch if that may hold one more of its length."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (max(lengths[i]), lengths[i], i)):
        room = batches and len(batches[-1]) < (sentences or math.inf)
        if room and (len(batches[-1]) + 1) * max(lengths[index]) <= tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


@given(some_lengths, token_budgets, sentence_budgets)
def test_buckets_are_those_of_their_definition(lengths: Lengths, tokens: int, sentences: int | None) -> None:
    assert list(bucket(lengths, tokens=tokens, sentences=sentences)) == bucket_slowly(lengths, tokens, sentences)


@given(some_lengths, token_budgets, sentence_budgets, st.booleans(), st.integers(0, 10**6), st.integers(0, 10**3))
def test_an_epoch_is_the_one_of_its_definition(
    lengths: Lengths, tokens: int, sentences: int | None, by_length: bool, seed: int, number: int
) -> None:
    """A seed fixes the order of the data for good: if that changed, a run could not be resumed exactly."""
    random = np.random.Generator(np.random.PCG64([seed, number]))
    order = random.permutation(len(lengths)).tolist()
    size = sentences or max(1, tokens // max(map(max, lengths), default=1))
    expected = [order[first : first + size] for first in range(0, len(order), size)]
    if by_length:
        slowly = bucket_slowly([lengths[i] for i in order], tokens, sentences)
        expected = [[order[i] for i in slowly[batch]] for batch in random.permutation(len(slowly))]
    batches = epoch(lengths, tokens=tokens, sentences=sentences, by_length=by_length, seed=seed, number=number)
    assert list(batches) == expected == batches[:]
    assert (batches[1:-1], len(batches)) == (expected[1:-1], len(expected))


def realistic(count: int, seed: int = 1) -> Lengths:
    """Source lengths as in short translations (log-normal, median 8), targets a little longer, with noise."""
    random = np.random.default_rng(seed)
    source = np.maximum(1, random.lognormal(math.log(8), 0.45, count).astype(int))
    target = np.maximum(1, (source * random.normal(1.1, 0.12, count)).round().astype(int)) + 1
    return list(zip(source.tolist(), target.tolist(), strict=True))


def fill(batches: Sequence[Sequence[int]], lengths: Lengths) -> tuple[float, float]:
    """The share of real tokens among all positions: counting the longer of source and target, and counting both."""
    longer = sum(max(pair) for pair in lengths) / sum(rectangle(batch, lengths) for batch in batches)
    positions = sum(len(batch) * sum(max(lengths[i][side] for i in batch) for side in (0, 1)) for batch in batches)
    return longer, sum(map(sum, lengths)) / positions


@pytest.mark.parametrize("tokens", [1024, 2048, 4096])
def test_there_is_little_padding_at_realistic_lengths(tokens: int) -> None:
    lengths = realistic(20_000)
    by_length = epoch(lengths, tokens=tokens, sentences=None, by_length=True, seed=1, number=0)
    longer, both = fill(by_length, lengths)
    assert longer > 0.97
    assert both > 0.90
    unsorted = epoch(lengths, tokens=tokens, sentences=64, by_length=False, seed=1, number=0)
    assert fill(unsorted, lengths)[1] < 0.60, "what it would be without buckets"


# ----------------------------------------------------------------------------------------------------------- epochs


@given(some_lengths, token_budgets, st.integers(1, 20), st.booleans(), st.integers(0, 10**6), st.integers(0, 10**3))
def test_an_epoch_holds_every_example_once_within_its_budgets(
    lengths: Lengths, tokens: int, sentences: int, by_length: bool, seed: int, number: int
) -> None:
    batches = epoch(lengths, tokens=tokens, sentences=sentences, by_length=by_length, seed=seed, number=number)
    assert sorted(flat(batches)) == list(range(len(lengths)))
    for batch in batches:
        assert 0 < len(batch) <= sentences
        assert not by_length or rectangle(batch, lengths) <= tokens or len(batch) == 1


@given(some_lengths.filter(bool), token_budgets, st.integers(0, 10**6))
def test_random_batches_without_a_size_keep_to_the_tokens(lengths: Lengths, tokens: int, seed: int) -> None:
    for batch in epoch(lengths, tokens=tokens, sentences=None, by_length=False, seed=seed, number=0):
        assert rectangle(batch, lengths) <= tokens or len(batch) == 1


@settings(deadline=None, max_examples=25)
@given(st.booleans(), st.integers(0, 10**6), st.integers(0, 10**6))
def test_an_epoch_is_a_function_of_its_arguments_and_each_has_another_order(
    by_length: bool, seed: int, number: int
) -> None:
    lengths = realistic(400)

    def order(seed: int, number: int) -> list[list[int]]:
        return list(epoch(lengths, tokens=128, sentences=16, by_length=by_length, seed=seed, number=number))

    torch.manual_seed(seed)
    first = order(seed, number)
    np.random.default_rng().random()
    torch.manual_seed(seed + 1)
    assert order(seed, number) == first, "whatever was drawn elsewhere"
    assert order(seed, number + 1) != first
    assert order(seed + 1, number) != first
    assert order(seed + 1, number) != order(seed, number + 1), "no epoch of one seed is the next of another"


def test_batches_come_in_random_order_and_mix_examples_of_one_length() -> None:
    lengths = realistic(2000)
    epochs = [epoch(lengths, tokens=256, sentences=None, by_length=True, seed=1, number=n) for n in range(2)]
    longest = [max(max(lengths[i]) for i in batch) for batch in epochs[0]]
    # Of n numbers in random order the rank correlation with their place has a standard error of 1/√(n - 1).
    ranks = np.argsort(np.argsort(longest, kind="stable"), kind="stable")
    correlation = np.corrcoef(ranks, np.arange(len(ranks)))[0, 1]
    assert abs(correlation) < 5 / math.sqrt(len(ranks) - 1)
    companions = [{frozenset(batch) for batch in batches} for batches in epochs]
    shared = companions[0] & companions[1]
    assert all(len({lengths[i] for i in batch}) > 1 for batch in shared), (
        "only where no two examples could change places"
    )
    assert len(shared) < 0.2 * len(companions[0])


# ----------------------------------------------------------------------------------------------------------- layout


def sides_of(example: Example) -> tuple[list[int], list[int]]:
    return example.source, example.target


def real(row: torch.Tensor, mask: torch.Tensor) -> list[int]:
    return [int(number) for number in row[mask]]


@given(pairs, st.booleans(), st.integers(1, 12))
def test_a_batch_holds_its_examples_and_nothing_else(
    texts: list[tuple[list[int], list[int]]], mask_padding: bool, max_length: int
) -> None:
    lay = layout(max_length, mask_padding=mask_padding)
    examples = [lay.example(source, target) for source, target in texts]
    batch = lay.batch(examples)
    assert batch.sentences == len(texts)
    longest = [max(1, *(len(side) for side in sides)) for sides in zip(*map(sides_of, examples), strict=True)]
    width = longest if mask_padding else [max_length, max_length]
    assert batch.source_BS.shape == (len(texts), width[0])
    assert batch.target_in_BT.shape == batch.target_out_BT.shape == batch.counted_BT.shape == (len(texts), width[1])
    for tensor in (batch.source_BS, batch.target_in_BT, batch.target_out_BT):
        assert tensor.dtype == torch.int64
    for row, (source, target) in enumerate(texts):
        source, tokens = source[:max_length], [*target, EOS][:max_length]
        assert batch.source_BS[row].tolist() == source + [PAD] * (width[0] - len(source))
        assert batch.target_out_BT[row].tolist() == tokens + [PAD] * (width[1] - len(tokens))
        assert batch.target_in_BT[row].tolist() == [BOS, *batch.target_out_BT[row].tolist()[:-1]]
        assert batch.counted_BT[row].tolist() == [True] * len(tokens) + [False] * (width[1] - len(tokens))
        if mask_padding:
            assert batch.source_mask_BS is not None
            assert batch.source_mask_BS[row].tolist() == [True] * len(source) + [False] * (width[0] - len(source))
    assert mask_padding or batch.source_mask_BS is None


def fits(source: list[int], target: list[int], max_length: int) -> bool:
    return len(source) <= max_length and len(target) + 1 <= max_length


@given(ids, ids, st.integers(1, 9))
def test_what_fits_is_not_cut(source: list[int], target: list[int], max_length: int) -> None:
    lay = layout(max_length)
    whole = lay.example(source, target) == Example(source, [*target, EOS])
    assert fits(source, target, max_length) == whole


EXAMPLES = [
    ("begin and end stand outside the target", ([5, 6], [7, 8]), 9, [BOS, 7, 8], [7, 8, EOS]),
    ("an empty target is its end", ([5], []), 9, [BOS], [EOS]),
    ("a cut target loses its end", ([5], [7, 8, 9]), 3, [BOS, 7, 8], [7, 8, 9]),
    ("a target that just fits keeps it", ([5], [7, 8]), 3, [BOS, 7, 8], [7, 8, EOS]),
    ("a maximum of one token", ([5, 6], [7]), 1, [BOS], [7]),
]


@pytest.mark.parametrize(("reason", "texts", "longest", "first", "then"), EXAMPLES, ids=[row[0] for row in EXAMPLES])
def test_each_position_predicts_the_next_piece(
    reason: str, texts: tuple[list[int], list[int]], longest: int, first: list[int], then: list[int]
) -> None:
    lay = layout(longest)
    batch = lay.batch([lay.example(*texts)])
    assert batch.target_in_BT.tolist() == [first], reason
    assert batch.target_out_BT.tolist() == [then], reason
    assert batch.source_BS.tolist() == [texts[0][:longest]]


@pytest.mark.parametrize("mask_padding", [True, False])
def test_empty_sources_have_one_position_at_least_and_nothing_real(mask_padding: bool) -> None:
    lay = layout(4, mask_padding=mask_padding)
    source, mask = lay.sources([[], []])
    assert source.tolist() == [[PAD] * (1 if mask_padding else 4)] * 2
    assert mask is None if not mask_padding else mask is not None and mask.tolist() == [[False], [False]]
    source, mask = lay.sources([[], [5, 6]])
    assert source[1].tolist()[:2] == [5, 6]
    assert mask is None or mask.tolist() == [[False, False], [True, True]]


@given(pairs, st.integers(1, 12), st.booleans())
def test_examples_are_those_of_the_layout(texts: list[tuple[list[int], list[int]]], max_length: int, cut: bool) -> None:
    lay = layout(max_length)
    kept = [text for text in texts if cut or fits(*text, max_length)]
    examples = examples_of(lay, texts, cut=cut)
    assert list(examples) == [lay.example(*text) for text in kept] == examples[:]
    assert examples.lengths.tolist() == [[len(example.source), len(example.target)] for example in examples]
    assert [texts[row] for row in examples.rows] == kept


@given(pairs, token_budgets, st.booleans())
def test_padding_is_what_the_batches_hold(
    texts: list[tuple[list[int], list[int]]], tokens: int, mask_padding: bool
) -> None:
    lay = layout(mask_padding=mask_padding)
    examples = examples_of(lay, texts)
    batches = epoch(examples.lengths, tokens=tokens, sentences=None, by_length=True, seed=1, number=0)
    sides = [(b.source_BS, b.target_out_BT) for b in (lay.batch([examples[i] for i in batch]) for batch in batches)]
    shares = [
        float(sum((t == PAD).sum() for t in side) / sum(t.numel() for t in side)) for side in zip(*sides, strict=True)
    ]
    assert padding(batches, examples.lengths, lay) == pytest.approx(tuple(shares))


@given(pairs, st.integers(1, 60), st.booleans())
def test_fixed_batches_hold_every_example_once_with_its_index(
    texts: list[tuple[list[int], list[int]]], tokens: int, mask_padding: bool
) -> None:
    lay = layout(10, mask_padding=mask_padding)
    examples = examples_of(lay, texts)
    seen = []
    for indices, batch in fixed_batches(examples, lay, tokens):
        seen += indices
        assert batch.sentences == len(indices)
        for row, index in enumerate(indices):
            assert real(batch.target_out_BT[row], batch.counted_BT[row]) == examples[index].target
        sides = (batch.source_BS, batch.target_out_BT)
        assert len(indices) == 1 or max(side.numel() for side in sides) <= tokens, "padding included"
    assert sorted(seen) == list(range(len(texts)))


def test_a_batch_on_the_cpu_is_on_the_cpu() -> None:
    lay = layout()
    batch = lay.batch([lay.example([5], [6])])
    assert batch.to(torch.device("cpu")) is batch


@pytest.mark.parametrize("mask_padding", [True, False])
def test_a_batch_moves_as_a_whole(mask_padding: bool) -> None:
    lay = layout(mask_padding=mask_padding)
    batch = lay.batch([lay.example([5, 6], [7]), lay.example([5], [7, 8])])
    moved = batch.to(torch.device("meta"))
    assert isinstance(moved, Batch)
    for name in ("source_BS", "source_mask_BS", "target_in_BT", "target_out_BT", "counted_BT"):
        before, after = getattr(batch, name), getattr(moved, name)
        assert (before is None) == (after is None)
        if before is not None:
            assert (after.device.type, after.shape, after.dtype) == ("meta", before.shape, before.dtype)
