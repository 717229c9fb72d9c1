"""Time per update, divided between the formula and the head width."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from projtrans.comparison.systems import ATTENTION, Side
from projtrans.runs.settings import LIMITS, differing

Cause = Literal["formula", "head width"]
"""Why an update takes another time: other attention settings, or heads of another width."""

HEADS = ("model.heads", "model.head_width")
"""Settings of the head width; with those of the attention they are what a time can be divided between."""

UNTIMED = {"corpus.folder", "model.embeddings.init", "model.embeddings.window"} | {
    f"training.{name}"
    for name in (
        *LIMITS, "learning_rate", "schedule", "warmup_updates", "weight_decay", "beta1", "beta2", "sigma_rate",
        "best", "validation_sentences", "validation_beam", "report_updates", "save_minutes", "evaluate_test",
        "average_checkpoints",
    )
}  # fmt: skip
"""Settings that may differ without a say in the time of an update, as may all of decoding."""


@dataclass(frozen=True, kw_only=True)
class Factor:
    """One cause of a ratio of times: the time per update of a side divided by that of another."""

    cause: Cause
    side: str
    against: str
    ratio: float


@dataclass(frozen=True, kw_only=True)
class TimeRatio:
    """Time per update of a side divided by the baseline's, and the products of causes that it is."""

    side: str
    against: str
    ratio: float | None  # None where one of both has no time
    products: list[list[Factor]]  # one for every third side that stands between the two
    missing: str | None  # why there is no ratio or no product, or which run would give one


# -------------------------------------------------------------------------------------------------------------- time


def time_ratios(sides: Sequence[Side], configurations: Sequence[Mapping[str, Any]]) -> list[TimeRatio]:
    """Time per update of every side against the first, divided between the formula and the head width.

    configurations: the flat settings of each side. A product needs a third side with the formula of the one and the
    head width of the other, and nothing else that differs.
    """
    timed = {
        side.label: (side.label, side.update_milliseconds.mean, configuration)
        for side, configuration in zip(sides, configurations, strict=True)
        if side.update_milliseconds is not None
    }
    base, *others = [side.label for side in sides]
    return [
        _time_ratio(timed[base], timed[label], list(timed.values()))
        if base in timed and label in timed
        else _untimed(base, label, [name for name in (base, label) if name not in timed])
        for label in others
    ]


def _untimed(base: str, label: str, without: Sequence[str]) -> TimeRatio:
    missing = f"no time of {' and '.join(without)}: no validation in the log so far"
    return TimeRatio(side=label, against=base, ratio=None, products=[], missing=missing)


_Timed = tuple[str, float, Mapping[str, Any]]


def _time_ratio(base: _Timed, side: _Timed, timed: Sequence[_Timed]) -> TimeRatio:
    formula, width, rest = _causes(base, side)
    products: list[list[Factor]] = []
    missing = None
    if rest:
        missing = f"they differ in {', '.join(rest)} too, so the time cannot be divided"
    elif formula and width:
        products = list(_products(base, side, timed))
        settings = " ".join(f"--set {path}={_resolved(base[2])[path]}" for path in HEADS if path in width)
        missing = None if products else f"to divide it, add a run like {side[0]} with {settings}"
    elif formula or width:
        products = [[_factor("formula" if formula else "head width", side, base)]]
    return TimeRatio(side=side[0], against=base[0], ratio=side[1] / base[1], products=products, missing=missing)


def _products(base: _Timed, side: _Timed, timed: Sequence[_Timed]) -> Iterator[list[Factor]]:
    """side / base = (third / base) (side / third), for every third side that shares formula or width with each."""
    for third in timed:
        first, second = _only_cause(base, third), _only_cause(third, side)
        if first and second:
            yield [_factor(first, third, base), _factor(second, side, third)]


def _only_cause(one: _Timed, other: _Timed) -> Cause | None:
    """The one thing in which two sides differ; None where it is nothing, both, or another."""
    formula, width, rest = _causes(one, other)
    if rest or bool(formula) == bool(width):
        return None
    return "formula" if formula else "head width"


def _causes(one: _Timed, other: _Timed) -> tuple[list[str], list[str], list[str]]:
    """The settings that differ: those of the formula, those of the head width, and the rest."""
    found = differing([_resolved(one[2]), _resolved(other[2])])
    formula = [path for path in found if path.startswith(ATTENTION)]
    width = [path for path in found if path in HEADS]
    timed = [path for path in found if path not in UNTIMED and not path.startswith("decoding.")]
    return formula, width, [path for path in timed if path not in formula and path not in width]


def _resolved(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with the head width as a number."""
    heads = configuration["model.heads"]
    return {
        **configuration,
        "model.head_width": configuration["model.head_width"] or configuration["model.width"] // heads,
    }


def _factor(cause: Cause, side: _Timed, against: _Timed) -> Factor:
    return Factor(cause=cause, side=side[0], against=against[0], ratio=side[1] / against[1])
