"""A comparison as sections of words and numbers, and these as Markdown.

Prints nothing; the console renders the same sections as tables.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from projtrans.comparison.compare import Comparison, Sample
from projtrans.comparison.systems import Spread, System
from projtrans.comparison.timing import Factor, TimeRatio
from projtrans.evaluation.metrics import METRICS

NOTHING = "–"


@dataclass(frozen=True, kw_only=True)
class Section:
    """A table with a title and lines below it; without rows, only the lines."""

    title: str
    header: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    words: int = 1  # leading columns of words; the others are numbers


def sections(comparison: Comparison) -> list[Section]:
    """All sections that have content, in order; the first system is the baseline."""
    systems = comparison.sides
    made = [
        _runs(systems),
        _differences(comparison),
        _time(systems, comparison.times),
        _arithmetic(systems),
        _scores(comparison),
        _epochs(systems, "Loss per epoch (nats per token)", {"training": "train_loss", "validation": "loss"}),
        _epochs(systems, "Token accuracy per epoch", {"training": "train_accuracy", "validation": "accuracy"}),
        _samples(systems, comparison.samples),
        Section(title="Notes", remarks=comparison.notes),
    ]
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
    """The text with Markdown's own characters escaped, on one line: a line break would end the row."""
    return re.sub(r"([\\`*<>|])", r"\\\1", " ".join(text.splitlines()))


# ------------------------------------------------------------------------------------------------------ the sections


def _runs(systems: Sequence[System]) -> Section:
    rows = [
        [
            run.run,
            system.label,
            str(run.seed),
            *map(_whole, (run.parameters, run.epochs[-1].epoch if run.epochs else None, run.best_epoch, run.updates)),
        ]
        for system in systems
        for run in system.runs
    ]
    header = ["run", "system", "seed", "parameters", "epochs", "best epoch", "updates"]
    return Section(title="Runs", header=header, rows=rows, words=2)


def _differences(comparison: Comparison) -> Section:
    labels = [system.label for system in comparison.sides]
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


def _time(systems: Sequence[System], times: Sequence[TimeRatio]) -> Section:
    measures = {
        "training_seconds": ("training, seconds (updates only)", "{:,.1f}"),
        "update_milliseconds": ("milliseconds per update", "{:,.2f}"),
        "tokens_per_second": ("target tokens per second (median)", "{:,.0f}"),
    }
    remarks = [line for time in times for line in _ratio(time)]
    return Section(title="Time", header=_header(systems), rows=list(_rows(systems, measures)), remarks=remarks)


def _ratio(time: TimeRatio) -> Iterator[str]:
    ratio = NOTHING if time.ratio is None else f"{time.ratio:.3f}"
    begin = f"an update of {time.side} takes {ratio} times as long as one of {time.against}"
    if time.missing:
        yield f"{begin}; {time.missing}"
    for product in time.products:
        causes = " × ".join(map(_factor, product)) if len(product) > 1 else ""
        only = f"{begin}; of the settings that affect the time, only those of the {product[0].cause} differ"
        yield f"{begin} = {causes}" if causes else only
    if not time.missing and not time.products:
        yield begin


def _factor(factor: Factor) -> str:
    return f"{factor.ratio:.3f} ({factor.cause}: {factor.side} / {factor.against})"


def _arithmetic(systems: Sequence[System]) -> Section:
    parts = {
        "attention: W_q, W_k, W_v, W_o": "attention_projections",
        "attention: queries × keys, weights × values": "attention_products",
        "feed-forward": "feedforward",
        "output layer": "output_layer",
        "together": "total",
    }
    counts = [system.multiply_adds for system in systems]
    rows = [
        [part, *(f"{getattr(count, name) / count.target_positions:,.0f}" for count in counts)]
        for part, name in parts.items()
    ]
    each = [count.total / count.target_positions for count in counts]
    if len(systems) > 1:
        rows.append([f"together, relative to {systems[0].label}", *(f"{value / each[0]:.3f}" for value in each)])
    lengths = dict.fromkeys(f"{count.source_positions} source and {count.target_positions} target" for count in counts)
    return Section(
        title="Multiply-adds of a forward pass, per target token",
        header=_header(systems),
        rows=rows,
        remarks=[f"for a sentence pair of {' or '.join(lengths)} positions; matrix products only"],
    )


def _scores(comparison: Comparison) -> Section:
    systems = comparison.sides
    measures = {
        "loss": ("loss (nats per token)", "{:.4f}"),
        "accuracy": ("token accuracy", "{:.4f}"),
        "accuracy_with_padding": ("token accuracy, padding counted", "{:.4f}"),
        **{name: (metric.title, metric.form) for name, metric in METRICS.items()},
    }
    rows = [row for row in _rows(systems, measures) if set(row[1:]) != {NOTHING}]
    if rows:
        rows.append(["beam size, length penalty", *map(_search, systems)])
    tests = {test.side: test.scores for test in comparison.significance}
    for name, metric in METRICS.items() if tests else ():
        p_values = (
            f"{tests[system.label][name].p_value:.4f}" if system.label in tests else NOTHING for system in systems
        )
        rows.append([f"p of {metric.title}", *p_values])
    return Section(
        title=f"Test split, {comparison.sentences:,} sentences",
        header=_header(systems),
        rows=rows,
        remarks=list(_score_remarks(comparison)) if rows else [],
    )


def _search(system: System) -> str:
    if system.test is None:
        return NOTHING
    others = (f"{name} {value}" for name, value in system.test.search.items())
    return ", ".join([f"{system.test.beam_size}, {system.test.length_penalty:g}", *others])


def _score_remarks(comparison: Comparison) -> Iterator[str]:
    several = any(len(system.runs) > 1 for system in comparison.sides)
    tests = comparison.significance
    if several:
        yield "± is the sample standard deviation over the runs of a system"
    if tests:
        yield (
            f"p: paired bootstrap against {tests[0].against}"
            + (", runs of the lowest seed" if several else "")
            + "; it says whether the choice of test sentences explains the difference between two trained models, and "
            "nothing about other seeds"
        )
    runs = [run.test.scores for system in comparison.sides for run in system.runs if run.test]
    for name, metric in METRICS.items():
        signed = [tests[0].scores[name]] if tests else [scores[name] for scores in runs]
        yield from dict.fromkeys(f"{metric.title}: {score.signature}" for score in signed)


def _epochs(systems: Sequence[System], title: str, fields: Mapping[str, str]) -> Section:
    by_number = [{epoch.epoch: epoch for epoch in system.epochs} for system in systems]
    rows = [
        [
            str(number),
            *(
                _spread(getattr(epochs.get(number), name, None), "{:.3f}")
                for name in fields.values()
                for epochs in by_number
            ),
        ]
        for number in sorted({number for epochs in by_number for number in epochs})
    ]
    header = ["epoch", *(f"{name}, {system.label}" for name in fields for system in systems)]
    return Section(title=title, header=header, rows=rows)


def _samples(systems: Sequence[System], samples: Sequence[Sample]) -> Section:
    translated = [system.label for system in systems if samples and system.label in samples[0].translations]
    return Section(
        title="Translations",
        header=["source", *translated],
        rows=[
            [sample.source, *(sample.translations[label] for label in translated)] for sample in samples if translated
        ],
        words=1 + len(translated),
    )


# ----------------------------------------------------------------------------------------------------------- numbers


def _header(systems: Sequence[System]) -> list[str]:
    return ["", *(system.label for system in systems)]


def _rows(systems: Sequence[System], measures: Mapping[str, tuple[str, str]]) -> Iterator[list[str]]:
    """A row for each measure of a system: its name, with what the row is called and how a number is printed."""
    for name, (title, form) in measures.items():
        yield [title, *(_spread(system.spread(name), form) for system in systems)]


def _spread(spread: Spread | None, form: str) -> str:
    if spread is None:
        return NOTHING
    mean = form.format(spread.mean)
    return mean if spread.deviation is None else f"{mean} ± {form.format(spread.deviation)}"


def _whole(value: int | None) -> str:
    return NOTHING if value is None else f"{value:,}"
