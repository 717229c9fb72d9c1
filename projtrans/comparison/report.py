"""A comparison as sections of words and numbers, and those as Markdown.

Prints nothing; the console renders the same sections as tables.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from projtrans.comparison.compare import Comparison, Sample, Significance
from projtrans.comparison.systems import Side, Spread
from projtrans.comparison.timing import Factor, TimeRatio
from projtrans.evaluation.metrics import Paired

NOTHING = "–"


@dataclass(frozen=True, kw_only=True)
class Section:
    """A table with a title and lines below it; without rows, the lines alone."""

    title: str
    header: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    words: int = 1  # columns of words; those after them are numbers


def sections(comparison: Comparison) -> list[Section]:
    """What there is to say, in order; the first side is the baseline."""
    sides = comparison.sides
    made = [
        _runs(sides),
        _differences(comparison),
        _time(sides, comparison.times),
        _arithmetic(sides),
        _scores(comparison),
        _epochs(sides, "Loss per epoch (nats a piece)", {"training": "train_loss", "validation": "loss"}),
        _epochs(sides, "Token accuracy per epoch", {"training": "train_accuracy", "validation": "accuracy"}),
        _samples(sides, comparison.samples),
    ]
    if comparison.notes:
        made.append(Section(title="Notes", remarks=comparison.notes))
    return [section for section in made if section.rows or section.remarks]


def markdown(sections: Sequence[Section]) -> str:
    """The sections as GitHub's Markdown."""
    return "\n".join(line for section in sections for line in _markdown(section)).strip()


def _markdown(section: Section) -> Iterator[str]:
    yield from (f"## {section.title}", "")
    if section.rows:
        rule = ["---" if number < section.words else "---:" for number in range(len(section.header))]
        for row in (section.header, rule, *section.rows):
            yield f"| {' | '.join(row if row is rule else map(_escaped, row))} |"
        yield ""
    for remark in section.remarks:
        yield f"- {_escaped(remark)}"
    if section.remarks:
        yield ""


def _escaped(text: str) -> str:
    """The text with a backslash before what Markdown would take for its own; a line break would end the row."""
    return re.sub(r"([\\`*<>|])", r"\\\1", " ".join(text.splitlines()))


# ------------------------------------------------------------------------------------------------------ the sections


def _runs(sides: Sequence[Side]) -> Section:
    rows = [
        [
            run.run,
            side.label,
            str(run.seed),
            _whole(run.parameters),
            _whole(run.epochs[-1].epoch if run.epochs else None),
            _whole(run.best_epoch),
            _whole(run.updates),
        ]
        for side in sides
        for run in side.runs
    ]
    header = ["run", "side", "seed", "parameters", "epochs", "best epoch", "updates"]
    return Section(title="Runs", header=header, rows=rows, words=2)


def _differences(comparison: Comparison) -> Section:
    labels = [side.label for side in comparison.sides]
    rows = [
        [difference.setting, *(_value(difference.values, label) for label in labels)]
        for difference in comparison.differences
    ]
    remarks = [] if rows or len(labels) == 1 else ["none"]
    header = ["setting", *labels]
    return Section(title="Settings that differ", header=header, rows=rows, remarks=remarks, words=len(header))


def _value(values: dict[str, object], label: str) -> str:
    if label not in values:
        return NOTHING
    value = values[label]
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _time(sides: Sequence[Side], times: Sequence[TimeRatio]) -> Section:
    rows = _rows(
        sides,
        [
            ("training, seconds (in updates alone)", lambda side: side.training_seconds, "{:,.1f}"),
            ("milliseconds an update", lambda side: side.update_milliseconds, "{:,.2f}"),
            ("target pieces a second (median)", lambda side: side.tokens_per_second, "{:,.0f}"),
        ],
    )
    remarks = [line for time in times for line in _ratio(time)]
    return Section(title="Time", header=["", *(side.label for side in sides)], rows=rows, remarks=remarks)


def _ratio(time: TimeRatio) -> Iterator[str]:
    ratio = NOTHING if time.ratio is None else f"{time.ratio:.3f}"
    begin = f"an update of {time.side} takes {ratio} times that of {time.against}"
    if time.missing:
        yield f"{begin}; {time.missing}"
    for product in time.products:
        causes = " × ".join(map(_factor, product)) if len(product) > 1 else ""
        yield f"{begin} = {causes}" if causes else f"{begin}; of what takes time, the {product[0].cause} alone differs"
    if not time.missing and not time.products:
        yield begin


def _factor(factor: Factor) -> str:
    return f"{factor.ratio:.3f} ({factor.cause}: {factor.side} / {factor.against})"


def _arithmetic(sides: Sequence[Side]) -> Section:
    parts = {
        "attention: W_q, W_k, W_v, W_o": "attention_projections",
        "attention: queries × keys, weights × values": "attention_products",
        "feed-forward": "feedforward",
        "output layer": "output_layer",
        "together": "total",
    }
    counts = [side.multiply_adds for side in sides]
    rows = [
        [part, *(f"{getattr(count, name) / count.target_positions:,.0f}" for count in counts)]
        for part, name in parts.items()
    ]
    each = [count.total / count.target_positions for count in counts]
    if len(sides) > 1:
        rows.append([f"together, times that of {sides[0].label}", *(f"{value / each[0]:.3f}" for value in each)])
    lengths = dict.fromkeys(f"{count.source_positions} source and {count.target_positions} target" for count in counts)
    return Section(
        title="Multiply-adds of a forward pass, a target piece",
        header=["", *(side.label for side in sides)],
        rows=rows,
        remarks=[f"for a sentence pair of {' or '.join(lengths)} positions; matrix products alone"],
    )


def _scores(comparison: Comparison) -> Section:
    sides = comparison.sides
    measures: list[Measure] = [
        ("loss (nats a piece)", lambda side: side.loss, "{:.4f}"),
        ("token accuracy", lambda side: side.accuracy, "{:.4f}"),
        ("token accuracy, padding counted", lambda side: side.accuracy_with_padding, "{:.4f}"),
        ("BLEU", lambda side: side.bleu, "{:.2f}"),
        ("chrF", lambda side: side.chrf, "{:.2f}"),
    ]
    rows = _rows(sides, [measure for measure in measures if any(measure[1](side) for side in sides)])
    if rows:
        rows.append(["beam size, length penalty", *map(_search, sides)])
    tests = {test.side: test for test in comparison.significance}
    if tests:
        rows.append(["p of BLEU", *(_p(tests.get(side.label), "bleu") for side in sides)])
        rows.append(["p of chrF", *(_p(tests.get(side.label), "chrf") for side in sides)])
    return Section(
        title=f"Test split, {comparison.sentences:,} sentences",
        header=["", *(side.label for side in sides)],
        rows=rows,
        remarks=list(_score_remarks(comparison)) if rows else [],
    )


def _search(side: Side) -> str:
    if side.beam_size is None or side.length_penalty is None:
        return NOTHING
    others = (f"{name} {value}" for name, value in (side.search or {}).items())
    return ", ".join([f"{side.beam_size}, {side.length_penalty:g}", *others])


def _p(test: Significance | None, metric: str) -> str:
    if test is None:
        return NOTHING
    paired: Paired = getattr(test, metric)
    return f"{paired.p_value:.4f}"


def _score_remarks(comparison: Comparison) -> Iterator[str]:
    several = any(len(side.runs) > 1 for side in comparison.sides)
    if not comparison.significance:
        scored = [run for side in comparison.sides for run in side.runs if run.bleu and run.chrf]
        yield from dict.fromkeys(f"BLEU: {run.bleu.signature}" for run in scored if run.bleu)
        yield from dict.fromkeys(f"chrF: {run.chrf.signature}" for run in scored if run.chrf)
    if several:
        yield "± is the sample standard deviation over the runs of a side"
    if comparison.significance:
        first = comparison.significance[0]
        yield (
            f"p: paired bootstrap against {first.against}"
            + (", runs of the lowest seed" if several else "")
            + "; it tells whether the choice of test sentences explains the difference of two trained models, and "
            "nothing of other seeds"
        )
        yield f"BLEU: {first.bleu.signature}"
        yield f"chrF: {first.chrf.signature}"


def _epochs(sides: Sequence[Side], title: str, fields: dict[str, str]) -> Section:
    of_side = [{epoch.epoch: epoch for epoch in side.epochs} for side in sides]
    rows = [
        [
            str(number),
            *(
                _spread(getattr(epochs.get(number), name, None), "{:.3f}")
                for name in fields.values()
                for epochs in of_side
            ),
        ]
        for number in sorted({number for epochs in of_side for number in epochs})
    ]
    header = ["epoch", *(f"{name}, {side.label}" for name in fields for side in sides)]
    return Section(title=title, header=header, rows=rows)


def _samples(sides: Sequence[Side], samples: Sequence[Sample]) -> Section:
    there = [side.label for side in sides if samples and side.label in samples[0].translations]
    return Section(
        title="Translations",
        header=["source", *there],
        rows=[[sample.source, *(sample.translations[label] for label in there)] for sample in samples if there],
        words=1 + len(there),
    )


# ----------------------------------------------------------------------------------------------------------- numbers

Measure = tuple[str, Callable[[Side], Spread | None], str]
"""What is shown, where a side has it, and how a number of it looks."""


def _rows(sides: Sequence[Side], measures: Sequence[Measure]) -> list[list[str]]:
    return [[name, *(_spread(of(side), pattern) for side in sides)] for name, of, pattern in measures]


def _spread(spread: Spread | None, pattern: str) -> str:
    if spread is None:
        return NOTHING
    mean = pattern.format(spread.mean)
    return mean if spread.deviation is None else f"{mean} ± {pattern.format(spread.deviation)}"


def _whole(value: int | None) -> str:
    return NOTHING if value is None else f"{value:,}"
