"""The corpus metrics, by sacreBLEU, and the paired bootstrap test between systems. Knows no model."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.significance import PairedTest

from projtrans.data.corpus import Pair
from projtrans.data.tokenizer import Tokenizer
from projtrans.errors import ConfigError

RESAMPLES = 1000
"""Bootstrap resamples of the test split."""


@dataclass(frozen=True)
class Metric:
    """A corpus metric, computed by sacreBLEU."""

    title: str  # in tables
    make: Callable[..., Any]  # its sacreBLEU class; with `references=` it is ready for the paired bootstrap
    form: str = "{:.2f}"  # how tables print a score


METRICS = {"bleu": Metric("BLEU", BLEU), "chrf": Metric("chrF", CHRF)}
"""Every corpus metric by its name in JSON and metrics.jsonl: a metric added here appears in every command and table."""


@dataclass(frozen=True)
class Score:
    """A corpus score with the sacreBLEU signature that makes it comparable."""

    score: float
    signature: str


@dataclass(frozen=True)
class Paired:
    """A system against the baseline on the same sentences, by one metric."""

    baseline: float
    score: float
    p_value: float  # chance of a difference this large if both were equally good, by paired bootstrap
    signature: str  # with the number of resamples and their seed


def references_of(tokenizer: Tokenizer, pairs: Sequence[Pair]) -> list[str]:
    """The references that translations are scored against: the raw targets, or their normal form (word tokenizer)."""
    targets = [pair.target for pair in pairs]
    return [tokenizer.normal_form(target) for target in targets] if tokenizer.kind == "word" else targets


def corpus_scores(hypotheses: Sequence[str], references: Sequence[Sequence[str | None]]) -> dict[str, Score]:
    """The score by every metric, under its name in METRICS; references: as in `corpus_score`."""
    return {name: corpus_score(name, hypotheses, references) for name in METRICS}


def corpus_score(metric: str, hypotheses: Sequence[str], references: Sequence[Sequence[str | None]]) -> Score:
    """The score by one metric in sacreBLEU's default form.

    references: streams as long as `hypotheses`, one per reference, with None where a sentence has fewer references.
    """
    measure = METRICS[metric].make()
    score = measure.corpus_score(list(hypotheses), [list(stream) for stream in references])
    return Score(score.score, str(measure.get_signature()))


def flattened(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record as JSON has it: in place of `scores`, a field for each metric."""
    fields: dict[str, Any] = {}
    for name, value in record.items():
        fields |= value if name == "scores" else {name: value}
    return fields


def paired_bootstrap(
    metric: str, baseline: Sequence[str], systems: Sequence[Sequence[str]], references: Sequence[str]
) -> list[Paired]:
    """sacreBLEU's paired bootstrap test (Koehn 2004) of each system against the baseline, by a metric of METRICS.

    All are translations of the same sentences, with one reference each. sacreBLEU seeds its resamples with 12345, or
    with SACREBLEU_SEED, and takes the same ones for every system.
    """
    measure = METRICS[metric].make(references=[list(references)])
    texts = [("baseline", baseline), *((f"system {number}", texts) for number, texts in enumerate(systems))]
    signatures, results = PairedTest(texts, {metric: measure}, None, "bs", RESAMPLES, n_jobs=1)()
    ((name, signature),) = signatures.items()
    before, *after = cast(list[Any], results[name])
    return [Paired(float(before.score), float(one.score), float(one.p_value), str(signature)) for one in after]


def check_bootstrap_seed() -> None:
    """Raise ConfigError, before any work is done, for a SACREBLEU_SEED that sacreBLEU would reject."""
    seed = os.environ.get("SACREBLEU_SEED", "12345")
    try:
        usable = seed.lower() == "none" or int(seed) >= 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(
            f"SACREBLEU_SEED: {seed!r} is neither a whole number of at least 0 nor none; unset it for sacreBLEU's own"
        )
