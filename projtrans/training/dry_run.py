"""What a training would be, measured before anything is trained: size, batches, peak memory, time.

Builds everything that `train` builds and makes a few updates, which nobody keeps. Writes nothing.
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
from projtrans.model.batching import Batches
from projtrans.runs.run_folder import Run
from projtrans.runs.settings import Config
from projtrans.training.events import Report
from projtrans.training.trainer import Trainer

WARM, TIMED = 2, 10
"""Updates before the clock is read, and between two readings."""

VALIDATED = 500
"""Validation pairs that are scored, and counted for all."""


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
    halvings: int  # times that memory was short
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
        halved = f", halved {self.halvings} times for memory" if self.halvings else ""
        return [
            ("run folder, not made", self.run),
            ("device", self.device),
            ("parameters", f"{self.parameters:,}"),
            ("training pairs", f"{self.train_pairs:,}{left_out}"),
            ("batches an epoch", f"{self.batches_an_epoch:,}{halved}"),
            ("updates an epoch, at most in all", f"{self.updates_an_epoch:,}, {self.last_update:,}"),
            ("padding in the batches, source and target", "{:.1%}, {:.1%}".format(*self.padding)),
            (f"peak memory of the {self.memory_of}, largest batch", f"{self.memory_bytes / 2**20:,.0f} MiB"),
            ("an update", f"{1000 * self.update_seconds:,.1f} ms"),
            ("target tokens a second", f"{self.target_tokens_per_second:,.0f}"),
            ("validation loss", f"{self.validation_seconds:,.1f} s"),
            ("all updates, with a validation loss an epoch", _duration(self.seconds)),
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
    """Measure the training that `train` would begin with the same arguments; raises what that would raise at once."""
    trainer = Trainer(settings, run, tokenizer, splits["train"], splits["valid"], device, report)
    trainer.initialise()
    trainer.probe()
    memory_of, memory = _peak_memory(device)
    batches = trainer.batches(0)
    update_seconds, pieces = _time_updates(trainer, batches)
    return Preview(
        run=str(run.folder),
        device=devices.describe(device),
        parameters=sum(parameter.numel() for parameter in trainer.model.parameters()),
        train_pairs=len(trainer.examples),
        left_out=trainer.left_out,
        batches_an_epoch=len(batches),
        updates_an_epoch=trainer.per_epoch,
        last_update=trainer.last_update,
        padding=trainer.padding,
        halvings=trainer.counters.halvings,
        memory_of=memory_of,
        memory_bytes=memory,
        update_seconds=update_seconds,
        target_tokens_per_second=pieces / update_seconds,
        validation_seconds=_time_validation(trainer, splits["valid"]),
    )


def _time_updates(trainer: Trainer, batches: Batches) -> tuple[float, float]:
    """Seconds and target pieces an update, over the first updates of the shuffled epoch, or over all of a short one."""
    size = trainer.together
    updates = range(0, len(batches), size)
    timed = updates[WARM : WARM + TIMED] or updates[:1]
    trainer.model.train()
    trainer.prepare()
    for first in updates[:WARM]:
        trainer.advance(batches, first)
    begun = _now(trainer.device)
    for first in timed:
        trainer.advance(batches, first)
    seconds = _now(trainer.device) - begun
    lengths_N2 = trainer.examples_of(0).lengths
    pieces = sum(int(lengths_N2[i, 1].sum()) for first in timed for i in batches[first : first + size])
    return seconds / len(timed), pieces / len(timed)


def _time_validation(trainer: Trainer, pairs: Sequence[Pair]) -> float:
    """Seconds of the validation loss of all pairs, from that of some, evenly taken."""
    some = pairs[:: max(1, len(pairs) // VALIDATED)]
    translator, begun = trainer.translator(), _now(trainer.device)
    forced(translator, some)
    return (_now(trainer.device) - begun) * len(pairs) / len(some)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
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
