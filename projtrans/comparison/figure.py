"""Learning curves: Figure 2 of Sanger 2026 for the sides of a comparison, and a picture of one run in training.

Figure 2 is loss and accuracy per epoch on training and validation split, one line a side. The only file that knows
matplotlib, which the optional extra `plots` installs and which is imported when something is drawn.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from projtrans import files
from projtrans.comparison.systems import Side
from projtrans.errors import ConfigError
from projtrans.runs.curves import _marker, installed

if TYPE_CHECKING:
    from matplotlib.axes import Axes


ENDINGS = (".png", ".svg")

PANELS = [
    ("train_accuracy", "training", "token accuracy"),
    ("accuracy", "validation", "token accuracy"),
    ("train_loss", "training", "loss (nats a piece)"),
    ("loss", "validation", "loss (nats a piece)"),
]
"""Field of an epoch, title, axis; two rows of two."""


def check(paths: Sequence[Path]) -> None:
    """Raise ConfigError, before any work is done, for a file of another ending and where matplotlib is missing."""
    for path in paths:
        if path.suffix.lower() not in ENDINGS:
            raise ConfigError(f"--figure {path}: the name must end in {' or '.join(ENDINGS)}")
    if paths and not installed():
        raise ConfigError("--figure: matplotlib is not installed; pip install projtrans[plots]")


def draw(sides: Sequence[Side], paths: Sequence[Path]) -> None:
    """Draw the curves of all sides into every file; a band of one standard deviation where a side has several runs.

    The same curves give the same bytes.
    """
    for path in paths:
        kind = path.suffix.lower()[1:]
        with files.replacing(path) as temporary:
            _save(sides, temporary, kind)


def _save(sides: Sequence[Side], path: Path, kind: str) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "projtrans"}):
        figure = Figure(figsize=(9, 6.5), layout="constrained")
        axes = figure.subplots(2, 2, sharex=True, sharey="row").flatten()
        for (field, title, unit), panel in zip(PANELS, axes, strict=True):
            for side in sides:
                _line(panel, side, field)
            panel.set(title=title, ylabel=unit)
            panel.xaxis.get_major_locator().set_params(integer=True)
            panel.grid(alpha=0.3)
        for panel in axes[2:]:
            panel.set_xlabel("epoch")
        axes[0].legend()
        figure.savefig(path, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)


def _line(panel: "Axes", side: Side, field: str) -> None:
    """The mean of a side over the epochs, and its deviation; an epoch whose loss was not finite is a gap."""
    epochs = [epoch.epoch for epoch in side.epochs]
    spreads = [getattr(epoch, field) for epoch in side.epochs]
    means = [float("nan") if spread is None else spread.mean for spread in spreads]
    (line,) = panel.plot(epochs, means, marker=_marker(epochs), label=side.label)
    deviations = [0.0 if spread is None else spread.deviation or 0.0 for spread in spreads]
    if any(deviations):
        low = [mean - deviation for mean, deviation in zip(means, deviations, strict=True)]
        high = [mean + deviation for mean, deviation in zip(means, deviations, strict=True)]
        panel.fill_between(epochs, low, high, alpha=0.2, color=line.get_color(), linewidth=0)
