"""What training reports while it runs. Rendered elsewhere, or collected by a caller from Python."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from projtrans.evaluate import Evaluation
from projtrans.telemetry import Statistics


@dataclass(frozen=True)
class Initialised:
    """The embeddings of a new model were computed from the training pairs."""

    given: int  # pieces that have a vector from there; the others begin at random
    pieces: int  # all, of both sides where they have a matrix each
    seconds: float


@dataclass(frozen=True)
class Sampling:
    """The training pairs are segmented anew for an epoch, by dropout of subwords."""

    done: int
    total: int


@dataclass(frozen=True)
class Started:
    """Training begins, or goes on."""

    run: str
    device: str
    precision: str
    parameters: int
    train_pairs: int
    left_out: int  # training pairs longer than corpus.max_length
    updates_an_epoch: int
    last_update: int
    update: int  # where a resumed run goes on; 0: from the start
    source_padding: float  # share of padding among the source positions of an epoch's batches, 0 to 1
    target_padding: float
    sigma: dict[str, str]  # per role: the initial σ, and whether it is learned


@dataclass(frozen=True)
class Progress:
    """Some updates were made; loss and accuracy are those since the last report."""

    epoch: int
    update: int
    last_update: int
    seconds: float
    loss: float
    accuracy: float
    learning_rate: float
    gradient_norm: float
    target_tokens_per_second: float


@dataclass(frozen=True)
class Validated:
    """One epoch is over; train figures are means over it."""

    epoch: int
    update: int
    seconds: float
    training_seconds: float
    loss: float
    accuracy: float
    accuracy_with_padding: float | None
    bleu: float  # of a sample of the validation split
    chrf: float
    train_loss: float
    train_accuracy: float
    train_accuracy_with_padding: float | None  # padding counted too; None where it is not learned
    best: bool
    attention: Statistics


@dataclass(frozen=True)
class Averaged:
    """The mean of the best validated weights was tried, with these scores on the validation split."""

    update: int
    updates: list[int]  # whose weights were averaged
    loss: float
    accuracy: float
    bleu: float  # of the validation sample
    chrf: float
    best: bool  # better than every one of them, and kept


@dataclass(frozen=True)
class Testing:
    """The best model translates the test split."""

    done: int
    total: int


@dataclass(frozen=True)
class Exported:
    """The best weights were written for ONNX Runtime, or could not be."""

    run: str
    problem: str | None


@dataclass(frozen=True)
class Finished:
    """Training is over; why, and the scores of the best model."""

    run: str
    reason: str
    summary: dict[str, Any]
    test: Evaluation | None


Event = Initialised | Sampling | Started | Progress | Validated | Averaged | Testing | Exported | Finished
Report = Callable[[Event], None]
