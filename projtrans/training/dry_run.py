"""What a training would be, measured before anything is trained: size, batches, peak memory, time.

Builds everything that `train` builds and makes a few updates, which are thrown away. Writes nothing.
"""

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from projtrans.data.corpus import Pair
from projtrans.data.tokenizer import Tokenizer
from projtrans.evaluation.evaluate import forced
from projtrans.model import devices
from projtrans.runs.run_folder import Run
from projtrans.runs.settings import Config
from projtrans.training.events import Report
from projtrans.training.trainer import Trainer
from projtrans.training.updates import ShortOfMemory

WARM, TIMED = 2, 10
"""Updates before the clock starts, and updates that are timed."""

VALIDATED = 500
"""Validation pairs that are scored, from which the time of all is estimated."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What `train --dry-run` prints."""

    run: str  # where the run would be
    device: str
    parameters: int
    train_pairs: int
    left_out: int  # training pairs longer than corpus.max_length
    batches_an_epoch: int
    updates_an_epoch: int
    last_update: int
    padding: tuple[float, float]  # shares of padding among the source and the target positions of the batches
    halvings: int  # times that memory ran out
    memory_of: str  # whose peak it is
    memory_bytes: int
    update_seconds: float
    target_tokens_per_second: float
    validation_seconds: float  # of the loss alone, without translating

    @property
    def seconds(self) -> float:
        """All updates, and the validation loss after every epoch."""
        epochs = self.last_update / self.updates_an_epoch
        return self.update_seconds * self.last_update + self.validation_seconds * epochs

    def rows(self) -> list[tuple[str, str]]:
        """Names and figures, for people."""
        left_out = f", {self.left_out:,} longer ones left out" if self.left_out else ""
        halved = f", halved {self.halvings} time{'s' * (self.halvings > 1)} for memory" if self.halvings else ""
        return [
            ("run folder, not created", self.run),
            ("device", self.device),
            ("parameters", f"{self.parameters:,}"),
            ("training pairs", f"{self.train_pairs:,}{left_out}"),
            ("batches per epoch", f"{self.batches_an_epoch:,}{halved}"),
            ("updates per epoch, at most in all", f"{self.updates_an_epoch:,}, {self.last_update:,}"),
            ("padding in the batches, source and target", "{:.1%}, {:.1%}".format(*self.padding)),
            (f"peak memory of the {self.memory_of}, largest batch", f"{self.memory_bytes / 2**20:,.0f} MiB"),
            ("one update", f"{1000 * self.update_seconds:,.1f} ms"),
            ("target tokens per second", f"{self.target_tokens_per_second:,.0f}"),
            ("validation loss", f"{self.validation_seconds:,.1f} s"),
            ("all updates, validating once per epoch", _duration(self.seconds)),
        ]


def preview(
    settings: Config,
    run: Run,
    tokenizer: Tokenizer,
    splits: Mapping[str, Sequence[Pair]],
    *,
    device: torch.device,
    report: Report = lambda event: None,
) -> Preview:
    """Measure the training that `train` would start with the same arguments; raises what that would raise at once."""
    trainer = Trainer(settings, run, tokenizer, splits["train"], splits["valid"], device, report=report)
    trainer.initialise()
    trainer.probe()
    memory_of, memory = _peak_memory(device)
    update_seconds, tokens = _time_within_memory(trainer)
    plan, state = trainer.plan, trainer.state
    return Preview(
        run=str(run.folder),
        device=devices.describe(device),
        parameters=sum(parameter.numel() for parameter in state.model.parameters()),
        train_pairs=len(plan.examples),
        left_out=plan.left_out,
        batches_an_epoch=len(plan.batches(0)),
        updates_an_epoch=plan.per_epoch,
        last_update=plan.last_update,
        padding=plan.padding,
        halvings=state.counters.halvings,
        memory_of=memory_of,
        memory_bytes=memory,
        update_seconds=update_seconds,
        target_tokens_per_second=tokens / update_seconds,
        validation_seconds=_time_validation(trainer, splits["valid"]),
    )


def _time_within_memory(trainer: Trainer) -> tuple[float, float]:
    """`_time_updates`, with batches halved until they fit where fixed shapes take more memory than the probe."""
    while True:
        try:
            return _time_updates(trainer)
        except ShortOfMemory:
            pass  # its traceback holds tensors
        trainer.halve()


def _time_updates(trainer: Trainer) -> tuple[float, float]:
    """Seconds and target tokens per update, over the first updates of the shuffled epoch, or all of a short one."""
    device, size = trainer.state.device, trainer.plan.together
    batches = trainer.begin_epoch()
    updates = [(first, min(first + size, len(batches))) for first in range(0, len(batches), size)]
    timed = updates[WARM : WARM + TIMED] or updates[:1]
    for first, last in updates[:WARM]:
        trainer.advance(first, last)
    begun = _now(device)
    for first, last in timed:
        trainer.advance(first, last)
    seconds = _now(device) - begun
    lengths_N2 = trainer.plan.examples_of(0).lengths
    tokens = sum(int(lengths_N2[i, 1].sum()) for first, last in timed for i in batches[first:last])
    return seconds / len(timed), tokens / len(timed)


def _time_validation(trainer: Trainer, pairs: Sequence[Pair]) -> float:
    """Seconds for the validation loss of all pairs, estimated from evenly spaced ones."""
    some = pairs[:: max(1, len(pairs) // VALIDATED)]
    translator, begun = trainer.validator.translator(), _now(trainer.state.device)
    forced(translator, some)
    return (_now(trainer.state.device) - begun) * len(pairs) / len(some)


def _now(device: torch.device) -> float:
    devices.wait(device)
    return time.perf_counter()


def _peak_memory(device: torch.device) -> tuple[str, int]:
    """Whose memory it is, and the most of it that was in use so far, in bytes."""
    if device.type == "cuda":
        return "device", torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return "process", peak if sys.platform == "darwin" else 1024 * peak  # kibibytes elsewhere


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{seconds / 60:.1f} min"
