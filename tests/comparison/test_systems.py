"""Runs and systems: what a folder tells, how runs are grouped and named, means and deviations by hand."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from projtrans import config
from projtrans.comparison.systems import LoadedRun, Spread, grouped, labels
from projtrans.data.data_folder import read_split
from projtrans.errors import RunError
from projtrans.runs.run_folder import Run
from projtrans.runs.settings import Config, differing, flat, of_run
from tests.toy import TINY, Toy

VALUES: list[tuple[list[float | None], Spread | None]] = [
    ([], None),
    ([None, None], None),
    ([3.0], Spread(3.0, None, 1)),
    ([3.0, None], Spread(3.0, None, 1)),
    ([2.0, 4.0], Spread(3.0, math.sqrt(2), 2)),
    ([1.0, 2.0, 6.0], Spread(3.0, math.sqrt((4 + 1 + 9) / 2), 3)),
]


@pytest.mark.parametrize(("values", "wanted"), VALUES)
def test_mean_and_sample_deviation(values: list[float | None], wanted: Spread | None) -> None:
    found = Spread.of(values)
    if wanted is None or found is None:
        assert found is wanted
        return
    assert (found.mean, found.runs) == (pytest.approx(wanted.mean), wanted.runs)
    assert found.deviation == (None if wanted.deviation is None else pytest.approx(wanted.deviation))


# ------------------------------------------------------------------------------------------------------------- names


def configured(**changes: Any) -> dict[str, Any]:
    """The toy's configuration with changes by dotted path, dots as two underscores, flat."""
    raw = json.loads(json.dumps(TINY))
    for path, value in changes.items():
        config.put(raw, path.split("__"), value)
    return flat(config.dump(config.build(Config, raw)))


STANDARD: dict[str, Any] = {"model__attention": {"kind": "standard"}}
WIDE: dict[str, Any] = {"model__head_width": 32}

LABELS: list[tuple[str, list[dict[str, Any]], list[str]]] = [
    ("kinds go by their name", [STANDARD, {}], ["standard", "projection"]),
    ("one setting", [{"training__learning_rate": 0.1}, {"training__learning_rate": 0.2}],
     ["learning_rate=0.1", "learning_rate=0.2"]),
    ("the kind before all else", [{**STANDARD, "training__epochs": 3}, {"training__epochs": 4}],
     ["standard", "projection"]),
    ("settings of one kind alone", [STANDARD, {"model__attention__learn_sigma": "none"}, {}],
     ["standard", "projection, learn_sigma=none", "projection, learn_sigma=head"]),
    ("two settings, a null left out", [STANDARD, {**STANDARD, **WIDE}, {}, WIDE],
     ["standard", "standard, head_width=32", "projection", "projection, head_width=32"]),
    ("a null that must be said", [{}, WIDE], ["head_width=null", "head_width=32"]),
    ("nested settings keep their path", [{"model__layers__encoder": 1}, {"model__layers__encoder": 2}],
     ["layers.encoder=1", "layers.encoder=2"]),
    ("no setting differs", [{}, {}], ["run 0", "run 1"]),
    ("one system", [STANDARD], ["standard"]),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "changes", "wanted"), LABELS, ids=[row[0] for row in LABELS])
def test_labels_are_short_and_tell_all_apart(reason: str, changes: list[dict[str, Any]], wanted: list[str]) -> None:
    assert labels([configured(**c) for c in changes], [f"run {i}" for i in range(len(changes))]) == wanted


def test_a_setting_that_is_missing_differs_from_one_that_is_null() -> None:
    assert differing([{"a": None, "b": 1}, {"b": 1}]) == {"a": [None, None]}
    assert differing([{"b": 1}, {"a": None, "b": 1}]) == {"a": [None, None]}
    assert differing([{"a": 1}, {"a": 1}]) == {}
    assert flat({"a": {"b": {"c": 1}, "d": None}, "e": 2}) == {"a.b.c": 1, "a.d": None, "e": 2}


# ------------------------------------------------------------------------------------------------------------ groups


def member(toy: Toy, folder: Path, **changes: Any) -> LoadedRun:
    """A copy of the toy's standard run with other settings, by dotted path."""
    run = Run(Path(shutil.copytree(toy.run("standard"), folder)))
    raw = run.raw_config
    for path, value in changes.items():
        config.put(raw, path.split("__"), value)
    run.keep_config(raw)
    return LoadedRun(run, of_run(run), run.tokenizer(), read_split(toy.data, "test"))


def test_runs_that_differ_in_the_seed_alone_are_one_system(toy: Toy, tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {"training__seed": 3}, {"training__seed": 1}, {"training__seed": 1, "training__epochs": 9},
        {"training__seed": 2}, {"training__seed": 1},
    ]  # fmt: skip
    members = [member(toy, tmp_path / str(number), **change) for number, change in enumerate(changes)]
    found = [[one.run.folder.name for one in group] for group in grouped(members)]
    assert found == [["1", "3", "0"], ["2"], ["4"]]  # by seed; a seed that is there already begins a system of its own


# ----------------------------------------------------------------------------------------------------------- a folder

TRAIN = {"event": "train", "update": 0, "target_tokens_per_second": 0.0}
VALID = {"event": "valid", "epoch": 1, "update": 5, "training_seconds": 2.0, "train_loss": 3.0, "train_accuracy": 0.25,
         "loss": 2.5, "accuracy": 0.5, "best": True}  # fmt: skip


def logged(folder: LoadedRun, records: list[dict[str, Any]], summary: dict[str, Any] | None) -> None:
    run = folder.run
    run.metrics_file.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    run.summary_file.unlink()
    if summary is not None:
        run.summary_file.write_text(json.dumps(summary), encoding="utf-8")


@pytest.fixture
def folder(toy: Toy, tmp_path: Path) -> LoadedRun:
    """A run to be written over."""
    return member(toy, tmp_path / "run")


def test_a_finished_run_counts_the_whole_training(folder: LoadedRun) -> None:
    speeds = [100.0, 900.0, 200.0, None]
    records = [{**TRAIN, "update": i, "target_tokens_per_second": speed} for i, speed in enumerate(speeds)]
    again = {**VALID, "epoch": 2, "update": 9, "loss": 2.75, "best": False}
    logged(folder, [*records, VALID, again], {"updates": 10, "training_seconds": 4.0, "device": "a device"})
    found = folder.result()
    assert found.finished
    assert (found.updates, found.training_seconds, found.update_milliseconds) == (10, 4.0, 400.0)
    assert found.tokens_per_second == 200.0  # the median of the three that there are
    assert (found.best_epoch, found.device) == (1, "a device")
    assert [(epoch.epoch, epoch.loss) for epoch in found.epochs] == [(1, 2.5), (2, 2.75)]
    assert (found.test, found.measure("bleu"), found.measure("loss")) == (None, None, None)


def test_an_epoch_that_was_validated_twice_counts_as_the_second_time(folder: LoadedRun) -> None:
    """A run that stopped in the midst of an epoch and was resumed."""
    logged(folder, [VALID, {**VALID, "update": 7, "loss": 2.0}], None)
    assert [(epoch.epoch, epoch.loss) for epoch in folder.result().epochs] == [(1, 2.0)]


@pytest.mark.parametrize(
    ("reason", "summary"),
    [("no summary", None), ("the summary of an earlier end", {"updates": 4, "training_seconds": 1.0})],
)
def test_a_run_in_training_counts_up_to_its_last_validation(
    folder: LoadedRun, reason: str, summary: dict[str, Any] | None
) -> None:
    logged(folder, [VALID, {**TRAIN, "update": 8, "target_tokens_per_second": 50.0}], summary)
    with folder.run.metrics_file.open("a", encoding="utf-8") as file:
        file.write('{"event": "tra')  # being written
    found = folder.result()
    assert not found.finished
    assert (found.updates, found.training_seconds, found.update_milliseconds) == (5, 2.0, 400.0)
    assert found.tokens_per_second == 50.0


def test_a_run_without_a_log_has_no_curves(folder: LoadedRun) -> None:
    logged(folder, [], None)
    folder.run.metrics_file.unlink()
    found = folder.result()
    assert (found.epochs, found.updates, found.update_milliseconds, found.tokens_per_second) == ([], None, None, None)


def test_a_loss_that_was_not_finite_is_none(folder: LoadedRun) -> None:
    logged(folder, [{**VALID, "loss": None}], None)
    assert folder.result().epochs[0].loss is None


DAMAGED: list[tuple[str, str, str]] = [
    ("no JSON", "{", "metrics.jsonl:2: damaged, not JSON"),
    ("a blank line", "", "metrics.jsonl:2: damaged, not JSON"),
    ("no object", "[1]", "metrics.jsonl:2: damaged, no JSON object"),
    ("a missing field", json.dumps({**VALID, "epoch": None}), "metrics.jsonl:2: damaged, epoch is not a whole number"),
    ("text for a number", json.dumps({**VALID, "loss": "low"}), "metrics.jsonl:2: damaged, loss is not a number"),
    ("a truth for a number", json.dumps({**VALID, "loss": True}), "metrics.jsonl:2: damaged, loss is not a number"),
    ("an event without speed", json.dumps({"event": "train", "update": 1}),
     "metrics.jsonl:2: damaged, target_tokens_per_second is not a number"),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "line", "told"), DAMAGED, ids=[row[0] for row in DAMAGED])
def test_a_damaged_log_is_named_with_its_line(folder: LoadedRun, reason: str, line: str, told: str) -> None:
    logged(folder, [VALID], None)
    with folder.run.metrics_file.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    with pytest.raises(RunError) as caught:
        folder.result()
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_summary_is_named(folder: LoadedRun) -> None:
    logged(folder, [VALID], {"updates": "ten", "training_seconds": 1.0})
    with pytest.raises(RunError, match=r"summary\.json: damaged, updates is not a whole number"):
        folder.result()
    folder.run.summary_file.write_text("{", encoding="utf-8")
    with pytest.raises(RunError, match=r"summary\.json: damaged, not JSON"):
        folder.result()
