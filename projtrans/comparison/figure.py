"""The learning curves of a comparison: Figure 2 of Sanger 2026.

Loss and accuracy per epoch on the training and the validation split, one line per system. Matplotlib, from the optional
extra `plots`, is imported only when something is drawn.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from projtrans import files
from projtrans.comparison.systems import System
from projtrans.errors import ConfigError
from projtrans.runs.curves import installed, marker

if TYPE_CHECKING:
    from matplotlib.axes import Axes


ENDINGS = (".png", ".svg")

PANELS = [
    ("train_accuracy", "training", "token accuracy"),
    ("accuracy", "validation", "token accuracy"),
    ("train_loss", "training", "loss (nats per token)"),
    ("loss", "validation", "loss (nats per token)"),
]
"""Field of an epoch, title, label of the y axis; two rows of two."""


def check(paths: Sequence[Path]) -> None:
    """Raise ConfigError, before any work is done, for an unknown file ending or if matplotlib is missing."""
    for path in paths:
        if path.suffix.lower() not in ENDINGS:
            raise ConfigError(f"--figure {path}: the name must end in {' or '.join(ENDINGS)}")
    if paths and not installed():
        raise ConfigError("--figure: matplotlib is not installed; pip install projtrans[plots]")


def draw(systems: Sequence[System], paths: Sequence[Path]) -> None:
    """Draw the curves of all systems into every file, with a band of one standard deviation for several runs.

    The same curves give the same bytes.
    """
    for path in paths:
        kind = path.suffix.lower()[1:]
        with files.replacing(path) as temporary:
            _save(systems, temporary, kind)


def _save(systems: Sequence[System], path: Path, kind: str) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "projtrans"}):
        figure = Figure(figsize=(9, 6.5), layout="constrained")
        axes = figure.subplots(2, 2, sharex=True, sharey="row").flatten()
        for (field, title, unit), panel in zip(PANELS, axes, strict=True):
            for system in systems:
                _line(panel, system, field)
            panel.set(title=title, ylabel=unit)
            panel.xaxis.get_major_locator().set_params(integer=True)
            panel.grid(alpha=0.3)
        for panel in axes[2:]:
            panel.set_xlabel("epoch")
        axes[0].legend()
        figure.savefig(path, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)


def _line(panel: "Axes", system: System, field: str) -> None:
    """The mean of a system over the epochs, and its deviation; an epoch whose loss was not finite is a gap."""
    epochs = [epoch.epoch for epoch in system.epochs]
    spreads = [getattr(epoch, field) for epoch in system.epochs]
    means = [float("nan") if spread is None else spread.mean for spread in spreads]
    (line,) = panel.plot(epochs, means, marker=marker(epochs), label=system.label)
    deviations = [0.0 if spread is None else spread.deviation or 0.0 for spread in spreads]
    if any(deviations):
        low = [mean - deviation for mean, deviation in zip(means, deviations, strict=True)]
        high = [mean + deviation for mean, deviation in zip(means, deviations, strict=True)]
        panel.fill_between(epochs, low, high, alpha=0.2, color=line.get_color(), linewidth=0)
