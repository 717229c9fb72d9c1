"""Translating with PyTorch: a trained model with its tokenizer and its search.

Knows no files but the run it is loaded from, and no terminal.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from projtrans.data.corpus import CorpusConfig
from projtrans.data.tokenizer import Tokenizer
from projtrans.errors import ConfigError
from projtrans.inference.copy_unknown import Reduced, leave_out, put_back
from projtrans.inference.translator import Candidate, SentenceTranslator, Translation
from projtrans.model import alignment, devices
from projtrans.model.batching import Layout
from projtrans.model.multihead import KeysValues
from projtrans.model.transformer import Memory, ModelConfig, Transformer
from projtrans.runs.build import layout_of
from projtrans.runs.checkpoint import load_model
from projtrans.runs.run_folder import Run, open_run
from projtrans.search.decoding import DecodingConfig, Hypothesis, Rules
from projtrans.search.search import search

ALIGNED = 64
"""Translations aligned together: their weights, of every layer and head, are held at once."""


class Translator(SentenceTranslator):
    """A trained model ready to translate.

    >>> translator = Translator.load("runs/latest")      # doctest: +SKIP
    >>> translator("Let me go alone.")                   # doctest: +SKIP
    'Déjame ir solo.'
    """

    batch_tokens = 4096  # a quarter more sentences a second than with 1,024 on a CPU (docs/benchmarks.md)

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        layout: Layout,
        decoding: DecodingConfig,
        device: torch.device,
        precision: devices.Precision = "fp32",
    ) -> None:
        self.model, self.layout, self.device, self.precision = model, layout, device, precision
        self.engine = f"torch on {device.type} in {precision}"
        # There are no positions beyond a learned table.
        longest_target = layout.max_length if model.config.positions == "learned" else None
        super().__init__(tokenizer, decoding, longest_source=layout.max_length, longest_target=longest_target)
        self.cuts = layout.cut_sources

    @classmethod
    def load(cls, folder: str | Path | None = None, device: str = "auto") -> "Translator":
        """The translator of a run folder (default runs/latest); raises RunError or ConfigError where it cannot be."""
        return cls.of_run(open_run(None if folder is None else Path(folder)), devices.choose(device))

    @classmethod
    def of_run(cls, run: Run, device: torch.device, precision: devices.Precision = "fp32") -> "Translator":
        """The translator of an opened run; with bf16, scores are good to some tenths of a nat."""
        tokenizer = run.tokenizer()
        model = load_model(run, tokenizer).to(device)
        layout = layout_of(tokenizer, run.section("corpus", CorpusConfig), run.section("model", ModelConfig))
        return cls(model, tokenizer, layout, run.section("decoding", DecodingConfig), device, precision)

    @torch.inference_mode()
    def search(
        self,
        sources: list[list[int]],
        limits: list[int],
        decoding: DecodingConfig,
        rules: Rules,
        *,
        n_best: int,
        numbers: list[int],
    ) -> list[list[Hypothesis]]:
        """By the model and search.py."""
        with devices.autocast(self.device, self.precision):
            source_BS, mask_BS = self.layout.sources(sources)
            mask_BS = None if mask_BS is None else mask_BS.to(self.device)
            memory = self.model.encode(source_BS.to(self.device), mask_BS)
            return search(
                _Decoder(self.model, memory, len(sources)),
                torch.tensor(limits, device=self.device),
                decoding,
                rules,
                n_best=n_best,
                numbers=numbers,
            )

    def with_alignment(self) -> Self:
        """The same translator, one that aligns every hypothesis by its cross-attention."""
        other = copy.copy(self)
        other.aligned = True
        return other

    def with_copying(self) -> Self:
        """The same translator, one that copies what its tokenizer cannot spell; raises ConfigError without subwords."""
        if not self.tokenizer.joint:
            raise ConfigError("copying: the word tokenizer knows no characters; it needs bpe or unigram")
        other = copy.copy(self)
        other.copying = True
        return other

    def translate(self, texts: Sequence[str], **options: Any) -> list[Translation]:
        """As every engine's; with `with_copying`, around words that the tokenizer cannot spell."""
        if not self.copying:
            return super().translate(texts, **options)
        reduced = [leave_out(text, self.tokenizer.knows) for text in texts]
        plain = self.with_alignment()
        plain.copying = False
        found = plain.translate([one.text for one in reduced], **options)
        return [self._whole(*each) for each in zip(texts, reduced, found, strict=True)]

    def _whole(self, text: str, reduced: Reduced, found: Translation) -> Translation:
        """The translation of a text from that of what was left of it, which becomes its part."""
        hypotheses, parts = found.hypotheses, found.parts
        if reduced.copies:
            hypotheses, parts = [put_back(reduced, hypothesis) for hypothesis in hypotheses], parts or [found]
        if not self.aligned:
            hypotheses = [replace(hypothesis, alignment=None) for hypothesis in hypotheses]
            parts = [replace(part, hypotheses=[replace(h, alignment=None) for h in part.hypotheses]) for part in parts]
        return Translation(text, hypotheses, parts=parts)

    def align(self, texts: Sequence[str], found: list[list[Candidate]]) -> list[list[Candidate]]:
        """The hypotheses of each text with their alignment, as alignment.py defines it."""
        words = [self.tokenizer.source_words(text) for text in texts]
        pairs = [(i, h) for i, hypotheses in enumerate(found) for h in hypotheses]
        aligned: list[list[Candidate]] = [[] for _ in texts]
        for chunk in (pairs[first : first + ALIGNED] for first in range(0, len(pairs), ALIGNED)):
            weights = self.cross_attention([texts[i] for i, _ in chunk], [h.tokens for _, h in chunk])
            for (i, h), weights_LHTS in zip(chunk, weights, strict=True):
                aligned[i].append(replace(h, alignment=self._links(weights_LHTS, words[i], h)))
        return aligned

    def _links(self, weights_LHTS: Tensor, source_words: list[list[int]], candidate: Candidate) -> alignment.Links:
        target_words = self.tokenizer.target_words(candidate.tokens)
        return alignment.links(alignment.averaged(weights_LHTS), source_words[: self.longest_source], target_words)

    def cross_attention(self, texts: Sequence[str], targets: Sequence[list[int]]) -> list[Tensor]:
        """The weights of cross-attention [layers, heads, target pieces, source pieces], always in float32."""
        sources = [ids[: self.longest_source] for ids in self.tokenizer.encode_source(texts)]
        return alignment.cross_attention(self.model, self.layout, sources, targets)


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
