"""The command `compare`: runs side by side, where those that differ only in their seed form one system.

The comparison of Sanger 2026: the settings that differ, the time per update and how much of it is due to the formula
and to the head width, loss and accuracy per epoch (its Figure 2), translations of prompts (its Figure 3), and the
corpus metrics with a paired bootstrap. The first system is the baseline. Translates the test split where a run folder
has no translations yet, and keeps them there. Returns plain records and renders nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from projtrans import files
from projtrans.comparison.systems import LoadedRun, System, grouped, labels, system_of
from projtrans.comparison.timing import TimeRatio, time_ratios
from projtrans.data.corpora import examples
from projtrans.data.corpus import CorpusConfig, Pair
from projtrans.data.data_folder import read_split
from projtrans.errors import ConfigError, DataError
from projtrans.evaluation.metrics import METRICS, Paired, check_bootstrap_seed, flattened, paired_bootstrap
from projtrans.evaluation.test_scores import score
from projtrans.inference.torch_translator import Translator
from projtrans.runs.run_folder import Run, open_run
from projtrans.runs.run_setup import run_data
from projtrans.runs.settings import differing, of_run

Report = Callable[[str, int, int], None]
"""Called with a label of the work, how much of it is done, and how much there is."""

PROMPTS = 6
"""Sentences translated side by side, where none are named and the corpus has no examples."""


# ----------------------------------------------------------------------------------------------------------- records


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A setting that is not the same for all systems."""

    setting: str
    values: dict[str, Any]  # by the labels of the systems that have it


@dataclass(frozen=True, kw_only=True)
class Significance:
    """A system against the baseline on the test split, each represented by its run of the lowest seed."""

    side: str
    against: str
    run: str
    against_run: str
    scores: dict[str, Paired]  # by metric; each a field of its own in JSON


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One prompt and its translations, by the label of the system (its run of the lowest seed)."""

    source: str
    translations: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that `compare --format json` prints; docs/files.md describes each field."""

    sides: list[System]  # the first one is the baseline
    differences: list[Difference]
    times: list[TimeRatio]
    sentences: int  # of the test split
    significance: list[Significance]
    samples: list[Sample]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        raw = asdict(self)
        systems = [system.to_json() for system in self.sides]
        return raw | {"sides": systems, "significance": [flattened(test) for test in raw["significance"]]}


# ------------------------------------------------------------------------------------------------------ what is read


def open_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in the folders; raises ConfigError for fewer than two and for a run named twice."""
    if len(folders) < 2:
        raise ConfigError(f"compare: {len(folders)} run is nothing to compare; name two run folders or more")
    runs = [open_run(folder) for folder in folders]
    places = [run.folder.resolve() for run in runs]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise ConfigError(f"compare: {folders[number]} is named twice; leave one of them out")
    return runs


def _members(runs: Sequence[Run], data: Sequence[Path]) -> list[LoadedRun]:
    """The runs with their test split, which must be the same for all."""
    settings = [of_run(run) for run in runs]
    places = [run_data(run, data) for run in runs]
    members = [
        LoadedRun(run, chosen, run.tokenizer(), read_split(place, "test"))
        for run, chosen, place in zip(runs, settings, places, strict=True)
    ]
    for (first, here), (other, there) in pairwise(zip(members, places, strict=True)):
        if first.pairs != other.pairs:
            names = [f"corpus.{name}" for name in ("name", "direction", "split", "seed")]
            found = differing([{name: member.common[name] for name in names} for member in (first, other)])
            why = ", ".join(f"{name} {values[0]} and {values[1]}" for name, values in found.items())
            raise DataError(
                f"{first.name} and {other.name}: nothing to compare, their test splits differ "
                f"({why or f'other sentences in {here} and {there}'}); train both on the same data"
            )
    return members


# ----------------------------------------------------------------------------------------------------- the comparison


def compare(
    runs: Sequence[Run],
    translator: Callable[[Run], Translator],
    *,
    data: Sequence[Path] = (),
    prompts: Sequence[str] | None = None,
    report: Report = lambda label, done, total: None,
) -> Comparison:
    """The runs side by side; `translator` opens the translator of a run with the search settings to compare under.

    data: data folders, of which each run takes the one with its tokenizer; none: its own. prompts: sentences to
    translate side by side; None: six of ours, or six of the test split if its language is unknown.
    Raises DataError if the test splits differ, ConfigError for an invalid SACREBLEU_SEED.
    """
    check_bootstrap_seed()
    members = _members(runs, data)
    groups = grouped(members)
    configurations = [group[0].common for group in groups]
    names = labels(configurations, [group[0].name for group in groups])
    pairs = members[0].pairs
    sources = list(prompts) if prompts else _prompts(members[0].settings.corpus, pairs)
    for member in members:  # so that damage is reported now and not after minutes of translating
        member.result()
    translations, unscored = _translated(names, groups, translator, sources, report)
    systems = [system_of(name, group, pairs) for name, group in zip(names, groups, strict=True)]
    significance, untested = _significance(names, groups, report)
    return Comparison(
        sides=systems,
        differences=_differences(names, configurations),
        times=time_ratios(systems, configurations),
        sentences=len(pairs),
        significance=significance,
        samples=[
            Sample(source=source, translations={name: texts[i] for name, texts in translations.items()})
            for i, source in enumerate(sources)
        ],
        notes=[*unscored, *untested, *_remarks(systems, members)],
    )


def _differences(names: Sequence[str], configurations: Sequence[Mapping[str, Any]]) -> list[Difference]:
    named = list(zip(names, configurations, strict=True))
    return [
        Difference(setting=path, values={name: settings[path] for name, settings in named if path in settings})
        for path in differing(configurations)
    ]


def _translated(
    names: Sequence[str],
    groups: Sequence[Sequence[LoadedRun]],
    translator: Callable[[Run], Translator],
    sources: Sequence[str],
    report: Report,
) -> tuple[dict[str, list[str]], list[str]]:
    """Give every run its test scores; returns the translations of `sources` by label, and notes on what is missing."""
    translations: dict[str, list[str]] = {}
    notes: list[str] = []
    for name, member in ((name, member) for name, group in zip(names, groups, strict=True) for member in group):
        run = member.run
        if not run.model_file.is_file():
            notes.append(f"{member.name}: no model.safetensors in it yet, so no scores and no translations")
            continue
        weights, opened = files.checksum(run.model_file), translator(run)
        member.parameters = sum(parameter.numel() for parameter in opened.model.parameters())
        progress = partial(report, f"evaluating {member.name}")
        member.scored = score(run, member.pairs, opened, weights=weights, report=progress)
        notes += [member.scored.problem] if member.scored.problem else []
        if name not in translations:
            translations[name] = [translation.text for translation in opened.translate(sources)]
    return translations, notes


def _prompts(corpus: CorpusConfig, pairs: Sequence[Pair]) -> list[str]:
    return list(examples(corpus.name, corpus.direction) or dict.fromkeys(pair.source for pair in pairs))[:PROMPTS]


def _significance(
    names: Sequence[str], groups: Sequence[Sequence[LoadedRun]], report: Report
) -> tuple[list[Significance], list[str]]:
    """Tests of every system against the first, by the scored runs of the lowest seed; notes on those left out."""
    base, *others = [next((member for member in group if member.scored), None) for group in groups]
    tested, notes = {}, []
    for name, member in zip(names[1:], others, strict=True):
        if base is None or member is None:
            notes.append(f"{name}: no translations of both systems, so no significance test against {names[0]}")
        elif member.references != base.references:
            notes.append(
                f"{name}: scored against other references than {names[0]} (raw text, and the normal form of the "
                "word tokenizer), so their scores cannot be compared and no significance test is made"
            )
        elif member.texts == base.texts:  # sacreBLEU gives p = 0.001 here: it takes no difference for a certain one
            notes.append(f"{name}: its translations of the test split equal those of {names[0]}: nothing to test")
        else:
            tested[name] = member
    return _tested(names[0], base, tested, report) if base and tested else [], notes


def _tested(against: str, base: LoadedRun, tested: Mapping[str, LoadedRun], report: Report) -> list[Significance]:
    """One test per metric, of all runs at once."""
    results: dict[str, list[Paired]] = {}
    for metric in METRICS:
        report("paired bootstrap", len(results), len(METRICS))
        results[metric] = paired_bootstrap(metric, base.texts, [run.texts for run in tested.values()], base.references)
    report("paired bootstrap", len(METRICS), len(METRICS))
    return [
        Significance(
            side=name,
            against=against,
            run=member.name,
            against_run=base.name,
            scores={metric: pairs[number] for metric, pairs in results.items()},
        )
        for number, (name, member) in enumerate(tested.items())
    ]


def _remarks(systems: Sequence[System], members: Sequence[LoadedRun]) -> list[str]:
    """What a reader of the figures should know."""
    runs = [run for system in systems for run in system.runs]
    remarks = [
        f"{run.run}: training has not ended; its figures are those of update {run.updates or 0:,}"
        for run in runs
        if not run.finished
    ]
    devices = sorted({run.device for run in runs if run.device})
    if len(devices) > 1:
        remarks.append(f"trained on different devices ({'; '.join(devices)}), so the times say nothing of the systems")
    if len({member.tokenizer.checksum for member in members}) > 1:
        remarks.append("the runs have different tokenizers: loss, accuracy and speed count different tokens")
    if len(systems) == 1:
        remarks.append("the runs differ only in the seed: one system, and nothing to compare it with")
    return remarks
