"""Checkpoint averaging: the mean of the best validated weights, by hand."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from projtrans.errors import ProjtransError
from projtrans.evaluation.evaluate import forced
from projtrans.inference.torch_translator import Translator
from projtrans.runs.settings import Config
from projtrans.training.events import Event, Validated
from projtrans.training.state import StateFiles, TrainingState
from projtrans.training.trainer import Trainer
from tests.training.bench import CPU, EXACT, Bench, events_of, same_run, settings_of

pytestmark = pytest.mark.slow

NOISY = [
    "training.average=null", "training.schedule=constant", "training.learning_rate=0.03", "training.clip_norm=null",
    "training.batch_tokens=40", "training.epochs=12",
]  # fmt: skip
"""Weights that jump about the minimum: the mean of four is better than each of them, with any seed that was tried."""


def mean_by_hand(weights: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([one[name].double() for one in weights]).mean(0).float() for name in weights[0]}


def trained_with_snapshots(bench: Bench, settings: Config) -> tuple[Trainer, dict[int, dict[str, torch.Tensor]]]:
    """A trainer at its end, and the weights that it validated, by update."""
    snapshots: dict[int, dict[str, torch.Tensor]] = {}

    def see(event: Event) -> None:
        if isinstance(event, Validated):
            model = trainer.state.average.model if trainer.state.average else trainer.state.model
            snapshots[event.update] = {name: p.detach().clone() for name, p in model.named_parameters()}

    trainer = bench.trainer(settings, see)
    trainer.train()
    return trainer, snapshots


@pytest.mark.parametrize("best", ["loss", "bleu"])
@pytest.mark.parametrize(("count", "sets", "better"), [(4, NOISY, True), (2, ["training.epochs=5"], False)])
def test_the_mean_of_the_best_weights_is_kept_where_it_is_better(
    bench: Bench, best: str, count: int, sets: list[str], better: bool
) -> None:
    """By hand: choice, mean and scores. While weights still improve, their mean lags behind the last ones."""
    settings = settings_of(*sets, f"training.average_checkpoints={count}", f"training.best={best}")
    trainer, snapshots = trained_with_snapshots(bench, settings)
    *_, tried = events_of(trainer.run)
    validations = [event for event in events_of(trainer.run) if event["event"] == "valid"]
    assert tried["event"] == "average"
    ranked = sorted(validations, key=lambda event: event["loss"] if best == "loss" else -event["bleu"])
    assert tried["updates"] == sorted(event["update"] for event in ranked[:count])
    assert {path.name for path in trainer.run.candidate_files} == {
        f"validated-{update}.safetensors" for update in tried["updates"]
    }
    mean = mean_by_hand([snapshots[update] for update in tried["updates"]])
    with torch.no_grad():
        for name, parameter in trainer.state.model.named_parameters():
            parameter.copy_(mean[name])
    translator = Translator(trainer.state.model.eval(), bench.tokenizer, trainer.plan.layout, settings.decoding, CPU)
    scores = forced(translator, bench.splits["valid"])
    assert (tried["loss"], tried["accuracy"]) == (pytest.approx(scores.loss), pytest.approx(scores.accuracy))
    first = ranked[0]
    wins = tried["loss"] < first["loss"] if best == "loss" else tried["bleu"] > first["bleu"]
    assert tried["best"] == wins
    if best == "loss":
        assert wins == better
    saved, wanted = load_file(trainer.run.model_file), mean if wins else snapshots[first["update"]]
    assert saved.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(saved[name], tensor), name


def test_the_summary_tells_whether_weights_were_averaged(bench: Bench) -> None:
    summary, _ = bench.finish(*NOISY, "training.average_checkpoints=4")
    assert summary["averaged"] == events_of(bench.made[-1])[-1]["updates"]
    assert bench.finish("training.epochs=4", "training.average_checkpoints=2")[0]["averaged"] is None
    assert bench.finish(*EXACT, "training.epochs=1", "training.average_checkpoints=2")[0]["averaged"] is None
    summary, _ = bench.finish("training.epochs=2")
    assert (summary["averaged"], bench.made[-1].candidate_files) == (None, [])


class Death(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("epoch", [2, 4])
def test_a_run_that_died_before_its_state_was_saved_averages_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    """Weights were validated and kept that the last saved state does not know of; others would have had to go."""
    settings = settings_of(*NOISY, "training.average_checkpoints=2", "training.epochs=5")
    whole, run = bench.train(settings), bench.new()
    save = StateFiles.save

    def die(saves: StateFiles, state: TrainingState, **options: Any) -> None:
        if state.counters.epoch == epoch:
            raise Death
        save(saves, state, **options)

    with monkeypatch.context() as patch, pytest.raises(Death):
        patch.setattr(StateFiles, "save", die)
        bench.train(settings, run)
    bench.train(settings, run, resume=True)
    same_run(whole, run)
    assert [path.name for path in run.candidate_files] == [path.name for path in whole.candidate_files]
    for ours, theirs in zip(run.candidate_files, whole.candidate_files, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(load_file(ours).values(), load_file(theirs).values(), strict=True))
    bench.train(settings, run, resume=True)  # a finished one: it is tried again, with the same end
    same_run(whole, run)


def test_weights_that_are_gone_are_one_line(bench: Bench) -> None:
    settings = settings_of(*NOISY, "training.average_checkpoints=2", "training.epochs=2")
    run = bench.train(settings)
    run.candidate_files[0].unlink()
    with pytest.raises(ProjtransError, match=r"validated-\d+\.safetensors: damaged or not a model file"):
        bench.train(settings, run, resume=True)
