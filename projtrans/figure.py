"""Learning curves: Figure 2 of Sanger 2026 for the sides of a comparison, and a picture of one run in training.

Figure 2 is loss and accuracy per epoch on training and validation split, one line a side. The only file that knows
matplotlib, which the optional extra `plots` installs and which is imported when something is drawn.
"""

import importlib.util
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from projtrans import files
from projtrans.errors import ConfigError
from projtrans.events import Event, Validated
from projtrans.run import Run
from projtrans.sides import Side

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

COLOURS = {"training": "tab:blue", "validation": "tab:orange"}

OF_A_RUN = [
    ("loss (nats a piece)", {"training": "train_loss", "validation": "loss"}),
    ("token accuracy", {"training": "train_accuracy", "validation": "accuracy"}),
    ("BLEU of the validation sample", {"validation": "bleu"}),
]
"""Title, and the lines with their field of a valid event; one row."""

SECONDS = 60
"""Between two pictures of a run, besides the one at its end: drawing takes half a second of a core."""


def installed() -> bool:
    """Whether anything can be drawn."""
    return importlib.util.find_spec("matplotlib") is not None


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


# ------------------------------------------------------------------------------------------------------------ one run


class Curves:
    """Draws the curves of a run in training into its folder: at times after a validation, and at the end."""

    def __init__(self, run: Run) -> None:
        self.run, self.drawn = run, time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._draw()

    def __call__(self, event: Event) -> None:
        """Draw after a validation, if the last picture is old."""
        if isinstance(event, Validated) and time.monotonic() - self.drawn > SECONDS:
            self._draw()

    def _draw(self) -> None:
        draw_run(self.run)
        self.drawn = time.monotonic()


def draw_run(run: Run) -> None:
    """Draw loss, accuracy and BLEU per epoch from the log of a run; nothing before its first validation."""
    validations = {event["epoch"]: event for event in run.read_metrics() if event["event"] == "valid"}
    if validations:
        with files.replacing(run.curves_file) as temporary:
            _save_run(list(validations.values()), run.folder.name, temporary)


def _save_run(validations: Sequence[Mapping[str, Any]], name: str, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for (title, fields), panel in zip(OF_A_RUN, figure.subplots(1, len(OF_A_RUN)), strict=True):
        for label, field in fields.items():
            panel.plot(*_points(validations, field), marker=_marker(validations), color=COLOURS[label], label=label)
        for best in [event["epoch"] for event in validations if event["best"]][-1:]:
            panel.axvline(best, color="gray", linestyle=":", label="best")
        panel.set(title=title, xlabel="epoch")
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(alpha=0.3)
        panel.legend()
    figure.suptitle(name)
    figure.savefig(path, format="png", dpi=100)


def _points(validations: Sequence[Mapping[str, Any]], field: str) -> tuple[list[int], list[float]]:
    """Epochs and values; what was not finite is a gap."""
    values = [float("nan") if event[field] is None else event[field] for event in validations]
    return [event["epoch"] for event in validations], values


def _marker(points: Sequence[Any]) -> str:
    return "." if len(points) < 30 else ""
