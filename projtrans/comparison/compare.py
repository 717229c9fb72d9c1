"""The command `compare`: runs side by side, those that differ in their seed alone as one side.

The comparison of Sanger 2026: the settings that differ, time per update and what of it is the formula and what the head
width, loss and accuracy per epoch (its Figure 2), sample translations (its Figure 3), BLEU and chrF with a paired
bootstrap. The first side is the baseline. Returns plain records and renders nothing; translations of the test split
that a run folder does not hold yet are made, and kept there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from projtrans import files
from projtrans.comparison.systems import LoadedRun, Side, grouped, labels, side_of
from projtrans.comparison.timing import TimeRatio, time_ratios
from projtrans.data.corpora import examples
from projtrans.data.corpus import CorpusConfig, Pair
from projtrans.data.data_folder import read_split
from projtrans.errors import ConfigError, DataError
from projtrans.evaluation.evaluate import evaluate
from projtrans.evaluation.metrics import Paired, check_bootstrap_seed, paired_bootstrap
from projtrans.evaluation.test_scores import keep, kept
from projtrans.inference.torch_translator import Translator
from projtrans.runs.run_folder import Run, open_run
from projtrans.runs.run_setup import run_data
from projtrans.runs.settings import differing, of_run

Report = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

PROMPTS = 6
"""Sentences translated side by side, where none are named and the corpus has no examples."""


# ----------------------------------------------------------------------------------------------------------- results


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A setting that is not the same on all sides."""

    setting: str
    values: dict[str, Any]  # of the sides that have it, by label


@dataclass(frozen=True, kw_only=True)
class Significance:
    """A side against the baseline on the test split, by the runs of the lowest seed of each."""

    side: str
    against: str
    run: str
    against_run: str
    bleu: Paired
    chrf: Paired


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One prompt and its translations, by label of the side (its run of the lowest seed)."""

    source: str
    translations: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that `compare --format json` prints; docs/files.md describes each field."""

    sides: list[Side]  # the first one is the baseline
    differences: list[Difference]
    times: list[TimeRatio]
    sentences: int  # of the test split
    significance: list[Significance]
    samples: list[Sample]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


# ------------------------------------------------------------------------------------------------------ what is read


def open_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in the folders; raises ConfigError for fewer than two and for one that is named twice."""
    if len(folders) < 2:
        raise ConfigError(f"compare: {len(folders)} run is nothing to compare; name two run folders or more")
    runs = [open_run(folder) for folder in folders]
    places = [run.folder.resolve() for run in runs]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise ConfigError(f"compare: {folders[number]} is named twice; leave one of both out")
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
    translate side by side; None: six of ours, or of the test split where we do not know its language.
    Raises DataError where the test splits differ, ConfigError for a SACREBLEU_SEED that is none.
    """
    check_bootstrap_seed()
    members = _members(runs, data)
    groups = grouped(members)
    configurations = [group[0].common for group in groups]
    names = labels(configurations, [group[0].name for group in groups])
    pairs = members[0].pairs
    sources = list(prompts) if prompts else _prompts(members[0].settings.corpus, pairs)
    for member in members:  # what is damaged is told now, and not after minutes of translating
        member.trained()
    translations, missing = _translated(names, groups, translator, sources, report)
    sides = [side_of(name, group, pairs) for name, group in zip(names, groups, strict=True)]
    significance, untested = _significance(names, groups, report)
    return Comparison(
        sides=sides,
        differences=_differences(names, configurations),
        times=time_ratios(sides, configurations),
        sentences=len(pairs),
        significance=significance,
        samples=[
            Sample(source=source, translations={name: texts[i] for name, texts in translations.items()})
            for i, source in enumerate(sources)
        ],
        notes=[*missing, *untested, *_remarks(sides, members)],
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
    """Give every member its test scores; the translations of `sources` by label, and what is missing, in words."""
    translations: dict[str, list[str]] = {}
    notes: list[str] = []
    for name, group in zip(names, groups, strict=True):
        for member in group:
            if not member.run.model_file.is_file():
                notes.append(f"{member.name}: no model.safetensors in it yet, so no scores and no translations")
                continue
            member.model = files.checksum(member.run.model_file)
            opened = translator(member.run)
            member.parameters = sum(parameter.numel() for parameter in opened.model.parameters())
            notes += _score(member, opened, report)
            if name not in translations:
                translations[name] = [translation.text for translation in opened.translate(sources)]
    return translations, notes


def _prompts(corpus: CorpusConfig, pairs: Sequence[Pair]) -> list[str]:
    return list(examples(corpus.name, corpus.direction) or dict.fromkeys(pair.source for pair in pairs))[:PROMPTS]


def _score(member: LoadedRun, translator: Translator, report: Report) -> list[str]:
    """Give the member its test scores and translations: those kept in its folder, or new ones, kept if they can be."""
    found = kept(member.run, member.pairs, translator.decoding)
    if found is not None:
        member.evaluation, member.texts = found
        return []
    member.evaluation, member.texts = evaluate(
        translator,
        member.pairs,
        run=member.name,
        split="test",
        report=lambda done, total: report(f"evaluating {member.name}", done, total),
    )
    own = translator.decoding == member.settings.decoding
    if not own or files.checksum(member.run.model_file) != member.model:  # a run in training has a new model by now
        return []
    try:
        keep(member.run, member.pairs, translator, member.evaluation, member.texts)
    except OSError as error:
        return [f"{error.filename or member.name}: {error.strerror or error}; the translations were not kept"]
    return []


def _significance(
    names: Sequence[str], groups: Sequence[Sequence[LoadedRun]], report: Report
) -> tuple[list[Significance], list[str]]:
    """Every side against the first by the runs of the lowest seed that have translations; and why some are left out."""
    chosen = [next((member for member in group if member.texts is not None), None) for group in groups]
    base, tested, notes = chosen[0], {}, []
    for name, member in zip(names[1:], chosen[1:], strict=True):
        if base is None or member is None or base.texts is None or member.texts is None:
            notes.append(f"{name}: no translations of both sides, so no significance test against {names[0]}")
            continue
        if member.references != base.references:
            notes.append(
                f"{name}: scored against other references than {names[0]} (raw text, and the normal form of the "
                "word tokenizer), so neither BLEU nor chrF can be compared and no significance test is made"
            )
            continue
        if member.texts == base.texts:  # sacrebleu gives p = 0.001 here: it takes no difference for a certain one
            notes.append(
                f"{name}: translates the test split word for word as {names[0]} does, so there is nothing to test"
            )
            continue
        tested[name] = member
    return _tested(names[0], base, tested, report) if base and tested else [], notes


def _tested(against: str, base: LoadedRun, tested: Mapping[str, LoadedRun], report: Report) -> list[Significance]:
    """One test a metric, of all members at once."""
    results = []
    for number, metric in enumerate(("BLEU", "chrF")):
        report("paired bootstrap", number, 2)
        systems = [member.texts or [] for member in tested.values()]
        results.append(paired_bootstrap(metric, base.texts or [], systems, base.references))
    report("paired bootstrap", 2, 2)
    return [
        Significance(side=name, against=against, run=member.name, against_run=base.name, bleu=bleu, chrf=chrf)
        for (name, member), bleu, chrf in zip(tested.items(), *results, strict=True)
    ]


def _remarks(sides: Sequence[Side], members: Sequence[LoadedRun]) -> list[str]:
    """What a reader of the figures ought to know."""
    runs = [run for side in sides for run in side.runs]
    remarks = [
        f"{run.run}: training has not ended; its figures are those of update {run.updates or 0:,}"
        for run in runs
        if not run.finished
    ]
    devices = sorted({run.device for run in runs if run.device})
    if len(devices) > 1:
        remarks.append(
            f"trained on different devices ({'; '.join(devices)}), so the times tell nothing about the sides"
        )
    if len({member.tokenizer.checksum for member in members}) > 1:
        remarks.append(
            "the runs have different tokenizers: loss and accuracy count different pieces, and so does speed"
        )
    if len(sides) == 1:
        remarks.append("the runs differ in nothing but the seed: one side, and nothing to compare it with")
    return remarks
