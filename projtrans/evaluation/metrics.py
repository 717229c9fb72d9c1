"""BLEU and chrF by sacrebleu, each with the signature that makes it comparable, and the paired bootstrap."""

import os
from collections.abc import Callable, Sequence
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
class Score:
    """A corpus score with the signature that makes it comparable."""

    score: float
    signature: str


@dataclass(frozen=True)
class Paired:
    """A system against a baseline on the same sentences, by one metric."""

    baseline: float
    score: float
    p_value: float  # chance of a difference this large if the two were equally good, by paired bootstrap
    signature: str  # with the number of resamples and their seed


def references_of(tokenizer: Tokenizer, pairs: Sequence[Pair]) -> list[str]:
    """What translations are compared with: the raw targets, in the tokenizer's normal form where it has one (word)."""
    targets = [pair.target for pair in pairs]
    return [tokenizer.normal_form(target) for target in targets] if tokenizer.kind == "word" else targets


@dataclass(frozen=True)
class Metric:
    """A corpus metric: larger is better."""

    title: str  # what tables and sacrebleu call it
    make: Callable[..., Any]  # sacrebleu's metric; `references` prepares it for the paired bootstrap


METRICS = {"bleu": Metric("BLEU", BLEU), "chrf": Metric("chrF", CHRF)}
"""Every corpus metric, by its name in metrics.jsonl and in `evaluate --json`: the one place to add another."""


def corpus_scores(hypotheses: Sequence[str], references: Sequence[Sequence[str | None]]) -> dict[str, Score]:
    """The score by every metric, under its name in METRICS; references: one sequence a reference."""
    return {name: _score(metric.make(), hypotheses, references) for name, metric in METRICS.items()}


def bleu(hypotheses: Sequence[str], references: Sequence[Sequence[str | None]]) -> Score:
    """Corpus BLEU in sacrebleu's default form, with its signature; references: one sequence a reference."""
    return _score(BLEU(), hypotheses, references)


def chrf(hypotheses: Sequence[str], references: Sequence[Sequence[str | None]]) -> Score:
    """Corpus chrF in sacrebleu's default form, with its signature; references: one sequence a reference."""
    return _score(CHRF(), hypotheses, references)


def paired_bootstrap(
    metric: str, baseline: Sequence[str], systems: Sequence[Sequence[str]], references: Sequence[str]
) -> list[Paired]:
    """sacrebleu's paired bootstrap test (Koehn 2004) of each system against the baseline by "BLEU" or "chrF".

    All are translations of the same sentences, with one reference each. sacrebleu seeds its resamples with 12345, or
    with SACREBLEU_SEED, and takes the same ones for every system.
    """
    measure = {"BLEU": BLEU, "chrF": CHRF}[metric](references=[list(references)])
    texts = [("baseline", baseline), *((f"system {number}", texts) for number, texts in enumerate(systems))]
    signatures, results = PairedTest(texts, {metric: measure}, None, "bs", RESAMPLES, n_jobs=1)()
    ((name, signature),) = signatures.items()
    before, *after = cast(list[Any], results[name])
    return [Paired(float(before.score), float(one.score), float(one.p_value), str(signature)) for one in after]


def check_bootstrap_seed() -> None:
    """Raise ConfigError, before any work is done, where SACREBLEU_SEED is nothing that sacrebleu can take."""
    seed = os.environ.get("SACREBLEU_SEED", "12345")
    try:
        usable = seed.lower() == "none" or int(seed) >= 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(
            f"SACREBLEU_SEED: {seed!r} is no whole number of 0 or more, and not none; unset it to use sacrebleu's own"
        )


def _score(metric: Any, hypotheses: Sequence[str], references: Sequence[Sequence[str | None]]) -> Score:
    score = metric.corpus_score(list(hypotheses), [list(stream) for stream in references])
    return Score(score.score, str(metric.get_signature()))
