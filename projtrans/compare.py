"""The command `compare`: runs side by side, those that differ in their seed alone as one side.

The comparison of Sanger 2026: the settings that differ, time per update and what of it is the formula and what the head
width, loss and accuracy per epoch (its Figure 2), sample translations (its Figure 3), BLEU and chrF with a paired
bootstrap. The first side is the baseline. Returns plain records and renders nothing; translations of the test split
that a run folder does not hold yet are made, and kept there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from projtrans import files
from projtrans.corpus import KNOWN, CorpusConfig, Pair
from projtrans.errors import ConfigError, DataError
from projtrans.evaluate import Paired, check_bootstrap_seed, evaluate, keep, kept, paired_bootstrap
from projtrans.prepare import default_folder, load_tokenizer, read_split
from projtrans.run import Run, open_run
from projtrans.settings import LIMITS, differing, of_run
from projtrans.sides import ATTENTION, Member, Side, grouped, labels, side_of
from projtrans.translate import Translator

Report = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

Cause = Literal["formula", "head width"]
"""Why an update takes another time: other attention settings, or heads of another width."""

ENGLISH = (
    "Let me go alone.",  # the one prompt of the paper that is known; the others are ours
    "My sister painted the kitchen door green.",
    "Where can I buy a ticket to the museum?",
    "The doctor told us to wait until Friday.",
    "We will not sell the house by the lake.",
    "Do you remember the song that he sang yesterday?",
)
SPANISH = (
    "Dejadme ir sola a la estación.",
    "Mi hermana pintó de verde la puerta de la cocina.",
    "¿Dónde puedo comprar una entrada para el museo?",
    "El médico nos dijo que esperáramos hasta el viernes.",
    "No venderemos la casa del lago.",
    "¿Recuerdas la canción que él cantó ayer?",
)

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


# ----------------------------------------------------------------------------------------------------------- results


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A setting that is not the same on all sides."""

    setting: str
    values: dict[str, Any]  # of the sides that have it, by label


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


def run_data(run: Run, folders: Sequence[Path]) -> Path:
    """The data folder of a run: the one of `folders` that has its tokenizer, or the one that it was trained on.

    Raises DataError where none has.
    """
    tried = list(folders) or [default_folder(run.section("corpus", CorpusConfig))]
    checksum = run.tokenizer().checksum
    for folder in tried:
        if load_tokenizer(folder).checksum == checksum:
            return folder
    names = ", ".join(map(str, tried))
    raise DataError(f"{names}: not the data of {run.folder} (another tokenizer); name them with --data DIR")


def _members(runs: Sequence[Run], data: Sequence[Path]) -> list[Member]:
    """The runs with their test split, which must be the same for all."""
    settings = [of_run(run) for run in runs]
    places = [run_data(run, data) for run in runs]
    members = [
        Member(run, chosen, run.tokenizer(), read_split(place, "test"))
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
    groups: Sequence[Sequence[Member]],
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
    if corpus.name in KNOWN:
        return list(SPANISH if corpus.backward else ENGLISH)
    return list(dict.fromkeys(pair.source for pair in pairs))[: len(ENGLISH)]


def _score(member: Member, translator: Translator, report: Report) -> list[str]:
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
    names: Sequence[str], groups: Sequence[Sequence[Member]], report: Report
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


def _tested(against: str, base: Member, tested: Mapping[str, Member], report: Report) -> list[Significance]:
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


def _remarks(sides: Sequence[Side], members: Sequence[Member]) -> list[str]:
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
