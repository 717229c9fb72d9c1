"""The events of training as scalars for TensorBoard, in event files inside the run folder.

The only file that knows the package, which the optional extra `tensorboard` installs and which is imported when a run
asks for it. metrics.jsonl is the record; this is a view of it.
"""

import importlib.util
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from projtrans.errors import ConfigError
from projtrans.runs.curves import draw_run
from projtrans.runs.run_folder import Run
from projtrans.training.events import Event, Progress, RolledBack, Validated

KINDS: dict[type, str] = {Progress: "train", Validated: "valid"}
"""The events that metrics.jsonl tells of, by the name that it gives them."""


def check_tensorboard() -> None:
    """Raise ConfigError where the package is missing."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(
            "training.tensorboard: the package tensorboard is not installed; pip install projtrans[tensorboard], or "
            "set it to false"
        )


class Board:
    """Writes every train and valid event of a run, until it is closed.

    Where the run goes on after a stop, what was written from the last saved update on is withdrawn, and written again
    as far as the log has it. A run without event files so far gets those of its whole log. Where training goes back to
    a good state, what came after that is withdrawn.
    """

    def __init__(self, run: Run, update: int) -> None:
        self.folder = str(run.tensorboard_folder)
        first = update if run.tensorboard_folder.exists() else 0
        self._open(first)
        for record in standing(run.read_metrics()):
            if record["update"] >= first:
                self._write(record)

    def _open(self, first: int) -> None:
        """A file of its own for what comes; whatever other files have from update `first` on is withdrawn."""
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(self.folder, purge_step=first)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.close()

    def __call__(self, event: Event) -> None:
        """Write one event."""
        if isinstance(event, RolledBack):
            self.writer.close()
            self._open(event.update + 1)
        elif type(event) in KINDS:
            self._write({"event": KINDS[type(event)], **asdict(event)})

    def _write(self, record: Mapping[str, Any]) -> None:
        for tag, value in scalars(record):
            self.writer.add_scalar(tag, value, record["update"])
        self.writer.flush()


def standing(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The train and valid events of a log, without those that a return to a good state has undone."""
    found: list[Mapping[str, Any]] = []
    for record in records:
        if record["event"] == "rollback":
            found = [earlier for earlier in found if earlier["update"] <= record["update"]]
        elif record["event"] in KINDS.values():
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


SECONDS = 60
"""Between two pictures of a run, besides the one at its end: drawing takes half a second of a core."""


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
