"""The figure of the learning curves: what is drawn, the files, and what is said where it cannot be drawn."""

import math
import sys
from pathlib import Path

import pytest

from projtrans import figure
from projtrans.errors import ConfigError
from projtrans.sides import MeanEpoch, Side, Spread

pytest.importorskip("matplotlib")


def side(label: str, *losses: Spread | None) -> Side:
    """A side with these losses, everywhere where a curve is drawn."""
    nothing = dict.fromkeys(
        ("parameters", "training_seconds", "update_milliseconds", "tokens_per_second", "loss", "accuracy",
         "accuracy_with_padding", "bleu", "chrf", "multiply_adds")
    )  # fmt: skip
    epochs = [
        MeanEpoch(epoch=number, train_loss=loss, train_accuracy=loss, loss=loss, accuracy=loss)
        for number, loss in enumerate(losses, 1)
    ]
    return Side(label=label, runs=[], epochs=epochs, **nothing)  # type: ignore[arg-type]


ONE = side("one seed", Spread(2.0, None, 1), None, Spread(1.0, None, 1))
THREE = side("three seeds", Spread(3.0, 0.5, 3), Spread(2.5, 0.25, 3))


def test_a_side_is_a_line_of_means_with_a_band_of_one_deviation() -> None:
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
