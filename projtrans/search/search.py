"""Greedy and beam search over a step function.

This file sees ids, logits and scores. It does not know the model behind the `Stepper`, nor text, nor any vocabulary
beyond the few ids that it is given. Scores are natural-log probabilities, the end included.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from projtrans.search.decoding import NEW_WORD, DecodingConfig, Draws, Hypothesis, Places, Rules, length_penalty, ranked

# Axes: B sentences still searched, M live hypotheses of a sentence, V vocabulary, K best next tokens of a hypothesis,
# C candidates to continue a sentence, P places of a sentence for hypotheses of any sort, T tokens so far.


class Stepper(Protocol):
    """The model's side: next-token logits for B sentences × M hypotheses, and the caches behind them."""

    def step(self, token_BM: Tensor) -> Tensor:
        """Unnormalised logits, floating [B, M, V], of the token after `token_BM`; the caches advance one position.

        `token_BM` (int64) is the last token of each hypothesis: at the first call BOS and M = 1. The search normalises,
        in float32 (in float64 if given float64).
        """

    def select(self, sentence_B: Tensor, parent_BM: Tensor) -> None:
        """Keep the sentences at the indices `sentence_B`; their slot m then continues hypothesis `parent_BM[b, m]`.

        Both int64. The indices count in the current batch and ascend, so as many as there are sentences keeps all of
        them, and per-sentence memory needs no copy. M may grow (1 to beam size at the first call). Never the identity.
        """


def search(
    stepper: Stepper,
    max_length_B: Tensor,
    config: DecodingConfig,
    rules: Rules,
    *,
    n_best: int = 1,
    numbers: Sequence[int] | None = None,
) -> list[list[Hypothesis]]:
    """The hypotheses of each sentence: of `sample`, of `greedy` for one from a beam of one, else of `beam_search`.

    numbers: of each sentence in the caller's input, which samples depend on; 1, 2, ... where not given.
    """
    if config.sample:
        numbers = range(1, len(max_length_B) + 1) if numbers is None else numbers
        draws = Draws(config.seed, numbers, n_best)
        return sample(stepper, max_length_B, config, rules, draws)
    if config.beam_size == n_best == 1:
        return greedy(stepper, max_length_B, config, rules)
    return beam_search(stepper, max_length_B, config, rules, n_best=n_best)


# ------------------------------------------------------------------------------------------------ what may be taken


@dataclasses.dataclass(frozen=True)
class _Allowed:
    """The rules of a batch of N sentences, with the prefixes as a tensor."""

    config: DecodingConfig
    rules: Rules
    prefix_NT: Tensor  # int64; as in `Rules.prefix_rows`
    plain: bool  # what may follow does not depend on what came before

    @classmethod
    def of(cls, config: DecodingConfig, rules: Rules, like: Tensor) -> "_Allowed":
        """On the device of a tensor of whole numbers."""
        rows = rules.prefix_rows
        prefix_NT = like.new_tensor(rows).reshape(len(rows), -1 if rows else 0)
        return cls(config, rules, prefix_NT, rules.plain(config))

    def restrict(self, logprob_BMV: Tensor, token_BMT: Tensor, sentence_B: Tensor | list[int]) -> None:
        """Give -inf to all that may not follow the tokens so far of these sentences (indices among the N).

        Where nothing may follow, the end may, even before the least length. Plain rules do not look at `token_BMT`.
        """
        rules, step = self.rules, token_BMT.shape[-1]
        unbanned_BMV = None if self.plain else logprob_BMV.clone()
        for banned_id in rules.banned_ids:
            logprob_BMV[:, :, banned_id] = -math.inf
        if unbanned_BMV is None:
            return
        end_BM = logprob_BMV[:, :, rules.eos_id]
        if step + 1 < self.config.min_length:
            end_BM.fill_(-math.inf)
        if self.config.no_repeat_ngram:
            _forbid_repetition(logprob_BMV, token_BMT, self.config.no_repeat_ngram)
        id_V = torch.arange(logprob_BMV.shape[-1], device=logprob_BMV.device)
        forced_B11 = None
        if step < self.prefix_NT.shape[1]:
            forced_B11 = self.prefix_NT[sentence_B, step][:, None, None]
            joining_V = torch.isin(id_V, id_V.new_tensor(rules.joining_ids))
            logprob_BMV.masked_fill_((forced_B11 == NEW_WORD) & joining_V, -math.inf)
        stuck_BM = logprob_BMV.amax(-1) == -math.inf
        end_BM.copy_(torch.where(stuck_BM, unbanned_BMV[:, :, rules.eos_id], end_BM))
        if forced_B11 is not None:
            forced_BMV = unbanned_BMV.masked_fill_(id_V != forced_B11, -math.inf)
            logprob_BMV.copy_(torch.where(forced_B11 < 0, logprob_BMV, forced_BMV))


def _forbid_repetition(logprob_BMV: Tensor, token_BMT: Tensor, count: int) -> None:
    """Give -inf to the tokens with which the last `count` tokens would stand in their order for the second time."""
    ends = token_BMT.shape[-1] - count + 1  # runs of `count` tokens so far
    if ends < 1:
        return
    same_BMT = torch.ones_like(token_BMT[:, :, :ends], dtype=torch.bool)
    for i in range(count - 1):
        same_BMT &= token_BMT[:, :, i : i + ends] == token_BMT[:, :, i + ends : i + ends + 1]
    barrier_BMT = torch.zeros_like(same_BMT, dtype=logprob_BMV.dtype).masked_fill_(same_BMT, -math.inf)
    logprob_BMV.scatter_add_(-1, token_BMT[:, :, count - 1 :], barrier_BMT)


def _best_tokens(logits_BMV: Tensor, count: int, restrict: Callable[[Tensor], None]) -> tuple[Tensor, Tensor]:
    """Log-probability (float64) and id [B, M, K] of the K = `count` best tokens (V if that is less), ids ascending.

    A count of 0 takes all. `restrict` gives -inf to some, and the others are not renormalised. Of equals argmax takes
    the lowest id; topk promises nothing about equals at its edge, but its kernels choose by the row alone, so the rest
    of the batch cannot matter.
    """
    # Over the whole vocabulary, and yet cheaper on CPU than logsumexp, which is not fused there.
    logprob_BMV = logits_BMV.log_softmax(-1, dtype=torch.promote_types(logits_BMV.dtype, torch.float32))
    restrict(logprob_BMV)
    if not 0 < count < logprob_BMV.shape[-1]:
        id_V = torch.arange(logprob_BMV.shape[-1], device=logprob_BMV.device)
        return logprob_BMV.double(), id_V.expand(logprob_BMV.shape)
    token_BMK = logprob_BMV.argmax(-1, keepdim=True) if count == 1 else _top_ids(logprob_BMV, count).sort().values
    return logprob_BMV.gather(-1, token_BMK).double(), token_BMK


def _top_ids(x_BMV: Tensor, count: int, columns: int = 512) -> Tensor:
    """The ids of the `count` largest of each row, in any order."""
    vocabulary = x_BMV.shape[-1]
    if vocabulary < 4 * columns or count > columns:
        return x_BMV.topk(count, sorted=False).indices
    # The K largest lie in the K columns with the largest maxima, or in the rest that fills no row of columns. A topk
    # over these few takes under half the time of one over V = 8,000 on CPU, where topk is most of the search.
    folded = vocabulary - vocabulary % columns
    column_BMK = x_BMV[:, :, :folded].view(*x_BMV.shape[:2], -1, columns).amax(-2).topk(count, sorted=False).indices
    inside = (column_BMK[..., None] + torch.arange(0, folded, columns, device=x_BMV.device)).flatten(-2)
    outside = torch.arange(folded, vocabulary, device=x_BMV.device).expand(*inside.shape[:-1], -1)
    id_BMC = torch.cat([inside, outside], -1)
    return id_BMC.gather(-1, x_BMV.gather(-1, id_BMC).topk(count, sorted=False).indices)


# -------------------------------------------------------------------------------------------------- token by token


def greedy(stepper: Stepper, max_length_B: Tensor, config: DecodingConfig, rules: Rules) -> list[list[Hypothesis]]:
    """One hypothesis of each sentence: the most probable next token, up to the end or to `max_length_B` tokens.

    `max_length_B` (int64, at least 1, end included) lies on the stepper's device. What the rules forbid is never taken;
    the probabilities of the others stay the model's own. Raises RunError where these are not finite.
    """
    return _walk(stepper, max_length_B, config, rules, None)


def sample(
    stepper: Stepper, max_length_B: Tensor, config: DecodingConfig, rules: Rules, draws: Draws
) -> list[list[Hypothesis]]:
    """Independent hypotheses of each sentence, in the order drawn: each next token at random, as `draws` has it.

    Scores are the model's, as everywhere. Arguments and errors are otherwise those of `greedy`.
    """
    return _walk(stepper, max_length_B, config, rules, draws)


@torch.no_grad()
def _walk(
    stepper: Stepper, max_length_B: Tensor, config: DecodingConfig, rules: Rules, draws: Draws | None
) -> list[list[Hypothesis]]:
    allowed, limits = _Allowed.of(config, rules, max_length_B), max_length_B.tolist()
    slots = draws.samples if draws else 1
    paths: list[list[tuple[list[int], list[float]]]] = [[([], []) for _ in range(slots)] for _ in limits]
    live = list(range(len(limits)))
    token_BM = max_length_B.new_full((len(live), 1), rules.bos_id)
    history_BMT = token_BM[:, :, None][:, :, :0]
    for position in itertools.count():
        if not live:
            break
        restrict = functools.partial(allowed.restrict, token_BMT=history_BMT, sentence_B=live)
        logprob_BMK, token_BMK = _best_tokens(stepper.step(token_BM), config.top_k if draws else 1, restrict)
        if draws:
            chance_BM = logprob_BMK.new_tensor(draws.chances(live, position))
            logprob_BMK, token_BMK = _drawn(logprob_BMK, token_BMK, chance_BM, config.temperature)
        # One transfer for both: float64 holds any id exactly.
        for sentence, chosen in zip(live, torch.cat([logprob_BMK, token_BMK], -1).tolist(), strict=True):
            for (tokens, scores), (score, token) in zip(paths[sentence], chosen, strict=True):
                if _goes_on(tokens, rules.eos_id, limits[sentence]):
                    tokens.append(int(token))
                    scores.append(score)
        grown = token_BM.shape[1] < slots
        token_BM = token_BMK[:, :, 0]
        if not allowed.plain:
            history_BMT = torch.cat([history_BMT.expand(-1, slots, -1), token_BMK], -1)
        kept = [
            b for b, s in enumerate(live) if any(_goes_on(tokens, rules.eos_id, limits[s]) for tokens, _ in paths[s])
        ]
        if kept and (grown or len(kept) < len(live)):
            sentence_B = max_length_B.new_tensor(kept)
            token_BM, history_BMT = token_BM[sentence_B], history_BMT[sentence_B]
            slot_M = torch.arange(slots, device=token_BM.device) * (not grown)
            stepper.select(sentence_B, slot_M.expand(token_BM.shape))
        live = [live[b] for b in kept]
    return [[Hypothesis.of(*path, rules.eos_id, config.length_penalty) for path in several] for several in paths]


def _goes_on(tokens: list[int], eos_id: int, limit: int) -> bool:
    return not tokens or (tokens[-1] != eos_id and len(tokens) < limit)


def _drawn(logprob_BMK: Tensor, token_BMK: Tensor, chance_BM: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probability and id [B, M, 1] of the token where the chance falls, by the inverse of the distribution.

    M of the tokens may be 1, for all. Weights are p^(1 / temperature), in the order of the ids.
    """
    weight_BMK = ((logprob_BMK - logprob_BMK.amax(-1, keepdim=True)) / temperature).exp()
    sum_BMK = weight_BMK.cumsum(-1)
    beyond_BMK = (sum_BMK > chance_BM[:, :, None] * sum_BMK[:, :, -1:]) & (weight_BMK > 0)
    place_BM1 = beyond_BMK.int().argmax(-1, keepdim=True)
    shape = (-1, chance_BM.shape[1], -1)
    return logprob_BMK.expand(shape).gather(-1, place_BM1), token_BMK.expand(shape).gather(-1, place_BM1)


# -------------------------------------------------------------------------------------------------------------- beam


@dataclasses.dataclass(frozen=True)
class _Paths:
    """P hypotheses of each sentence in falling order of score; the score of an empty place is -inf."""

    score_BP: Tensor  # float64 [B, P]: log-probability; of finished hypotheses normalised by their length
    token_BPT: Tensor  # int64 [B, P, T]: up to the end, then anything
    logprob_BPT: Tensor  # float64 [B, P, T]: of each token

    def at(self, *index: Tensor) -> "_Paths":
        """All hypotheses of the sentences at an index, or those at (sentence, place)."""
        return _Paths(self.score_BP[index], self.token_BPT[index], self.logprob_BPT[index])

    def listed(self) -> list[Places]:
        """The hypotheses of each sentence."""
        return list(zip(*(numbers.tolist() for numbers in vars(self).values()), strict=True))

    def pick(self, place_BP: Tensor) -> "_Paths":
        """The hypotheses at these places of each sentence."""
        return self.at(torch.arange(len(place_BP), device=place_BP.device)[:, None], place_BP)

    def best(self, other: "_Paths") -> "_Paths":
        """The P best of both, where `other` has one more token; of equals those here."""
        pad = torch.nn.functional.pad
        longer = (self.score_BP, pad(self.token_BPT, (0, 1)), pad(self.logprob_BPT, (0, 1)))
        paths = _Paths(*(torch.cat(pair, 1) for pair in zip(longer, vars(other).values(), strict=True)))
        order_BP = paths.score_BP.argsort(dim=1, descending=True, stable=True)
        return paths.pick(order_BP[:, : self.score_BP.shape[1]])


@dataclasses.dataclass(frozen=True)
class _Beam:
    """The search after T steps."""

    sentence_B: Tensor  # int64 [B]: index in the batch that the caller gave
    limit_B: Tensor  # int64 [B]: most tokens, end included
    limit_penalty_B: Tensor  # float64 [B]: length penalty at the limit
    live: _Paths  # P = M
    final: _Paths  # P = n_best: the best finished ones

    def rows(self, index: list[int]) -> "_Beam":
        """The sentences at these indices."""
        row_B = self.sentence_B.new_tensor(index)
        limits = (self.limit_B[row_B], self.limit_penalty_B[row_B])
        return _Beam(self.sentence_B[row_B], *limits, self.live.at(row_B), self.final.at(row_B))


@torch.no_grad()
def beam_search(
    stepper: Stepper, max_length_B: Tensor, config: DecodingConfig, rules: Rules, *, n_best: int
) -> list[list[Hypothesis]]:
    """Up to `n_best` hypotheses of each sentence, best normalised score first.

    Each step ranks all continuations of the live hypotheses. Those that end and are among the `beam_size` best are
    finished; the `beam_size` best of the others live on, so finished ones never crowd them out. A sentence stops at
    `max_length_B`, or when its `n_best` best finished hypotheses are as good as any live one can become: since log
    probabilities only fall and the penalty only grows, that is live score / penalty(maximum length). Going on would
    not change the result. Hypotheses cut at the maximum come last, and only where fewer than `n_best` finished.
    Arguments and errors are those of `greedy`, whose result a beam of one with α = 0 gives.
    """
    beam_size, alpha, eos_id = config.beam_size, config.length_penalty, rules.eos_id
    beam, allowed = _start(max_length_B, n_best, alpha), _Allowed.of(config, rules, max_length_B)
    token_BM = max_length_B.new_full((len(max_length_B), 1), rules.bos_id)
    results: dict[int, list[Hypothesis]] = {}
    while len(token_BM):
        restrict = functools.partial(allowed.restrict, token_BMT=beam.live.token_BPT, sentence_B=beam.sentence_B)
        best = _best_tokens(stepper.step(token_BM), beam_size + 1, restrict)
        beam, parent_BM = _expand(beam, *best, beam_size, eos_id, alpha)
        moved_BM = parent_BM != torch.arange(parent_BM.shape[1], device=parent_BM.device)  # some, where M has grown
        *stopped, moved = torch.cat([_stopped(beam), moved_BM.any()[None]]).tolist()  # the one transfer of the step
        kept = [b for b, stop in enumerate(stopped) if not stop]
        if any(stopped):
            results.update(_hypotheses(beam.rows([b for b, stop in enumerate(stopped) if stop]), eos_id, alpha))
            beam = beam.rows(kept)
        if kept and (moved or any(stopped)):
            sentence_B = max_length_B.new_tensor(kept)
            stepper.select(sentence_B, parent_BM[sentence_B])
        token_BM = beam.live.token_BPT[:, :, -1]
    return [results[sentence] for sentence in range(len(max_length_B))]


def _start(max_length_B: Tensor, n_best: int, alpha: float) -> _Beam:
    penalties = [length_penalty(limit, alpha) for limit in max_length_B.tolist()]
    limit_penalty_B = torch.tensor(penalties, dtype=torch.float64, device=max_length_B.device)

    def paths(places: int, score: float) -> _Paths:
        score_BP = limit_penalty_B.new_full((len(penalties), places), score)
        return _Paths(score_BP, max_length_B.new_empty(*score_BP.shape, 0), score_BP.new_empty(*score_BP.shape, 0))

    sentence_B = torch.arange(len(penalties), device=max_length_B.device)
    return _Beam(sentence_B, max_length_B, limit_penalty_B, live=paths(1, 0.0), final=paths(n_best, -math.inf))


def _expand(
    beam: _Beam, logprob_BMK: Tensor, token_BMK: Tensor, beam_size: int, eos_id: int, alpha: float
) -> tuple[_Beam, Tensor]:
    """The beam one token further, and the parent [B, M] of each new live hypothesis."""
    # K = beam_size + 1 tokens of a hypothesis include its beam_size best without end. 2 × beam_size candidates include
    # the beam_size best without end of all, since each hypothesis ends in one way only.
    score_BC = (beam.live.score_BP[:, :, None] + logprob_BMK).flatten(1)
    order_BC = score_BC.argsort(dim=1, descending=True, stable=True)[:, : 2 * beam_size]  # equals: lower slot, lower id
    parent_BC = order_BC // token_BMK.shape[-1]
    score_BC = score_BC.gather(1, order_BC)
    token_BC = token_BMK.flatten(1).gather(1, order_BC)
    logprob_BC = logprob_BMK.flatten(1).gather(1, order_BC)
    history = beam.live.pick(parent_BC)
    token_BCT = torch.cat([history.token_BPT, token_BC[:, :, None]], -1)
    logprob_BCT = torch.cat([history.logprob_BPT, logprob_BC[:, :, None]], -1)

    ends_BC = token_BC == eos_id
    place_BM = ends_BC.int().argsort(dim=1, stable=True)[:, :beam_size]  # those without end first, still in order
    live = _Paths(score_BC.masked_fill(ends_BC, -math.inf), token_BCT, logprob_BCT).pick(place_BM)
    ends_BC[:, beam_size:] = False
    normalised_BC = score_BC / length_penalty(token_BCT.shape[-1], alpha)
    ended = _Paths(normalised_BC.masked_fill(~ends_BC, -math.inf), token_BCT, logprob_BCT)
    return dataclasses.replace(beam, live=live, final=beam.final.best(ended)), parent_BC.gather(1, place_BM)


def _stopped(beam: _Beam) -> Tensor:
    """Which sentences [B] are at their maximum, or have n_best finished hypotheses that no live one can pass."""
    bound_B = beam.live.score_BP[:, 0] / beam.limit_penalty_B
    return (beam.final.score_BP[:, -1] >= bound_B) | (beam.limit_B <= beam.live.token_BPT.shape[-1])


def _hypotheses(beam: _Beam, eos_id: int, alpha: float) -> Iterator[tuple[int, list[Hypothesis]]]:
    """The index and the results of each sentence; all of them have stopped."""
    for sentence, final, live in zip(beam.sentence_B.tolist(), beam.final.listed(), beam.live.listed(), strict=True):
        yield sentence, ranked(final, live, eos_id, alpha)
