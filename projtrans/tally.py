"""What training counts: where it stands, and sums over target positions since the last report."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from projtrans.loss import TokenLoss


@dataclass
class Counters:
    """Where training stands; saved with every state."""

    epoch: int = 0  # complete epochs
    batch: int = 0  # batches of the current epoch that are done
    update: int = 0
    seconds: float = 0.0  # training and validation
    training_seconds: float = 0.0
    validated: int = 0  # update of the last validation
    skipped: int = 0  # updates left out in a row because their gradient was not finite
    best: float | None = None  # best validation score so far; larger is better
    best_epoch: int = 0
    waited: int = 0  # validations since the best one
    candidates: list[tuple[int, float]] = field(default_factory=list)  # update and score of weights to be averaged
    sums: list[float] = field(default_factory=lambda: [0.0] * 5)  # Sums of the epoch

    def __post_init__(self) -> None:
        self.candidates = [(update, score) for update, score in self.candidates]  # JSON has lists

    @property
    def current_epoch(self) -> int:
        """The epoch, counted from 1, that the last update belongs to."""
        return self.epoch + (self.batch > 0)


@dataclass
class Sums:
    """Sums over target positions; the first three may be tensors on the device, so that an update need not wait."""

    nll: Any = 0.0
    correct: Any = 0.0
    padding_correct: Any = 0.0
    pieces: float = 0.0  # real target positions
    positions: float = 0.0  # padding counted

    def add(self, losses: Sequence[TokenLoss], pieces: int, positions: int) -> None:
        self.nll = self.nll + losses[0].nll.detach().double()
        self.correct = self.correct + losses[0].correct.detach().double()
        for loss in losses[1:]:
            self.padding_correct = self.padding_correct + loss.correct.detach().double()
        self.pieces += pieces
        self.positions += positions

    def join(self, other: "Sums") -> None:
        for name in ("nll", "correct", "padding_correct", "pieces", "positions"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def values(self) -> tuple[float, ...]:
        """Plain numbers, in the order of the fields."""
        return (float(self.nll), float(self.correct), float(self.padding_correct), self.pieces, self.positions)

    @property
    def loss(self) -> float:
        return float(self.nll) / max(self.pieces, 1.0)

    @property
    def accuracy(self) -> float:
        return float(self.correct) / max(self.pieces, 1.0)

    @property
    def accuracy_with_padding(self) -> float:
        return (float(self.correct) + float(self.padding_correct)) / max(self.positions, 1.0)


class Window:
    """What happened since the last report."""

    def __init__(self) -> None:
        self.sums = Sums()
        self.since = 0.0  # training seconds at the last report
        self.norm: Tensor = torch.zeros(())

    def take(self) -> Sums:
        taken, self.sums = Sums(*self.sums.values()), Sums()
        return taken

    def elapsed(self, seconds: float) -> float:
        elapsed, self.since = seconds - self.since, seconds
        return elapsed
