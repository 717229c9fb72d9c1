"""Greedy and beam search as search.py has them, in numpy: for an engine that shall not wait for torch.

The same hypotheses with the same scores, held to it by the same tests. Sees ids, logits and scores, and knows no model.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from projtrans.errors import RunError
from projtrans.search.decoding import NEW_WORD, DecodingConfig, Draws, Hypothesis, Places, Rules, length_penalty, ranked

# Axes: B sentences still searched, M live hypotheses of a sentence, V vocabulary, K best next tokens of a hypothesis,
# C candidates to continue a sentence, P places of a sentence for hypotheses of any sort, T tokens so far.


Ints = NDArray[np.int64]

Doubles = NDArray[np.float64]

Floats = NDArray[np.floating[Any]]


class Stepper(Protocol):
    """`search.Stepper` with numpy's arrays."""

    def step(self, token_BM: Ints) -> Floats:
        """Unnormalised logits [B, M, V], float32 or float64, of the token after `token_BM`."""

    def select(self, sentence_B: Ints, parent_BM: Ints) -> None:
        """Keep these sentences; their slot m then continues hypothesis `parent_BM[b, m]`."""


def search(
    stepper: Stepper,
    max_length_B: Ints,
    config: DecodingConfig,
    rules: Rules,
    *,
    n_best: int = 1,
    numbers: Sequence[int] | None = None,
) -> list[list[Hypothesis]]:
    """The hypotheses of each sentence, as `search.search` finds them."""
    if config.sample:
        numbers = range(1, len(max_length_B) + 1) if numbers is None else numbers
        draws = Draws(config.seed, numbers, n_best)
        return sample(stepper, max_length_B, config, rules, draws)
    if config.beam_size == n_best == 1:
        return greedy(stepper, max_length_B, config, rules)
    return beam_search(stepper, max_length_B, config, rules, n_best=n_best)


# ------------------------------------------------------------------------------------------------ what may be taken


@dataclass(frozen=True)
class _Allowed:
    """The rules of a batch of N sentences, with the prefixes as an array."""

    config: DecodingConfig
    rules: Rules
    prefix_NT: Ints  # as in `Rules.prefix_rows`
    plain: bool  # what may follow does not depend on what came before

    @classmethod
    def of(cls, config: DecodingConfig, rules: Rules) -> "_Allowed":
        """Of all sentences that the caller gave."""
        rows = rules.prefix_rows
        prefix_NT = np.array(rows, dtype=np.int64).reshape(len(rows), -1 if rows else 0)
        return cls(config, rules, prefix_NT, rules.plain(config))

    def restrict(self, logprob_BMV: Floats, token_BMT: Ints, sentence_B: Ints | list[int]) -> None:
        """Give -inf to all that may not follow the tokens so far of these sentences, as `search._Allowed.restrict`.

        `logprob_BMV` may be off by a constant of each row.
        """
        rules, step = self.rules, token_BMT.shape[-1]
        unbanned_BMV = None if self.plain else logprob_BMV.copy()
        logprob_BMV[:, :, list(rules.banned_ids)] = -math.inf
        if unbanned_BMV is None:
            return
        if step + 1 < self.config.min_length:
            logprob_BMV[:, :, rules.eos_id] = -math.inf
        if self.config.no_repeat_ngram:
            _forbid_repetition(logprob_BMV, token_BMT, self.config.no_repeat_ngram)
        forced_B = self.prefix_NT[sentence_B, step] if step < self.prefix_NT.shape[1] else np.array([], dtype=np.int64)
        (new_word_B,), (row_B,) = (forced_B == NEW_WORD).nonzero(), (forced_B >= 0).nonzero()
        logprob_BMV[new_word_B[:, None], :, list(rules.joining_ids)] = -math.inf
        stuck_BM = logprob_BMV.max(-1) == -math.inf
        logprob_BMV[stuck_BM, rules.eos_id] = unbanned_BMV[stuck_BM, rules.eos_id]
        logprob_BMV[row_B] = -math.inf
        logprob_BMV[row_B, :, forced_B[row_B]] = unbanned_BMV[row_B, :, forced_B[row_B]]


def _forbid_repetition(logprob_BMV: Floats, token_BMT: Ints, count: int) -> None:
    """Give -inf to the tokens with which the last `count` tokens would stand in their order for the second time."""
    ends = token_BMT.shape[-1] - count + 1  # runs of `count` tokens so far
    if ends < 1:
        return
    same_BMT = np.ones((*token_BMT.shape[:2], ends), dtype=np.bool_)
    for i in range(count - 1):
        same_BMT &= token_BMT[:, :, i : i + ends] == token_BMT[:, :, i + ends : i + ends + 1]
    sentence, slot, run = same_BMT.nonzero()
    logprob_BMV[sentence, slot, token_BMT[sentence, slot, run + count - 1]] = -math.inf


def _best_tokens(logits_BMV: Floats, count: int, restrict: Callable[[Floats], None]) -> tuple[Doubles, Ints]:
    """Log-probability and id [B, M, K] of the K = `count` best tokens (V if that is less), ids ascending.

    A count of 0 takes all. `restrict` gives -inf to some, and the others are not renormalised. Of equals argmax takes
    the lowest id.
    """
    largest = logits_BMV.max(-1, keepdims=True)
    if not np.isfinite(largest).all():
        raise RunError("search: the model's probabilities are not finite; its weights are damaged or have diverged")
    shifted_BMV = logits_BMV - largest
    total = np.exp(shifted_BMV).sum(-1, keepdims=True)
    restrict(shifted_BMV)
    if not 0 < count < shifted_BMV.shape[-1]:
        id_V = np.arange(shifted_BMV.shape[-1])
        return (shifted_BMV - np.log(total)).astype(np.float64), np.broadcast_to(id_V, shifted_BMV.shape)
    token_BMK = shifted_BMV.argmax(-1)[:, :, None] if count == 1 else np.sort(_top_ids(shifted_BMV, count), -1)
    logprob_BMK = np.take_along_axis(shifted_BMV, token_BMK, -1) - np.log(total)
    return logprob_BMK.astype(np.float64), token_BMK


def _top_ids(x_BMV: Floats, count: int, columns: int = 512) -> Ints:
    """The ids of the `count` largest of each row, in any order; as search.py finds them, by columns first."""
    vocabulary = x_BMV.shape[-1]
    if vocabulary < 4 * columns or count > columns:
        return _largest(x_BMV, count)
    folded = vocabulary - vocabulary % columns
    column_BMK = _largest(x_BMV[:, :, :folded].reshape(*x_BMV.shape[:2], -1, columns).max(-2), count)
    inside = (column_BMK[..., None] + np.arange(0, folded, columns)).reshape(*column_BMK.shape[:2], -1)
    outside = np.broadcast_to(np.arange(folded, vocabulary), (*inside.shape[:2], vocabulary - folded))
    id_BMC = np.concatenate([inside, outside], -1)
    return np.take_along_axis(id_BMC, _largest(np.take_along_axis(x_BMV, id_BMC, -1), count), -1)


def _largest(x_BMV: Floats, count: int) -> Ints:
    """The indices of the `count` largest of each row, of all where there are no more."""
    rest = x_BMV.shape[-1] - count
    return x_BMV.argpartition(max(rest, 0), -1)[..., max(rest, 0) :]


# -------------------------------------------------------------------------------------------------- token by token


def greedy(stepper: Stepper, max_length_B: Ints, config: DecodingConfig, rules: Rules) -> list[list[Hypothesis]]:
    """One hypothesis of each sentence, as `search.greedy`; raises RunError where probabilities are not finite."""
    return _walk(stepper, max_length_B, config, rules, None)


def sample(
    stepper: Stepper, max_length_B: Ints, config: DecodingConfig, rules: Rules, draws: Draws
) -> list[list[Hypothesis]]:
    """Independent hypotheses of each sentence, as `search.sample`: the same ones from the same probabilities."""
    return _walk(stepper, max_length_B, config, rules, draws)


def _walk(
    stepper: Stepper, max_length_B: Ints, config: DecodingConfig, rules: Rules, draws: Draws | None
) -> list[list[Hypothesis]]:
    allowed, limits = _Allowed.of(config, rules), max_length_B.tolist()
    slots = draws.samples if draws else 1
    paths: list[list[tuple[list[int], list[float]]]] = [[([], []) for _ in range(slots)] for _ in limits]
    live = list(range(len(limits)))
    token_BM = np.full((len(live), 1), rules.bos_id, dtype=np.int64)
    history_BMT = token_BM[:, :, None][:, :, :0]
    for position in itertools.count():
        if not live:
            break
        restrict = partial(allowed.restrict, token_BMT=history_BMT, sentence_B=live)
        logprob_BMK, token_BMK = _best_tokens(stepper.step(token_BM), config.top_k if draws else 1, restrict)
        if draws:
            chance_BM = np.array(draws.chances(live, position))
            logprob_BMK, token_BMK = _drawn(logprob_BMK, token_BMK, chance_BM, config.temperature)
        grown = token_BM.shape[1] < slots
        token_BM = token_BMK[:, :, 0]
        for sentence, *chosen in zip(live, token_BM.tolist(), logprob_BMK[:, :, 0].tolist(), strict=True):
            for (tokens, scores), token, score in zip(paths[sentence], *chosen, strict=True):
                if _goes_on(tokens, rules.eos_id, limits[sentence]):
                    tokens.append(token)
                    scores.append(score)
        if not allowed.plain:
            repeated = np.broadcast_to(history_BMT, (len(live), slots, history_BMT.shape[-1]))
            history_BMT = np.concatenate([repeated, token_BMK], -1)
        kept = [
            b for b, s in enumerate(live) if any(_goes_on(tokens, rules.eos_id, limits[s]) for tokens, _ in paths[s])
        ]
        if kept and (grown or len(kept) < len(live)):
            token_BM, history_BMT = token_BM[kept], history_BMT[kept]
            slot_M = np.arange(slots) * (not grown)
            stepper.select(np.array(kept), np.repeat(slot_M[None], len(kept), 0))
        live = [live[b] for b in kept]
    return [[Hypothesis.of(*path, rules.eos_id, config.length_penalty) for path in several] for several in paths]


def _goes_on(tokens: list[int], eos_id: int, limit: int) -> bool:
    return not tokens or (tokens[-1] != eos_id and len(tokens) < limit)


def _drawn(logprob_BMK: Doubles, token_BMK: Ints, chance_BM: Doubles, temperature: float) -> tuple[Doubles, Ints]:
    """Log-probability and id [B, M, 1] of the token where the chance falls, as `search._drawn`."""
    with np.errstate(over="ignore"):  # by a temperature near 0
        weight_BMK = np.exp((logprob_BMK - logprob_BMK.max(-1, keepdims=True)) / temperature)
    sum_BMK = weight_BMK.cumsum(-1)
    beyond_BMK = (sum_BMK > chance_BM[:, :, None] * sum_BMK[:, :, -1:]) & (weight_BMK > 0)
    place_BM1 = beyond_BMK.argmax(-1)[:, :, None]
    shape = (*chance_BM.shape, logprob_BMK.shape[-1])
    logprob_BM1 = np.take_along_axis(np.broadcast_to(logprob_BMK, shape), place_BM1, -1)
    return logprob_BM1, np.take_along_axis(np.broadcast_to(token_BMK, shape), place_BM1, -1)


# -------------------------------------------------------------------------------------------------------------- beam


@dataclass(frozen=True)
class _Paths:
    """P hypotheses of each sentence in falling order of score; the score of an empty place is -inf."""

    score_BP: Doubles  # log-probability; of finished hypotheses normalised by their length
    token_BPT: Ints  # up to the end, then anything
    logprob_BPT: Doubles  # of each token

    def at(self, *index: Ints) -> "_Paths":
        """All hypotheses of the sentences at an index, or those at (sentence, place)."""
        return _Paths(self.score_BP[index], self.token_BPT[index], self.logprob_BPT[index])

    def listed(self) -> list[Places]:
        """The hypotheses of each sentence."""
        return list(zip(*(numbers.tolist() for numbers in vars(self).values()), strict=True))

    def pick(self, place_BP: Ints) -> "_Paths":
        """The hypotheses of each sentence at these places."""
        return self.at(np.arange(len(place_BP))[:, None], place_BP)

    def best(self, other: "_Paths") -> "_Paths":
        """The P best of both, where `other` has one more token; of equals those here."""
        pad = [(0, 0), (0, 0), (0, 1)]
        longer = (self.score_BP, np.pad(self.token_BPT, pad), np.pad(self.logprob_BPT, pad))
        paths = _Paths(*(np.concatenate(pair, 1) for pair in zip(longer, vars(other).values(), strict=True)))
        return paths.pick(_falling(paths.score_BP)[:, : self.score_BP.shape[1]])


@dataclass(frozen=True)
class _Beam:
    """The search after T steps."""

    sentence_B: Ints  # index in the batch that the caller gave
    limit_B: Ints  # most tokens, end included
    limit_penalty_B: Doubles  # length penalty at the limit
    live: _Paths  # P = M
    final: _Paths  # P = n_best: the best finished ones

    def rows(self, row_B: Ints) -> "_Beam":
        """The sentences at these indices."""
        limits = (self.limit_B[row_B], self.limit_penalty_B[row_B])
        return _Beam(self.sentence_B[row_B], *limits, self.live.at(row_B), self.final.at(row_B))


def beam_search(
    stepper: Stepper, max_length_B: Ints, config: DecodingConfig, rules: Rules, *, n_best: int
) -> list[list[Hypothesis]]:
    """Up to `n_best` hypotheses of each sentence, best normalised score first, as `search.beam_search` finds them.

    Raises RunError where probabilities are not finite.
    """
    beam_size, alpha, eos_id = config.beam_size, config.length_penalty, rules.eos_id
    beam, allowed = _start(max_length_B, n_best, alpha), _Allowed.of(config, rules)
    token_BM = np.full((len(max_length_B), 1), rules.bos_id, dtype=np.int64)
    results: dict[int, list[Hypothesis]] = {}
    while len(token_BM):
        restrict = partial(allowed.restrict, token_BMT=beam.live.token_BPT, sentence_B=beam.sentence_B)
        best = _best_tokens(stepper.step(token_BM), beam_size + 1, restrict)
        beam, parent_BM = _expand(beam, *best, beam_size, eos_id, alpha)
        moved = bool((parent_BM != np.arange(parent_BM.shape[1])).any())  # slots, or M has grown
        stopped_B = _stopped(beam)
        (kept,) = (~stopped_B).nonzero()
        if len(kept) < len(stopped_B):
            results.update(_hypotheses(beam.rows(stopped_B.nonzero()[0]), eos_id, alpha))
            beam = beam.rows(kept)
        if len(kept) and (moved or len(kept) < len(stopped_B)):
            stepper.select(kept, parent_BM[kept])
        token_BM = beam.live.token_BPT[:, :, -1]
    return [results[sentence] for sentence in range(len(max_length_B))]


def _start(max_length_B: Ints, n_best: int, alpha: float) -> _Beam:
    sentences = len(max_length_B)
    limit_penalty_B = np.array([length_penalty(limit, alpha) for limit in max_length_B.tolist()], dtype=np.float64)

    def paths(places: int, score: float) -> _Paths:
        shape = (sentences, places)
        return _Paths(np.full(shape, score), np.zeros((*shape, 0), np.int64), np.zeros((*shape, 0), np.float64))

    return _Beam(
        np.arange(sentences), max_length_B, limit_penalty_B, live=paths(1, 0.0), final=paths(n_best, -math.inf)
    )


def _expand(
    beam: _Beam, logprob_BMK: Doubles, token_BMK: Ints, beam_size: int, eos_id: int, alpha: float
) -> tuple[_Beam, Ints]:
    """The beam one token further, and the parent [B, M] of each new live hypothesis."""
    flat = (len(token_BMK), -1)
    sum_BC = (beam.live.score_BP[:, :, None] + logprob_BMK).reshape(flat)
    order_BC = _falling(sum_BC)[:, : 2 * beam_size]  # of equals: the lower slot, then the lower id
    parent_BC = order_BC // token_BMK.shape[-1]
    score_BC = np.take_along_axis(sum_BC, order_BC, 1)
    token_BC = np.take_along_axis(token_BMK.reshape(flat), order_BC, 1)
    logprob_BC = np.take_along_axis(logprob_BMK.reshape(flat), order_BC, 1)
    history = beam.live.pick(parent_BC)
    token_BCT = np.concatenate([history.token_BPT, token_BC[:, :, None]], -1)
    logprob_BCT = np.concatenate([history.logprob_BPT, logprob_BC[:, :, None]], -1)

    ends_BC = token_BC == eos_id
    place_BM = ends_BC.argsort(axis=1, kind="stable")[:, :beam_size]  # those without end first, still in order
    live = _Paths(np.where(ends_BC, -math.inf, score_BC), token_BCT, logprob_BCT).pick(place_BM)
    ends_BC[:, beam_size:] = False
    normalised_BC = score_BC / length_penalty(token_BCT.shape[-1], alpha)
    ended = _Paths(np.where(ends_BC, normalised_BC, -math.inf), token_BCT, logprob_BCT)
    return replace(beam, live=live, final=beam.final.best(ended)), np.take_along_axis(parent_BC, place_BM, 1)


def _falling(score_BC: Doubles) -> Ints:
    """The order from the highest score to the lowest, equals as they stand."""
    return (-score_BC).argsort(axis=1, kind="stable")


def _stopped(beam: _Beam) -> NDArray[np.bool_]:
    """Which sentences [B] are at their maximum, or have n_best finished hypotheses that no live one can pass."""
    bound_B = beam.live.score_BP[:, 0] / beam.limit_penalty_B
    return (beam.final.score_BP[:, -1] >= bound_B) | (beam.limit_B <= beam.live.token_BPT.shape[-1])


def _hypotheses(beam: _Beam, eos_id: int, alpha: float) -> Iterator[tuple[int, list[Hypothesis]]]:
    """The index and the results of each sentence; all of them have stopped."""
    for sentence, final, live in zip(beam.sentence_B.tolist(), beam.final.listed(), beam.live.listed(), strict=True):
        yield sentence, ranked(final, live, eos_id, alpha)
