"""The figure of the learning curves: what is drawn, the files, and the error if it cannot be drawn."""

import dataclasses
import math
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from projtrans.comparison import figure
from projtrans.comparison.systems import Epoch, RunResult, System
from projtrans.errors import ConfigError
from projtrans.runs import curves
from projtrans.runs.run_folder import Run
from projtrans.training import watchers
from tests.commands import cli, done

pytest.importorskip("matplotlib")


def system(label: str, *runs: list[float | None]) -> System:
    """A system of runs with these losses per epoch, which every curve shows."""
    nothing: dict[str, Any] = {field.name: None for field in dataclasses.fields(RunResult)}
    results = []
    for losses in runs:
        epochs = [
            Epoch[float](epoch=number, train_loss=loss, train_accuracy=loss, loss=loss, accuracy=loss)
            for number, loss in enumerate(losses, 1)
        ]
        results.append(RunResult(**nothing | {"epochs": epochs}))
    return System(label=label, runs=results, multiply_adds=None)  # type: ignore[arg-type]


ONE = system("one seed", [2.0, None, 1.0])
THREE = system("three seeds", [2.5, 2.25], [3.0, 2.5], [3.5, 2.75])


def test_a_system_is_a_line_of_means_with_a_band_of_one_deviation() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    for each in (ONE, THREE):
        figure._line(axes, each, "loss")
    one, three = axes.lines
    assert list(one.get_xdata()) == [1, 2, 3]
    assert [value if math.isfinite(value) else None for value in one.get_ydata()] == [2.0, None, 1.0]
    assert list(three.get_ydata()) == [3.0, 2.5]
    (band,) = axes.collections  # a single run has none
    corners = {(float(x), float(y)) for x, y in band.get_paths()[0].vertices}
    assert corners == {(1, 2.5), (1, 3.5), (2, 2.25), (2, 2.75)}


@pytest.mark.slow
def test_both_kinds_of_file_are_written_and_the_same_curves_give_the_same_bytes(tmp_path: Path) -> None:
    names = [tmp_path / "deep" / name for name in ("a.png", "a.svg", "b.PNG", "b.svg")]
    figure.draw([ONE, THREE], names)
    png, svg, again, svg_again = (name.read_bytes() for name in names)
    assert png == again
    assert png.startswith(b"\x89PNG")
    assert svg == svg_again
    for text in (b"one seed", b"three seeds", b"training", b"validation", b"token accuracy", b"epoch"):
        assert b"<!-- " + text in svg, text
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["a.png", "a.svg", "b.PNG", "b.svg"]


@pytest.mark.parametrize("name", ["curves", "curves.pdf", "curves.svg.gz"])
def test_another_ending_is_refused_before_anything_is_done(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"--figure {name}: the name must end in .png or .svg"):
        figure.check([Path("a.svg"), Path(name)])


def test_without_matplotlib_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"--figure: matplotlib is not installed; pip install projtrans\[plots\]"):
        figure.check([Path("a.svg")])
    figure.check([])


# ------------------------------------------------------------------------------------------------------------ one run

VALID = {"event": "valid", "epoch": 1, "train_loss": 3.0, "loss": 2.5, "train_accuracy": 0.25, "accuracy": 0.5,
         "bleu": 10.0, "best": True}  # fmt: skip
TINY = ["--config", "tiny.yaml", "--run", "run", "--threads", 1, "--set", "training.evaluate_test=false"]


def drawn(monkeypatch: pytest.MonkeyPatch, run: Run) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    """The lines of every panel of the picture of a run: title, label, places and heights."""
    from matplotlib.figure import Figure

    found: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    savefig = Figure.savefig

    def save(figure: Figure, *arguments: Any, **options: Any) -> None:
        for panel in figure.axes:
            lines = {str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in panel.lines}
            found[panel.get_title()] = lines
        savefig(figure, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        curves.draw_run(run)
    return found


def test_a_run_has_its_curves_from_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)
    second = {**VALID, "epoch": 2, "loss": math.nan, "accuracy": 0.625, "bleu": 20.0, "best": False}
    for record in ({"event": "train", "epoch": 1}, VALID, {**second, "bleu": 1.0}, second):
        run.append_metrics(record)
    panels = drawn(monkeypatch, run)
    loss, accuracy, bleu = panels.values()
    assert loss.keys() == accuracy.keys() == {"training", "validation", "best"}
    assert loss["training"] == ([1, 2], [3.0, 3.0])
    assert loss["validation"][1][0] == 2.5
    assert math.isnan(loss["validation"][1][1])
    assert accuracy["validation"] == ([1, 2], [0.5, 0.625])
    assert bleu["validation"] == ([1, 2], [10.0, 20.0]), "an epoch that was validated twice counts as the second time"
    assert bleu["best"][0] == [1, 1]
    data = run.curves_file.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert struct.unpack(">2I", data[16:24]) == (1200, 360)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "metrics.jsonl"]


def test_a_run_without_a_validation_has_no_picture(tmp_path: Path) -> None:
    curves.draw_run(Run(tmp_path))
    Run(tmp_path).append_metrics({"event": "train", "epoch": 1})
    curves.draw_run(Run(tmp_path))
    assert not Run(tmp_path).curves_file.exists()


@pytest.mark.slow
def test_training_leaves_a_picture_however_it_ends(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end, when it is stopped, and in between where the last one is old."""
    pictures: list[int] = []
    draw = curves.draw_run
    monkeypatch.setattr(curves, "draw_run", lambda run: (pictures.append(len(run.read_metrics())), draw(run)))
    done("train", *TINY, "--set", "training.epochs=2")
    assert len(pictures) == 1
    assert Path("run", "curves.png").stat().st_size > 10_000
    monkeypatch.setattr(watchers, "REDRAW_SECONDS", -1)
    monkeypatch.setattr(curves, "draw_run", lambda run: pictures.append(len(run.read_metrics())))  # they take time
    done("train", *TINY[:2], "--run", "often", *TINY[4:], "--set", "training.epochs=3")
    assert len(pictures) == 1 + 3 + 1
    assert pictures == sorted(pictures[:1]) + sorted(pictures[1:])
    wild = ["--set", "training.learning_rate=1e30", "--set", "training.warmup_updates=0"]
    assert cli("train", *TINY[:2], "--run", "wild", *TINY[4:], *wild).status == 3
    assert len(pictures) > 1 + 3 + 1


def test_without_matplotlib_training_says_nothing_of_it(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = done("train", *TINY, "--set", "training.epochs=1")
    assert "matplotlib" not in result.err
    assert "projtrans[plots]" not in result.err
    assert not Path("run", "curves.png").exists()
