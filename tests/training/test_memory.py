"""Too little memory: batches are halved at the probe, or training goes back to its last state with half of them."""

import copy
import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from projtrans.errors import ConfigError, Interrupted
from projtrans.model import devices
from projtrans.model.batching import Batch
from projtrans.runs.checkpoint import load_state
from projtrans.runs.run_folder import Run
from projtrans.training.device_corpus import Shape
from projtrans.training.dry_run import preview
from projtrans.training.events import Event, Halved, Recorded
from projtrans.training.static_updates import StaticUpdates
from projtrans.training.updates import Objective
from tests.training.bench import (
    CPU,
    MEMORY,
    RANDOM,
    Bench,
    events_of,
    limited,
    same_run,
    settings_of,
    stop_at,
    timeless,
    weights,
)  # fmt: skip

HALF = ["training.by_length=false", "training.batch_sentences=8", "training.accumulation=2"]
"""What RANDOM is with its batches halved once."""


def short_of(monkeypatch: pytest.MonkeyPatch, sentences: int) -> None:
    """Let the machine have memory for so many sentence pairs a batch."""
    true = Objective.losses

    def losses(self: Objective, batch: Batch, *h_BTD: Tensor) -> Any:
        if batch.sentences > sentences:
            raise RuntimeError(MEMORY)
        return true(self, batch, *h_BTD)

    monkeypatch.setattr(Objective, "losses", losses)


def same_training(left: Run, right: Run) -> None:
    """The same weights, averaged or not, and the same log but for what tells of halved or changed batches."""
    for file in ("model_file", "state_file"):
        ours, theirs = (load_file(getattr(run, file)) for run in (left, right))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    logs = [[e for e in timeless(events_of(run)) if e["event"] not in ("halved", "changed")] for run in (left, right)]
    assert logs[0] == logs[1]


def test_the_words_of_real_allocators_are_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**46)
    assert devices.out_of_memory(caught.value)
    assert devices.out_of_memory(MemoryError())
    assert devices.out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    with pytest.raises(RuntimeError) as caught:
        torch.ones(2) @ torch.ones(3)
    assert not devices.out_of_memory(caught.value)


def test_what_the_probe_halves_trains_as_batches_of_that_size(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    short_of(monkeypatch, 8)
    seen: list[Event] = []
    sets = ["training.epochs=2", "training.report_updates=1", "model.dropout=0.2"]
    run = bench.train(settings_of(*sets, *RANDOM), report=seen.append)
    (told,) = [event for event in seen if isinstance(event, Halved)]
    assert (told.update, told.halvings, told.batch_sentences, told.accumulation) == (0, 1, 8, 2)
    assert [event["event"] == "halved" for event in events_of(run)[:2]] == [True, False], "though probed before the log"
    same_training(run, bench.train(settings_of(*sets, *HALF)))


@pytest.mark.slow
def test_without_a_probe_training_begins_again_with_half_the_batches(bench: Bench) -> None:
    """From the state before the first update; nothing that the failed update left behind counts."""
    seen: list[Event] = []
    settings = settings_of("training.epochs=3", "training.report_updates=1", "model.dropout=0.2", *RANDOM)
    trainer = bench.trainer(settings, seen.append)
    before, last = trainer.plan.batches(1), trainer.plan.last_update
    limited(trainer.objective, 8)
    trainer.train()
    (told,) = [event for event in seen if isinstance(event, Halved)]
    assert (told.update, told.batch_sentences, told.accumulation) == (0, 8, 2)
    assert events_of(trainer.run)[0]["event"] == "halved"
    after_it = trainer.plan.batches(1)
    assert max(map(len, after_it)) == 8
    assert [sorted(a + b) for a, b in zip(after_it[::2], after_it[1::2], strict=False)] == [
        sorted(batch) for batch in before[: len(after_it) // 2]
    ], "the same pairs in the same order"
    counters = trainer.state.counters
    assert (counters.epoch, counters.update, counters.halvings) == (3, last, 1)
    half = bench.trainer(settings_of("training.epochs=3", "training.report_updates=1", "model.dropout=0.2", *HALF))
    half.train()
    same_training(trainer.run, half.run)


@pytest.mark.slow
@pytest.mark.parametrize(("at", "back"), [(10, 8), (14, 8), (17, 16)])
def test_later_training_goes_back_to_its_last_state_as_if_resumed_with_half_the_batches(
    bench: Bench, at: int, back: int
) -> None:
    """Eight updates an epoch: the log of what is undone is cut, its epoch starts again."""
    sets = ["training.epochs=3", "training.report_updates=1", "model.dropout=0.2"]
    trainer = bench.trainer(settings_of(*sets, *RANDOM))
    true = trainer.objective.losses

    def losses(batch: Batch, *h_BTD: Tensor) -> Any:
        if trainer.state.counters.update >= at and batch.sentences > 8:
            raise RuntimeError(MEMORY)
        return true(batch, *h_BTD)

    trainer.objective.losses = losses  # type: ignore[method-assign]
    trainer.train()
    log = events_of(trainer.run)
    (place,) = [number for number, event in enumerate(log) if event["event"] == "halved"]
    assert (log[place]["update"], log[place]["batch_sentences"]) == (back, 8)
    assert (log[place - 1]["event"], log[place - 1]["update"]) == ("valid", back)
    updates = [event["update"] for event in log if event["event"] == "train"]
    assert updates == list(range(1, trainer.state.counters.update + 1))
    stopped = bench.trainer(settings_of(*sets, *RANDOM))
    stopped.stop_signal = lambda: 15 if stopped.state.counters.validated == back else None
    with pytest.raises(Interrupted):
        stopped.train()
    changed = bench.trainer(settings_of(*sets, *HALF), run=stopped.run)
    changed.restore()
    changed.train()
    same_training(trainer.run, changed.run)


@pytest.mark.slow
def test_a_run_with_halved_batches_is_resumed_with_them(bench: Bench) -> None:
    """Stopped in the epoch in which memory ran out, and resumed where there is enough."""
    settings = settings_of("training.epochs=3", "training.report_updates=1", "model.dropout=0.2", *RANDOM)
    whole = bench.trainer(settings)
    limited(whole.objective, 8)
    whole.train()
    stopped = bench.trainer(settings)
    limited(stopped.objective, 8)
    stop_at(stopped, 3)
    with pytest.raises(Interrupted):
        stopped.train()
    assert stopped.state.counters.halvings == 1
    again = bench.trainer(settings, run=stopped.run)
    again.restore()
    again.train()
    same_run(whole.run, again.run)


@pytest.mark.parametrize(("halved", "batch"), [(1, 6), (0, 0)])
def test_states_of_version_0_1_are_resumed(bench: Bench, halved: int, batch: int) -> None:
    """It cut an epoch's batches on the way: a state that was saved within such an epoch starts it again."""
    settings = settings_of("training.epochs=2", "training.report_updates=1", *HALF)
    stopped = bench.trainer(settings)
    stop_at(stopped, 3)
    with pytest.raises(Interrupted):
        stopped.train()
    saved = load_state(stopped.run)
    assert saved.record["counters"]["batch"] == 6
    saved.record["counters"] |= {"halvings": 1, "halved": halved}
    settings = settings_of("training.epochs=2", "training.report_updates=1", *RANDOM)
    saved.record["settings"] |= {"training.batch_sentences": 16, "training.accumulation": 1}
    save_file(saved.tensors, stopped.run.state_file, {"projtrans": json.dumps(saved.record)})
    again = bench.trainer(settings, run=stopped.run)
    again.restore()
    counters = again.state.counters
    assert (counters.update, counters.batch, counters.halvings) == (3, batch, 1)
    assert (sum(counters.sums) > 0) == bool(halved)
    assert again.plan.size == (again.training.batch_tokens // 2, 8, 2)
    assert again.plan.last_update == (16 if halved else 3 + 16)
    again.train()
    assert again.state.counters.epoch == 2
    assert again.state.counters.update == again.plan.last_update


def test_the_summary_says_what_shaped_a_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        short_of(patch, 8)
        run = bench.train(settings_of("training.epochs=1", "training.minutes=1e-9", *RANDOM))
    summary = run.read_summary()
    assert summary is not None
    assert summary["shaped_by"] == ["minutes", "batches halved 1 time"]
    summary = bench.train(settings_of("training.epochs=1")).read_summary()
    assert summary is not None
    assert summary["shaped_by"] == []


def test_one_pair_that_does_not_fit_is_told_before_there_is_a_folder(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_of(monkeypatch, 0)
    run = bench.new()
    with pytest.raises(ConfigError, match=r"out of memory on .* with one sentence pair of \d+ source and \d+ target"):
        bench.train(settings_of(), run)
    assert not run.folder.exists()


def test_an_error_that_is_not_of_memory_stays_itself(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def losses(self: Objective, batch: Batch, *h_BTD: Tensor) -> Any:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(Objective, "losses", losses)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        bench.train(settings_of())


@pytest.mark.parametrize("sets", [[], RANDOM, ["model.attention.kind=standard"]])
def test_probing_the_largest_batch_changes_nothing(bench: Bench, sets: list[str]) -> None:
    settings = settings_of("training.epochs=2", "model.dropout=0.2", *sets)
    tried, plain = bench.trainer(settings), bench.trainer(settings)
    before, numbers = copy.deepcopy(tried.state.model.state_dict()), torch.get_rng_state()
    tried.probe()
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(torch.equal(value, before[name]) for name, value in tried.state.model.state_dict().items())
    assert all(parameter.grad is None for parameter in weights(tried).values())
    for trainer in (tried, plain):
        torch.set_rng_state(numbers)
        trainer.train()
    same_run(tried.run, plain.run)


# ---------------------------------------------------------------------------------------------------- in fixed shapes

STATIC = ["training.compile=static", *RANDOM]


def limit(monkeypatch: pytest.MonkeyPatch, planned: bool) -> None:
    """Let recording, or updates of a shape that was not planned, run out of memory with more than 8 pairs."""
    true = StaticUpdates._gradient

    def gradient(self: StaticUpdates, shape: Shape, rows_B: Tensor) -> None:
        true(self, shape, rows_B)  # what it leaves behind must not count
        if shape.sentences > 8 and (planned or self.schedule):
            if planned:
                self._finish()  # as in the warm-up of a shape before it
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(StaticUpdates, "_gradient", gradient)
    if not planned:
        monkeypatch.setattr("projtrans.training.device_corpus.fitting", lambda sizes_B3, some: [None] * len(sizes_B3))


@pytest.mark.parametrize("planned", [True, False])
def test_too_little_memory_halves_batches_of_fixed_shapes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, planned: bool
) -> None:
    """While recording, or in an update of a shape that was not planned: training begins again with half of them."""
    seen: list[Event] = []
    trainer = bench.trainer(settings_of("training.epochs=3", *STATIC), seen.append)
    limit(monkeypatch, planned)
    trainer.train()
    (told,) = [event for event in seen if isinstance(event, Halved)]
    assert (told.update, told.batch_sentences, told.accumulation) == (0, 8, 2)
    assert isinstance(trainer.updates, StaticUpdates)
    assert max(shape.sentences for shape in trainer.updates.shapes) == 8
    assert not trainer.updates.alone
    assert trainer.state.counters.update == trainer.plan.last_update
    assert not trainer.state.counters.skipped
    recorded = [event for event in seen if isinstance(event, Recorded)]
    assert [event.mode for event in recorded] == ["static"] * (1 if planned else 2)


def test_a_dry_run_halves_what_cannot_be_recorded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, planned=True)
    run = bench.new()
    found = preview(settings_of(*STATIC), run, bench.tokenizer, bench.splits, device=CPU)
    assert found.halvings == 1
    assert ("batches per epoch", "15, halved 1 time for memory") in found.rows()
    assert not run.folder.exists()


def test_one_pair_that_cannot_be_recorded_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def gradient(*unused: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(StaticUpdates, "_gradient", gradient)
    with pytest.raises(ConfigError, match="one sentence pair of"):
        bench.train(settings_of(*STATIC))
