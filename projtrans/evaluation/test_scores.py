"""The scores and translations of the test split, kept in the run folder with a record of what made them.

Stale ones are never used: the record must match the weights, settings, sentence pairs and search of today.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import sacrebleu

from projtrans import files
from projtrans.data.corpus import Pair
from projtrans.errors import DataError
from projtrans.evaluation.evaluate import Evaluation, evaluate
from projtrans.inference.torch_translator import Translator
from projtrans.runs.run_folder import Run
from projtrans.search.decoding import DecodingConfig


@dataclass(frozen=True)
class Scored:
    """The scores and translations of the test split by one model."""

    evaluation: Evaluation
    texts: list[str]  # translations, in the order of the pairs
    problem: str | None = None  # why the run folder could not take new ones


def score(
    run: Run,
    pairs: Sequence[Pair],
    translator: Translator,
    *,
    weights: str,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Scored:
    """The scores of the test pairs: those kept in the run folder, or else new ones, which are then kept there.

    weights: checksum of the model file, taken before the translator was loaded from it. New scores are kept only if
    the model file is still the same (a run in training replaces it) and the search settings are those of the run.
    report: as in `evaluate`; not called if the scores were kept.
    """
    found = kept(run, pairs, translator.decoding)
    if found:
        return replace(found, evaluation=replace(found.evaluation, run=str(run.folder)))  # it may have moved
    evaluation, texts = evaluate(translator, pairs, run=str(run.folder), split="test", report=report)
    own = translator.decoding == run.section("decoding", DecodingConfig)
    try:
        if own and files.checksum(run.model_file) == weights:
            keep(run, pairs, translator, evaluation, texts)
    except OSError as error:
        problem = f"{error.filename or run.folder}: {error.strerror or error}; the translations were not kept"
        return Scored(evaluation, texts, problem)
    return Scored(evaluation, texts)


def kept(run: Run, pairs: Sequence[Pair], decoding: DecodingConfig) -> Scored | None:
    """The scores in the run folder, if the run's present weights made them from these pairs by this search."""
    try:
        record = json.loads(run.test_file.read_bytes())
        # A setting newer than the record was at its default when these translations were made.
        record["decoding"] = asdict(DecodingConfig()) | record["decoding"]
        wanted = _origin(run, pairs, decoding) | {"hypotheses": files.checksum(run.hypotheses_file)}
        evaluation = Evaluation.from_json(record.pop("evaluation"))
        texts = files.read_lines(run.hypotheses_file)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, DataError):  # missing, damaged, other version
        return None
    return Scored(evaluation, texts) if record == wanted and len(texts) == len(pairs) else None


def keep(run: Run, pairs: Sequence[Pair], translator: Translator, evaluation: Evaluation, texts: Sequence[str]) -> None:
    """Write scores and translations of the test split into the run folder, with what made them."""
    files.write_lines(run.hypotheses_file, texts)
    record = _origin(run, pairs, translator.decoding) | {"hypotheses": files.checksum(run.hypotheses_file)}
    files.write_json(run.test_file, record | {"evaluation": evaluation.to_json()})


def _origin(run: Run, pairs: Sequence[Pair], decoding: DecodingConfig) -> dict[str, Any]:
    """What decides the scores: the weights, the settings beside them, the sentence pairs, the search, the scorer."""
    return {
        "model": files.checksum(run.model_file),
        "settings": files.digest(run.decisive_settings),
        "pairs": files.digest([list(pair) for pair in pairs]),
        "decoding": asdict(decoding),
        "sacrebleu": sacrebleu.__version__,  # kept scores stand beside p-values that are computed anew
    }
