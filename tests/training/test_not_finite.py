"""Gradients and losses that are not finite: skipped, gone back from, and in the end diverged."""

import contextlib
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from projtrans.errors import DivergedError, Interrupted, ProjtransError
from projtrans.runs.run_folder import Run
from projtrans.training.events import Event, RolledBack
from projtrans.training.trainer import CHECK_UPDATES, Trainer
from tests.commands import cli
from tests.training.bench import Bench, events_of, poisoned, same_run, settings_of, stop_at, weights


def test_one_gradient_that_is_not_finite_is_skipped(bench: Bench) -> None:
    """The weights and the optimizer stay as they were, the update counts, and training goes on."""
    snapshots: list[dict[str, torch.Tensor]] = []  # the weights at every gradient, before its update

    def poison(gradient: torch.Tensor) -> torch.Tensor:
        snapshots.append({name: weight.detach().clone() for name, weight in weights(trainer).items()})
        return gradient * math.nan if len(snapshots) == 3 else gradient

    trainer = bench.trainer(settings_of("training.epochs=2", "training.report_updates=1"))
    trainer.state.model.output.bias.register_hook(poison)
    trainer.train()
    assert len(snapshots) == trainer.state.counters.update == trainer.plan.last_update
    assert trainer.state.counters.skipped == 1
    told = [event for event in events_of(trainer.run) if event["event"] == "skipped"]
    assert [(event["skipped"], event["in_a_row"]) for event in told] == [(1, 0)]
    for name, before in snapshots[2].items():  # the third gradient moves nothing
        assert torch.equal(before, snapshots[3][name]), name
    for earlier, later in ((1, 2), (3, 4)):
        assert not torch.equal(snapshots[earlier]["output.bias"], snapshots[later]["output.bias"])
    assert all(parameter.isfinite().all() for parameter in trainer.state.model.parameters())


@pytest.mark.slow
def test_a_poisoned_weight_ends_training_after_four_returns(bench: Bench) -> None:
    settings = settings_of("training.epochs=50", "training.by_length=false", "training.batch_sentences=4")
    trainer = bench.trainer(settings)
    with torch.no_grad():
        trainer.state.model.output.weight[5, 5] = math.nan
    with pytest.raises(DivergedError, match=r"20 updates in a row.* at update 20, after 4 returns.*learning_rate"):
        trainer.train()
    assert not trainer.run.model_file.exists()


@pytest.mark.slow
@pytest.mark.parametrize("sentences", [4, 100])
def test_a_run_that_diverges_ends_with_status_three(project: Path, sentences: int) -> None:
    """In epochs of many updates as in epochs of few, where a validation comes before twenty updates are skipped."""
    sets = [f"training.batch_sentences={sentences}", "training.learning_rate=1e30", "training.warmup_updates=0"]
    sets = [item for assignment in sets for item in ("--set", assignment)]
    result = cli("train", "--config", "tiny.yaml", "--run", "wild", "--threads", 1, *sets)
    assert result.status == 3, result.err
    assert len(result.errors) == 1
    assert "diverged" in result.errors[0]
    assert result.out == ""


def test_the_log_of_a_run_that_diverges_is_json(bench: Bench) -> None:
    sets = ["training.learning_rate=1e30", "training.warmup_updates=0", "training.report_updates=1"]
    settings = settings_of(*sets, "training.by_length=false", "training.batch_sentences=4")
    run = bench.new()
    with pytest.raises(ProjtransError):
        bench.train(settings, run)
    assert {event["event"] for event in events_of(run)} >= {"train"}


LONG = ["training.epochs=16", "training.report_updates=1", "training.batch_tokens=320"]


def fails_at_first(trainer: Trainer) -> Any:
    """Between updates 23 and 40, and until the learning rate is lower."""
    return lambda: trainer.state.counters.rollbacks == 0 and 22 < trainer.state.counters.update < 40


@pytest.mark.slow
def test_training_goes_back_to_the_last_good_state_with_half_the_rate(bench: Bench) -> None:
    seen: list[Event] = []
    trainer = bench.trainer(settings_of(*LONG), seen.append)
    per_epoch = trainer.plan.per_epoch
    assert trainer.plan.last_update > 2 * CHECK_UPDATES
    with poisoned(trainer, fails_at_first(trainer)):
        trainer.train()
    (back,) = [event for event in seen if isinstance(event, RolledBack)]
    assert back.rate_factor == 0.5
    assert back.update == 22 // per_epoch * per_epoch, "the end of the last epoch before the trouble"
    log = events_of(trainer.run)
    at = next(index for index, event in enumerate(log) if event["event"] == "rollback")
    assert log[at - 1]["event"] == "skipped"
    assert sum(event["skipped"] for event in log if event["event"] == "skipped") == trainer.state.counters.skipped
    rates = [{e["update"]: e["learning_rate"] for e in part if e["event"] == "train"} for part in (log[:at], log[at:])]
    shared = rates[0].keys() & rates[1].keys()
    assert shared
    assert all(rates[1][update] == rates[0][update] / 2 for update in shared)
    assert trainer.state.counters.update == trainer.plan.last_update
    assert log[-1]["event"] == "valid"


@pytest.mark.slow
def test_a_run_that_went_back_and_was_stopped_ends_as_one_that_was_not(bench: Bench) -> None:
    ended: list[Run] = []
    for stops in ([], [3, 30, 41, 50]):
        trainer = bench.trainer(settings_of(*LONG))
        run = trainer.run
        for made in [*stops, None]:
            hold = fails_at_first(trainer)
            stop_at(trainer, made)
            with poisoned(trainer, hold), contextlib.suppress(Interrupted):
                trainer.train()
            if made in stops:
                trainer = bench.trainer(settings_of(*LONG), run=run)
                trainer.restore()
        ended.append(run)
    same_run(*ended)


def test_a_validation_that_is_not_finite_is_gone_back_from(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from projtrans.training import validation as module

    seen: list[Event] = []
    trainer = bench.trainer(settings_of("training.epochs=3"), seen.append)
    true, count = module.forced, itertools.count(1)

    def spoilt(*arguments: Any) -> Any:
        scores = true(*arguments)
        return type(scores)(math.nan, 0.0, None, 1) if next(count) == 2 else scores

    monkeypatch.setattr(module, "forced", spoilt)
    trainer.train()
    (back,) = [event for event in seen if isinstance(event, RolledBack)]
    assert (back.update, back.from_update) == (trainer.plan.per_epoch, 2 * trainer.plan.per_epoch)
    valid = [event for event in events_of(trainer.run) if event["event"] == "valid"]
    assert [(event["epoch"], event["loss"] is None) for event in valid] == [
        (1, False),
        (2, True),
        (2, False),
        (3, False),
    ]


@pytest.mark.slow
def test_going_back_has_an_end(bench: Bench) -> None:
    trainer = bench.trainer(settings_of(*LONG))
    with poisoned(trainer, lambda: True), pytest.raises(DivergedError, match="after 4 returns") as caught:
        trainer.train()
    assert caught.value.exit_status == 3
    assert [event["rate_factor"] for event in events_of(trainer.run) if event["event"] == "rollback"] == [
        0.5, 0.25, 0.125, 0.0625,
    ]  # fmt: skip
