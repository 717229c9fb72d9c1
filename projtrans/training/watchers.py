"""What looks on while a run trains: TensorBoard's event files, and the picture of its curves.

The only file that knows the package tensorboard, which the optional extra of that name installs and which is imported
when a run asks for it. metrics.jsonl is the record; both are views of it. Knows no metric by name.
"""

import importlib.util
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from projtrans.errors import ConfigError
from projtrans.runs import curves
from projtrans.runs.run_folder import Run
from projtrans.training.events import NAMES, Event, Halved, Progress, RolledBack, Started, Validated, to_record

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

KINDS = {NAMES[Progress], NAMES[Validated]}
"""The events of metrics.jsonl whose numbers are scalars."""

REDRAW_SECONDS = 60
"""Between two pictures of a run, besides the last one: drawing takes half a second of a core."""


class Board:
    """Writes every train and valid event of a run.

    Where the run resumes, what was written from its last state on is purged, and written again as far as the log has
    it. A run without event files so far gets those of its whole log. Where training goes back to a saved state, what
    came after that is purged. Raises ConfigError where the package is missing.
    """

    def __init__(self, run: Run) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise ConfigError(
                "training.tensorboard: the package tensorboard is not installed; pip install projtrans[tensorboard], "
                "or set it to false"
            )
        self.run = run
        self.writer: SummaryWriter | None = None

    def __call__(self, event: Event) -> None:
        """Write one event."""
        match event:
            case Started(update=update):
                self._start(update)
            case RolledBack(update=update) | Halved(update=update) if self.writer:
                self._open(update + 1)
            case Progress() | Validated():
                self._write(to_record(event))
            case _:
                pass

    def close(self) -> None:
        """Close the file."""
        if self.writer:
            self.writer.close()

    def _start(self, update: int) -> None:
        first = update if self.run.tensorboard_folder.exists() else 0
        self._open(first)
        for record in standing(self.run.read_metrics()):
            if record["update"] >= first:
                self._write(record)

    def _open(self, first: int) -> None:
        """Open a file for what comes; whatever other files have from update `first` on is purged."""
        from torch.utils.tensorboard import SummaryWriter

        self.close()
        self.writer = SummaryWriter(str(self.run.tensorboard_folder), purge_step=first)

    def _write(self, record: Mapping[str, Any]) -> None:
        assert self.writer
        for tag, value in scalars(record):
            self.writer.add_scalar(tag, value, record["update"])
        self.writer.flush()


def standing(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The train and valid events of a log, without those that a return to a good state has undone."""
    found: list[Mapping[str, Any]] = []
    for record in records:
        if record["event"] == NAMES[RolledBack]:
            found = [earlier for earlier in found if earlier["update"] <= record["update"]]
        elif record["event"] in KINDS:
            found.append(record)
    return found


def scalars(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Tag and value of every finite number of a line of metrics.jsonl: EVENT/FIELD, and FIGURE/MODULE/HEAD."""
    for field, value in record.items():
        if field not in ("epoch", "update", "last_update") and _is_number(value):
            yield f"{record['event']}/{field}", value
    for module, figures in record.get("attention", {}).items():
        for figure, values in figures.items():
            for head, value in enumerate(values):
                if _is_number(value):
                    yield f"{figure}/{module}/{head}", value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class Curves:
    """Draws the curves of a run into its folder: after a validation from time to time, and at the end."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.drawn: float | None = None  # None: not started

    def __call__(self, event: Event) -> None:
        """Draw after a validation, if the last picture is old."""
        match event:
            case Started():
                self.drawn = time.monotonic()
            case Validated() if self.drawn is not None and time.monotonic() - self.drawn > REDRAW_SECONDS:
                self._draw()
            case _:
                pass

    def close(self) -> None:
        """Draw the last picture."""
        if self.drawn is not None:
            self._draw()

    def _draw(self) -> None:
        curves.draw_run(self.run)
        self.drawn = time.monotonic()


def watchers_of(run: Run, *, tensorboard: bool) -> list[Board | Curves]:
    """The watchers of a run: those that were asked for, and the picture where it can be drawn."""
    return [*([Board(run)] if tensorboard else []), *([Curves(run)] if curves.installed() else [])]
