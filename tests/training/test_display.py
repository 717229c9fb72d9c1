"""What the terminal shows of a training: the events as lines, and the dry run."""

from pathlib import Path

import pytest

from projtrans.cli import displays
from projtrans.runs.run_folder import Run
from projtrans.training import events
from projtrans.training.events import Event, Halved, Recovered, RolledBack
from tests.commands import cli, done

SCORED = {"update": 7, "loss": 2.0, "accuracy": 0.5, "scores": {"bleu": 12.34, "chrf": 5.0}}
TRAINED = {"train_loss": 3.0, "train_accuracy": 0.25, "train_accuracy_with_padding": None}
VALIDATED = {"epoch": 2, "seconds": 65.0, "training_seconds": 60.0, "accuracy_with_padding": None, **SCORED, **TRAINED}
TOLD = [
    (events.Initialised(9, 1200, 0.25), "embeddings from co-occurrence: 9 of 1,200 tokens, 0.2 s"),
    (
        events.Recorded("static", 2, 0.015, 0.5),
        "updates in 2 shapes (training.compile: static): 1.5% of all positions are padding, ready in 0.5 s",
    ),
    (
        events.Validated(best=True, attention={}, **VALIDATED),
        "epoch 2  1:05  train loss 3.000 accuracy 0.250  valid loss 2.000 accuracy 0.500 BLEU 12.3 chrF 5.0  best",
    ),
    (
        events.Averaged(updates=[3, 1200], best=False, **SCORED),
        "mean of updates 3, 1,200: valid loss 2.000 accuracy 0.500 BLEU 12.3 chrF 5.0  not better than the best",
    ),
    (events.Exported("runs/x", None), "runs/x: exported to onnx/"),
    (events.Exported("runs/x", "no graph"), "runs/x: no graph"),
    (events.Skipped(1, 20, 3, 2), "update 20: 3 updates skipped, loss or gradient not finite"),
    (
        RolledBack(2, 40, 57, "the validation loss is not finite", 1, 0.5),
        "update 57: the validation loss is not finite; back to update 40, learning rate × 0.5 from here on",
    ),
    (
        Halved(1, 7, 1, 1024, None, 2),
        "batches are halved from here on, as with training.batch_tokens=1024 training.acc",
    ),
    (Halved(1, 7, 1, 1024, 8, 2), "training.batch_tokens=1024 training.batch_sentences=8 training.accumulation=2"),
    (events.Changed(7, {"training.seed": [1, 2]}), "from update 7 on with other settings: training.seed (1 to 2)"),
    (Recovered("last: damaged", 12), "last: damaged; resuming from the state before it, of update 12"),
]


@pytest.mark.parametrize(("event", "told"), TOLD, ids=[told for _, told in TOLD])
def test_an_event_is_one_line_on_standard_error(event: Event, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in (False, True):
        with displays.TrainingDisplay(quiet) as display:
            display(event)
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.count("\n") == (0 if quiet else 1)
        assert quiet or told in shown.err


@pytest.mark.slow
def test_a_dry_run_prints_what_would_be_and_writes_nothing(project: Path) -> None:
    before = names_below(project)
    result = done("train", "--config", "tiny.yaml", "--run", "runs/dry", "--threads", 1, "--dry-run")
    assert names_below(project) == before
    shown = {row.split("│")[1].strip(): row.split("│")[2].strip() for row in result.lines if row.startswith("│")}
    done("train", "--config", "tiny.yaml", "--run", "runs/wet", "--threads", 1)
    record = Run(Path("runs/wet")).read_summary()
    assert record is not None
    assert shown["parameters"] == f"{record['parameters']:,}"
    assert shown["updates per epoch, at most in all"].split(", ")[1] == f"{record['updates']:,}"
    assert shown["run folder, not created"] == "runs/dry"
    for name in ("one update", "target tokens per second", "validation loss"):
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
def test_what_makes_no_sense_is_refused(project: Path, flags: list[str], named: str) -> None:
    result = cli("train", "--config", "tiny.yaml", *flags) if "--resume" not in flags else cli("train", *flags)
    assert result.status == 2
    assert named in result.errors[0]
