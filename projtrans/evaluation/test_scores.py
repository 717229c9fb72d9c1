"""The translations and scores of the test split, kept in the run folder with a record of what made them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import sacrebleu

from projtrans import files
from projtrans.data.corpus import Pair
from projtrans.errors import DataError
from projtrans.evaluation.evaluate import Evaluation
from projtrans.inference.torch_translator import Translator
from projtrans.runs.run_folder import Run
from projtrans.search.decoding import DecodingConfig

# --------------------------------------------------------------------------------- the test split, in the run folder


def keep(run: Run, pairs: Sequence[Pair], translator: Translator, evaluation: Evaluation, texts: Sequence[str]) -> None:
    """Leave scores and translations of the test split in the run folder, with what made them."""
    files.write_lines(run.hypotheses_file, texts)
    record = _origin(run, pairs, translator.decoding) | {"hypotheses": files.checksum(run.hypotheses_file)}
    files.write_json(run.test_file, record | {"evaluation": evaluation.to_json()})


def kept(run: Run, pairs: Sequence[Pair], decoding: DecodingConfig) -> tuple[Evaluation, list[str]] | None:
    """What `keep` left, if this very model, these pairs and these search settings made it."""
    try:
        record = json.loads(run.test_file.read_bytes())
        # Settings that it lacks are younger than the record; what they are by default is how it was searched.
        record["decoding"] = asdict(DecodingConfig()) | record["decoding"]
        wanted = _origin(run, pairs, decoding) | {"hypotheses": files.checksum(run.hypotheses_file)}
        evaluation = Evaluation.from_json(record.pop("evaluation"))
        texts = files.read_lines(run.hypotheses_file)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        DataError,
    ):  # missing, damaged or of another version
        return None
    return (evaluation, texts) if record == wanted and len(texts) == len(pairs) else None


def _origin(run: Run, pairs: Sequence[Pair], decoding: DecodingConfig) -> dict[str, Any]:
    """What decides the translations: the weights, the settings beside them, the sentences, and the search."""
    raw = run.raw_config
    corpus = raw.get("corpus")
    settings = {"model": raw.get("model"), "max_length": corpus.get("max_length") if isinstance(corpus, dict) else None}
    return {
        "model": files.checksum(run.model_file),
        "settings": _digest(settings),
        "pairs": _digest([list(pair) for pair in pairs]),
        "decoding": asdict(decoding),
        "sacrebleu": sacrebleu.__version__,  # the scores stand beside p-values that are computed anew
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
