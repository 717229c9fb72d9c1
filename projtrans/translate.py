"""Sentences in, sentences out, in order: a trained model with its tokenizer and its search.

One line in, one translation out, whatever the line holds; what a sentence is batched with does not change its
translation (beyond float rounding). Knows no files but the run it is loaded from, and no terminal.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from projtrans import device as devices
from projtrans.batching import Layout, bucket
from projtrans.checkpoint import load_model
from projtrans.corpus import CorpusConfig
from projtrans.encoding import Ids
from projtrans.multihead import KeysValues
from projtrans.run import Run, open_run
from projtrans.search import DecodingConfig, search
from projtrans.tokenizer import Tokenizer
from projtrans.transformer import Memory, ModelConfig, Transformer

BATCH_TOKENS = 1024
"""Source pieces decoded together, padding included, before the beam multiplies them."""

WINDOW = 2048
"""Lines that a stream reads ahead to find sentences of like length."""


@dataclass(frozen=True)
class Candidate:
    """One hypothesis as text."""

    translation: str
    score: float  # sum of natural-log probabilities, end included


@dataclass(frozen=True)
class Translation:
    """One source sentence with its hypotheses, best first (normalised by the length penalty)."""

    source: str
    hypotheses: list[Candidate]
    cut: bool = False  # the source was longer than the model's maximum, and its end was left out

    @property
    def text(self) -> str:
        """The best translation."""
        return self.hypotheses[0].translation

    @property
    def score(self) -> float:
        """The score of the best translation."""
        return self.hypotheses[0].score

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: source, translation, score and all hypotheses."""
        best = {"source": self.source, "translation": self.text, "score": self.score}
        return best | {"hypotheses": [asdict(hypothesis) for hypothesis in self.hypotheses]}


class Translator:
    """A trained model ready to translate.

    >>> translator = Translator.load("runs/latest")      # doctest: +SKIP
    >>> translator("Let me go alone.")                   # doctest: +SKIP
    'Déjame ir solo.'
    """

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer, layout: Layout, decoding: DecodingConfig, device: torch.device
    ) -> None:
        self.model, self.tokenizer, self.layout, self.decoding, self.device = model, tokenizer, layout, decoding, device

    @classmethod
    def load(cls, folder: str | Path | None = None, device: str = "auto") -> "Translator":
        """The translator of a run folder (default runs/latest); raises RunError or ConfigError where it cannot be."""
        return cls.of_run(open_run(None if folder is None else Path(folder)), devices.choose(device))

    @classmethod
    def of_run(cls, run: Run, device: torch.device) -> "Translator":
        """The translator of an opened run."""
        tokenizer = run.tokenizer()
        model = load_model(run, tokenizer).to(device)
        layout = layout_of(tokenizer, run.section("corpus", CorpusConfig), run.section("model", ModelConfig))
        return cls(model, tokenizer, layout, run.section("decoding", DecodingConfig), device)

    def __call__(self, text: str) -> str:
        """The best translation of one sentence."""
        return self.translate([text])[0].text

    def with_decoding(self, beam_size: int | None = None, length_penalty: float | None = None) -> "Translator":
        """The same translator with other search settings; None keeps the run's."""
        decoding = replace(
            self.decoding,
            beam_size=self.decoding.beam_size if beam_size is None else beam_size,
            length_penalty=self.decoding.length_penalty if length_penalty is None else length_penalty,
        )
        return Translator(self.model, self.tokenizer, self.layout, decoding, self.device)

    def stream(self, lines: Iterable[str], *, n_best: int = 1, window: int = WINDOW) -> Iterator[Translation]:
        """The translations of endless lines in order, `window` lines at a time."""
        lines = iter(lines)
        while chunk := list(islice(lines, window)):
            yield from self.translate(chunk, n_best=n_best)

    def translate(self, texts: Sequence[str], *, n_best: int = 1) -> list[Translation]:
        """One translation a text, in order; a blank text gives an empty one with score 0."""
        encoded = self.tokenizer.encode_source(texts)
        results = [Translation(text, [Candidate("", 0.0)]) for text in texts]
        spoken = [i for i, text in enumerate(texts) if text.strip()]
        lengths = [(len(encoded[i]), len(encoded[i])) for i in spoken]
        for batch in bucket(lengths, tokens=BATCH_TOKENS, sentences=None):
            indices = [spoken[i] for i in batch]
            for i, hypotheses in zip(indices, self._search([encoded[i] for i in indices], n_best), strict=True):
                results[i] = Translation(texts[i], hypotheses, len(encoded[i]) > self.layout.max_length)
        return results

    @torch.inference_mode()
    def _search(self, sources: list[Ids], n_best: int) -> list[list[Candidate]]:
        sources = [ids[: self.layout.max_length] for ids in sources]
        source_BS, mask_BS = self.layout.sources(sources)
        mask_BS = None if mask_BS is None else mask_BS.to(self.device)
        memory = self.model.encode(source_BS.to(self.device), mask_BS)
        found = search(
            _Decoder(self.model, memory, len(sources)),
            self._max_length(sources),
            replace(self.decoding, beam_size=max(self.decoding.beam_size, n_best)),
            bos_id=self.layout.bos_id,
            eos_id=self.layout.eos_id,
            banned_ids=[self.layout.pad_id, self.layout.bos_id, self.tokenizer.unk_id],
            n_best=n_best,
        )
        texts = iter(self.tokenizer.decode_target([h.tokens for hypotheses in found for h in hypotheses]))
        return [[Candidate(next(texts), h.score) for h in hypotheses] for hypotheses in found]

    def _max_length(self, sources: list[Ids]) -> Tensor:
        longest = self.decoding.max_length(torch.tensor([len(ids) for ids in sources]))
        if self.model.config.positions == "learned":  # there are no positions beyond the table
            longest = longest.clamp(max=self.layout.max_length)
        return longest.to(self.device)


class _Decoder:
    """The model as the search sees it: logits of the next piece, and caches that follow the hypotheses."""

    def __init__(self, model: Transformer, memory: Memory, sentences: int) -> None:
        self.model, self.memory, self.sentences = model, memory, sentences
        self.past: list[KeysValues | None] = [None] * len(memory.layers)

    def step(self, token_BM: Tensor) -> Tensor:
        logits_BMV, caches = self.model.step(token_BM, self.memory, self.past)
        self.past = list(caches)
        return logits_BMV

    def select(self, sentence_B: Tensor, parent_BM: Tensor) -> None:
        hypotheses = self.past[0].k_BHSK.shape[0] // self.sentences if self.past[0] is not None else 1
        rows = (sentence_B[:, None] * hypotheses + parent_BM).flatten()
        self.past = [None if layer is None else layer.select(rows) for layer in self.past]
        if len(sentence_B) < self.sentences:
            self.memory, self.sentences = self.memory.select(sentence_B), len(sentence_B)


def layout_of(tokenizer: Tokenizer, corpus: CorpusConfig, model: ModelConfig) -> Layout:
    """How this model's examples become rectangles."""
    return Layout(
        pad_id=tokenizer.pad_id,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        max_length=corpus.max_length,
        mask_padding=model.mask_padding,
    )
