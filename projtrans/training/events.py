"""What training reports while it runs, and how metrics.jsonl records it.

Rendered elsewhere, or collected by a caller from Python. Knows no metric by name, and imports nothing that needs torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from projtrans.evaluation.metrics import flattened

if TYPE_CHECKING:
    from projtrans.evaluation.evaluate import Evaluation
    from projtrans.model.attention_statistics import Statistics
    from projtrans.runs.run_folder import Run


@dataclass(frozen=True)
class Initialised:
    """The embeddings of a new model were computed from the training pairs."""

    given: int  # tokens that got a vector; the others start at random
    tokens: int  # in all vocabularies, each matrix counted once
    seconds: float


@dataclass(frozen=True)
class Sampling:
    """The training pairs are being segmented anew for an epoch of subword dropout."""

    done: int
    total: int


@dataclass(frozen=True)
class Started:
    """Training starts or resumes."""

    run: str
    device: str
    precision: str
    parameters: int
    train_pairs: int
    left_out: int  # training pairs longer than corpus.max_length
    updates_an_epoch: int
    last_update: int
    update: int  # where a resumed run continues; 0: a new run
    source_padding: float  # share of padding among the source positions of an epoch's batches, 0 to 1
    target_padding: float
    sigma: dict[str, str]  # per role: the initial σ, and whether it is learned


@dataclass(frozen=True)
class Recorded:
    """Updates have fixed shapes from here on."""

    mode: str  # static or graph
    shapes: int
    padding: float  # share of an epoch's positions that pad batches to their shapes, 0 to 1
    seconds: float  # for moving the corpus to the device and recording


@dataclass(frozen=True)
class Progress:
    """Updates were made; loss and accuracy are means since the last report."""

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
    """Updates were skipped because their loss or gradient was not finite."""

    epoch: int
    update: int
    skipped: int  # since the last check
    in_a_row: int  # up to `update`


@dataclass(frozen=True)
class RolledBack:
    """Training went back to its last good state and continues with half the learning rate."""

    epoch: int
    update: int  # of that state
    from_update: int
    reason: str
    rollbacks: int  # so far
    rate_factor: float  # what the learning rate is multiplied by from here on


@dataclass(frozen=True)
class Halved:
    """Memory ran out: from here on batches have half the size, and an update takes twice as many."""

    epoch: int
    update: int  # of the state that training continues from
    halvings: int  # so far
    batch_tokens: int
    batch_sentences: int | None
    accumulation: int


@dataclass(frozen=True)
class Changed:
    """A resumed run continues with other settings."""

    update: int
    settings: dict[str, list[Any]]  # by dotted path: before and after


@dataclass(frozen=True)
class Recovered:
    """The last state is damaged; training continues from the last good one."""

    damage: str
    update: int


@dataclass(frozen=True)
class Validating:
    """The validation split is being scored."""

    done: int  # sentence pairs
    total: int


@dataclass(frozen=True)
class Validated:
    """An epoch is complete; the figures of training are means over it."""

    epoch: int
    update: int
    seconds: float
    training_seconds: float
    loss: float
    accuracy: float
    accuracy_with_padding: float | None
    scores: dict[str, float]  # of the validation sample, by the metric's name in METRICS
    train_loss: float
    train_accuracy: float
    train_accuracy_with_padding: float | None  # padding counted too; None where it is not learned
    best: bool
    attention: Statistics


@dataclass(frozen=True)
class Averaged:
    """The mean of the best validated weights was scored on the validation split."""

    update: int
    updates: list[int]  # whose weights were averaged
    loss: float
    accuracy: float
    scores: dict[str, float]  # as in `Validated`
    best: bool  # better than each of them, and kept


@dataclass(frozen=True)
class Testing:
    """The best model is being scored on the test split."""

    done: int
    total: int


@dataclass(frozen=True)
class Exported:
    """The best weights were exported for ONNX Runtime, or could not be."""

    run: str
    problem: str | None


@dataclass(frozen=True)
class Finished:
    """Training is over: the reason, and the scores of the best model."""

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

TROUBLES: dict[type, str] = {Skipped: "skipped", RolledBack: "rollback", Halved: "halved", Changed: "changed"}
"""What goes wrong or is changed, by its name in metrics.jsonl."""

NAMES: dict[type, str] = {Progress: "train", Validated: "valid", Averaged: "average", **TROUBLES}
"""All events that metrics.jsonl records, by their names there."""


def to_record(event: Event) -> dict[str, Any]:
    """The event as a line of metrics.jsonl, in which every score is a field of its own."""
    return {"event": NAMES[type(event)], **flattened(asdict(event))}


class Log:
    """Reports every event, and records those of NAMES in metrics.jsonl where this process writes the run."""

    def __init__(self, run: Run, report: Report, *, writes: bool) -> None:
        self.run, self.report, self.writes = run, report, writes

    def __call__(self, event: Event) -> None:
        """Record and report; nothing is recorded before the first state, which knows the log's length."""
        if self.run.has_begun:
            self.record(event)
        self.report(event)

    def record(self, event: Event) -> None:
        """Record only."""
        if self.writes and type(event) in NAMES:
            self.run.append_metrics(to_record(event))
