"""Multiply-adds of a forward pass, counted from the shapes of a configuration.

Counts matrix products only; softmax, normalisation, key norms, dropout and other work per element are left out. Runs no
model.
"""

from dataclasses import dataclass

from torch import nn

from projtrans.model.transformer import DecoderLayer, EncoderLayer, ModelConfig


@dataclass(frozen=True, kw_only=True)
class MultiplyAdds:
    """Multiply-adds of a forward pass of one sentence pair."""

    source_positions: int
    target_positions: int
    attention_projections: int  # W_q, W_k, W_v and W_o of all modules
    attention_products: int  # queries with keys, and weights with values
    feedforward: int
    output_layer: int

    @property
    def total(self) -> int:
        """Their sum."""
        return self.attention_projections + self.attention_products + self.feedforward + self.output_layer


def inner_width(model: ModelConfig) -> int:
    """Width of all heads of an attention module together, heads × head width."""
    return model.heads * (model.head_width or model.width // model.heads)


def multiply_adds(model: ModelConfig, target_size: int, *, source: int, target: int) -> MultiplyAdds:
    """Count for S = `source` and T = `target` positions and a target vocabulary of `target_size` tokens.

    A matrix of m × n numbers takes m n multiply-adds per position. Self-attention applies all its matrices to every
    position; cross-attention applies W_q and W_o to the T, the others to the S. A query meets all S or T keys, masked
    ones too, at 2 × inner width each: for the logit and for the value.
    """
    encoder, decoder, inner = model.layers.encoder, model.layers.decoder, inner_width(model)
    decoder_layer = DecoderLayer(model)
    queries = 2 * inner * model.width  # W_q and W_o
    cross = queries * target + (_matrices(decoder_layer.cross.attention) - queries) * source
    return MultiplyAdds(
        source_positions=source,
        target_positions=target,
        attention_projections=encoder * _matrices(EncoderLayer(model).self_attention.attention) * source
        + decoder * (_matrices(decoder_layer.self_attention.attention) * target + cross),
        attention_products=2 * inner * (encoder * source**2 + decoder * (target**2 + target * source)),
        feedforward=2 * model.width * model.feedforward * (encoder * source + decoder * target),
        output_layer=model.width * target_size * target,
    )


def _matrices(attention: nn.Module) -> int:
    """Numbers in the matrices of one attention module, as its settings make it."""
    return sum(weight.numel() for weight in attention.parameters() if weight.dim() == 2)
