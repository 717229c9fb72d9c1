"""What training reports while it runs. Rendered elsewhere, or collected by a caller from Python."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from projtrans.evaluation.evaluate import Evaluation
from projtrans.model.attention_statistics import Statistics


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
class Recorded:
    """Updates are made in fixed shapes from here on."""

    mode: str  # static, graph or inductor
    shapes: int
    padding: float  # share of an epoch's positions that fill batches up to their shapes, 0 to 1
    seconds: float  # for moving the corpus to the device, recording and compiling


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
class Skipped:
    """Updates were left out because their loss or gradient was not finite."""

    epoch: int
    update: int
    skipped: int  # since the last such event, or the last look without one
    in_a_row: int  # up to `update`


@dataclass(frozen=True)
class RolledBack:
    """Training went back to its last good state, and goes on with half the learning rate."""

    epoch: int
    update: int  # of that state
    from_update: int
    reason: str
    rollbacks: int  # so far
    rate_factor: float  # what the learning rate is multiplied by from here on


@dataclass(frozen=True)
class Halved:
    """Memory was short: batches are half as large from here on, and an update takes twice as many."""

    epoch: int
    update: int
    halvings: int  # so far
    batch_tokens: int
    batch_sentences: int | None
    accumulation: int


@dataclass(frozen=True)
class Changed:
    """A resumed run goes on with other settings."""

    update: int
    settings: dict[str, list[Any]]  # by dotted path: before and after


@dataclass(frozen=True)
class Recovered:
    """The last state is damaged; training goes on from the last good one."""

    damage: str
    update: int


@dataclass(frozen=True)
class Validating:
    """The validation split is being scored."""

    done: int  # sentence pairs
    total: int


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


Trouble = Skipped | RolledBack | Halved | Changed | Recovered

Event = (
    Initialised
    | Sampling
    | Started
    | Recorded
    | Progress
    | Trouble
    | Validating
    | Validated
    | Averaged
    | Testing
    | Exported
    | Finished
)

Report = Callable[[Event], None]
