"""When training ends: epochs, updates, minutes, patience."""

import json
import math
from pathlib import Path

import pytest

from projtrans.runs.run_folder import Run
from tests.commands import done
from tests.training.bench import EXACT, Bench, events_of, settings_of


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_patience_counts_validations_since_the_best(bench: Bench, patience: int) -> None:
    """A rate too small to move a weight makes every validation as good as the first: none after it is better."""
    summary, validations = bench.finish(
        *EXACT, f"training.patience={patience}", "training.learning_rate=1e-30", "training.epochs=9"
    )
    assert [event["best"] for event in validations] == [True] + [False] * patience
    assert (summary["epochs"], summary["best_epoch"]) == (1 + patience, 1)
    assert f"no better validation in {patience} epochs" in summary["reason"]


def test_without_patience_every_epoch_is_made(bench: Bench) -> None:
    summary, validations = bench.finish(*EXACT, "training.learning_rate=1e-30", "training.epochs=4")
    assert (summary["epochs"], summary["best_epoch"], len(validations)) == (4, 1, 4)


@pytest.mark.parametrize("best", ["loss", "bleu"])
def test_the_best_validation_is_the_one_that_is_kept(bench: Bench, best: str) -> None:
    settings = settings_of("training.epochs=8", f"training.best={best}", "training.learning_rate=0.05")
    run = bench.train(settings)
    validations = [event for event in events_of(run) if event["event"] == "valid"]
    sign = -1 if best == "loss" else 1
    scores = [sign * event[best] for event in validations]
    assert [event["best"] for event in validations] == [
        score > max(scores[:index], default=-math.inf) for index, score in enumerate(scores)
    ]
    summary = json.loads(run.summary_file.read_text(encoding="utf-8"))
    assert summary["best_epoch"] == 1 + scores.index(max(scores))


@pytest.mark.parametrize("updates", [1, 3, 4, 5, 7])
@pytest.mark.parametrize("report", [1, 20])
def test_training_stops_after_so_many_updates(bench: Bench, updates: int, report: int) -> None:
    """Inside an epoch and at its end, whether or not a report is due: the weights are validated and saved."""
    summary, validations = bench.finish(f"training.updates={updates}", f"training.report_updates={report}")
    assert summary["updates"] == updates
    assert validations[-1]["update"] == updates
    assert validations[-1]["train_loss"] > 0
    assert f"{updates} updates" in summary["reason"]


def test_training_stops_after_so_many_minutes(bench: Bench) -> None:
    summary, validations = bench.finish("training.minutes=1e-9")
    assert summary["updates"] == 1 == validations[-1]["update"]
    assert "minutes" in summary["reason"]


def test_minutes_are_limited_by_a_flag(project: Path) -> None:
    done("train", "--config", "tiny.yaml", "--run", "short", "--threads", 1, "--max-minutes", 1e-9)
    summary = Run(Path("short")).read_summary()
    assert summary is not None
    assert (summary["updates"], summary["shaped_by"]) == (1, ["minutes"])
