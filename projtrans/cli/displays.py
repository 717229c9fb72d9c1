"""What a terminal shows while a corpus is prepared and a model is trained, and their results."""

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
)
from rich.table import Table

from projtrans.cli.console import Bar, Bars, note, print_table, standard_error
from projtrans.data.events import Downloading, Event, Stage, Working
from projtrans.evaluation.metrics import METRICS
from projtrans.training import events

if TYPE_CHECKING:
    from projtrans.data.data_folder import Manifest
    from projtrans.training.dry_run import Preview

LOG_SECONDS = 30
"""Seconds between two lines of training progress where there is no terminal."""


# ---------------------------------------------------------------------------------------------------------- prepare


class PrepareDisplay:
    """Shows the events of `prepare`: a bar for what is counted, a line for each stage."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.bar: Bar | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self._close_bar()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case Stage(text=text):
                self._close_bar()
                note(text, self.quiet)
            case Downloading(done=done, total=total):
                self._open_bar("downloading", download=True)(done, total)
            case Working(text=text, done=done, total=total):
                self._open_bar(text)(done, total)

    def _open_bar(self, label: str, download: bool = False) -> Bar:
        if self.bar is None or self.bar.label != label:
            self._close_bar()
            self.bar = Bar(label, self.quiet, download=download).__enter__()
        return self.bar

    def _close_bar(self) -> None:
        if self.bar:
            self.bar.__exit__()
            self.bar = None


def prepared(folder: Path, manifest: "Manifest", quiet: bool) -> None:
    """Print what `prepare` made: sizes and leakage."""
    if quiet:
        return
    counts, made = manifest.counts, manifest.tokenizer
    table = Table(title=f"{folder}: {manifest.corpus}", title_justify="left")
    for column in ("split", "pairs", "sources", "targets", "source in train", "target in train"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for name in ("train", "valid", "test"):
        part = getattr(manifest.splits, name)
        row = [name, f"{part.pairs:,}", f"{part.distinct_sources:,}", f"{part.distinct_targets:,}"]
        leak = getattr(manifest.leakage, name, None)
        table.add_row(*row, *([f"{leak.source:.1%}", f"{leak.target:.1%}"] if leak else ["", ""]))
    console = standard_error()
    console.print(table)
    sizes = f"{made.source_size:,}"
    if made.target_size != made.source_size or made.kind == "word":
        sizes += f" + {made.target_size:,}"
    dropped = f"{counts.blank:,} blank and {counts.duplicates:,} duplicate pairs"
    console.print(f"{counts.read:,} pairs read, {dropped}; {made.kind} tokenizer, {sizes} tokens")


# ------------------------------------------------------------------------------------------------------------ train


class TrainingDisplay:
    """Renders the events of `train`: a live line on a terminal, a line now and then in a log."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.console = standard_error()
        self.live = self.console.is_terminal and not quiet
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.fields[figures]}"))
        self.progress = Progress(*columns, console=self.console, transient=True, disable=not self.live)
        self.task: TaskID | None = None
        self.test: TaskID | None = None
        self.logged = time.monotonic()
        self.sampling = Bars(quiet)

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *details: object) -> None:
        with contextlib.suppress(OSError):  # as in `__call__`
            self.progress.stop()

    def __call__(self, event: events.Event) -> None:
        """Show one event."""
        if not self.quiet:
            with contextlib.suppress(OSError):  # a lost terminal: training heeds SIGHUP, and saves its state first
                self._show(event)

    def _show(self, event: events.Event) -> None:
        match event:
            case events.Sampling():
                self._show_sampling(event)
            case events.Progress():
                self._show_progress(event)
            case events.Validating():
                self._show_validating(event)
            case events.Testing():
                self._show_testing(event)
            case events.Finished():
                self._show_finished(event)
            case _:
                for line in _lines(event):
                    self.console.print(line)

    def _show_sampling(self, event: events.Sampling) -> None:
        self.sampling("segmenting", event.done, event.total)
        if event.done == event.total:
            self.sampling.__exit__()

    def _show_progress(self, event: events.Progress) -> None:
        left = _clock(event.seconds / event.update * (event.last_update - event.update))  # at the mean speed so far
        figures = (
            f"epoch {event.epoch}  update {event.update:,}/{event.last_update:,}  loss {event.loss:.3f}  "
            f"accuracy {event.accuracy:.3f}  {event.target_tokens_per_second:,.0f} target tokens/s  {left} left"
        )
        if self.live:
            if self.task is None:
                self.task = self.progress.add_task("train", total=event.last_update, figures=figures)
            self.progress.update(self.task, completed=event.update, figures=figures)
        elif time.monotonic() - self.logged > LOG_SECONDS:
            self.logged = time.monotonic()
            self.console.print(figures)

    def _show_validating(self, event: events.Validating) -> None:
        if self.task is not None:
            self.progress.update(self.task, figures=f"validating, {event.done:,}/{event.total:,} sentence pairs")

    def _show_testing(self, event: events.Testing) -> None:
        if not self.live:
            return
        figures = f"{event.done:,}/{event.total:,} sentences"
        if self.test is None:
            if self.task is not None:
                self.progress.stop_task(self.task)
            self.test = self.progress.add_task("test", total=event.total, figures=figures)
        self.progress.update(self.test, completed=event.done, figures=figures)

    def _show_finished(self, event: events.Finished) -> None:
        self.progress.stop()
        shaped = "; ".join(event.summary["shaped_by"])
        shaped = f"; not bit-reproducible, shaped by: {shaped}" if shaped else ""
        self.console.print(f"{event.run}: {event.reason}; best epoch {event.summary['best_epoch']}{shaped}")
        if event.test:
            self.console.print(scores(event.test))


LineEvent = (
    events.Initialised
    | events.Started
    | events.Recorded
    | events.Trouble
    | events.Validated
    | events.Averaged
    | events.Exported
)
"""The events that are lines, on a terminal as in a log."""


def _lines(event: LineEvent) -> list[str]:
    match event:
        case events.Initialised():
            given = f"{event.given:,} of {event.tokens:,} tokens, {event.seconds:.1f} s"
            return [f"embeddings from co-occurrence: {given}"]
        case events.Started():
            return _started(event)
        case events.Recorded():
            shapes = f"{event.shapes} shape{'s' if event.shapes > 1 else ''}"
            figures = f"{event.padding:.1%} of all positions are padding, ready in {event.seconds:.1f} s"
            return [f"updates in {shapes} (training.compile: {event.mode}): {figures}"]
        case events.Validated():
            train = f"train loss {event.train_loss:.3f} accuracy {event.train_accuracy:.3f}"
            best = "  best" if event.best else ""
            return [f"epoch {event.epoch}  {_clock(event.seconds)}  {train}  {_valid(event)}{best}"]
        case events.Averaged():
            updates = ", ".join(f"{update:,}" for update in event.updates)
            best = "best" if event.best else "not better than the best"
            return [f"mean of updates {updates}: {_valid(event)}  {best}"]
        case events.Exported():
            return [f"{event.run}: " + (event.problem or "exported to onnx/: translate starts without torch")]
        case _:
            return [_trouble(event)]


def _started(event: events.Started) -> list[str]:
    left_out = f", {event.left_out:,} longer ones left out" if event.left_out else ""
    begin = f"resuming after update {event.update:,} of" if event.update else "up to"
    return [
        f"{event.run}: {event.parameters:,} parameters on {event.device}, {event.precision}",
        *(f"σ {role}: {sigma}" for role, sigma in event.sigma.items()),
        f"{event.train_pairs:,} pairs{left_out}; {event.updates_an_epoch:,} updates an epoch, "
        f"{begin} {event.last_update:,} updates",
        f"padding: {event.source_padding:.1%} of source, {event.target_padding:.1%} of target positions",
    ]


def _valid(event: events.Validated | events.Averaged) -> str:
    named = " ".join(f"{METRICS[name].title} {score:.1f}" for name, score in event.scores.items())
    return f"valid loss {event.loss:.3f} accuracy {event.accuracy:.3f} {named}"


def _trouble(event: events.Trouble) -> str:
    match event:
        case events.Skipped():
            return f"update {event.update:,}: {event.skipped} updates skipped, loss or gradient not finite"
        case events.RolledBack():
            return (
                f"update {event.from_update:,}: {event.reason}; back to update {event.update:,}, learning rate "
                f"× {event.rate_factor:g} from here on"
            )
        case events.Halved():
            sentences = f" training.batch_sentences={event.batch_sentences}" if event.batch_sentences else ""
            return (
                f"update {event.update:,}: out of memory; batches are halved from here on, as with "
                f"training.batch_tokens={event.batch_tokens}{sentences} training.accumulation={event.accumulation}"
            )
        case events.Changed():
            named = ", ".join(f"{path} ({before} to {after})" for path, (before, after) in event.settings.items())
            return f"from update {event.update:,} on with other settings: {named}"
        case events.Recovered():
            return f"{event.damage}; resuming from the state before it, of update {event.update:,}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def print_preview(preview: "Preview") -> None:
    """What a training would be, on standard output."""
    table = Table(title="dry run: nothing was trained or written", title_justify="left", show_header=False)
    for name, value in preview.rows():
        table.add_row(name, value)
    print_table(table)


# --------------------------------------------------------------------------------------------------------- evaluate


def scores(evaluation: Any) -> Table:
    """The scores as a table."""
    title = " ".join(part for part in (evaluation.run, evaluation.split) if part)
    table = Table(title=title or "scores", title_justify="left", show_header=False)
    table.add_row("sentences", f"{evaluation.sentences:,}")
    table.add_row("loss (nats per token), perplexity", f"{evaluation.loss:.4f}, {evaluation.perplexity:.3f}")
    table.add_row("token accuracy", f"{evaluation.accuracy:.4f}")
    if evaluation.accuracy_with_padding is not None:
        table.add_row("token accuracy, padding counted", f"{evaluation.accuracy_with_padding:.4f}")
    sources = f"{evaluation.distinct_sources:,} distinct sources, all references"
    shown = [(METRICS[name], METRICS[name].title, score) for name, score in evaluation.scores.items()]
    if evaluation.bleu_multi_reference:
        shown.append((METRICS["bleu"], f"BLEU, {sources}", evaluation.bleu_multi_reference))
    for metric, name, score in shown:
        table.add_row(name, f"{metric.form.format(score.score)}  {score.signature}")
    table.add_row("beam size, length penalty", f"{evaluation.beam_size}, {evaluation.length_penalty:g}")
    for name, value in evaluation.search.items():
        table.add_row(name, str(value))
    table.add_row("seconds", f"{evaluation.seconds:.1f}")
    return table


def print_scores(evaluation: Any) -> None:
    """Print the score table on standard output, unbroken however narrow the terminal."""
    print_table(scores(evaluation))
