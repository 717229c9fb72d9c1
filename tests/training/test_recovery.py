"""What may happen at night: kills, full disks, damaged states, gradients that are not finite, too little memory."""

import contextlib
import copy
import itertools
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from projtrans import files
from projtrans.cli import displays
from projtrans.errors import ConfigError, DataError, DivergedError, Interrupted, ProjtransError
from projtrans.model import devices
from projtrans.model.batching import Batch, epoch, heaviest
from projtrans.runs.run_folder import Run
from projtrans.runs.settings import OptimizerConfig
from projtrans.training import events
from projtrans.training.events import Event, Halved, Recovered, RolledBack
from projtrans.training.optimizer import build_optimizer, step
from projtrans.training.trainer import LOOK_UPDATES, Trainer
from tests import killing
from tests.conftest import cli, done, full_disk
from tests.training.test_train import CPU, EXACT, Bench, after, bench, double, events_of, same_run, settings_of

__all__ = ["bench"]  # a fixture

# ------------------------------------------------------------------------------------------------------------ kills


def test_a_run_that_is_killed_over_and_over_ends_as_one_that_is_not() -> None:
    root = Path(killing.__file__).parent.parent
    arguments = [sys.executable, "-m", "tests.killing", "--kills", "20"]
    finished = subprocess.run(arguments, capture_output=True, text=True, timeout=500, check=False, cwd=root)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("20 kills of ")
    assert finished.stdout.endswith("without one difference\n")


def test_a_difference_is_found(tmp_path: Path) -> None:
    """Two trainings that differ in one pair; and one that was stopped, whose log lacks a line."""
    made = killing.bench(tmp_path)
    made.train("one")
    shown = made.splits["train"]
    made.splits["train"] = [*shown[:-1], shown[0]]
    made.train("other")
    one, other = Run(tmp_path / "one"), Run(tmp_path / "other")
    assert killing.differences(one, one) == []
    found = killing.differences(one, other)
    assert {"model.safetensors", "metrics.jsonl", "model.output.bias", "optimizer.exp_avg.output.bias"} <= set(found)
    same = one.metrics_file.read_bytes()
    one.metrics_file.write_bytes(same[: same.rstrip().rfind(b"\n") + 1])
    made.splits["train"] = shown
    made.train("again")
    assert killing.differences(Run(tmp_path / "again"), one) == ["metrics.jsonl"]


@pytest.mark.parametrize("size", [0, 100, 20_000, 150_000])
def test_a_run_on_a_full_disk_goes_on_when_there_is_room(bench: Bench, size: int) -> None:
    """The state is larger than all of these, the model than some, the log than the smallest."""
    settings = settings_of("training.epochs=2", "training.report_updates=1")
    whole, run = bench.train(settings), bench.new()
    with after(3) as stop_signal, pytest.raises(Interrupted):
        bench.train(settings, run, stop_signal=stop_signal)
    assert size < run.state_file.stat().st_size
    before = files.checksum(run.state_file)
    with full_disk(size), pytest.raises((OSError, ProjtransError)):
        bench.train(settings, run, resume=True)
    assert files.checksum(run.state_file) == before
    bench.train(settings, run, resume=True)
    same_run(whole, run)


def test_what_killed_writers_leave_is_removed(bench: Bench) -> None:
    settings = settings_of("training.epochs=2")
    run = bench.new()
    with after(1) as stop_signal, pytest.raises(Interrupted):
        bench.train(settings, run, stop_signal=stop_signal)
    left = [run.state_file.with_name(".last.safetensors.x1y2"), run.folder / ".model.safetensors.abc"]
    for file in left:
        file.write_bytes(b"half")
    bench.train(settings, run, resume=True)
    assert not any(file.exists() for file in left)


def test_a_run_killed_before_its_first_state_begins(bench: Bench) -> None:
    settings = settings_of("training.epochs=2")
    run = bench.created(settings)
    bench.train(settings, run, resume=True)
    same_run(bench.train(settings), run)


def test_a_damaged_state_is_told_and_the_one_before_it_taken(bench: Bench) -> None:
    """The last good state lies on the same way, so the end is the same."""
    settings = settings_of("training.epochs=3", "training.report_updates=1")
    whole, run, seen = bench.train(settings), bench.new(), list[Event]()
    per_epoch = bench.trainer(settings).per_epoch
    with after(per_epoch + 2) as stop_signal, pytest.raises(Interrupted):
        bench.train(settings, run, stop_signal=stop_signal)
    os.truncate(run.state_file, run.state_file.stat().st_size - 1)
    bench.train(settings, run, resume=True, report=seen.append)
    (told,) = [event for event in seen if isinstance(event, Recovered)]
    assert str(run.state_file) in told.damage
    assert told.update == per_epoch
    same_run(whole, run)


def test_other_training_pairs_are_refused(bench: Bench) -> None:
    settings = settings_of("training.epochs=2")
    run = bench.new()
    with after(1) as stop_signal, pytest.raises(Interrupted):
        bench.train(settings, run, stop_signal=stop_signal)
    bench.splits["train"] = bench.splits["train"][::-1]
    with pytest.raises(DataError, match="other training pairs"):
        bench.train(settings, run, resume=True)


def test_a_link_stays_what_it_was_when_its_source_is_replaced(tmp_path: Path) -> None:
    source, path = tmp_path / "source", tmp_path / "path"
    for text in ("one", "two", "two"):
        files.write_text(source, text)
        files.link(source, path)
        files.link(source, path)  # again, as after a kill
        files.write_text(source, "newer")
        assert path.read_text() == text
    assert sorted(tmp_path.iterdir()) == [path, source]


def test_a_file_system_without_links_gets_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*unused: Any) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    files.write_text(tmp_path / "source", "one")
    files.link(tmp_path / "source", tmp_path / "path")
    files.write_text(tmp_path / "source", "two")
    assert (tmp_path / "path").read_text() == "one"


# --------------------------------------------------------------------------------------- gradients that are not finite


class NoWaiting(TorchDispatchMode):
    """Refuses every operation that hands a number, or a size that depends on numbers, from the device to the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in {"_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "is_nonzero"}, name
        if name in {"index", "index_put_", "index_put"}:
            masks = [index for index in args[1] if index is not None and index.dtype == torch.bool]
            assert not masks, "a mask as an index has to be counted"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
@pytest.mark.parametrize("padded", [False, True])
def test_an_update_waits_for_no_number(bench: Bench, optimizer: str, padded: bool) -> None:
    sets = [f"training.optimizer={optimizer}", "training.weight_decay=0.0", "training.accumulation=2"]
    if padded:
        sets += ["model.mask_padding=false", "training.padding_in_loss=true", "corpus.max_length=9"]
    trainer = bench.trainer(settings_of(*sets))
    trainer.model.train()
    updates = [[trainer.batch(indices)] * 2 for indices in trainer.batches(0)]
    trainer.update(updates[0])
    before = trainer.model.output.bias.detach().clone()
    with NoWaiting():
        trainer.update(updates[1])
    assert not torch.equal(before, trainer.model.output.bias)
    with pytest.raises(AssertionError), NoWaiting():
        bool(trainer.window.norm.isfinite())


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_a_step_that_is_left_out_leaves_everything(optimizer: str) -> None:
    net = torch.nn.Linear(3, 2)
    made = build_optimizer(net, OptimizerConfig(optimizer=optimizer, weight_decay=0.0))

    def moved(gradient: float, skip: float) -> list[Tensor]:
        for parameter in net.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        step(made, torch.tensor(skip))
        moments = [value for state in made.state.values() for value in state.values()]
        return [value.detach().clone() for value in [*net.parameters(), *moments]]

    before = moved(0.5, 0.0)
    for gradient in (math.nan, math.inf, 1.0):
        assert all(map(torch.equal, moved(gradient, 1.0), before))
    assert not any(map(torch.equal, moved(0.5, 0.0), before))


@contextlib.contextmanager
def poisoned(trainer: Trainer, wanted: Any) -> Iterator[None]:
    """Gradients of the output's bias are no numbers while `wanted()`."""
    hook = trainer.model.output.bias.register_hook(lambda gradient: gradient * math.nan if wanted() else gradient)
    yield
    hook.remove()


def test_what_is_left_out_enters_neither_average_nor_figures(bench: Bench) -> None:
    """Training with a poisoned update is training in which that update has another number, and no batch."""
    sets = ["training.epochs=1", "training.report_updates=1", "training.schedule=constant", "training.warmup_updates=0"]
    trainer = bench.trainer(settings_of(*sets, "model.dropout=0.0"))
    other = bench.trainer(settings_of(*sets, "model.dropout=0.0"))
    updates = [[trainer.batch(indices)] for indices in trainer.batches(0)]
    trainer.model.train()
    for number, update in enumerate(updates):
        with poisoned(trainer, lambda number=number: number == 2):
            trainer.update(update)
        if number != 2:
            other.model.train()
            other.update(update)
    assert trainer.average is not None
    assert other.average is not None
    assert trainer.average.updates == other.average.updates == len(updates) - 1
    for ours, theirs in zip(trainer.average.model.parameters(), other.average.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert trainer.window.sums.values() == other.window.sums.values()
    assert trainer.skips.take() == (1, 0)
    assert trainer.counters.update == len(updates)


LONG = ["training.epochs=16", "training.report_updates=1", "training.batch_tokens=320"]


def fails_at_first(trainer: Trainer) -> Any:
    """Between updates 23 and 40, and until the learning rate is lower."""
    return lambda: trainer.counters.rollbacks == 0 and 22 < trainer.counters.update < 40


def test_training_goes_back_to_the_last_good_state_with_half_the_rate(bench: Bench) -> None:
    seen: list[Event] = []
    trainer = bench.trainer(settings_of(*LONG), seen.append)
    per_epoch = trainer.per_epoch
    assert trainer.last_update > 2 * LOOK_UPDATES
    with poisoned(trainer, fails_at_first(trainer)):
        trainer.train()
    (back,) = [event for event in seen if isinstance(event, RolledBack)]
    assert back.rate_factor == 0.5
    assert back.update == 22 // per_epoch * per_epoch, "the end of the last epoch before the trouble"
    log = events_of(trainer.run)
    at = next(index for index, event in enumerate(log) if event["event"] == "rollback")
    assert log[at - 1]["event"] == "skipped"
    assert sum(event["skipped"] for event in log if event["event"] == "skipped") == trainer.counters.skipped
    rates = [{e["update"]: e["learning_rate"] for e in part if e["event"] == "train"} for part in (log[:at], log[at:])]
    shared = rates[0].keys() & rates[1].keys()
    assert shared
    assert all(rates[1][update] == rates[0][update] / 2 for update in shared)
    assert trainer.counters.update == trainer.last_update
    assert log[-1]["event"] == "valid"


def test_a_run_that_went_back_and_was_stopped_ends_as_one_that_was_not(bench: Bench) -> None:
    ended: list[Run] = []
    for stops in ([], [3, 30, 41, 50]):
        trainer = bench.trainer(settings_of(*LONG))
        run = trainer.run
        for made in [*stops, 10**6]:
            hold = fails_at_first(trainer)
            trainer.stop_signal = lambda made=made, trainer=trainer: 15 if trainer.counters.update == made else None
            with poisoned(trainer, hold), contextlib.suppress(Interrupted):
                trainer.train()
            if made in stops:
                settings, pairs = settings_of(*LONG), bench.splits
                trainer = Trainer(
                    settings, run, bench.tokenizer, pairs["train"], pairs["valid"], CPU, lambda event: None
                )
                trainer.restore()
        ended.append(run)
    same_run(*ended)


def test_a_validation_that_is_not_finite_is_gone_back_from(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from projtrans.training import trainer as module

    seen: list[Event] = []
    trainer = bench.trainer(settings_of("training.epochs=3"), seen.append)
    true, count = module.forced, itertools.count(1)

    def spoilt(*arguments: Any) -> Any:
        scores = true(*arguments)
        return type(scores)(math.nan, 0.0, None, 1) if next(count) == 2 else scores

    monkeypatch.setattr(module, "forced", spoilt)
    trainer.train()
    (back,) = [event for event in seen if isinstance(event, RolledBack)]
    assert (back.update, back.from_update) == (trainer.per_epoch, 2 * trainer.per_epoch)
    valid = [event for event in events_of(trainer.run) if event["event"] == "valid"]
    assert [(event["epoch"], event["loss"] is None) for event in valid] == [
        (1, False),
        (2, True),
        (2, False),
        (3, False),
    ]


def test_going_back_has_an_end(bench: Bench) -> None:
    trainer = bench.trainer(settings_of(*LONG))
    with poisoned(trainer, lambda: True), pytest.raises(DivergedError, match="after 4 returns") as caught:
        trainer.train()
    assert caught.value.exit_status == 3
    assert [event["rate_factor"] for event in events_of(trainer.run) if event["event"] == "rollback"] == [
        0.5, 0.25, 0.125, 0.0625,
    ]  # fmt: skip


# --------------------------------------------------------------------------------------------------- too little memory

MEMORY = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"


def limited(trainer: Trainer, sentences: int) -> None:
    """Let the trainer's machine have room for so many sentence pairs, and fail half way with more."""
    true = trainer.losses

    def losses(batch: Batch, *h_BTD: Tensor) -> Any:
        if batch.sentences > sentences:
            true(batch, *h_BTD)[0].smoothed.backward()  # what it leaves behind must not count
            raise RuntimeError(MEMORY)
        return true(batch, *h_BTD)

    trainer.losses = losses  # type: ignore[method-assign]


def test_the_words_of_real_allocators_are_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**46)
    assert devices.out_of_memory(caught.value)
    assert devices.out_of_memory(MemoryError())
    assert devices.out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    with pytest.raises(RuntimeError) as caught:
        torch.ones(2) @ torch.ones(3)
    assert not devices.out_of_memory(caught.value)


RANDOM = ["training.by_length=false", "training.batch_sentences=16"]


@pytest.mark.parametrize("sets", [[], RANDOM, ["training.accumulation=2", *RANDOM]])
def test_halves_have_the_gradient_of_the_whole(bench: Bench, sets: list[str]) -> None:
    """Weights, figures and number of updates are those of a machine with room; the log tells of the difference."""
    settings = settings_of(*EXACT, "training.epochs=2", "training.report_updates=1", *sets)
    whole, halved = double(bench.trainer(settings)), double(bench.trainer(settings))
    largest = max(map(len, whole.batches(0)))
    limited(halved, (largest + 1) // 2)
    halved.counters.batch = 0
    whole.model.train()
    halved.model.train()
    for first in range(0, len(whole.batches(0)), whole.together):
        indices = whole.batches(0)[first : first + whole.together]
        whole.update([whole.batch(some) for some in indices])
        halved.update([halved.batch(some) for some in indices])
    assert halved.counters.halvings == 1
    for (name, ours), theirs in zip(whole.model.named_parameters(), halved.model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-11), name
    assert halved.window.sums.values() == pytest.approx(whole.window.sums.values(), rel=1e-9)


def test_from_the_next_epoch_on_the_batches_are_smaller_and_an_update_as_large(bench: Bench) -> None:
    seen: list[Event] = []
    trainer = bench.trainer(settings_of("training.epochs=3", *RANDOM), seen.append)
    before, last = trainer.batches(1), trainer.last_update
    limited(trainer, 8)
    trainer.train()
    (told,) = [event for event in seen if isinstance(event, Halved)]
    assert (told.update, told.batch_sentences, told.accumulation) == (0, 8, 2)
    assert events_of(trainer.run)[0]["event"] == "halved"
    after_it = trainer.batches(1)
    assert max(map(len, after_it)) == 8
    assert [sorted(a + b) for a, b in zip(after_it[::2], after_it[1::2], strict=False)] == [
        sorted(batch) for batch in before[: len(after_it) // 2]
    ], "the same pairs in the same order"
    assert trainer.counters.epoch == 3
    assert trainer.counters.update == last
    assert trainer.counters.halvings == trainer.counters.halved == 1


def test_a_run_with_halved_batches_is_resumed_with_them(bench: Bench) -> None:
    """Stopped inside the epoch in which memory was short, and resumed where it is not short any more."""
    settings = settings_of("training.epochs=3", "training.report_updates=1", "model.dropout=0.2", *RANDOM)
    whole = bench.trainer(settings)
    limited(whole, 8)
    whole.train()
    stopped = bench.trainer(settings)
    limited(stopped, 8)
    stopped.stop_signal = lambda: 15 if stopped.counters.update == 3 else None
    with pytest.raises(Interrupted):
        stopped.train()
    assert (stopped.counters.halvings, stopped.counters.halved) == (1, 0)
    pairs = bench.splits
    again = Trainer(settings, stopped.run, bench.tokenizer, pairs["train"], pairs["valid"], CPU, lambda event: None)
    again.restore()
    again.train()
    same_run(whole.run, again.run)


def test_the_summary_says_what_shaped_a_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    true = Trainer.losses

    def losses(self: Trainer, batch: Batch, *h_BTD: Tensor) -> Any:
        if batch.sentences > 8:
            raise RuntimeError(MEMORY)
        return true(self, batch, *h_BTD)

    monkeypatch.setattr(Trainer, "losses", losses)
    run = bench.train(settings_of("training.epochs=1", "training.minutes=1e-9", *RANDOM))
    summary = run.read_summary()
    assert summary is not None
    assert summary["shaped_by"] == ["minutes", "batches halved 1 times"]
    assert events_of(run)[0]["event"] == "halved", "though memory was short before the log was there"
    monkeypatch.undo()
    summary = bench.train(settings_of("training.epochs=1")).read_summary()
    assert summary is not None
    assert summary["shaped_by"] == []


def test_one_pair_that_does_not_fit_is_told_before_there_is_a_folder(bench: Bench, monkeypatch: Any) -> None:
    def losses(self: Trainer, batch: Batch, *h_BTD: Tensor) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Trainer, "losses", losses)
    run = bench.new()
    with pytest.raises(ConfigError, match=r"out of memory on .* with one sentence pair of \d+ source and \d+ target"):
        bench.train(settings_of(), run)
    assert not run.folder.exists()


def test_an_error_that_is_not_of_memory_stays_itself(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def losses(self: Trainer, batch: Batch, *h_BTD: Tensor) -> Any:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(Trainer, "losses", losses)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        bench.train(settings_of())


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


@pytest.mark.parametrize("sets", [[], RANDOM, ["model.attention.kind=standard"]])
def test_trying_the_largest_batch_changes_nothing(bench: Bench, sets: list[str]) -> None:
    settings = settings_of("training.epochs=2", "model.dropout=0.2", *sets)
    tried, plain = bench.trainer(settings), bench.trainer(settings)
    before, numbers = copy.deepcopy(tried.model.state_dict()), torch.get_rng_state()
    tried.probe()
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(torch.equal(value, before[name]) for name, value in tried.model.state_dict().items())
    assert all(parameter.grad is None for parameter in tried.model.parameters())
    for trainer in (tried, plain):
        torch.set_rng_state(numbers)
        trainer.train()
    same_run(tried.run, plain.run)


TOLD = [
    (events.Skipped(1, 20, 3, 2), "update 20: 3 updates left out, loss or gradient not finite"),
    (
        RolledBack(2, 40, 57, "the validation loss is not finite", 1, 0.5),
        "update 57: the validation loss is not finite; back to update 40, learning rate × 0.5 from here on",
    ),
    (Halved(1, 7, 1, 1024, None, 2), "batches are halved: as with training.batch_tokens=1024 training.accumulation=2"),
    (Halved(1, 7, 1, 1024, 8, 2), "training.batch_tokens=1024 training.batch_sentences=8 training.accumulation=2"),
    (events.Changed(7, {"training.seed": [1, 2]}), "from update 7 on with other settings: training.seed (1 to 2)"),
    (Recovered("last: damaged", 12), "last: damaged; going on from the state before it, of update 12"),
]


@pytest.mark.parametrize(("event", "told"), TOLD, ids=[told for _, told in TOLD])
def test_what_goes_wrong_is_one_line_on_standard_error(
    event: Event, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for quiet in (False, True):
        with displays.TrainingDisplay(quiet) as display:
            display(event)
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.count("\n") == (0 if quiet else 1)
        assert quiet or told in shown.err


# ------------------------------------------------------------------------------------------------ dry run, max-minutes


def test_a_dry_run_prints_what_would_be_and_writes_nothing(workshop: Path) -> None:
    before = names_below(workshop)
    result = done("train", "--config", "tiny.yaml", "--run", "runs/dry", "--threads", 1, "--dry-run")
    assert names_below(workshop) == before
    shown = {row.split("│")[1].strip(): row.split("│")[2].strip() for row in result.lines if row.startswith("│")}
    done("train", "--config", "tiny.yaml", "--run", "runs/wet", "--threads", 1)
    record = Run(Path("runs/wet")).read_summary()
    assert record is not None
    assert shown["parameters"] == f"{record['parameters']:,}"
    assert shown["updates an epoch, at most in all"].split(", ")[1] == f"{record['updates']:,}"
    assert shown["run folder, not made"] == "runs/dry"
    for name in ("an update", "target tokens a second", "validation loss"):
        assert float(shown[name].split()[0].replace(",", "")) >= 0
    memory = next(value for name, value in shown.items() if name.startswith("peak memory"))
    assert float(memory.removesuffix(" MiB").replace(",", "")) > 50


def names_below(folder: Path) -> list[str]:
    """The names of everything below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


USAGE = [
    (["--dry-run", "--resume"], "--dry-run"),
    (["--allow-changes"], "--allow-changes"),
    (["--max-minutes", "0"], "training.minutes"),
]


@pytest.mark.parametrize(("flags", "named"), USAGE)
def test_what_makes_no_sense_is_refused(workshop: Path, flags: list[str], named: str) -> None:
    result = cli("train", "--config", "tiny.yaml", *flags) if "--resume" not in flags else cli("train", *flags)
    assert result.status == 2
    assert named in result.errors[0]


def test_minutes_are_limited_by_a_flag(workshop: Path) -> None:
    done("train", "--config", "tiny.yaml", "--run", "short", "--threads", 1, "--max-minutes", 1e-9)
    summary = Run(Path("short")).read_summary()
    assert summary is not None
    assert (summary["updates"], summary["shaped_by"]) == (1, ["minutes"])


def test_changes_go_through_the_command(workshop: Path) -> None:
    arguments = ["train", "--resume", "--threads", 1, "--set", "training.epochs=9", "--set", "training.beta1=0.8"]
    refused = cli(*arguments)
    assert refused.status == 2
    assert "add --allow-changes" in refused.errors[0]
    told = done(*arguments, "--allow-changes").err
    assert "training.beta1 (0.9 to 0.8)" in told
