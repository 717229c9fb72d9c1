"""Greedy search, beam search and sampling over a step function: one bookkeeping in numpy for every engine.

This file sees ids and scores. It knows neither the model behind the `Stepper`, nor text, nor any vocabulary beyond the
few ids that it is given. Scores are natural-log probabilities, EOS included.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from projtrans.errors import RunError
from projtrans.search.decoding import DecodingConfig, Draws
from projtrans.search.rules import Constraints, Ints, Restriction, Rules

# Axes: B sentences still being searched, M live hypotheses of a sentence, V vocabulary, K best next tokens of a
# hypothesis, C candidates to continue a sentence, P slots of a sentence for hypotheses of any kind, T tokens so far.

Doubles = NDArray[np.float64]

NOT_FINITE = "search: the model's probabilities are not finite; its weights are damaged or have diverged"


class Scores(Protocol):
    """Scores of the next token of B × M hypotheses, held where the engine computed them.

    What the restriction forbids is never taken, and the others keep the probabilities that the model gives them.
    """

    def best(self, count: int, restriction: Restriction) -> tuple[Doubles, Ints]:
        """Log-probability and id [B, M, K] of the K = `count` most probable tokens (V if that is less), ids ascending.

        Of equals a count of 1 takes the lowest id. Where logits are not finite, log-probabilities are NaN.
        """

    def draw(
        self, chance_BM: Doubles, temperature: float, top_k: int, restriction: Restriction
    ) -> tuple[Doubles, Ints]:
        """Log-probability and id [B, M, 1] of the token where the chance falls, by the inverse of the distribution.

        Weights are p^(1 / temperature) of the `top_k` most probable tokens (0: of all), in the order of their ids. The
        scores may be those of one hypothesis per sentence, for M chances.
        """


class Stepper(Protocol):
    """The model's side: next-token scores for B sentences × M hypotheses, and the caches behind them."""

    def step(self, token_BM: Ints) -> Scores:
        """Scores of the token after `token_BM`; the caches advance by one position.

        `token_BM` is the last token of each hypothesis: BOS with M = 1 at the first call.
        """

    def select(self, sentence_B: Ints, parent_BM: Ints) -> None:
        """Keep the sentences at the indices `sentence_B`; their slot m then continues hypothesis `parent_BM[b, m]`.

        The indices count within the current batch and ascend, so that as many as there are sentences keep all of them,
        and per-sentence memory needs no copy. M may grow (from 1 to the beam size at the first call). Never the
        identity.
        """


@dataclass(frozen=True, kw_only=True)
class SearchRequest:
    """What is asked of the search over a batch of sentences."""

    limits: Sequence[int]  # of each sentence: the maximum length in tokens, EOS included, at least 1
    rules: Rules
    decoding: DecodingConfig
    n_best: int = 1
    numbers: Sequence[int] | None = None  # of each sentence in the whole input, for samples; None: 1, 2, ...


@dataclass(frozen=True)
class Hypothesis:
    """One translation of one sentence, as ids."""

    tokens: list[int]  # without BOS and EOS
    score: float  # log-probability of the tokens, EOS included: the sum of token_scores
    normalised_score: float  # score / length penalty, EOS counted in the length
    token_scores: list[float]  # log-probability of each token, EOS included
    finished: bool  # False: cut at the maximum length, without EOS

    @classmethod
    def of(cls, tokens: list[int], token_scores: list[float], eos_id: int, alpha: float) -> "Hypothesis":
        """From the tokens up to the first EOS, if they have one; raises RunError where a score is not finite."""
        finished = eos_id in tokens
        tokens = tokens[: tokens.index(eos_id) + 1] if finished else tokens
        token_scores, score = token_scores[: len(tokens)], 0.0
        for token_score in token_scores:  # not sum(): from Python 3.12 it rounds otherwise than a beam's additions
            score += token_score
        if not math.isfinite(score):
            raise RunError(NOT_FINITE)
        return cls(
            tokens=tokens[:-1] if finished else tokens,
            score=score,
            normalised_score=score / length_penalty(len(tokens), alpha),
            token_scores=token_scores,
            finished=finished,
        )


def length_penalty(length: int, alpha: float) -> float:
    """lp(Y) = (5 + |Y|)^α / (5 + 1)^α.  Wu et al. 2016 (GNMT), eq. 14; |Y| counts EOS."""
    return math.pow((5 + length) / 6, alpha)


def search(stepper: Stepper, request: SearchRequest) -> list[list[Hypothesis]]:
    """The hypotheses of each sentence: of `sample`, of `greedy` for one from a beam of one, else of `beam_search`."""
    if request.decoding.sample:
        return sample(stepper, request)
    if request.decoding.beam_size == request.n_best == 1:
        return greedy(stepper, request)
    return beam_search(stepper, request)


def _finite(scored: tuple[Doubles, Ints]) -> tuple[Doubles, Ints]:
    if np.isnan(scored[0]).any():
        raise RunError(NOT_FINITE)
    return scored


# -------------------------------------------------------------------------------------------------- token by token


def greedy(stepper: Stepper, request: SearchRequest) -> list[list[Hypothesis]]:
    """One hypothesis of each sentence: the most probable next token, until EOS or the sentence's limit.

    Raises RunError where probabilities are not finite.
    """
    return _walk(stepper, request, None)


def sample(stepper: Stepper, request: SearchRequest) -> list[list[Hypothesis]]:
    """`n_best` independent hypotheses of each sentence, in the order drawn: each next token at random.

    Scores are the model's, at any temperature. Raises RunError where probabilities are not finite.
    """
    numbers = range(1, len(request.limits) + 1) if request.numbers is None else request.numbers
    return _walk(stepper, request, Draws(request.decoding.seed, numbers, request.n_best))


def _walk(stepper: Stepper, request: SearchRequest, draws: Draws | None) -> list[list[Hypothesis]]:
    config, eos_id, slots = request.decoding, request.rules.eos_id, draws.samples if draws else 1
    constraints, limit_N = Constraints(request.rules, config), np.array(request.limits, dtype=np.int64)
    token_NMT = np.zeros((len(limit_N), slots, limit_N.max(initial=0)), dtype=np.int64)
    logprob_NMT = np.zeros(token_NMT.shape)
    live_B, open_BM = np.arange(len(limit_N)), np.ones((len(limit_N), slots), dtype=np.bool_)
    token_BM = np.full((len(limit_N), 1), request.rules.bos_id, dtype=np.int64)
    for position in range(token_NMT.shape[-1]):
        scores = stepper.step(token_BM)
        restriction = constraints.at(live_B, token_NMT[live_B, : token_BM.shape[1], :position])
        if draws:
            chance_BM = np.array(draws.chances(live_B.tolist(), position))
            logprob_BM1, token_BM1 = scores.draw(chance_BM, config.temperature, config.top_k, restriction)
        else:
            logprob_BM1, token_BM1 = _finite(scores.best(1, restriction))
        grown, token_BM = token_BM.shape[1] < slots, token_BM1[:, :, 0]
        token_NMT[live_B, :, position], logprob_NMT[live_B, :, position] = token_BM, logprob_BM1[:, :, 0]
        open_BM = open_BM & (token_BM != eos_id) & (position + 1 < limit_N[live_B])[:, None]
        kept_B = np.flatnonzero(open_BM.any(1))
        if not len(kept_B):
            break
        if grown or len(kept_B) < len(live_B):
            live_B, open_BM, token_BM = live_B[kept_B], open_BM[kept_B], token_BM[kept_B]
            slot_M = np.arange(slots) * (not grown)
            stepper.select(kept_B, np.repeat(slot_M[None], len(kept_B), 0))

    def hypothesis(sentence: int, slot: int) -> Hypothesis:
        path = (sentence, slot, slice(request.limits[sentence]))
        return Hypothesis.of(token_NMT[path].tolist(), logprob_NMT[path].tolist(), eos_id, config.length_penalty)

    return [[hypothesis(sentence, slot) for slot in range(slots)] for sentence in range(len(limit_N))]


# -------------------------------------------------------------------------------------------------------------- beam


@dataclass(frozen=True)
class _Paths:
    """P hypotheses of each sentence in falling order of score; the score of an empty slot is -inf."""

    score_BP: Doubles  # log-probability; of finished hypotheses normalised by their length
    token_BPT: Ints  # up to EOS, then anything
    logprob_BPT: Doubles  # of each token

    @classmethod
    def empty(cls, sentences: int, slots: int, score: float) -> "_Paths":
        """Hypotheses without a token."""
        shape = (sentences, slots, 0)
        return cls(np.full(shape[:2], score), np.zeros(shape, np.int64), np.zeros(shape))

    def at(self, *index: Ints) -> "_Paths":
        """All hypotheses of the sentences at an index, or those at (sentence, slot)."""
        return _Paths(self.score_BP[index], self.token_BPT[index], self.logprob_BPT[index])

    def pick(self, slot_BP: Ints) -> "_Paths":
        """The hypotheses in these slots of each sentence."""
        return self.at(np.arange(len(slot_BP))[:, None], slot_BP)

    def best(self, other: "_Paths") -> "_Paths":
        """The P best of both, where `other` has one more token; of equals those here."""
        blank = np.zeros((*self.score_BP.shape, 1))
        longer_BPT = np.concatenate([self.token_BPT, blank.astype(np.int64)], -1)
        paths = _Paths(
            np.concatenate([self.score_BP, other.score_BP], 1),
            np.concatenate([longer_BPT, other.token_BPT], 1),
            np.concatenate([np.concatenate([self.logprob_BPT, blank], -1), other.logprob_BPT], 1),
        )
        return paths.pick(_falling(paths.score_BP)[:, : self.score_BP.shape[1]])

    def listed(self, row: int) -> list[tuple[list[int], list[float]]]:
        """Tokens and their scores of a sentence's hypotheses, without the empty slots."""
        taken_P = self.score_BP[row] > -math.inf
        tokens, logprobs = self.token_BPT[row, taken_P].tolist(), self.logprob_BPT[row, taken_P].tolist()
        return list(zip(tokens, logprobs, strict=True))


@dataclass(frozen=True)
class _Beam:
    """The search after T steps."""

    sentence_B: Ints  # index in the batch that the caller gave
    limit_B: Ints  # maximum tokens, EOS included
    limit_penalty_B: Doubles  # length penalty at the limit
    live: _Paths  # P = M
    final: _Paths  # P = n_best: the best finished ones

    @classmethod
    def start(cls, request: SearchRequest) -> "_Beam":
        """One live hypothesis of each sentence, without a token."""
        sentences, alpha = len(request.limits), request.decoding.length_penalty
        penalty_B = np.array([length_penalty(limit, alpha) for limit in request.limits], dtype=np.float64)
        live, final = _Paths.empty(sentences, 1, 0.0), _Paths.empty(sentences, request.n_best, -math.inf)
        return cls(np.arange(sentences), np.array(request.limits, dtype=np.int64), penalty_B, live, final)

    def rows(self, row_B: Ints) -> "_Beam":
        """The sentences at these indices."""
        limits = (self.limit_B[row_B], self.limit_penalty_B[row_B])
        return _Beam(self.sentence_B[row_B], *limits, self.live.at(row_B), self.final.at(row_B))

    def expand(
        self, logprob_BMK: Doubles, token_BMK: Ints, config: DecodingConfig, eos_id: int
    ) -> tuple["_Beam", Ints]:
        """The beam one token further, and the parent [B, M] of each new live hypothesis."""
        # K = beam_size + 1 tokens of a hypothesis include its beam_size best without EOS. 2 × beam_size candidates
        # include the beam_size best without EOS of all, since each hypothesis ends in one way only.
        flat, row_B1 = (len(token_BMK), -1), np.arange(len(token_BMK))[:, None]
        sum_BC = (self.live.score_BP[:, :, None] + logprob_BMK).reshape(flat)
        order_BC = _falling(sum_BC)[:, : 2 * config.beam_size]  # of equals: the lower slot, then the lower id
        parent_BC = order_BC // token_BMK.shape[-1]
        score_BC = sum_BC[row_B1, order_BC]
        token_BC = token_BMK.reshape(flat)[row_B1, order_BC]
        logprob_BC = logprob_BMK.reshape(flat)[row_B1, order_BC]
        history = self.live.pick(parent_BC)
        token_BCT = np.concatenate([history.token_BPT, token_BC[:, :, None]], -1)
        logprob_BCT = np.concatenate([history.logprob_BPT, logprob_BC[:, :, None]], -1)

        ends_BC = token_BC == eos_id
        slot_BM = ends_BC.argsort(axis=1, kind="stable")[:, : config.beam_size]  # without EOS first, still in order
        live = _Paths(np.where(ends_BC, -math.inf, score_BC), token_BCT, logprob_BCT).pick(slot_BM)
        ends_BC[:, config.beam_size :] = False
        normalised_BC = score_BC / length_penalty(token_BCT.shape[-1], config.length_penalty)
        ended = _Paths(np.where(ends_BC, normalised_BC, -math.inf), token_BCT, logprob_BCT)
        return replace(self, live=live, final=self.final.best(ended)), parent_BC[row_B1, slot_BM]

    def stopped(self) -> NDArray[np.bool_]:
        """Which sentences [B] are at their maximum, or have n_best finished hypotheses that no live one can pass."""
        bound_B = self.live.score_BP[:, 0] / self.limit_penalty_B
        return (self.final.score_BP[:, -1] >= bound_B) | (self.limit_B <= self.live.token_BPT.shape[-1])

    def hypotheses(self, row: int, eos_id: int, alpha: float) -> list[Hypothesis]:
        """The result for a sentence: finished hypotheses, and live ones where these leave slots empty."""
        best = (self.final.listed(row) + self.live.listed(row))[: self.final.score_BP.shape[1]]
        return [Hypothesis.of(tokens, logprobs, eos_id, alpha) for tokens, logprobs in best]


def beam_search(stepper: Stepper, request: SearchRequest) -> list[list[Hypothesis]]:
    """Up to `n_best` hypotheses of each sentence, best normalised score first.

    Each step ranks all continuations of the live hypotheses. Those that end and are among the `beam_size` best are
    finished; the `beam_size` best of the others live on, so that finished ones never crowd them out. A sentence stops
    at its limit, or when its `n_best` best finished hypotheses are as good as any live one can become: since log
    probabilities only fall and the penalty only grows, that is live score / penalty(maximum length). Going on would
    not change the result. Hypotheses cut at the maximum come last, and only where fewer than `n_best` finished. A beam
    of one with α = 0 gives what `greedy` gives. Raises RunError where probabilities are not finite.
    """
    config, eos_id = request.decoding, request.rules.eos_id
    beam, constraints = _Beam.start(request), Constraints(request.rules, config)
    token_BM = np.full((len(request.limits), 1), request.rules.bos_id, dtype=np.int64)
    results: dict[int, list[Hypothesis]] = {}
    while len(token_BM):
        scores, restriction = stepper.step(token_BM), constraints.at(beam.sentence_B, beam.live.token_BPT)
        best = _finite(scores.best(config.beam_size + 1, restriction))
        beam, parent_BM = beam.expand(*best, config, eos_id)
        moved = (parent_BM != np.arange(parent_BM.shape[1])).any()  # to another slot, or M has grown
        stopped_B = beam.stopped()
        kept_B = np.flatnonzero(~stopped_B)
        if len(kept_B) < len(stopped_B):
            for row in np.flatnonzero(stopped_B).tolist():
                results[int(beam.sentence_B[row])] = beam.hypotheses(row, eos_id, config.length_penalty)
            beam = beam.rows(kept_B)
        if len(kept_B) and (moved or len(kept_B) < len(stopped_B)):
            stepper.select(kept_B, parent_BM[kept_B])
        token_BM = beam.live.token_BPT[:, :, -1]
    return [results[sentence] for sentence in range(len(request.limits))]


def _falling(score_BC: Doubles) -> Ints:
    """The order from the highest score to the lowest, equals as they stand."""
    return (-score_BC).argsort(axis=1, kind="stable")
