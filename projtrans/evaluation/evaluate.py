"""The scores of a model on sentence pairs: teacher-forced loss and accuracy, and corpus metrics of its translations.

Validation during training and the commands `evaluate` and `compare` all use these functions, so they report the same
numbers. Knows no files.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from projtrans.data.corpus import Pair
from projtrans.evaluation.metrics import METRICS, Score, corpus_score, corpus_scores, flattened, references_of
from projtrans.inference.torch_translator import Translator
from projtrans.model.batching import fixed_batches
from projtrans.model.loss import cross_entropy
from projtrans.runs.build import encode

BATCH_TOKENS = 4096

CHUNK = 2048
"""Sentences translated between two reports of progress."""


@dataclass(frozen=True)
class TeacherForced:
    """Teacher-forced scores: every target token is predicted from the source and the reference before it."""

    loss: float  # nats per target token, EOS included, without label smoothing or padding
    accuracy: float  # share of the target tokens that are predicted, without padding
    accuracy_with_padding: float | None  # padding counted too, as the paper does; None if the model masks padding
    target_tokens: int

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(min(self.loss, 700.0))


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
    scores: dict[str, Score]  # by metric; each a field of its own in JSON
    bleu_multi_reference: Score | None  # distinct sources, each against all its references; None: no source repeats
    distinct_sources: int
    references: str  # "raw text" or "normal form of the word tokenizer"
    beam_size: int
    length_penalty: float
    seconds: float  # scoring and translating, without loading
    search: dict[str, Any] = field(default_factory=dict)  # the other search settings that differ from the defaults

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return flattened(asdict(self))

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "Evaluation":
        """The evaluation that `to_json` gave; raises KeyError or TypeError for anything else."""
        scores = {name: Score(**raw[name]) for name in METRICS}
        multiple = raw["bleu_multi_reference"]
        others = {name: value for name, value in raw.items() if name not in METRICS}
        return cls(**others | {"scores": scores, "bleu_multi_reference": multiple and Score(**multiple)})


@torch.inference_mode()
def forced(
    translator: Translator, pairs: Sequence[Pair], report: Callable[[int, int], None] = lambda done, total: None
) -> TeacherForced:
    """Teacher-forced loss and accuracy over the pairs; report: called with the pairs done so far, and their total."""
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
    return TeacherForced(nll / count, correct / count, with_padding, int(count))


def evaluate(
    translator: Translator,
    pairs: Sequence[Pair],
    *,
    run: str | None = None,
    split: str | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Evaluation, list[str]]:
    """All scores of the pairs, and the translation of every source in order.

    report: called with the sentences done so far (first scored, then translated), and their total.
    """
    begin = time.perf_counter()
    sources = [pair.source for pair in pairs]
    total = len(pairs) + len(set(sources))
    teacher = forced(translator, pairs, lambda done, _: report(done, total))
    hypotheses = _translate(translator, sources, lambda done: report(len(pairs) + done, total))
    references = references_of(translator.tokenizer, pairs)
    evaluation = Evaluation(
        run=run,
        split=split,
        sentences=len(pairs),
        loss=teacher.loss,
        perplexity=teacher.perplexity,
        accuracy=teacher.accuracy,
        accuracy_with_padding=teacher.accuracy_with_padding,
        scores=corpus_scores(hypotheses, [references]),
        bleu_multi_reference=_multi_reference(sources, hypotheses, references),
        distinct_sources=len(set(sources)),
        references="normal form of the word tokenizer" if translator.tokenizer.kind == "word" else "raw text",
        beam_size=translator.decoding.beam_size,
        length_penalty=translator.decoding.length_penalty,
        seconds=time.perf_counter() - begin,
        search=translator.decoding.unusual,
    )
    return evaluation, hypotheses


def _cross_entropy(translator: Translator, h_ND: Tensor, target_N: Tensor) -> Any:
    output = translator.model.output
    return cross_entropy(h_ND, output.weight, output.bias, target_N, 0.0)


def _translate(translator: Translator, sources: Sequence[str], report: Callable[[int], None]) -> list[str]:
    distinct = list(dict.fromkeys(sources))
    texts: dict[str, str] = {}
    for first in range(0, len(distinct), CHUNK):
        chunk = distinct[first : first + CHUNK]
        for translation in translator.translate(chunk, numbers=range(first + 1, first + len(chunk) + 1)):
            texts[translation.source] = translation.text
        report(len(texts))
    return [texts[source] for source in sources]


def _multi_reference(sources: Sequence[str], hypotheses: Sequence[str], references: Sequence[str]) -> Score | None:
    of_source: dict[str, list[str]] = {}
    for source, reference in zip(sources, references, strict=True):
        of_source.setdefault(source, []).append(reference)
    most = max(len(several) for several in of_source.values())
    if most == 1:
        return None
    streams = [[several[i] if i < len(several) else None for several in of_source.values()] for i in range(most)]
    translation = dict(zip(sources, hypotheses, strict=True))
    return corpus_score("bleu", [translation[source] for source in of_source], streams)
