"""The encoder-decoder Transformer: `encode`, `decode`, and `forward` as their composition.

Axes: B sentences, M hypotheses per sentence, S source positions, T target positions, D width, V vocabulary.
Masks: True = may attend. Sees ids and tensors only; knows no text, tokenizer, loss or search, and not which kind of
attention it is built from.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from projtrans.config import setting
from projtrans.errors import ConfigError
from projtrans.model.attention import ProjectionConfig
from projtrans.model.cooccurrence import WINDOW
from projtrans.model.multihead import AttentionConfig, KeysValues, MultiHeadAttention, Role, build_attention


@dataclass(frozen=True, kw_only=True)
class LayersConfig:
    """The number of layers."""

    encoder: int = setting(3, "encoder layers", minimum=1)
    decoder: int = setting(3, "decoder layers", minimum=1)


@dataclass(frozen=True, kw_only=True)
class EmbeddingsConfig:
    """Token embeddings and the output matrix."""

    tie: Literal["all", "output", "none"] = setting(
        "all", "one matrix for source, target and output (needs a joint vocabulary), for target and output, or none"
    )
    init: Literal["normal", "uniform", "cooccurrence"] = setting(
        "normal",
        "N(0, 1/width) with inputs scaled by √width (Vaswani et al. 2017), U(±0.05) unscaled (Keras), or normal with "
        "vectors from the co-occurrences of the training tokens (PPMI and SVD; docs/attention.md)",
        affects="start",
    )
    window: int | None = setting(
        None,
        f"cooccurrence: tokens before and after a token that count as its context; null: {WINDOW}",
        minimum=1,
        affects="start",
    )

    def __post_init__(self) -> None:
        if self.init != "cooccurrence" and self.window is not None:
            raise ConfigError(f"window: belongs to init cooccurrence, not to {self.init}; leave it out or set init")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The architecture."""

    layers: LayersConfig = setting(LayersConfig, "depth")
    width: int = setting(256, "width of the residual stream", minimum=1)
    heads: int = setting(4, "attention heads", minimum=1)
    head_width: int | None = setting(None, "width of one head; null: width / heads", minimum=1)
    feedforward: int = setting(1024, "width inside the feed-forward layers", minimum=1)
    dropout: float = setting(
        0.1, "dropout of embeddings and of every sub-layer's output", minimum=0, below=1, affects="update"
    )
    attention_dropout: float = setting(0.0, "dropout of attention weights", minimum=0, below=1, affects="update")
    output_dropout: float = setting(0.0, "dropout before the output layer", minimum=0, below=1, affects="update")
    norm: Literal["pre", "post"] = setting("pre", "layer normalisation before each sub-layer, or after each sum")
    positions: Literal["sinusoidal", "learned"] = setting("sinusoidal", "sinusoidal (any length) or a learned table")
    mask_padding: bool = setting(
        True,
        "mask padding; false (the paper): every sentence is padded to corpus.max_length, and padding is attended to",
    )
    embeddings: EmbeddingsConfig = setting(EmbeddingsConfig, "embeddings")
    attention: AttentionConfig = setting(ProjectionConfig, "attention")

    def __post_init__(self) -> None:
        if self.head_width is None and self.width % self.heads:
            raise ConfigError(f"heads: {self.heads} does not divide width {self.width}; or set head_width")
        if self.positions == "sinusoidal" and self.width % 2:
            raise ConfigError(f"width: sinusoidal positions need an even width, not {self.width}")


@dataclass
class Memory:
    """The encoded source as cross-attention takes it: keys and values per decoder layer."""

    layers: list[KeysValues]
    mask_B11S: Tensor | None

    def select(self, rows: Tensor) -> "Memory":
        """The given sentences, in that order; they may repeat."""
        mask = None if self.mask_B11S is None else self.mask_B11S.index_select(0, rows)
        return Memory([layer.select(rows) for layer in self.layers], mask)


class Transformer(nn.Module):
    """Encoder and decoder with their embeddings and the output layer (Vaswani et al. 2017).

    max_length: size of the table of learned positions, in tokens; sinusoidal positions have no limit.
    Raises ConfigError if the embeddings are to be tied but the vocabularies differ.
    """

    def __init__(
        self, config: ModelConfig, *, source_size: int, target_size: int, max_length: int, joint: bool
    ) -> None:
        super().__init__()
        tie = config.embeddings.tie
        if tie == "all" and not joint:
            raise ConfigError(
                "model.embeddings.tie: 'all' needs one vocabulary for both languages (corpus.tokenizer bpe or "
                "unigram); set it to output or none"
            )
        self.config = config
        self.scale = math.sqrt(config.width) if config.embeddings.init != "uniform" else 1.0
        self.source_embedding = nn.Embedding(source_size, config.width)
        self.target_embedding = self.source_embedding if tie == "all" else nn.Embedding(target_size, config.width)
        self.source_positions = Positions(config, max_length)
        self.target_positions = Positions(config, max_length)
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers.encoder))
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers.decoder))
        final = nn.LayerNorm if config.norm == "pre" else nn.Identity
        self.encoder_norm, self.decoder_norm = final(config.width), final(config.width)
        self.output = nn.Linear(config.width, target_size)
        if tie != "none":
            self.output.weight = self.target_embedding.weight
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh weights from torch's global generator."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for module in self.modules():  # after the linear layers: attention initialises its matrices itself
            if isinstance(module, MultiHeadAttention | Positions):
                module.reset_parameters()
        for embedding in (self.source_embedding, self.target_embedding):
            if self.config.embeddings.init == "uniform":
                nn.init.uniform_(embedding.weight, -0.05, 0.05)
            else:  # cooccurrence too: tokens that training never shows keep these
                nn.init.normal_(embedding.weight, std=self.config.width**-0.5)

    def encode(self, source_BS: Tensor, mask_BS: Tensor | None) -> Memory:
        """Encode a batch of sources; mask: True at real tokens, None if padding is attended to."""
        mask_B11S = None if mask_BS is None else mask_BS[:, None, None, :]
        x_BSD = self._embed(self.source_embedding, self.source_positions, source_BS, 0)
        for layer in self.encoder:
            x_BSD = layer(x_BSD, mask_B11S)
        x_BSD = self.encoder_norm(x_BSD)
        return Memory([layer.cross.attention.project_keys(x_BSD) for layer in self._decoder_layers()], mask_B11S)

    def decode(self, target_BT: Tensor, memory: Memory) -> Tensor:
        """The decoder's last hidden states [B, T, D] of whole targets; a position sees itself and earlier ones."""
        x_BTD = self._embed(self.target_embedding, self.target_positions, target_BT, 0)
        for layer, source in zip(self.decoder, memory.layers, strict=True):
            x_BTD = layer(x_BTD, source, memory.mask_B11S)
        return self._before_output(self.decoder_norm(x_BTD))

    def forward(self, source_BS: Tensor, source_mask_BS: Tensor | None, target_BT: Tensor) -> Tensor:
        """decode(target, encode(source)): hidden states [B, T, D], which `output` turns into logits [B, T, V]."""
        return self.decode(target_BT, self.encode(source_BS, source_mask_BS))

    def step(self, token_BM: Tensor, memory: Memory, past: list[KeysValues | None]) -> tuple[Tensor, list[KeysValues]]:
        """Logits [B, M, V] after one more token of every hypothesis, and the caches grown by its position.

        past: one cache per layer, with B·M rows; None at the first position. The M hypotheses of a sentence are M
        queries of the same memory row, so the memory is never repeated.
        """
        B, M = token_BM.shape
        position = 0 if past[0] is None else past[0].k_BHSK.shape[2]
        x = self._embed(self.target_embedding, self.target_positions, token_BM.reshape(B * M, 1), position)
        caches = []
        for layer, source, cache in zip(self._decoder_layers(), memory.layers, past, strict=True):
            x, grown = layer.step(x, source, memory.mask_B11S, cache, B)
            caches.append(grown)
        return self.output(self._before_output(self.decoder_norm(x))).view(B, M, -1), caches

    def _embed(self, embedding: nn.Embedding, positions: "Positions", ids: Tensor, first: int) -> Tensor:
        x = embedding(ids)
        if self.scale != 1.0:
            x = x * self.scale
        x = x + positions(first, ids.shape[1])
        if torch.is_autocast_enabled(x.device.type):  # the residual stream too: 1.1 times as fast as in float32
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return dropout(x, self.config.dropout, self.training)

    def _decoder_layers(self) -> "list[DecoderLayer]":
        return list(cast(Iterable[DecoderLayer], self.decoder))

    def _before_output(self, x: Tensor) -> Tensor:
        return dropout(x, self.config.output_dropout, self.training)


class Positions(nn.Module):
    """Position vectors, which are added to the embeddings."""

    def __init__(self, config: ModelConfig, max_length: int) -> None:
        super().__init__()
        self.learned = nn.Embedding(max_length, config.width) if config.positions == "learned" else None
        self.register_buffer("table", sinusoids(max_length, config.width), persistent=False)
        self.table: Tensor

    def reset_parameters(self) -> None:
        """U(±0.05), as Keras initialises embeddings."""
        if self.learned is not None:
            nn.init.uniform_(self.learned.weight, -0.05, 0.05)

    def forward(self, first: int, count: int) -> Tensor:
        """The vectors [count, D] of positions `first`, `first` + 1, ..."""
        last = first + count
        if self.learned is not None:
            return self.learned.weight[first:last]
        if last > len(self.table):
            self.table = sinusoids(2 * last, self.table.shape[1]).to(self.table)
        return self.table[first:last]


def sinusoids(length: int, width: int) -> Tensor:
    """[length, width], interleaved sin(t / 10000^(2i/D)) and cos (Vaswani et al. 2017, section 3.5)."""
    frequency = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angle = torch.arange(length)[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :width]


class Sublayer(nn.Module):
    """x + dropout(f(norm(x))) (pre-norm, Xiong et al. 2020) or norm(x + dropout(f(x))) (post-norm, Vaswani et al.)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.pre = config.norm == "pre"
        self.rate = config.dropout

    def before(self, x: Tensor) -> Tensor:
        """The input of the sub-layer's function."""
        return self.norm(x) if self.pre else x

    def after(self, x: Tensor, change: Tensor) -> Tensor:
        """The residual stream after the sub-layer."""
        x = x + dropout(change, self.rate, self.training)
        return x if self.pre else self.norm(x)


class AttentionSublayer(Sublayer):
    """Attention with its norm and residual."""

    def __init__(self, config: ModelConfig, role: Role) -> None:
        super().__init__(config)
        self.attention = build_attention(
            config.attention,
            role,
            width=config.width,
            heads=config.heads,
            head_width=config.head_width or config.width // config.heads,
            dropout=config.attention_dropout,
        )


class SelfAttention(AttentionSublayer):
    """Each position attends to positions of its own sentence."""

    def forward(self, x_BTD: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        q, kv = self.attention.project(self.before(x_BTD))
        return self.after(x_BTD, self.attention(q, kv, mask, causal))

    def step(self, x_N1D: Tensor, past: KeysValues | None) -> tuple[Tensor, KeysValues]:
        """One more position; takes the keys and values of earlier positions and returns them grown by its own."""
        q, new = self.attention.project(self.before(x_N1D))
        kv = new if past is None else past.append(new)
        return self.after(x_N1D, self.attention(q, kv)), kv


class CrossAttention(AttentionSublayer):
    """Each target position attends to the source."""

    def forward(self, x_BTD: Tensor, source: KeysValues, mask_B11S: Tensor | None) -> Tensor:
        q = self.attention.project_queries(self.before(x_BTD))
        return self.after(x_BTD, self.attention(q, source, mask_B11S))


class FeedForward(Sublayer):
    """W_2 relu(W_1 x), with its norm and residual."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.expand = nn.Linear(config.width, config.feedforward)
        self.contract = nn.Linear(config.feedforward, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(x, self.contract(F.relu(self.expand(self.before(x)))))


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attention = SelfAttention(config, "encoder")
        self.feedforward = FeedForward(config)

    def forward(self, x_BSD: Tensor, mask_B11S: Tensor | None) -> Tensor:
        return self.feedforward(self.self_attention(x_BSD, mask_B11S))


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the source, then feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attention = SelfAttention(config, "decoder")
        self.cross = CrossAttention(config, "cross")
        self.feedforward = FeedForward(config)

    def forward(self, x_BTD: Tensor, source: KeysValues, mask_B11S: Tensor | None) -> Tensor:
        """Whole targets. Their padding comes last, so the causal mask alone hides it from every real position."""
        x_BTD = self.self_attention(x_BTD, causal=True)
        return self.feedforward(self.cross(x_BTD, source, mask_B11S))

    def step(
        self, x_N1D: Tensor, source: KeysValues, mask_B11S: Tensor | None, past: KeysValues | None, sentences: int
    ) -> tuple[Tensor, KeysValues]:
        """One more position of N = B·M hypotheses, `sentences` = B."""
        x_N1D, grown = self.self_attention.step(x_N1D, past)
        x_BMD = self.cross(x_N1D.view(sentences, -1, x_N1D.shape[-1]), source, mask_B11S)
        return self.feedforward(x_BMD.reshape(x_N1D.shape)), grown


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """Zero each element with probability `rate` and scale the rest by 1 / (1 - rate) (Srivastava et al. 2014)."""
    if not training or not rate:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, rate)
    return _cheap_dropout(x, rate)


def _cheap_dropout(x: Tensor, rate: float) -> Tensor:
    """Dropout from 16 random bits per element: one 64-bit draw serves four, where torch's CPU generator draws for each.

    The rate is rounded to a multiple of 1/65536; the scale is exact for the rounded rate.
    """
    threshold = min(round(rate * 65536), 65535)
    draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    bits = draws.view(torch.int16)[: x.numel()].view(x.shape)
    # 0 and 1 as int16 first: operations on booleans are ten times as slow.
    kept = torch.ge(bits, threshold - 32768, out=torch.empty_like(bits)).to(x.dtype)
    return x * kept * (65536 / (65536 - threshold))
