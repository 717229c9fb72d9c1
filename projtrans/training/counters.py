"""What training counts: where it stands, sums over target positions since the last report, skipped updates."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from projtrans.model.loss import TokenLoss


@dataclass
class Counters:
    """Where training stands; saved with every state."""

    epoch: int = 0  # complete epochs
    batch: int = 0  # batches of the current epoch that are done
    update: int = 0
    seconds: float = 0.0  # training and validation
    training_seconds: float = 0.0
    validated: int = 0  # update of the last validation
    best: float | None = None  # best validation score so far; larger is better
    best_epoch: int = 0
    waited: int = 0  # validations since the best one
    candidates: list[tuple[int, float]] = field(default_factory=list)  # update and score of weights to be averaged
    sums: list[float] = field(default_factory=lambda: [0.0] * 5)  # Sums of the epoch
    skipped: int = 0  # updates whose loss or gradient was not finite
    rollbacks: int = 0  # returns to the last good state; each halves the learning rate
    halvings: int = 0  # times that memory ran out and the batches were halved
    planned_update: int = 0  # where batches of this size began: update and epoch
    planned_epoch: int = 0

    def __post_init__(self) -> None:
        self.candidates = [(update, score) for update, score in self.candidates]  # JSON has lists

    @property
    def current_epoch(self) -> int:
        """The epoch, counted from 1, that the last update belongs to."""
        return self.epoch + (self.batch > 0)

    def restart_epoch(self) -> None:
        """Start the current epoch again with other batches: its places mean nothing among those."""
        self.batch, self.sums = 0, list(Sums().values())
        self.planned_update, self.planned_epoch = self.update, self.epoch


@dataclass
class Sums:
    """Sums over target positions; they may be tensors on the device, so that an update need not synchronize."""

    nll: Any = 0.0
    correct: Any = 0.0
    padding_correct: Any = 0.0
    tokens: Any = 0.0
    positions: Any = 0.0  # padding counted

    def add(self, losses: Sequence[TokenLoss], tokens: int, positions: int) -> None:
        self.nll = self.nll + losses[0].nll.detach().double()
        self.correct = self.correct + losses[0].correct.detach().double()
        for loss in losses[1:]:
            self.padding_correct = self.padding_correct + loss.correct.detach().double()
        self.tokens += tokens
        self.positions += positions

    def join(self, other: "Sums", skip: Tensor) -> None:
        """Add the other sums in place, or nothing where `skip` is 1; the device is not synchronized."""
        for name in ("nll", "correct", "padding_correct"):
            total, value = getattr(self, name), getattr(other, name)
            value = value if isinstance(value, Tensor) else torch.full_like(total, value)
            total.add_(value.masked_fill(skip.bool(), 0.0))
        for name in ("tokens", "positions"):
            getattr(self, name).add_(getattr(other, name) * (1.0 - skip.double()))

    def values(self) -> tuple[float, ...]:
        """Plain numbers, in the order of the fields."""
        return tuple(map(float, (self.nll, self.correct, self.padding_correct, self.tokens, self.positions)))

    @property
    def loss(self) -> float:
        return float(self.nll) / max(self.tokens, 1.0)

    @property
    def accuracy(self) -> float:
        return float(self.correct) / max(self.tokens, 1.0)

    @property
    def accuracy_with_padding(self) -> float:
        return (float(self.correct) + float(self.padding_correct)) / max(self.positions, 1.0)


class SinceReport:
    """What was counted since the last report."""

    def __init__(self, device: torch.device) -> None:
        self.totals_5 = torch.zeros(5, dtype=torch.float64, device=device)
        self.sums = Sums(*(self.totals_5[i] for i in range(5)))  # views, never replaced: a CUDA graph adds to them
        self.since = 0.0  # training seconds at the last report
        self.norm: Tensor = torch.zeros(())

    def take(self) -> Sums:
        """The sums so far, which start again from zero."""
        taken = Sums(*self.totals_5.tolist())
        self.totals_5.zero_()
        return taken

    def put(self, values: Sequence[float]) -> None:
        """Continue from these sums."""
        self.totals_5.copy_(torch.tensor(values, dtype=torch.float64))

    def elapsed(self, seconds: float) -> float:
        """Training seconds since the last report, which is now."""
        elapsed, self.since = seconds - self.since, seconds
        return elapsed


class Skips:
    """Updates whose loss or gradient is not finite, found and counted on the device: they change nothing."""

    def __init__(self, device: torch.device) -> None:
        self.in_a_row = torch.zeros((), device=device)  # up to the last update
        self.new = torch.zeros((), device=device)  # since `take`

    def judge(self, loss: Tensor, norm: Tensor) -> Tensor:
        """1.0 where the update must be skipped, 0.0 elsewhere."""
        skip = (~(loss.isfinite() & norm.isfinite())).float()
        self.in_a_row.add_(1).mul_(skip)
        self.new.add_(skip)
        return skip

    def take(self) -> tuple[int, int]:
        """Updates skipped since the last call, and the current streak; synchronizes the device."""
        new, in_a_row = int(self.new), int(self.in_a_row)
        self.new.zero_()
        return new, in_a_row

    def values(self) -> list[float]:
        """Plain numbers, for `restore`."""
        return [float(self.in_a_row), float(self.new)]

    def restore(self, values: Sequence[float]) -> None:
        """Put back the numbers that `values` returned."""
        self.in_a_row.fill_(values[0])
        self.new.fill_(values[1])
