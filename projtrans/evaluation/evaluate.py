"""The scores of a model on sentence pairs: loss and accuracy with the reference forced, BLEU and chrF.

Validation during training and the commands `evaluate` and `compare` all come here, so they report the same numbers. The
translations of the test split are kept in the run folder, with a record of what made them: stale ones are never used.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from projtrans.data.corpus import Pair
from projtrans.evaluation.metrics import Score, bleu, chrf, references_of
from projtrans.inference.torch_translator import Translator
from projtrans.inference.translator import WINDOW
from projtrans.model.batching import fixed_batches
from projtrans.model.loss import cross_entropy
from projtrans.runs.build import encode

BATCH_TOKENS = 4096


@dataclass(frozen=True)
class TeacherForced:
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


@torch.inference_mode()
def forced(
    translator: Translator, pairs: Sequence[Pair], report: Callable[[int, int], None] = lambda done, total: None
) -> TeacherForced:
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
