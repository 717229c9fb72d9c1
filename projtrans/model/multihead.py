"""What all kinds of multi-head attention share: projections, masks, caches, decay, σ and its bound, the fast ways.

A variant (attention.py) is its equation, `logits`, written for queries and keys that are already normalised where that
is configured. A variant whose equation is κ q·k plus one bias per key sets `dot_form` and then also runs on batched
products with a hand-written gradient (attention_function.py) and on torch's fused kernels. Tests compare all three with
a transcription in float64.

Axes: B sentences, T queries, S keys, D model width, H heads, K head width. Masks: True = may attend.
Knows no equation, layer, token or file.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from projtrans.config import setting
from projtrans.errors import ConfigError
from projtrans.model.attention_function import attend, length, masked_softmax

Role = Literal["encoder", "decoder", "cross"]
"""Where a module stands: encoder self-attention, decoder self-attention, or the decoder's attention to the source."""

Sigma = float | Literal["auto"]
"""A width σ; auto: the one at which the weights start as those of scaled dot-product attention."""

Learned = Literal["none", "module", "head"]
"""Whether a parameter is learned: not at all, one per module, or one per head."""

EXACT_BELOW = 0.2
"""Below this σ on unit vectors, q·k and its projections stay in float32: at it, bfloat16 errs by 0.01 nats (rms)."""

SMALLEST_LEARNED = 0.1
"""Lower bound of a learned σ on unit vectors (Swin v2 likewise clamps its logit scale at 100 = 1/0.1²)."""


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """The settings of every kind of attention, apart from its formula."""

    kind: str = setting(
        "projection", "the formula: standard (scaled dot product) or projection (Gaussian of width σ, Sanger 2026)"
    )
    normalize: Literal["none", "head", "model"] = setting(
        "none",
        "scale queries and keys to unit length: none, in every head, or over the model width before slicing into heads",
    )
    values: Literal["own", "keys", "raw_keys"] = setting(
        "own", "what is averaged: W_v x, the keys as they meet the queries (eq. 14), or the keys before normalisation"
    )
    tie_query_key: bool = setting(False, "W_q = W_k in self-attention")
    decay: float | Literal["learned"] | None = setting(
        None, "τ of weights × exp(-distance in tokens / τ) in self-attention; learned: one per head", minimum=1e-3
    )

    @classmethod
    def kinds(cls) -> "dict[str, type[AttentionConfig]]":
        """The settings of every kind, by its name in YAML."""
        return {kind: variant.Config for kind, variant in VARIANTS.items()}

    def __post_init__(self) -> None:
        if self.values == "raw_keys" and self.normalize == "none":
            raise ConfigError("values: without normalisation the raw keys are the keys; set keys, or normalize")


@dataclass
class KeysValues:
    """What queries attend to; in the decoder it grows by one position per step."""

    k_BHSK: Tensor  # as projected
    v_BHSK: Tensor | None  # None: the values are the keys
    length_BHS1: Tensor | None  # norms that divide the keys; None: not normalised; [B, 1, S, 1]: one norm for all heads

    def append(self, new: "KeysValues") -> "KeysValues":
        """These positions, then the new ones."""
        pairs = zip(vars(self).values(), vars(new).values(), strict=True)
        return KeysValues(*(None if old is None else torch.cat([old, more], 2) for old, more in pairs))  # type: ignore[arg-type]

    def select(self, rows: Tensor) -> "KeysValues":
        """The given batch rows, in that order; rows may repeat."""
        return KeysValues(*(None if x is None else x.index_select(0, rows) for x in vars(self).values()))  # type: ignore[arg-type]


class MultiHeadAttention(nn.Module):
    """Concat(head_1 .. head_H) W_o with head = softmax(logits(q, k)) v (Vaswani et al. 2017, section 3.2.2).

    Every variant has a width σ, and κ = 1/σ² multiplies its logits. In projection attention σ is a setting; in standard
    attention it is K^¼, so that κ = 1/√K. A variant overrides `logits`, and `dot_form` and `key_bias` where they apply.
    """

    Config: ClassVar[type[AttentionConfig]]
    dot_form: bool = False  # logits = κ q·k + key_bias, up to a constant of the row
    has_sigma: bool = False  # σ appears in the equation, so it is reported even if it is not learned
    any_length: bool = False  # choose no path by length: an exported graph is traced once for all lengths

    def __init__(
        self,
        config: AttentionConfig,
        role: Role,
        *,
        width: int,
        heads: int,
        head_width: int,
        dropout: float,
        sigma: Sigma = "auto",
        learn: Learned = "none",
    ) -> None:
        super().__init__()
        self.role, self.heads, self.head_width, self.dropout = role, heads, head_width, dropout
        self.normalize, self.values_are = config.normalize, config.values
        # One matrix [W_q; W_k; W_v], so that self-attention needs one product instead of three.
        self.key_part = 0 if config.tie_query_key and role != "cross" else 1
        self.parts = self.key_part + (2 if config.values == "own" else 1)
        self.qkv = nn.Linear(width, heads * head_width * self.parts)
        self.output = nn.Linear(heads * head_width, width)
        self.initial_sigma = self.matched_sigma() if sigma == "auto" else sigma
        # σ relative to the norm of a typical key.
        self.exact = sigma != "auto" and sigma / self.matched_sigma() * head_width**-0.25 < EXACT_BELOW
        self.decay = None if role == "cross" else config.decay
        self.initial: dict[str, Tensor] = {}
        widths = [math.log(self.initial_sigma)] * (heads if learn == "head" else 1)
        self._number("log_sigma", torch.tensor(widths, dtype=torch.float64), learn != "none")
        if self.decay == "learned":  # τ = 2^(8/H) .. 2^8 tokens, the slopes of ALiBi (Press et al. 2022)
            self._number("log_tau", torch.arange(1, heads + 1, dtype=torch.float64) * (8 * math.log(2) / heads), True)
        elif self.decay is not None:
            self._number("log_tau", torch.tensor([math.log(self.decay)], dtype=torch.float64), False)

    def _number(self, name: str, value: Tensor, learned: bool) -> None:
        """Register a learned parameter, or a fixed buffer that is not saved: it comes from the configuration."""
        self.initial[name] = value
        number = value.to(self.qkv.weight.dtype, copy=True)
        if learned:
            self.register_parameter(name, nn.Parameter(number))
        else:
            self.register_buffer(name, number, persistent=False)

    log_sigma: Tensor
    log_tau: Tensor

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Glorot uniform for W_q, W_k, W_v and W_o each; biases 0; σ and τ at their initial values."""
        for part in self.qkv.weight.split(self.heads * self.head_width):
            nn.init.xavier_uniform_(part)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.output.bias)
        for name, value in self.initial.items():
            getattr(self, name).copy_(value)

    # σ and τ

    def unit(self) -> float:
        """The norm of a typical query or key: 1 if unit per head, √(1/H) if a slice of a unit vector, else √K."""
        return {"head": 1.0, "model": self.heads**-0.5, "none": self.head_width**0.5}[self.normalize]

    def matched_sigma(self) -> float:
        """The σ at which the weights equal those of scaled dot-product attention if all key norms are equal."""
        return self.head_width**-0.25 * self.unit()

    @property
    def learns_sigma(self) -> bool:
        """Whether σ is a weight; unlike requires_grad, this also holds after training and in averaged models."""
        return isinstance(self.log_sigma, nn.Parameter)

    def sigma(self) -> Tensor:
        """σ per head [H] or per module [1], float32 or wider."""
        return self.log_sigma.exp()

    def kappa(self) -> Tensor:
        """κ = 1/σ², [H, 1, 1] or [1, 1, 1]."""
        return (-2 * self.log_sigma).exp().view(-1, 1, 1)

    @torch.no_grad()
    def constrain(self) -> None:
        """Clamp a learned σ on unit vectors to its bound; done after an update, so that gradients keep flowing."""
        if self.normalize == "head" and self.learns_sigma:
            self.log_sigma.clamp_(min=math.log(SMALLEST_LEARNED))

    def decay_bias(self, queries: int, keys: int) -> Tensor | None:
        """log exp(-|t - s|/τ), [H or 1, T, S]; in the decoder up to a constant per row, so [H or 1, 1, S]."""
        if self.decay is None:
            return None
        s = torch.arange(keys, device=self.log_tau.device, dtype=self.log_tau.dtype)
        t = s[-1:] if self.role == "decoder" else s[keys - queries :]
        return -(t[:, None] - s).abs() * (-self.log_tau).exp().view(-1, 1, 1)

    # Projections

    def project(self, x_BTD: Tensor) -> tuple[Tensor, KeysValues]:
        """Queries [B, H, T, K], keys and values for self-attention."""
        if self.exact:
            return self.project_queries(x_BTD), self.project_keys(x_BTD)
        parts = self._heads(F.linear(x_BTD, self.qkv.weight, self.qkv.bias))
        return parts[0], self._keys_values(parts[self.key_part :])

    def project_queries(self, x_BTD: Tensor) -> Tensor:
        """Queries [B, H, T, K]."""
        return self._linear(x_BTD, 0, 1, self.exact)[0]

    def project_keys(self, memory_BSD: Tensor) -> KeysValues:
        """Keys and values for attending to the memory."""
        first = self.key_part
        if not self.exact:
            return self._keys_values(self._linear(memory_BSD, first, self.parts, False))
        kv = self._linear(memory_BSD, first, first + 1, True)
        if self.values_are == "own":
            kv += self._linear(memory_BSD, first + 1, first + 2, False)
        return self._keys_values(kv)

    def _keys_values(self, kv: list[Tensor]) -> KeysValues:
        return KeysValues(kv[0], kv[1] if self.values_are == "own" else None, self._length(kv[0]))

    def _linear(self, x_BTD: Tensor, first: int, last: int, exact: bool) -> list[Tensor]:
        """Parts `first` to `last` of [W_q; W_k; W_v] applied to x, each split into heads; exact: in float32."""
        inner = self.heads * self.head_width
        rows = slice(first * inner, last * inner)
        with torch.autocast(x_BTD.device.type, enabled=not exact and torch.is_autocast_enabled(x_BTD.device.type)):
            x_BTD = x_BTD.to(self.qkv.weight.dtype) if exact else x_BTD
            return self._heads(F.linear(x_BTD, self.qkv.weight[rows], self.qkv.bias[rows]))

    def _heads(self, projected: Tensor) -> list[Tensor]:
        """Split [B, T, n H K] into n tensors [B, H, T, K]."""
        parts = projected.unflatten(-1, (-1, self.heads, self.head_width))  # [B, T, n, H, K]
        return list(parts.permute(2, 0, 3, 1, 4).unbind(0))

    def _length(self, x_BHTK: Tensor) -> Tensor | None:
        """The norms that divide queries or keys, [B, H or 1, T, 1]; None: not normalised."""
        return None if self.normalize == "none" else length(x_BHTK, (3,) if self.normalize == "head" else (1, 3))

    # Attention

    def forward(self, q_BHTK: Tensor, memory: KeysValues, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """The output [B, T, D] for projected queries, keys and values.

        mask: broadcastable to [B, 1, T, S], True = may attend; a row without any True gives zeros before W_o.
        causal: query t sees keys up to S - T + t, in addition to the mask.
        """
        y_BHTK = self._path(q_BHTK, memory)(q_BHTK, memory, mask, causal and q_BHTK.shape[2] > 1)
        return self.output(y_BHTK.transpose(1, 2).flatten(2))

    def _path(self, q_BHTK: Tensor, memory: KeysValues) -> Callable[..., Tensor]:
        """Choose the fastest implementation that supports the case (measured in docs/benchmarks.md)."""
        if not self.dot_form:
            return self._plain
        two_sided = self.decay is not None and self.role == "encoder"  # no fused kernel takes such a bias
        if q_BHTK.device.type != "cpu" and not two_sided:
            return self._fused
        if self.dropout and self.training:  # no fused CPU kernel has dropout
            return self._plain
        short = q_BHTK.shape[2] * memory.k_BHSK.shape[2] <= 256 * 256
        return self._products if short or two_sided or self.any_length else self._fused

    def logits(self, q_BHTK: Tensor, k_BHSK: Tensor) -> Tensor:
        """Log of the unnormalised weights [B, H, T, S], up to a constant per row."""
        raise NotImplementedError

    def key_bias(self, memory: KeysValues) -> Tensor | None:
        """With `dot_form`: what the logits add to κ q·k for each key, [B, H, 1, S]; None: nothing, or a constant."""
        return None

    def weights(self, q_BHTK: Tensor, memory: KeysValues, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """The attention weights [B, H, T, S], float32 or wider: rows sum to 1, or are 0 if everything is masked."""
        device = q_BHTK.device.type
        with torch.autocast(device, enabled=not self.exact and torch.is_autocast_enabled(device)):
            logits = self.logits(_divided(q_BHTK, self._length(q_BHTK)), self.keys(memory))
        logits = logits if logits.dtype == torch.float64 else logits.float()
        decay = self.decay_bias(*logits.shape[2:])
        return masked_softmax(logits if decay is None else logits + decay, visible(mask, causal, logits))

    def keys(self, memory: KeysValues) -> Tensor:
        """The keys as `logits` takes them [B, H, S, K]; float32 or wider if normalised."""
        return _divided(memory.k_BHSK, memory.length_BHS1)

    def values(self, memory: KeysValues) -> Tensor:
        """The values [B, H, S, K]."""
        if memory.v_BHSK is not None:
            return memory.v_BHSK
        return memory.k_BHSK if self.values_are == "raw_keys" else self.keys(memory).to(memory.k_BHSK.dtype)

    def _plain(self, q: Tensor, memory: KeysValues, mask: Tensor | None, causal: bool) -> Tensor:
        """The equation as written; the only path of variants without `dot_form`."""
        p_BHTS, v = self.weights(q, memory, mask, causal), self.values(memory)
        if self.dropout and self.training:
            p_BHTS = F.dropout(p_BHTS, self.dropout)
        with torch.autocast(v.device.type, enabled=False):
            return p_BHTS.to(v.dtype) @ v

    def _products(self, q: Tensor, memory: KeysValues, mask: Tensor | None, causal: bool) -> Tensor:
        """Batched products with a hand-written gradient."""
        return attend(
            q,
            memory.k_BHSK,
            memory.v_BHSK,
            self.kappa(),
            bias=self._bias(q, memory),
            q_length=self._length(q),
            k_length=memory.length_BHS1,
            unit_values=self.values_are == "keys",
            mask=visible(mask, causal, q, memory.k_BHSK.shape[2]),
        )

    def _fused(self, q: Tensor, memory: KeysValues, mask: Tensor | None, causal: bool) -> Tensor:
        """Torch's fused kernel, with κ folded into the queries and the key bias into extra columns of the keys."""
        v, bias, lengths = self.values(memory), self._bias(q, memory), self._length(q)
        width = v.shape[-1]
        common = torch.float32 if self.exact and v.dtype == torch.bfloat16 else v.dtype
        plain = lengths is None and bias is None and not self.learns_sigma
        with torch.autocast(q.device.type, enabled=False):
            if not plain:  # scale= takes no gradient and only one value for all heads
                q = q * (self.kappa() if lengths is None else self.kappa() / lengths)
            q, k, v = q.to(common), self.keys(memory).to(common), v.to(common)
            if bias is not None:
                q, k, v = _with_columns(q, k, v, bias.mT)
            # is_causal aligns the first query with the first key, which is wrong for cached queries; these get a mask.
            aligned = causal and mask is None and q.shape[2] == k.shape[2]
            y = F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=None if aligned else visible(mask, causal, q, k.shape[2]),
                dropout_p=self.dropout if self.training else 0.0,
                is_causal=aligned,
                scale=self.initial_sigma**-2 if plain else 1.0,
            )
        return y[..., :width]

    def _bias(self, q_BHTK: Tensor, memory: KeysValues) -> Tensor | None:
        """All that is added to κ q·k, broadcastable to [B, H, T, S]."""
        of_keys, decay = self.key_bias(memory), self.decay_bias(q_BHTK.shape[2], memory.k_BHSK.shape[2])
        return of_keys if decay is None else decay if of_keys is None else of_keys + decay


def _divided(x_BHTK: Tensor, lengths: Tensor | None) -> Tensor:
    return x_BHTK if lengths is None else x_BHTK / lengths


def visible(mask: Tensor | None, causal: bool, like: Tensor, keys: int | None = None) -> Tensor | None:
    """The mask combined with the causal mask, for `like` of shape [..., T, S], or [..., T, K] and the number of keys.

    None: every query may attend to every key.
    """
    if not causal:
        return mask
    queries, keys = like.shape[-2], keys or like.shape[-1]
    triangle = torch.ones(queries, keys, dtype=torch.bool, device=like.device).tril(keys - queries)
    return triangle if mask is None else mask & triangle


def _with_columns(q: Tensor, k: Tensor, v: Tensor, bias_BHS1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """([q, 1], [k, bias], [v, 0]), so that q·k includes the key bias.

    One bfloat16 column would round the bias; three hold all bits of float32. Kernels want values as wide as the keys,
    and a width divisible by 8.
    """
    columns, rest = [], bias_BHS1.expand(*k.shape[:-1], 1)
    for _ in range(2 if k.dtype == torch.bfloat16 else 0):
        columns.append(rest.to(k.dtype))
        rest = rest - columns[-1]
    columns.append(rest.to(k.dtype))
    width = k.shape[-1]
    zeros = -(width + len(columns)) % 8
    ones = F.pad(q, (0, len(columns)), value=1.0)
    return F.pad(ones, (0, zeros)), F.pad(torch.cat([k, *columns], -1), (0, zeros)), F.pad(v, (0, len(columns) + zeros))


VARIANTS: dict[str, type[MultiHeadAttention]] = {}


def register(variant: type[MultiHeadAttention]) -> type[MultiHeadAttention]:
    """Register a variant under the `kind` of its settings."""
    VARIANTS[variant.Config.kind] = variant
    return variant


def build_attention(
    config: AttentionConfig, role: Role, *, width: int, heads: int, head_width: int, dropout: float
) -> MultiHeadAttention:
    """Build the configured attention module; only here does the YAML word become a class."""
    return VARIANTS[config.kind](config, role, width=width, heads=heads, head_width=head_width, dropout=dropout)


def constrain(model: nn.Module) -> None:
    """Clamp every learned σ to its bound after an update."""
    for _, module in attentions(model):
        module.constrain()


def sigmas(model: nn.Module) -> dict[str, list[float]]:
    """σ by module name, for modules whose equation has one or that learn it: per head, or one."""
    return {name: [round(value, 6) for value in module.sigma().tolist()] for name, module in _with_sigma(model)}


def taus(model: nn.Module) -> dict[str, list[float]]:
    """Learned τ in tokens by module name, per head."""
    learned = ((name, module) for name, module in attentions(model) if module.decay == "learned")
    return {name: [round(value, 6) for value in module.log_tau.exp().tolist()] for name, module in learned}


def for_any_length(model: nn.Module) -> None:
    """Make every attention module compute all lengths in the same way."""
    for _, module in attentions(model):
        module.any_length = True


def exact_modules(model: nn.Module) -> list[str]:
    """Names of the modules whose σ is so small that q·k must be float32."""
    return [name for name, module in attentions(model) if module.exact]


def initial_sigmas(model: nn.Module) -> dict[str, str]:
    """For each role, the initial σ and whether it is learned, as text."""
    return {
        module.role: f"{module.initial_sigma:.4g} ({'learned' if module.learns_sigma else 'fixed'})"
        for _, module in _with_sigma(model)
    }


def _with_sigma(model: nn.Module) -> Iterator[tuple[str, MultiHeadAttention]]:
    return ((name, module) for name, module in attentions(model) if module.has_sigma or module.learns_sigma)


def attentions(model: nn.Module) -> Iterator[tuple[str, MultiHeadAttention]]:
    """Name and module of every attention in a network."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, MultiHeadAttention))
