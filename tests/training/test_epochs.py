"""The plan of the epochs: pairs, subword dropout, budgets, the heaviest batch."""

import copy
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projtrans.data.data_folder import open_splits, read_split
from projtrans.errors import DataError
from projtrans.model.batching import epoch, heaviest
from projtrans.runs.build import encode, layout_of
from projtrans.runs.settings import resolve
from tests.toy import TINY
from tests.training.bench import Bench, same_run, settings_of


@pytest.mark.slow
def test_a_kept_encoding_trains_as_the_text_does(bench: Bench, prepared: Path) -> None:
    """Weights, scores and log: training, validation and test read the ids from the disk."""
    settings = resolve(copy.deepcopy(TINY), sets=["training.epochs=2", "corpus.max_length=9"])
    bench.splits = {name: read_split(prepared, name) for name in bench.splits}
    fresh = bench.train(settings)
    bench.splits = dict(open_splits(prepared, bench.tokenizer, lambda event: pytest.fail("encoded twice")))
    same_run(fresh, bench.train(settings))


def test_dropout_of_subwords_is_a_function_of_seed_epoch_and_pair(bench: Bench) -> None:
    """Not of the pairs around it; other epochs and seeds segment otherwise, and 0 not at all."""

    def sampled(*sets: str, number: int = 0) -> list[tuple[list[int], list[int]]]:
        trainer = bench.trainer(settings_of("corpus.max_length=60", *sets))
        return [(example.source, example.target) for example in trainer.plan.examples_of(number)]

    dropout, whole = "training.subword_dropout=0.4", bench.splits["train"]
    first = sampled(dropout)
    assert sampled(dropout) == first
    bench.splits["train"] = whole[:50]
    assert sampled(dropout) == first[:50]
    bench.splits["train"] = whole
    plain = sampled("training.subword_dropout=0.0")
    kept = encode(bench.tokenizer, bench.trainer(settings_of("corpus.max_length=60")).plan.layout, whole, cut=False)
    assert plain == [(example.source, example.target) for example in kept]
    for other in (plain, sampled(dropout, number=1), sampled(dropout, "training.seed=2")):
        assert sum(ours != theirs for ours, theirs in zip(first, other, strict=True)) > 0.7 * len(whole)
    for (source, target), pair in zip(first, whole, strict=True):
        assert bench.tokenizer.decode_target([source, target]) == [pair.source, pair.target]


def test_batches_with_dropout_of_subwords_keep_to_the_budget(bench: Bench) -> None:
    trainer = bench.trainer(settings_of("training.subword_dropout=0.3", "training.batch_tokens=200"))
    for number in range(2):
        batches = trainer.plan.batches(number)
        assert sorted(itertools.chain(*batches)) == list(range(len(bench.splits["train"])))
        made = [trainer.plan.batch(number, indices) for indices in batches]
        assert all(batch.target_out_BT.numel() <= 200 and batch.source_BS.numel() <= 200 for batch in made)


def test_pairs_that_are_too_long_are_left_out_of_training_and_counted(bench: Bench) -> None:
    settings = settings_of("corpus.max_length=5")
    layout = layout_of(bench.tokenizer, settings.corpus, settings.model)
    pairs = bench.splits["train"]
    examples = encode(bench.tokenizer, layout, pairs, cut=False)
    sources = bench.tokenizer.encode_source([pair.source for pair in pairs])
    targets = bench.tokenizer.encode_target([pair.target for pair in pairs])
    fitting = [len(s) <= 5 and len(t) + 1 <= 5 for s, t in zip(sources, targets, strict=True)]
    assert 0 < sum(fitting) == len(examples) < len(pairs)
    trainer = bench.trainer(settings)
    assert (len(trainer.plan.examples), trainer.plan.left_out) == (len(examples), len(pairs) - len(examples))
    cut = encode(bench.tokenizer, layout, pairs, cut=True)
    assert len(cut) == len(pairs)
    assert max(max(len(example.source), len(example.target)) for example in cut) == 5
    with pytest.raises(DataError, match=r"corpus\.max_length: 1 "):
        bench.trainer(settings_of("corpus.max_length=1"))


lengths = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=40)


@given(lengths, st.integers(1, 120), st.none() | st.integers(1, 9), st.integers(1, 5))
def test_no_batch_of_any_epoch_is_heavier_than_the_first(
    sizes: list[tuple[int, int]], tokens: int, sentences: int | None, number: int
) -> None:
    def memory(batch: list[int]) -> int:
        S, T = max(sizes[i][0] for i in batch), max(sizes[i][1] for i in batch)
        return sum((S + T) * 16 + (S * S + T * T + T * S) * 2 for _ in batch)

    for by_length in (True, False):
        kind = {"tokens": tokens, "sentences": sentences, "by_length": by_length, "seed": 1}
        first = heaviest(epoch(sizes, **kind, number=0), np.asarray(sizes), by_length=by_length, width=16, heads=2)
        assert len(set(first)) == len(first)
        for batch in epoch(sizes, **kind, number=number):
            longest = max(max(sizes[i]) for i in batch)
            assert (
                memory(batch) <= memory(first)
                if by_length
                else longest * len(batch) <= len(first) * max(max(sizes[i]) for i in first)
            )
