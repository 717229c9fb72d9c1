"""Translating with PyTorch: a trained model with its tokenizer and its search.

Knows no files but the run it is loaded from, and no terminal.
"""

from pathlib import Path

import torch
from torch import Tensor

from projtrans import device as devices
from projtrans.batching import Layout
from projtrans.checkpoint import load_model
from projtrans.corpus import CorpusConfig
from projtrans.decoding import DecodingConfig, Hypothesis, Rules
from projtrans.multihead import KeysValues
from projtrans.run import Run, open_run
from projtrans.search import search
from projtrans.tokenizer import Tokenizer
from projtrans.transformer import Memory, ModelConfig, Transformer
from projtrans.translation import SentenceTranslator


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

    @classmethod
    def load(cls, folder: str | Path | None = None, device: str = "auto") -> "Translator":
        """The translator of a run folder (default runs/latest); raises RunError or ConfigError where it cannot be."""
        return cls.of_run(open_run(None if folder is None else Path(folder)), devices.choose(device))

    @classmethod
    def of_run(cls, run: Run, device: torch.device, precision: devices.Precision = "fp32") -> "Translator":
        """The translator of an opened run; with bf16, scores are good to about 0.1 nats (docs/benchmarks.md)."""
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
