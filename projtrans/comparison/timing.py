"""The time per update of systems against the baseline's, divided between the formula and the head width.

Knows settings and times, no runs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from projtrans.comparison.systems import ATTENTION, System
from projtrans.runs.settings import affecting, differing

Cause = Literal["formula", "head width"]
"""Why an update takes longer or shorter: other attention settings, or heads of another width."""

HEADS = ("model.heads", "model.head_width")
"""Settings of the head width; a time can be divided between these and those of the attention."""

UNTIMED = affecting("start", "outcome", "limit")
"""Settings that may differ without an effect on the time of an update."""


@dataclass(frozen=True, kw_only=True)
class Factor:
    """One cause of a ratio of times: the time per update of one system divided by that of another."""

    cause: Cause
    side: str
    against: str
    ratio: float


@dataclass(frozen=True, kw_only=True)
class TimeRatio:
    """The time per update of a system divided by the baseline's, and the products of causes that equal it."""

    side: str
    against: str
    ratio: float | None  # None if one of them has no time
    products: list[list[Factor]]  # one for every third system between the two
    missing: str | None  # why there is no ratio or no product, or which run would provide one


def time_ratios(systems: Sequence[System], configurations: Sequence[Mapping[str, Any]]) -> list[TimeRatio]:
    """The time per update of every system against the first, divided between the formula and the head width.

    configurations: the flat settings of each system. A product needs a third system with the formula of the one and the
    head width of the other, and no other difference.
    """
    timed = {
        system.label: (system.label, time.mean, configuration)
        for system, configuration in zip(systems, configurations, strict=True)
        if (time := system.spread("update_milliseconds"))
    }
    base, *others = [system.label for system in systems]
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


def _time_ratio(base: _Timed, system: _Timed, timed: Sequence[_Timed]) -> TimeRatio:
    formula, width, rest = _causes(base, system)
    products: list[list[Factor]] = []
    missing = None
    if rest:
        missing = f"they also differ in {', '.join(rest)}, so the time cannot be divided"
    elif formula and width:
        products = list(_products(base, system, timed))
        settings = " ".join(f"--set {path}={_resolved(base[2])[path]}" for path in HEADS if path in width)
        missing = None if products else f"to divide it, add a run like {system[0]} with {settings}"
    elif formula or width:
        products = [[_factor("formula" if formula else "head width", system, base)]]
    return TimeRatio(side=system[0], against=base[0], ratio=system[1] / base[1], products=products, missing=missing)


def _products(base: _Timed, system: _Timed, timed: Sequence[_Timed]) -> Iterator[list[Factor]]:
    """system / base = (third / base) (system / third), for every third that shares formula or width with each."""
    for third in timed:
        first, second = _only_cause(base, third), _only_cause(third, system)
        if first and second:
            yield [_factor(first, third, base), _factor(second, system, third)]


def _only_cause(one: _Timed, other: _Timed) -> Cause | None:
    """The single cause in which two systems differ; None if there is none, both, or another difference."""
    formula, width, rest = _causes(one, other)
    if rest or bool(formula) == bool(width):
        return None
    return "formula" if formula else "head width"


def _causes(one: _Timed, other: _Timed) -> tuple[list[str], list[str], list[str]]:
    """The settings that differ and affect the time: those of the formula, those of the head width, and the rest."""
    found = [path for path in differing([_resolved(one[2]), _resolved(other[2])]) if path not in UNTIMED]
    formula = [path for path in found if path.startswith(ATTENTION)]
    width = [path for path in found if path in HEADS]
    return formula, width, [path for path in found if path not in formula and path not in width]


def _resolved(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with the head width as a number."""
    default = configuration["model.width"] // configuration["model.heads"]
    return {**configuration, "model.head_width": configuration["model.head_width"] or default}


def _factor(cause: Cause, system: _Timed, against: _Timed) -> Factor:
    return Factor(cause=cause, side=system[0], against=against[0], ratio=system[1] / against[1])
