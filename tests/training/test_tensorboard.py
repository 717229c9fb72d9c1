"""TensorBoard's event files, read by TensorBoard itself: the scalars of the log, each step once, also after stops."""

import contextlib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from projtrans.runs.run_folder import Run
from projtrans.training.events import Progress, RolledBack, Started, to_record
from projtrans.training.watchers import Board, scalars
from tests.commands import cli, done

ON = ["--set", "training.tensorboard=true", "--set", "training.evaluate_test=false"]


def train(*arguments: object) -> None:
    done("train", "--config", "tiny.yaml", "--run", "run", "--threads", 1, "--quiet", *ON, *arguments)


def resume(*arguments: object) -> None:
    done("train", "--resume", "--run", "run", "--threads", 1, "--quiet", *arguments)


def shown(run: Run) -> dict[str, list[tuple[int, float]]]:
    """Step and value of every scalar, as TensorBoard shows them."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = event_accumulator.EventAccumulator(str(run.tensorboard_folder), {"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def logged(run: Run) -> dict[str, list[tuple[int, Any]]]:
    """The same from metrics.jsonl, by hand; TensorBoard keeps float32."""
    found: dict[str, list[tuple[int, Any]]] = {}
    for record in run.read_metrics():
        if record["event"] not in ("train", "valid"):
            continue
        for field in set(record) - {"event", "epoch", "update", "last_update", "best", "attention"}:
            if record[field] is not None:
                found.setdefault(f"{record['event']}/{field}", []).append((record["update"], record[field]))
        for module, figures in record.get("attention", {}).items():
            for figure, values in figures.items():
                for head, value in enumerate(values):
                    found.setdefault(f"{figure}/{module}/{head}", []).append((record["update"], value))
    return {tag: [(step, pytest.approx(value, rel=1e-6)) for step, value in values] for tag, values in found.items()}


@pytest.fixture
def tensorboard() -> None:
    pytest.importorskip("tensorboard")


@pytest.mark.slow
@pytest.mark.usefixtures("tensorboard")
def test_every_number_of_the_log_is_a_scalar(project: Path) -> None:
    train("--set", "training.epochs=3", "--set", "training.report_updates=2")
    run = Run(Path("run"))
    found = shown(run)
    assert found == logged(run)
    assert {"train/loss", "train/learning_rate", "valid/loss", "valid/bleu"} <= found.keys()
    assert any(tag.startswith("entropy/decoder.0.cross") for tag in found)


def test_without_the_setting_nothing_is_written(project: Path) -> None:
    done("train", "--config", "tiny.yaml", "--run", "run", "--set", "training.epochs=1", "--threads", 1)
    assert not Run(Path("run")).tensorboard_folder.exists()


class Death(BaseException):
    """The process is gone."""


@pytest.mark.slow
@pytest.mark.usefixtures("tensorboard")
@pytest.mark.parametrize("at", ["Validated", "Progress"])
def test_a_run_that_died_and_goes_on_has_every_step_once(
    project: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """It dies after events beyond the last saved state were written: in an epoch, and right after a validation."""
    sets = ["--set", "training.epochs=4", "--set", "training.report_updates=1", "--set", "training.save_minutes=1e-9"]
    died = False

    def die(board: Board, event: Any) -> None:
        nonlocal died
        write(board, event)
        if not died and type(event).__name__ == at and event.epoch == 2:
            died = True
            raise Death

    write = Board.__call__
    monkeypatch.setattr(Board, "__call__", die)
    with pytest.raises(Death):
        train(*sets)
    run = Run(Path("run"))
    before = shown(run)
    resume()
    assert died
    found, wanted = shown(run), logged(run)
    assert found == wanted
    for tag, values in found.items():
        assert [step for step, _ in values] == sorted({step for step, _ in values}), tag
    assert len(list(run.tensorboard_folder.iterdir())) == 2
    beyond = {tag: max(step for step, _ in values) for tag, values in before.items()}
    assert max(beyond.values()) < max(step for values in found.values() for step, _ in values)


@pytest.mark.slow
@pytest.mark.usefixtures("tensorboard")
def test_a_finished_run_can_be_shown_later_and_go_on(project: Path) -> None:
    """Turned on where a run is resumed, TensorBoard gets the log from its beginning."""
    done("train", "--config", "tiny.yaml", "--run", "run", "--threads", 1, "--quiet",
         "--set", "training.epochs=2", "--set", "training.evaluate_test=false")  # fmt: skip
    resume("--set", "training.epochs=3", *ON[:2])
    run = Run(Path("run"))
    assert shown(run) == logged(run)
    resume()  # nothing is left to do
    resume("--set", "training.epochs=4")
    assert shown(run) == logged(run)


def progress(update: int, loss: float) -> Progress:
    return Progress(epoch=1, update=update, last_update=99, seconds=1.0, loss=loss, accuracy=0.5, learning_rate=0.1,
                    gradient_norm=1.0, target_tokens_per_second=9.0)  # fmt: skip


def started(update: int) -> Started:
    return Started(run="run", device="cpu", precision="fp32", parameters=1, train_pairs=1, left_out=0,
                   updates_an_epoch=9, last_update=99, update=update, source_padding=0.0, target_padding=0.0,
                   sigma={})  # fmt: skip


@pytest.mark.usefixtures("tensorboard")
@pytest.mark.parametrize("good", [0, 20])
def test_what_a_return_to_a_good_state_undoes_is_withdrawn(tmp_path: Path, good: int) -> None:
    """In the run that goes back, in one that is resumed afterwards, and in one that is shown later."""
    run = Run(tmp_path)
    events = [progress(10, 9.0), progress(20, 8.0), progress(30, 70.0), progress(40, 71.0)]
    back = RolledBack(1, good, 40, "a reason", 1, 0.5)
    with contextlib.closing(Board(run)) as board:
        board(started(0))
        for event in [*events, back, *(progress(update, 7.0) for update in (good + 10, good + 15))]:
            board(event)
            run.append_metrics(to_record(event))
    wanted = [(event.update, event.loss) for event in events if event.update <= good]
    wanted += [(good + 10, 7.0), (good + 15, 7.0)]
    assert shown(run)["train/loss"] == wanted
    with contextlib.closing(Board(run)) as board:
        board(started(good + 15))  # nothing of the lost 30 and 40 comes back
    assert shown(run)["train/loss"] == wanted
    shutil.rmtree(run.tensorboard_folder)
    with contextlib.closing(Board(run)) as board:
        board(started(good + 15))
    assert shown(run)["train/loss"] == wanted


def test_without_the_package_nothing_begins_and_the_extra_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    result = cli("train", "--config", "tiny.yaml", "--run", "run", *ON)
    assert (result.status, result.out) == (2, "")
    assert len(result.errors) == 1
    assert "training.tensorboard" in result.errors[0]
    assert "pip install projtrans[tensorboard]" in result.errors[0]
    assert not Path("run").exists()


NUMBERS: list[tuple[str, dict[str, Any], list[tuple[str, float]]]] = [
    ("a truth is no number", {"best": True, "loss": 2.5}, [("valid/loss", 2.5)]),
    ("nothing is no number", {"accuracy_with_padding": None, "chrf": 1}, [("valid/chrf", 1)]),
    ("not finite", {"loss": float("nan"), "train_loss": float("inf")}, []),
    ("where it stands is the step", {"epoch": 3, "update": 7, "last_update": 9, "bleu": 0.0}, [("valid/bleu", 0.0)]),
    ("a head without a figure", {"attention": {"a.b": {"entropy": [None, 0.5], "sigma": [2.0]}}},
     [("entropy/a.b/1", 0.5), ("sigma/a.b/0", 2.0)]),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "record", "wanted"), NUMBERS, ids=[row[0] for row in NUMBERS])
def test_numbers_become_scalars(reason: str, record: dict[str, Any], wanted: Sequence[tuple[str, float]]) -> None:
    assert list(scalars({"event": "valid", **record})) == wanted
