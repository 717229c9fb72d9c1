"""What the tests of training share: a small prepared corpus with a place for runs, and ways to look at them.

Knows no test; the fixture `bench` is in conftest.py.
"""

import contextlib
import copy
import itertools
import json
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._python_dispatch import TorchDispatchMode

from projtrans import config
from projtrans.data.corpus import Pair
from projtrans.data.tokenizer import Tokenizer
from projtrans.model.batching import Batch
from projtrans.runs.run_folder import Run
from projtrans.runs.settings import Config, resolve
from projtrans.training.events import Event
from projtrans.training.train import train
from projtrans.training.trainer import Trainer
from projtrans.training.updates import Objective
from tests.toy import TINY

CPU = torch.device("cpu")
EXACT = ["training.average=null", "model.dropout=0.0"]
"""Settings under which the weights after an update can be computed by hand."""

RANDOM = ["training.by_length=false", "training.batch_sentences=16"]
"""Batches of random pairs, which halve evenly."""

MEMORY = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"


def settings_of(*sets: str) -> Config:
    """The toy's configuration with changes."""
    return resolve(copy.deepcopy(TINY), sets=["training.evaluate_test=false", *sets])


@dataclass
class Bench:
    """The toy corpus and a place for runs."""

    folder: Path
    tokenizer: Tokenizer
    splits: dict[str, Sequence[Pair]]
    made: list[Run] = field(default_factory=list)

    def new(self) -> Run:
        """The place of a new run."""
        self.made.append(Run(self.folder / f"run-{len(self.made)}"))
        return self.made[-1]

    def created(self, settings: Config) -> Run:
        """A run folder before the first update."""
        run = self.new()
        run.create(config.dump(settings), self.tokenizer)
        return run

    def train(self, settings: Config, run: Run | None = None, **options: Any) -> Run:
        """Train a run to its end."""
        run = run or self.new()
        train(settings, run, self.tokenizer, self.splits, device=CPU, **options)
        return run

    def trainer(
        self,
        settings: Config,
        report: Callable[[Event], None] = lambda event: None,
        *,
        run: Run | None = None,
        device: torch.device = CPU,
        **options: Any,
    ) -> Trainer:
        """A trainer in the run's folder, by default a new one."""
        run = run or self.created(settings)
        pairs = self.splits
        return Trainer(settings, run, self.tokenizer, pairs["train"], pairs["valid"], device, report=report, **options)

    def finish(self, *sets: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Train, and return the summary and the validations."""
        run = self.train(settings_of(*sets))
        summary = json.loads(run.summary_file.read_text(encoding="utf-8"))
        return summary, [event for event in events_of(run) if event["event"] == "valid"]


# ------------------------------------------------------------------------------------------------------------ the log


def events_of(run: Run) -> list[dict[str, Any]]:
    """metrics.jsonl, read as strictly as any other JSON reader would."""

    def no_constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    lines = run.metrics_file.read_text(encoding="utf-8").splitlines()
    return [json.loads(line, parse_constant=no_constant) for line in lines]


def timeless(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records without what the clock says."""
    times = ("seconds", "training_seconds", "target_tokens_per_second")
    return [{key: value for key, value in event.items() if key not in times} for event in records]


def same_run(left: Run, right: Run) -> None:
    """Two runs ended with the same weights, the same state and the same log."""
    for name in ("model_file", "state_file"):
        ours, theirs = load_file(getattr(left, name)), load_file(getattr(right, name))
        assert ours.keys() == theirs.keys()
        for key, tensor in ours.items():
            assert torch.equal(tensor, theirs[key]), f"{name}: {key}"
    assert timeless(events_of(left)) == timeless(events_of(right))


# -------------------------------------------------------------------------------------------------------- stop signals


@contextlib.contextmanager
def after(updates: int) -> Iterator[Callable[[], int | None]]:
    """A stop signal that comes when torch's optimizer has made so many steps."""
    steps = itertools.count(1)
    made = [0]
    hook = register_optimizer_step_post_hook(lambda *unused: made.__setitem__(0, next(steps)))
    try:
        yield lambda: signal.SIGTERM if made[0] == updates else None
    finally:
        hook.remove()


def once_seen(kind: type, seen: Sequence[Event]) -> Callable[[], int | None]:
    """A stop signal that comes with the first event of a kind."""
    return lambda: signal.SIGINT if any(isinstance(event, kind) for event in seen) else None


def stop_at(trainer: Trainer, update: int | None) -> None:
    """Let the trainer get a stop signal after that update."""
    trainer.stop_signal = lambda: signal.SIGTERM if trainer.state.counters.update == update else None


# ------------------------------------------------------------------------------------------------------------ trainers


def weights(trainer: Trainer) -> dict[str, Tensor]:
    """The weights in training, by name."""
    return dict(trainer.state.model.named_parameters())


def double(trainer: Trainer) -> Trainer:
    """The same training in double precision, where Adam cannot blow rounding up."""
    trainer.state.model.double()
    return trainer


def epochs(trainer: Trainer, updates: int) -> list[list[float]]:
    """Loss sums, gradient norm and learning rate of so many updates."""
    seen: list[list[float]] = []
    while len(seen) < updates:
        batches, size = trainer.begin_epoch(), trainer.plan.together
        for first in range(0, len(batches), size):
            trainer.advance(first, min(first + size, len(batches)))
            seen.append([*trainer.state.recent.take().values()[:4], float(trainer.state.recent.norm)])
        trainer.state.counters.epoch += 1
    return seen[:updates]


@contextlib.contextmanager
def poisoned(trainer: Trainer, wanted: Any) -> Iterator[None]:
    """Gradients of the output's bias are no numbers while `wanted()`."""
    bias = trainer.state.model.output.bias
    hook = bias.register_hook(lambda gradient: gradient * math.nan if wanted() else gradient)
    yield
    hook.remove()


def limited(objective: Objective, sentences: int) -> None:
    """Let the machine have memory for so many sentence pairs, and fail half way with more."""
    true = objective.losses

    def losses(batch: Batch, *h_BTD: Tensor) -> Any:
        if batch.sentences > sentences:
            true(batch, *h_BTD)[0].smoothed.backward()  # what it leaves behind must not count
            raise RuntimeError(MEMORY)
        return true(batch, *h_BTD)

    objective.losses = losses  # type: ignore[method-assign]


class NoWaiting(TorchDispatchMode):
    """Refuses every operation that hands a number, or a size that depends on numbers, from the device to the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in {"_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "is_nonzero"}, name
        if name in {"index", "index_put_", "index_put"}:
            masks = [index for index in args[1] if index is not None and index.dtype == torch.bool]
            assert not masks, "a mask as an index has to be counted"
        return func(*args, **(kwargs or {}))
