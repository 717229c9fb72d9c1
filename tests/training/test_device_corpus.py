"""The corpus on the device: the batches of the layout, in few shapes that pad little."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from projtrans.model.batching import Examples, Layout, epoch, sizes
from projtrans.model.loss import cross_entropy
from projtrans.sequences import Ragged
from projtrans.training.device_corpus import EMPTY_ROW, MOST_SHAPES, Resident, Schedule, Shape, fitting, shapes
from tests.training.bench import CPU, Bench, settings_of

Texts = list[tuple[list[int], list[int]]]
few = settings(max_examples=12)
ids = st.lists(st.integers(3, 50), max_size=9)
pairs = st.lists(st.tuples(ids, ids), min_size=1, max_size=8)
some_sizes = st.lists(st.tuples(*(st.integers(1, 30) for _ in range(3))), min_size=1, max_size=40)


def layout(max_length: int = 12, *, mask_padding: bool = True) -> Layout:
    return Layout(pad_id=0, bos_id=1, eos_id=2, max_length=max_length, mask_padding=mask_padding)


def examples_of(lay: Layout, texts: Texts, *, cut: bool = True) -> Examples:
    sources, targets = (Ragged.of([text[number] for text in texts]) for number in (0, 1))
    return Examples(lay, sources, targets, cut=cut)


@few
@given(pairs, st.booleans(), st.integers(1, 12), st.booleans(), st.randoms(use_true_random=False))
def test_batches_on_the_device_are_those_of_the_layout(
    texts: Texts, mask_padding: bool, max_length: int, cut: bool, random: Any
) -> None:
    examples = examples_of(layout(max_length, mask_padding=mask_padding), texts, cut=cut)
    if not len(examples):
        return
    chosen = [random.randrange(len(examples)) for _ in range(5)]
    batch = examples.layout.batch([examples[i] for i in chosen])
    shape = Shape(len(chosen), batch.source_BS.shape[1], batch.target_out_BT.shape[1])
    made = Resident(examples, CPU).padded_batch(torch.tensor(chosen) + 1, shape)
    for name, ours in vars(made).items():
        theirs = getattr(batch, name)
        assert ours is theirs is None or (torch.equal(ours, theirs) and ours.dtype == theirs.dtype), name


@few
@given(pairs, st.integers(0, 3), st.integers(0, 4))
def test_what_fills_up_a_batch_is_padding_that_sees_one_position(texts: Texts, more: int, longer: int) -> None:
    examples = examples_of(layout(), texts)
    batch = examples.layout.batch(list(examples))
    (B, S), T = batch.source_BS.shape, batch.target_out_BT.shape[1]
    rows = torch.tensor([*range(1, B + 1), *[EMPTY_ROW] * more])
    made = Resident(examples, CPU).padded_batch(rows, Shape(B + more, S + longer, T + longer))
    assert made.source_mask_BS is not None
    assert batch.source_mask_BS is not None
    for ours, theirs, filled in (
        (made.source_BS, batch.source_BS, 0),
        (made.target_out_BT, batch.target_out_BT, 0),
        (made.counted_BT, batch.counted_BT, False),
        (made.source_mask_BS, batch.source_mask_BS, False),
    ):
        assert torch.equal(ours[:B, : theirs.shape[1]], theirs)
        assert (ours[:B, theirs.shape[1] :] == filled).all()
        first = ours[B:, 0] == (ours is made.source_mask_BS)
        assert first.all()
        assert (ours[B:, 1:] == filled).all()
    assert made.target_in_BT[B:].tolist() == [[1, *[0] * (T + longer - 1)]] * more
    assert torch.equal(made.target_in_BT[:B, :T], batch.target_in_BT)


@few
@given(pairs, pairs)
def test_another_corpus_takes_the_place_of_the_first_where_it_fits(texts: Texts, others: Texts) -> None:
    """An address that a graph has recorded stays; where there is no room, it is told."""
    first, second = (examples_of(layout(), some) for some in (texts, others))
    corpus = Resident(first, CPU)
    before = [tensor for packed in corpus.packed for tensor in vars(packed).values()]
    kept = corpus.load(second)
    now = [tensor for packed in corpus.packed for tensor in vars(packed).values()]
    assert [a.data_ptr() == b.data_ptr() for a, b in zip(before, now, strict=True)] == [kept] * 6
    assert kept or any(len(a) < len(b) for a, b in zip(before, now, strict=True))
    batch = second.layout.batch(list(second))
    shape = Shape(len(second), batch.source_BS.shape[1], batch.target_out_BT.shape[1])
    made = corpus.padded_batch(torch.arange(len(second)) + 1, shape)
    assert torch.equal(made.source_BS, batch.source_BS)
    assert torch.equal(made.target_out_BT, batch.target_out_BT)


def positions(size: Sequence[int]) -> int:
    return size[0] * (size[1] + size[2])


@few
@given(some_sizes, st.integers(1, 8))
def test_all_batches_fit_into_few_shapes(found: list[tuple[int, int, int]], most: int) -> None:
    planned = shapes(np.array(found), most)
    assert len(planned) <= most
    assert [positions(shape) for shape in planned] == sorted(map(positions, planned), reverse=True)
    for size, shape in zip(found, fitting(np.array(found), planned), strict=True):
        fits = [other for other in planned if all(np.array(size) <= np.array(other))]
        assert shape in fits
        assert shape is not None
        assert positions(shape) == min(map(positions, fits))
    if most >= len(set(found)):
        assert set(planned) == set(found), "no padding where none is needed"


def test_a_batch_that_fits_nowhere_is_told() -> None:
    assert fitting(np.array([[3, 4, 5], [2, 9, 1]]), [Shape(4, 5, 6), Shape(3, 4, 5)]) == [Shape(3, 4, 5), None]


@few
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), min_size=1, max_size=80), st.integers(40, 200))
def test_shapes_of_buckets_are_the_same_in_every_epoch_and_cost_little(lengths: Any, tokens: int) -> None:
    lay, lengths_N2 = layout(40), np.array(lengths)
    of_epochs = []
    for number in range(2):
        batches = epoch(lengths, tokens=tokens, sentences=None, by_length=True, seed=1, number=number)
        of_epochs.append(sorted(map(tuple, sizes(batches, lengths_N2, lay).tolist())))
        schedule = Schedule(batches, lengths_N2, lay, shapes(sizes(batches, lengths_N2, lay)), CPU)
        assert all(schedule.planned)
        for i, batch in enumerate(batches):
            rows = schedule.rows(i).tolist()
            assert rows == [index + 1 for index in batch] + [0] * (schedule.shapes[i].sentences - len(batch))
            assert schedule.tokens[i] == sum(lengths[index][1] for index in batch)
            assert schedule.positions[i] == len(batch) * max(lengths[index][1] for index in batch)
    assert of_epochs[0] == of_epochs[1]


def test_thirty_two_shapes_pad_realistic_lengths_by_a_few_percent() -> None:
    random = np.random.default_rng(1)
    source = random.lognormal(math.log(8), 0.45, 20_000).astype(int).clip(1, 60)
    target = (source * random.normal(1.1, 0.12, 20_000)).round().astype(int).clip(1, 60) + 1
    lengths_N2 = np.stack([source, target], 1)
    batches = epoch(lengths_N2, tokens=2048, sentences=None, by_length=True, seed=1, number=0)
    found = sizes(batches, lengths_N2, layout(80))
    assert len(np.unique(found, axis=0)) > 50
    planned = shapes(found)
    assert len(planned) == MOST_SHAPES
    ours = Schedule(batches, lengths_N2, layout(80), planned, CPU).padding
    assert ours < 0.06
    sides = -(-found[:, 1:] // 8) * 8
    most = [found[(sides == some).all(1), 0].max() for some in sides]
    eights = 1 - sum(map(positions, found)) / sum(n * (S + T) for n, (S, T) in zip(most, sides, strict=True))
    assert eights > 10 * ours, "what rounding lengths up to multiples of 8 would cost"
    assert Schedule(batches, lengths_N2, layout(80), shapes(found, 4), CPU).padding > 0.1


@few
@given(st.integers(0, 600), st.sampled_from([0.0, 0.1]), st.integers(0, 10**6))
def test_groups_are_what_choosing_their_positions_gives(count: int, smoothing: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    target, group = (torch.randint(n, (count,), generator=generator) for n in (9, 3))
    weight, bias = (torch.randn(*size, generator=generator, dtype=torch.float64) for size in ((9, 6), (9,)))
    groups = torch.stack([group == 0, group == 1]).float()  # group 2 counts nowhere
    results = []
    for grouped in (True, False):
        leaves = [x.clone().requires_grad_() for x in (h, weight, bias)]
        if grouped:
            found = cross_entropy(*leaves, target, smoothing, groups)
            smoothed, nll, correct = found
        else:
            parts = [cross_entropy(leaves[0][group == g], *leaves[1:], target[group == g], smoothing) for g in (0, 1)]
            smoothed = parts[0].smoothed + parts[1].smoothed
            nll, correct = (torch.stack([getattr(part, name) for part in parts]) for name in ("nll", "correct"))
        smoothed.mul(0.7).backward()
        results.append([smoothed.detach(), nll, correct, *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_the_memory_that_is_asked_for_is_the_memory_that_is_taken(bench: Bench) -> None:
    examples = bench.trainer(settings_of()).plan.examples
    tensors = [tensor for packed in Resident(examples, CPU).packed for tensor in vars(packed).values()]
    taken = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert Resident.bytes(examples) == pytest.approx(taken, rel=0.05)
