"""Ratios of times and their division between formula and head width, with ratios by hand as oracle."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from projtrans.comparison import report
from projtrans.comparison.systems import RunResult, System
from projtrans.comparison.timing import UNTIMED, time_ratios
from tests.commands import done
from tests.comparison.cases import KIND, PROJECTION, STANDARD, compared


def system(label: str, milliseconds: float | None) -> System:
    """A system of which only the time of an update is known."""
    nothing: dict[str, Any] = {field.name: None for field in dataclasses.fields(RunResult)}
    run = RunResult(**nothing | {"update_milliseconds": milliseconds, "epochs": []})
    return System(label=label, runs=[run], multiply_adds=None)  # type: ignore[arg-type]


def settings(kind: str, head_width: int | None, **more: Any) -> dict[str, Any]:
    """Flat settings: eight heads, width 64."""
    given = dict.fromkeys(UNTIMED) | {"model.width": 64, "model.heads": 8, "model.head_width": head_width, KIND: kind}
    return given | {path.replace("__", "."): value for path, value in more.items()}


WIDE, SLICED, NARROW = settings("standard", 64), settings("standard", None), settings("projection", 8)


def test_a_ratio_of_times_is_the_product_of_head_width_and_formula() -> None:
    systems = [system("wide", 20.0), system("narrow", 12.0), system("sliced", 10.0)]
    narrow, sliced = time_ratios(systems, [WIDE, NARROW, SLICED])
    assert (narrow.ratio, narrow.missing) == (pytest.approx(0.6), None)
    ((first, second),) = narrow.products  # the sliced one stands between: null is width / heads, 8 here
    assert (first.cause, first.side, first.against, first.ratio) == ("head width", "sliced", "wide", 0.5)
    assert (second.cause, second.side, second.against, second.ratio) == ("formula", "narrow", "sliced", 1.2)
    ((only,),) = sliced.products
    assert (only.cause, only.ratio) == ("head width", 0.5)


def test_the_other_corner_serves_as_well_and_both_together_give_two_products() -> None:
    untimed = {path.replace(".", "__"): 0.5 for path in UNTIMED}
    other = settings("projection", 64, **untimed)  # none of which takes time
    systems = [system("wide", 20.0), system("narrow", 12.0), system("corner", 24.0), system("sliced", 10.0)]
    narrow, *_ = time_ratios(systems, [WIDE, NARROW, other, SLICED])
    causes = [[(factor.cause, factor.ratio) for factor in product] for product in narrow.products]
    assert causes == [[("formula", 1.2), ("head width", 0.5)], [("head width", 0.5), ("formula", 1.2)]]
    for first, second in narrow.products:
        assert first.ratio * second.ratio == pytest.approx(narrow.ratio)


def test_a_missing_corner_names_the_run_to_train() -> None:
    (ratio,) = time_ratios([system("wide", 20.0), system("narrow", 12.0)], [WIDE, NARROW])
    assert ratio.products == []
    assert ratio.missing == "to divide it, add a run like narrow with --set model.head_width=64"
    more_heads = settings("projection", 4, model__heads=16)
    (ratio,) = time_ratios([system("wide", 20.0), system("many", 12.0)], [WIDE, more_heads])
    assert ratio.missing is not None
    assert ratio.missing.endswith("--set model.heads=8 --set model.head_width=64")


def test_what_else_differs_forbids_a_division() -> None:
    other = settings("projection", 8, model__norm="post")
    (ratio,) = time_ratios([system("wide", 20.0), system("other", 12.0)], [WIDE, other])
    assert ratio.missing == "they also differ in model.norm, so the time cannot be divided"
    third = settings("projection", 64, model__norm="post")  # a corner in which something else differs is none
    ratios = time_ratios([system("wide", 20.0), system("narrow", 12.0), system("third", 9.0)], [WIDE, NARROW, third])
    assert ratios[0].products == []


@pytest.mark.parametrize(
    ("times", "without"),
    [((None, 12.0), "wide"), ((20.0, None), "narrow"), ((None, None), "wide and narrow")],
)
def test_a_system_without_a_time_has_a_reason_instead_of_a_ratio(
    times: tuple[float | None, float | None], without: str
) -> None:
    systems = [system("wide", times[0]), system("narrow", times[1]), system("sliced", 10.0)]
    narrow, sliced = time_ratios(systems, [WIDE, NARROW, SLICED])
    assert (narrow.side, narrow.ratio, narrow.products) == ("narrow", None, [])
    assert narrow.missing == f"no time of {without}: no validation in the log so far"
    assert (sliced.ratio is None) == (times[0] is None)
    (line,) = report._ratio(narrow)
    assert line == f"an update of narrow takes – times as long as one of wide; {narrow.missing}"


@pytest.mark.slow
def test_the_command_divides_the_time(place: Path) -> None:
    text = done("compare", "runs/wide", PROJECTION, "--threads", 1).out
    assert "to divide it, add a run like projection with --set model.head_width=32" in text
    found = compared("runs/wide", PROJECTION, STANDARD)
    labels = ["standard, head_width=32", "projection", "standard"]
    assert [side["label"] for side in found["sides"]] == labels
    ((first, second),) = found["times"][0]["products"]
    assert (first["cause"], second["cause"]) == ("head width", "formula")
    assert first["ratio"] * second["ratio"] == pytest.approx(found["times"][0]["ratio"])
    wide, _, sliced = (side["multiply_adds"]["attention_products"] for side in found["sides"])
    assert wide == 2 * sliced
