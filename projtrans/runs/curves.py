"""The learning curves of one run, drawn into its folder from metrics.jsonl. Knows no training and no other run."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from projtrans import files
from projtrans.runs.run_folder import Run

COLOURS = {"training": "tab:blue", "validation": "tab:orange"}

OF_A_RUN = [
    ("loss (nats per token)", {"training": "train_loss", "validation": "loss"}),
    ("token accuracy", {"training": "train_accuracy", "validation": "accuracy"}),
    ("BLEU of the validation sample", {"validation": "bleu"}),
]
"""The panels: title, and the field of a valid event for each line."""


def installed() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_run(run: Run) -> None:
    """Draw loss, accuracy and BLEU per epoch; nothing before the first validation."""
    validations = {event["epoch"]: event for event in run.read_metrics() if event["event"] == "valid"}
    if validations:
        with files.replacing(run.curves_file) as temporary:
            _save_run(list(validations.values()), run.folder.name, temporary)


def _save_run(validations: Sequence[Mapping[str, Any]], name: str, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for (title, fields), panel in zip(OF_A_RUN, figure.subplots(1, len(OF_A_RUN)), strict=True):
        for label, field in fields.items():
            panel.plot(*_points(validations, field), marker=marker(validations), color=COLOURS[label], label=label)
        for best in [event["epoch"] for event in validations if event["best"]][-1:]:
            panel.axvline(best, color="gray", linestyle=":", label="best")
        panel.set(title=title, xlabel="epoch")
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(alpha=0.3)
        panel.legend()
    figure.suptitle(name)
    figure.savefig(path, format="png", dpi=100)


def _points(validations: Sequence[Mapping[str, Any]], field: str) -> tuple[list[int], list[float]]:
    """Epochs and values; a value that was not finite is a gap."""
    values = [float("nan") if event[field] is None else event[field] for event in validations]
    return [event["epoch"] for event in validations], values


def marker(points: Sequence[Any]) -> str:
    return "." if len(points) < 30 else ""
