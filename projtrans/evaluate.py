"""The scores of a model on sentence pairs: loss and accuracy with the reference forced, BLEU and chrF.

Validation during training and the commands `evaluate` and `compare` all come here, so they report the same numbers. The
translations of the test split are kept in the run folder, with a record of what made them: stale ones are never used.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import sacrebleu
import torch
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.significance import PairedTest
from torch import Tensor

from projtrans import files
from projtrans.batching import Examples, Layout, fixed_batches
from projtrans.corpus import Pair
from projtrans.decoding import DecodingConfig
from projtrans.encoding import Prepared, Ragged
from projtrans.errors import ConfigError, DataError
from projtrans.loss import cross_entropy
from projtrans.run import Run
from projtrans.tokenizer import Tokenizer
from projtrans.translate import Translator
from projtrans.translation import WINDOW

BATCH_TOKENS = 4096

RESAMPLES = 1000
"""Bootstrap resamples of the test split."""


@dataclass(frozen=True)
class Forced:
    """Teacher-forced scores: every piece predicted from the source and the reference before it."""

    loss: float  # nats a target piece, end included, unsmoothed, without padding
    accuracy: float  # share of target pieces, without padding
    accuracy_with_padding: float | None  # padding counted too, as the paper does; None where the model never sees it
    target_pieces: int

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(min(self.loss, 700.0))


@dataclass(frozen=True)
class Score:
    """A corpus score with the signature that makes it comparable."""

    score: float
    signature: str


@dataclass(frozen=True)
class Evaluation:
    """Everything that `evaluate --json` prints; docs/files.md describes each field."""

    run: str | None
    split: str | None
    sentences: int
    loss: float
    perplexity: float
    accuracy: float
    accuracy_with_padding: float | None
    bleu: Score
    chrf: Score
    bleu_multi_reference: Score | None  # distinct sources, each against all its references; None: no source repeats
    distinct_sources: int
    references: str  # "raw text" or "normal form of the word tokenizer"
    beam_size: int
    length_penalty: float
    seconds: float  # scoring and translating, without loading
    search: dict[str, Any] = field(default_factory=dict)  # other search settings, where they are not the defaults

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "Evaluation":
        """The evaluation that `to_json` gave; raises KeyError or TypeError for anything else."""
        scores = {name: raw[name] and Score(**raw[name]) for name in ("bleu", "chrf", "bleu_multi_reference")}
        return cls(**raw | scores)


@dataclass(frozen=True)
class Paired:
    """A system against a baseline on the same sentences, by one metric."""

    baseline: float
    score: float
    p_value: float  # chance of a difference this large if the two were equally good, by paired bootstrap
    signature: str  # with the number of resamples and their seed


def encode(tokenizer: Tokenizer, layout: Layout, pairs: Sequence[Pair], *, cut: bool) -> Examples:
    """The pairs in pieces, as encoded before where they were; too long ones are cut, or else left out."""
    if isinstance(pairs, Prepared) and pairs.tokenizer == tokenizer.checksum:
        return Examples(layout, *pairs.encoded, cut=cut)
    sources = Ragged.of(tokenizer.encode_source([pair.source for pair in pairs]))
    targets = Ragged.of(tokenizer.encode_target([pair.target for pair in pairs]))
    return Examples(layout, sources, targets, cut=cut)


@torch.inference_mode()
def forced(
    translator: Translator, pairs: Sequence[Pair], report: Callable[[int, int], None] = lambda done, total: None
) -> Forced:
    """Teacher-forced loss and accuracy over the pairs; report: called with those that are done, and all."""
    done = 0
    sums = torch.zeros(3, dtype=torch.float64)
    padded = torch.zeros(2, dtype=torch.float64)
    model, device = translator.model, translator.device
    examples = encode(translator.tokenizer, translator.layout, pairs, cut=True)
    for indices, batch in fixed_batches(examples, translator.layout, BATCH_TOKENS):
        batch = batch.to(device)
        h_BTD = model(batch.source_BS, batch.source_mask_BS, batch.target_in_BT)
        counted = batch.counted_BT
        loss = _cross_entropy(translator, h_BTD[counted], batch.target_out_BT[counted])
        sums += torch.tensor([float(loss.nll), float(loss.correct), float(counted.sum())], dtype=torch.float64)
        if not translator.layout.mask_padding:
            every = _cross_entropy(translator, h_BTD.flatten(0, 1), batch.target_out_BT.flatten())
            padded += torch.tensor([float(every.correct), float(counted.numel())], dtype=torch.float64)
        done += len(indices)
        report(done, len(pairs))
    nll, correct, count = sums.tolist()
    with_padding = None if translator.layout.mask_padding else (padded[0] / padded[1]).item()
    return Forced(nll / count, correct / count, with_padding, int(count))


def evaluate(
    translator: Translator,
    pairs: Sequence[Pair],
    *,
    run: str | None = None,
    split: str | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Evaluation, list[str]]:
    """All scores of the pairs, and the translation of every source in order.

    report: called with the sentences that are done, first scored and then translated, and with all of them.
    """
    begin = time.perf_counter()
    sources = [pair.source for pair in pairs]
    total = len(pairs) + len(set(sources))
    scores = forced(translator, pairs, lambda done, _: report(done, total))
    hypotheses = _translate(translator, sources, lambda done: report(len(pairs) + done, total))
    references = references_of(translator.tokenizer, pairs)
    multiple = _multi_reference(pairs, hypotheses, references)
    evaluation = Evaluation(
        run=run,
        split=split,
        sentences=len(pairs),
        loss=scores.loss,
        perplexity=scores.perplexity,
        accuracy=scores.accuracy,
        accuracy_with_padding=scores.accuracy_with_padding,
        bleu=bleu(hypotheses, [references]),
        chrf=chrf(hypotheses, [references]),
        bleu_multi_reference=multiple,
        distinct_sources=len({pair.source for pair in pairs}),
        references="normal form of the word tokenizer" if translator.tokenizer.kind == "word" else "raw text",
        beam_size=translator.decoding.beam_size,
        length_penalty=translator.decoding.length_penalty,
        seconds=time.perf_counter() - begin,
        search=translator.decoding.unusual,
    )
    return evaluation, hypotheses


def references_of(tokenizer: Tokenizer, pairs: Sequence[Pair]) -> list[str]:
    """What translations are compared with: the raw targets, in the tokenizer's normal form where it has one (word)."""
    targets = [pair.target for pair in pairs]
    return [tokenizer.normal_form(target) for target in targets] if tokenizer.kind == "word" else targets


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


def _cross_entropy(translator: Translator, h_ND: Tensor, target_N: Tensor) -> Any:
    output = translator.model.output
    return cross_entropy(h_ND, output.weight, output.bias, target_N, 0.0)


def _translate(translator: Translator, sources: Sequence[str], report: Callable[[int], None]) -> list[str]:
    distinct = list(dict.fromkeys(sources))
    texts: dict[str, str] = {}
    for first in range(0, len(distinct), WINDOW):
        chunk = distinct[first : first + WINDOW]
        for translation in translator.translate(chunk, numbers=range(first + 1, first + len(chunk) + 1)):
            texts[translation.source] = translation.text
        report(len(texts))
    return [texts[source] for source in sources]


def _multi_reference(pairs: Sequence[Pair], hypotheses: Sequence[str], references: Sequence[str]) -> Score | None:
    of_source: dict[str, list[str]] = {}
    translation: dict[str, str] = {}
    for pair, hypothesis, reference in zip(pairs, hypotheses, references, strict=True):
        of_source.setdefault(pair.source, []).append(reference)
        translation[pair.source] = hypothesis
    most = max(len(several) for several in of_source.values())
    if most == 1:
        return None
    # sacrebleu wants one stream a reference, None where a sentence has fewer.
    streams = [[several[i] if i < len(several) else None for several in of_source.values()] for i in range(most)]
    return bleu([translation[source] for source in of_source], streams)


def _score(metric: Any, hypotheses: Sequence[str], references: Sequence[Sequence[str | None]]) -> Score:
    score = metric.corpus_score(list(hypotheses), [list(stream) for stream in references])
    return Score(score.score, str(metric.get_signature()))
