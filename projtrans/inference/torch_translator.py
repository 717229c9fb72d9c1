"""Translating with PyTorch: a trained model with its tokenizer and its search.

Knows no files but the run it is loaded from, and no terminal.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from projtrans.data.corpus import CorpusConfig
from projtrans.data.tokenizer import Tokenizer
from projtrans.inference.torch_scores import TorchScores
from projtrans.inference.translation import Candidate
from projtrans.inference.translator import SentenceTranslator
from projtrans.model import alignment, devices
from projtrans.model.batching import Layout
from projtrans.model.multihead import KeysValues
from projtrans.model.transformer import Memory, ModelConfig, Transformer
from projtrans.runs.build import layout_of
from projtrans.runs.checkpoint import load_model
from projtrans.runs.run_folder import Run, open_run
from projtrans.search.decoding import DecodingConfig
from projtrans.search.rules import Ints
from projtrans.search.search import Hypothesis, SearchRequest, search

ALIGNED = 64
"""Translations aligned together: their weights, of every layer and head, are held at once."""


class Translator(SentenceTranslator):
    """A trained model ready to translate.

    >>> translator = Translator.load("runs/latest")      # doctest: +SKIP
    >>> translator("Let me go alone.")                   # doctest: +SKIP
    'Déjame ir solo.'
    """

    batch_tokens = 4096  # a quarter more sentences a second than with 1,024 on a CPU (docs/benchmarks.md)
    aligns = True

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
        super().__init__(
            tokenizer,
            decoding,
            longest_source=layout.max_length,
            longest_target=layout.max_length if model.config.positions == "learned" else None,  # the table ends there
            cut_sources=layout.cut_sources,
        )

    @classmethod
    def load(cls, folder: str | Path | None = None, device: str = "auto") -> "Translator":
        """The translator of a run folder (default runs/latest); raises RunError or ConfigError if it cannot be."""
        return cls.of_run(open_run(None if folder is None else Path(folder)), devices.choose(device))

    @classmethod
    def of_run(cls, run: Run, device: torch.device, precision: devices.Precision = "fp32") -> "Translator":
        """The translator of an opened run; in bf16, scores are accurate to some tenths of a nat."""
        tokenizer = run.tokenizer()
        model = load_model(run, tokenizer).to(device)
        layout = layout_of(tokenizer, run.section("corpus", CorpusConfig), run.section("model", ModelConfig))
        return cls(model, tokenizer, layout, run.section("decoding", DecodingConfig), device, precision)

    @torch.inference_mode()
    def search(self, sources: Sequence[list[int]], request: SearchRequest) -> list[list[Hypothesis]]:
        """The hypotheses of each source, best first."""
        with devices.autocast(self.device, self.precision):
            source_BS, mask_BS = self.layout.sources(sources)
            mask_BS = None if mask_BS is None else mask_BS.to(self.device)
            memory = self.model.encode(source_BS.to(self.device), mask_BS)
            return search(TorchStepper(self.model, memory, len(sources)), request)

    def align(self, texts: Sequence[str], found: list[list[Candidate]]) -> list[list[Candidate]]:
        """The hypotheses of each text with their alignment, as model/alignment.py defines it."""
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
        """The weights of cross-attention [layers, heads, target tokens, source tokens], always in float32."""
        sources = [ids[: self.longest_source] for ids in self.tokenizer.encode_source(texts)]
        return alignment.cross_attention(self.model, self.layout, sources, targets)


class TorchStepper:
    """The model as the search sees it: scores of the next token, and caches that follow the hypotheses."""

    def __init__(self, model: Transformer, memory: Memory, sentences: int) -> None:
        self.model, self.memory, self.sentences = model, memory, sentences
        self.device = model.output.weight.device
        self.past: list[KeysValues | None] = [None] * len(memory.layers)

    def step(self, token_BM: Ints) -> TorchScores:
        """As `Stepper.step`."""
        token = torch.from_numpy(token_BM).to(self.device)
        logits_BMV, caches = self.model.step(token, self.memory, self.past)
        self.past = list(caches)
        return TorchScores(logits_BMV)

    def select(self, sentence_B: Ints, parent_BM: Ints) -> None:
        """As `Stepper.select`."""
        hypotheses = self.past[0].k_BHSK.shape[0] // self.sentences if self.past[0] is not None else 1
        rows = torch.from_numpy((sentence_B[:, None] * hypotheses + parent_BM).ravel()).to(self.device)
        self.past = [None if layer is None else layer.select(rows) for layer in self.past]
        if len(sentence_B) < self.sentences:
            kept = torch.from_numpy(sentence_B).to(self.device)
            self.memory, self.sentences = self.memory.select(kept), len(sentence_B)
