"""Runs as their folders have them, and sides of a comparison: the runs that differ in nothing but their seed.

A run is read without a word about any other; a side has means and deviations over its runs, and a label that tells it
from the other sides. Translates nothing.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

from projtrans import config
from projtrans.data.corpus import Pair
from projtrans.data.tokenizer import Tokenizer
from projtrans.errors import RunError
from projtrans.evaluation.evaluate import Evaluation
from projtrans.evaluation.metrics import Score, references_of
from projtrans.model.flops import MultiplyAdds, multiply_adds
from projtrans.runs.build import encode, layout_of
from projtrans.runs.run_folder import Run
from projtrans.runs.settings import Config, differing, flat

SEED = "training.seed"

KIND = "model.attention.kind"

ATTENTION = "model.attention."


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1) over the runs of a side; a single run has no deviation."""

    mean: float
    deviation: float | None
    runs: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "Spread | None":
        """Over the values that there are; None where there are none."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        return cls(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One validation of a run; losses in nats a target piece, accuracies 0 to 1, padding never counted."""

    epoch: int
    train_loss: float | None
    train_accuracy: float | None
    loss: float | None
    accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class MeanEpoch:
    """One epoch over the runs of a side that reached it."""

    epoch: int
    train_loss: Spread | None
    train_accuracy: Spread | None
    loss: Spread | None
    accuracy: Spread | None


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """One run: what its folder tells of its training, and its scores on the test split."""

    run: str
    seed: int
    finished: bool  # training has ended, and was not taken up again
    device: str | None
    parameters: int | None
    updates: int | None  # that training_seconds counts
    best_epoch: int | None
    training_seconds: float | None  # in updates, without validation
    update_milliseconds: float | None
    tokens_per_second: float | None  # target pieces; median of the run's reports
    loss: float | None
    accuracy: float | None
    accuracy_with_padding: float | None
    bleu: Score | None
    chrf: Score | None
    beam_size: int | None  # of the search behind bleu and chrf
    length_penalty: float | None
    search: dict[str, Any] | None  # its other settings that are not the defaults
    epochs: list[Epoch]


@dataclass(frozen=True, kw_only=True)
class Side:
    """Runs that differ in nothing but the seed, with means and deviations over them."""

    label: str
    runs: list[RunResult]  # by seed
    parameters: int | None
    training_seconds: Spread | None
    update_milliseconds: Spread | None
    tokens_per_second: Spread | None
    loss: Spread | None
    accuracy: Spread | None
    accuracy_with_padding: Spread | None
    bleu: Spread | None
    chrf: Spread | None
    beam_size: int | None  # of the search behind bleu and chrf, the same for all runs
    length_penalty: float | None
    search: dict[str, Any] | None
    epochs: list[MeanEpoch]
    multiply_adds: MultiplyAdds


# ------------------------------------------------------------------------------------------------------------- a run


@dataclass
class LoadedRun:
    """A run to be compared, as its folder has it."""

    run: Run
    settings: Config
    tokenizer: Tokenizer
    pairs: list[Pair]  # of the test split
    evaluation: Evaluation | None = None
    texts: list[str] | None = None  # translations of the test split
    parameters: int | None = None
    model: str | None = None  # checksum of the model file that was opened

    @property
    def name(self) -> str:
        """The folder."""
        return str(self.run.folder)

    @property
    def seed(self) -> int:
        """Of the training."""
        return self.settings.training.seed

    @cached_property
    def common(self) -> dict[str, Any]:
        """Every setting but the seed, by its dotted path."""
        return {path: value for path, value in flat(config.dump(self.settings)).items() if path != SEED}

    @cached_property
    def references(self) -> list[str]:
        """What its translations are scored against."""
        return references_of(self.tokenizer, self.pairs)

    def trained(self) -> RunResult:
        """The record of the run."""
        metrics, summary = self.run.read_metrics(), self.run.read_summary()
        events = [_Event(record, f"{self.run.metrics_file}:{line}") for line, record in enumerate(metrics, 1)]
        valid = [event for event in events if event.record.get("event") == "valid"]
        train = [event for event in events if event.record.get("event") == "train"]
        speeds = [speed for event in train if (speed := event.number("target_tokens_per_second")) is not None]
        end = _Event(summary, str(self.run.summary_file)) if summary is not None else None
        last = max((event.whole("update") for event in train + valid), default=0)
        finished = end is not None and end.whole("updates") >= last
        source, updates = (end, "updates") if finished else (valid[-1] if valid else None, "update")
        seconds = source.number("training_seconds") if source else None
        made = source.whole(updates) if source else None
        test = self.evaluation
        return RunResult(
            run=self.name,
            seed=self.seed,
            finished=finished,
            device=str(summary["device"]) if summary and "device" in summary else None,
            parameters=self.parameters,
            updates=made,
            best_epoch=max((event.whole("epoch") for event in valid if event.record.get("best") is True), default=None),
            training_seconds=seconds,
            update_milliseconds=1000 * seconds / made if seconds is not None and made else None,
            tokens_per_second=statistics.median(speeds) if speeds else None,
            loss=test.loss if test else None,
            accuracy=test.accuracy if test else None,
            accuracy_with_padding=test.accuracy_with_padding if test else None,
            bleu=test.bleu if test else None,
            chrf=test.chrf if test else None,
            beam_size=test.beam_size if test else None,
            length_penalty=test.length_penalty if test else None,
            search=test.search if test else None,
            epochs=list({epoch.epoch: epoch for epoch in map(_epoch, valid)}.values()),
        )


@dataclass(frozen=True)
class _Event:
    """A record of a run folder, with the place that errors name."""

    record: Mapping[str, Any]
    place: str

    def number(self, key: str) -> float | None:
        """The number under a key, None for null (what was not finite)."""
        value = self.record.get(key, "")
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise RunError(f"{self.place}: damaged, {key} is no number; restore the file, or train the run anew")
        return value

    def whole(self, key: str) -> int:
        """The whole number under a key."""
        value = self.record.get(key)
        if isinstance(value, bool) or not isinstance(value, int):
            raise RunError(f"{self.place}: damaged, {key} is no whole number; restore the file, or train the run anew")
        return value


def _epoch(event: _Event) -> Epoch:
    names = ("train_loss", "train_accuracy", "loss", "accuracy")
    return Epoch(epoch=event.whole("epoch"), **{name: event.number(name) for name in names})


# ------------------------------------------------------------------------------------------------------------- sides


def grouped(members: Sequence[LoadedRun]) -> list[list[LoadedRun]]:
    """Members that differ in the seed alone stand together, by seed; the same seed again begins another side."""
    groups: list[list[LoadedRun]] = []
    for member in members:
        for group in groups:
            if group[0].common == member.common and member.seed not in {other.seed for other in group}:
                group.append(member)
                break
        else:
            groups.append([member])
    return [sorted(group, key=lambda member: member.seed) for group in groups]


def labels(configurations: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """The shortest telling name of each side: the fewest settings that tell all apart, or else its run's `names`.

    The kind of attention comes first wherever it differs.
    """
    if len(configurations) == 1:
        return [str(configurations[0].get(KIND, names[0]))]
    found = differing(configurations)
    kind, paths = [path for path in found if path == KIND], [path for path in found if path != KIND]
    for count in range(4):
        for chosen in ((*kind, *some) for some in combinations(paths, count)):
            for nulls in (False, True):
                made = [
                    ", ".join(_term(path, c[path]) for path in chosen if path in c and (nulls or c[path] is not None))
                    for c in configurations
                ]
                if all(made) and len(set(made)) == len(made):
                    return made
    return list(names)


def _term(path: str, value: Any) -> str:
    """A setting in a label; the kind of attention goes by its own name."""
    if path == KIND:
        return str(value)
    key = path.removeprefix(ATTENTION) if path.startswith(ATTENTION) else path.partition(".")[2]
    return f"{key}={'null' if value is None else value}"


def side_of(label: str, members: Sequence[LoadedRun], pairs: Sequence[Pair]) -> Side:
    """The side of these runs; its multiply-adds are those of a test pair of mean length."""
    first = members[0]
    runs = [member.trained() for member in members]
    layout = layout_of(first.tokenizer, first.settings.corpus, first.settings.model)
    longest = first.settings.corpus.max_length
    examples = encode(first.tokenizer, layout, pairs, cut=True)
    # Where padding is attended to, every sentence is padded to the maximum.
    lengths = [
        round(statistics.fmean(side.tolist())) if layout.mask_padding else longest for side in examples.lengths.T
    ]
    return Side(
        label=label,
        runs=runs,
        parameters=next((run.parameters for run in runs if run.parameters is not None), None),
        training_seconds=Spread.of([run.training_seconds for run in runs]),
        update_milliseconds=Spread.of([run.update_milliseconds for run in runs]),
        tokens_per_second=Spread.of([run.tokens_per_second for run in runs]),
        loss=Spread.of([run.loss for run in runs]),
        accuracy=Spread.of([run.accuracy for run in runs]),
        accuracy_with_padding=Spread.of([run.accuracy_with_padding for run in runs]),
        bleu=Spread.of([run.bleu.score if run.bleu else None for run in runs]),
        chrf=Spread.of([run.chrf.score if run.chrf else None for run in runs]),
        beam_size=next((run.beam_size for run in runs if run.beam_size is not None), None),
        length_penalty=next((run.length_penalty for run in runs if run.length_penalty is not None), None),
        search=next((run.search for run in runs if run.search is not None), None),
        epochs=_mean_epochs(runs),
        multiply_adds=multiply_adds(
            first.settings.model, first.tokenizer.target_size, source=max(1, lengths[0]), target=max(1, lengths[1])
        ),
    )


def _mean_epochs(runs: Sequence[RunResult]) -> list[MeanEpoch]:
    names = ("train_loss", "train_accuracy", "loss", "accuracy")
    numbers = sorted({epoch.epoch for run in runs for epoch in run.epochs})
    there = {number: [epoch for run in runs for epoch in run.epochs if epoch.epoch == number] for number in numbers}
    return [
        MeanEpoch(
            epoch=number, **{name: Spread.of([getattr(epoch, name) for epoch in there[number]]) for name in names}
        )
        for number in numbers
    ]
