"""Runs as their folders have them, and systems: the runs that differ only in their seed.

A run is read without looking at any other. A system has means and deviations over its runs, and a label that
distinguishes it from the other systems. Translates nothing.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, Generic, TypeVar

from projtrans import config
from projtrans.data.corpus import Pair
from projtrans.data.tokenizer import Tokenizer
from projtrans.errors import RunError
from projtrans.evaluation.evaluate import Evaluation
from projtrans.evaluation.metrics import METRICS, references_of
from projtrans.evaluation.test_scores import Scored
from projtrans.model.flops import MultiplyAdds, multiply_adds
from projtrans.runs.build import encode, layout_of
from projtrans.runs.run_folder import Run
from projtrans.runs.settings import Config, differing, flat

SEED = "training.seed"
KIND = "model.attention.kind"
ATTENTION = "model.attention."

TIMES = ("training_seconds", "update_milliseconds", "tokens_per_second")
TEACHER_FORCED = ("loss", "accuracy", "accuracy_with_padding")
SEARCH = ("beam_size", "length_penalty", "search")
CURVES = ("train_loss", "train_accuracy", "loss", "accuracy")


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1) over the runs of a system; a single run has no deviation."""

    mean: float
    deviation: float | None
    runs: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "Spread | None":
        """Over the values that are not None; None if all are."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        return cls(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


Value = TypeVar("Value", float, Spread)


@dataclass(frozen=True, kw_only=True)
class Epoch(Generic[Value]):
    """One validation of a run, or of a system's runs that reached it.

    Losses in nats per target token, accuracies 0 to 1, without padding; None for a value that was not finite.
    """

    epoch: int
    train_loss: Value | None
    train_accuracy: Value | None
    loss: Value | None
    accuracy: Value | None


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """One run: its training as its folder records it, and its scores on the test split."""

    run: str
    seed: int
    finished: bool  # training has ended and was not resumed
    device: str | None
    parameters: int | None
    updates: int | None  # those that training_seconds covers
    best_epoch: int | None
    training_seconds: float | None  # in updates, without validation
    update_milliseconds: float | None
    tokens_per_second: float | None  # target tokens; median of the run's reports
    test: Evaluation | None
    epochs: list[Epoch[float]]

    def measure(self, name: str) -> float | None:
        """One of TIMES, TEACHER_FORCED or METRICS; None if unknown."""
        if name in TIMES:
            return getattr(self, name)
        if self.test is None:
            return None
        return self.test.scores[name].score if name in METRICS else getattr(self.test, name)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; of the test, its scores and the search settings behind them."""
        raw, test = asdict(self), self.test.to_json() if self.test else {}
        epochs = raw.pop("epochs")
        del raw["test"]
        return raw | {name: test.get(name) for name in (*TEACHER_FORCED, *METRICS, *SEARCH)} | {"epochs": epochs}


@dataclass(frozen=True, kw_only=True)
class System:
    """Runs that differ only in their seed, with means and deviations over them."""

    label: str
    runs: list[RunResult]  # by seed
    multiply_adds: MultiplyAdds

    def spread(self, measure: str) -> Spread | None:
        """Mean and deviation of one of TIMES, TEACHER_FORCED or METRICS; None if no run has it."""
        return Spread.of([run.measure(measure) for run in self.runs])

    @cached_property
    def epochs(self) -> list[Epoch[Spread]]:
        """Every epoch that a run reached."""
        reached: dict[int, list[Epoch[float]]] = {}
        for epoch in sorted((epoch for run in self.runs for epoch in run.epochs), key=lambda epoch: epoch.epoch):
            reached.setdefault(epoch.epoch, []).append(epoch)
        return [
            Epoch(epoch=number, **{name: Spread.of([getattr(epoch, name) for epoch in epochs]) for name in CURVES})
            for number, epochs in reached.items()
        ]

    @property
    def test(self) -> Evaluation | None:
        """The scores of the first scored run; its search settings are those of all."""
        return next((run.test for run in self.runs if run.test), None)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        spreads = {name: self.spread(name) for name in (*TIMES, *TEACHER_FORCED, *METRICS)}
        return {
            "label": self.label,
            "runs": [run.to_json() for run in self.runs],
            "parameters": next((run.parameters for run in self.runs if run.parameters is not None), None),
            **{name: spread and asdict(spread) for name, spread in spreads.items()},
            **{name: getattr(self.test, name, None) for name in SEARCH},
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "multiply_adds": asdict(self.multiply_adds),
        }


# ------------------------------------------------------------------------------------------------------------- a run


@dataclass
class LoadedRun:
    """A run to compare, as its folder has it."""

    run: Run
    settings: Config
    tokenizer: Tokenizer
    pairs: list[Pair]  # of the test split
    parameters: int | None = None
    scored: Scored | None = None

    @property
    def name(self) -> str:
        """The folder."""
        return str(self.run.folder)

    @property
    def seed(self) -> int:
        """The seed of its training."""
        return self.settings.training.seed

    @property
    def texts(self) -> list[str]:
        """Its translations of the test split; empty if it was not scored."""
        return self.scored.texts if self.scored else []

    @cached_property
    def common(self) -> dict[str, Any]:
        """Every setting but the seed, by its dotted path."""
        return {path: value for path, value in flat(config.dump(self.settings)).items() if path != SEED}

    @cached_property
    def references(self) -> list[str]:
        """What its translations are scored against."""
        return references_of(self.tokenizer, self.pairs)

    def result(self) -> RunResult:
        """The record of the run; raises RunError, with file and line, if its log or summary is damaged."""
        metrics, summary = self.run.read_metrics(), self.run.read_summary()
        events = [_Event(record, f"{self.run.metrics_file}:{line}") for line, record in enumerate(metrics, 1)]
        valid = [event for event in events if event.record.get("event") == "valid"]
        train = [event for event in events if event.record.get("event") == "train"]
        speeds = [speed for event in train if (speed := event.number("target_tokens_per_second")) is not None]
        end = _Event(summary, str(self.run.summary_file)) if summary is not None else None
        last = max((event.whole("update") for event in train + valid), default=0)
        finished = end is not None and end.whole("updates") >= last
        source, key = (end, "updates") if finished else (valid[-1] if valid else None, "update")
        seconds = source.number("training_seconds") if source else None
        updates = source.whole(key) if source else None
        return RunResult(
            run=self.name,
            seed=self.seed,
            finished=finished,
            device=str(summary["device"]) if summary and "device" in summary else None,
            parameters=self.parameters,
            updates=updates,
            best_epoch=max((event.whole("epoch") for event in valid if event.record.get("best") is True), default=None),
            training_seconds=seconds,
            update_milliseconds=1000 * seconds / updates if seconds is not None and updates else None,
            tokens_per_second=statistics.median(speeds) if speeds else None,
            test=self.scored.evaluation if self.scored else None,
            epochs=list({epoch.epoch: epoch for epoch in map(_epoch, valid)}.values()),
        )


@dataclass(frozen=True)
class _Event:
    """A record of a run folder, with the place that errors name."""

    record: Mapping[str, Any]
    place: str

    def number(self, key: str) -> float | None:
        """The number under a key; None for null, which stands for what was not finite."""
        value = self.record.get(key, "")
        return value if value is None else self._checked(key, value, (int, float), "a number")

    def whole(self, key: str) -> int:
        """The whole number under a key."""
        return self._checked(key, self.record.get(key), int, "a whole number")

    def _checked(self, key: str, value: Any, types: Any, what: str) -> Any:
        if isinstance(value, bool) or not isinstance(value, types):
            raise RunError(f"{self.place}: damaged, {key} is not {what}; restore the file, or train the run anew")
        return value


def _epoch(event: _Event) -> Epoch[float]:
    return Epoch(epoch=event.whole("epoch"), **{name: event.number(name) for name in CURVES})


# ----------------------------------------------------------------------------------------------------------- systems


def grouped(members: Sequence[LoadedRun]) -> list[list[LoadedRun]]:
    """The runs of each system, by seed: those that differ only in the seed; a repeated seed begins another system."""
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
    """The shortest label of each system: the fewest settings that distinguish all, or failing that its run's `names`.

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


def system_of(label: str, members: Sequence[LoadedRun], pairs: Sequence[Pair]) -> System:
    """The system of these runs; its multiply-adds are those of a test pair of mean length."""
    first = members[0]
    layout = layout_of(first.tokenizer, first.settings.corpus, first.settings.model)
    lengths_2N = encode(first.tokenizer, layout, pairs, cut=True).lengths.T
    # Where padding is attended to, every sentence is padded to the maximum.
    longest = first.settings.corpus.max_length
    source, target = (round(statistics.fmean(n.tolist())) if layout.mask_padding else longest for n in lengths_2N)
    size = first.tokenizer.target_size
    count = multiply_adds(first.settings.model, size, source=max(1, source), target=max(1, target))
    return System(label=label, runs=[member.result() for member in members], multiply_adds=count)
