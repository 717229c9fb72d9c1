"""Toy models for the search, with the scores of either engine, and obvious slow searches to hold it to."""

import math

import numpy as np
import torch
from hypothesis import strategies as st

from projtrans.inference.torch_scores import TorchScores
from projtrans.search import search as searches
from projtrans.search.decoding import DecodingConfig
from projtrans.search.numpy_scores import NumpyScores
from projtrans.search.rules import Rules
from projtrans.search.search import Hypothesis, SearchRequest

PAD, BOS, EOS, UNK, A, B = range(6)
BANNED = (PAD, BOS, UNK)
RULES = Rules(bos_id=BOS, eos_id=EOS, banned_ids=BANNED)
SEEDS = st.integers(0, 10**6)
ALPHAS = st.sampled_from([0.0, 0.3, 1.0, 2.0])


def numpy_scores(logits_BMV):
    """The scores of an engine that computes in numpy, which has no bfloat16."""
    return NumpyScores((logits_BMV.float() if logits_BMV.dtype == torch.bfloat16 else logits_BMV).numpy())


ENGINES = {"torch": TorchScores, "numpy": numpy_scores}
"""What makes scores of logits."""

USED = [TorchScores]
"""The scores that the steppers give."""


def search(stepper, limits, config, rules=RULES, *, by="search", n_best=1, numbers=None):
    request = SearchRequest(
        limits=torch.as_tensor(limits).tolist(), rules=rules, decoding=config, n_best=n_best, numbers=numbers
    )
    return getattr(searches, by)(stepper, request)


def greedy(stepper, limits, rules=RULES, **changes):
    return search(stepper, limits, DecodingConfig(**changes), rules, by="greedy")


def beam_search(stepper, limits, rules=RULES, *, n_best, **changes):
    return search(stepper, limits, DecodingConfig(**changes), rules, by="beam_search", n_best=n_best)


def by_both(table, sentences, limits, *arguments, **options):
    """What is found with the scores of numpy, and with those of torch."""
    found = []
    for USED[:] in ([numpy_scores], [TorchScores]):
        found.append(search(TableStepper(table, sentences), limits, *arguments, **options))
    return found


class Table:
    """A toy model: the logits are a row of a random table, chosen by the sentence and the whole history."""

    def __init__(self, seed: int, vocabulary: int = 7, end_bias: float = 0.0, dtype: torch.dtype = torch.float64):
        generator = torch.Generator().manual_seed(seed)
        self.logits = torch.randn(997, vocabulary, dtype=torch.float64, generator=generator) * 2
        self.logits[:, EOS] += end_bias
        self.logits = self.logits.to(dtype)

    def row(self, row, token, sentence):
        """The next row, for whole numbers and for tensors."""
        return (row * 31 + token * 7 + sentence * 101 + 1) % len(self.logits)

    def log_probabilities(self, sentence: int, prefix: list[int]) -> list[float]:
        row = 0
        for token in [BOS, *prefix]:
            row = self.row(row, token, sentence)
        logits = self.logits[row].tolist()
        total = math.log(sum(math.exp(logit) for logit in logits))
        return [logit - total for logit in logits]

    def rescore(self, sentence: int, tokens: list[int]) -> list[float]:
        return [self.log_probabilities(sentence, tokens[:t])[token] for t, token in enumerate(tokens)]


class TableStepper:
    """The table as a Stepper that holds callers to the protocol: its cache is the row that the history led to."""

    def __init__(self, table: Table, sentences: list[int]):
        self.table = table
        self.memory_B = np.array(sentences, dtype=np.int64)
        self.cache_BM = np.zeros((len(sentences), 1), dtype=np.int64)
        self.steps: list[int] = []

    def logits(self, token_BM):
        assert token_BM.shape == self.cache_BM.shape
        assert token_BM.dtype == np.int64
        assert (token_BM == BOS).all() or self.steps
        self.steps.append(len(token_BM))
        self.cache_BM = self.table.row(self.cache_BM, token_BM, self.memory_B[:, None])
        return self.table.logits[torch.from_numpy(self.cache_BM)]

    def step(self, token_BM):
        return USED[0](self.logits(token_BM))

    def select(self, sentence_B, parent_BM):
        kept = sentence_B.tolist()
        assert kept == sorted(set(kept))
        assert len(kept) == len(parent_BM) > 0
        slots = np.arange(self.cache_BM.shape[1])[None].repeat(len(self.cache_BM), 0)
        assert len(kept) < len(slots) or not np.array_equal(parent_BM, slots), "select called for nothing"
        self.memory_B = self.memory_B[sentence_B]
        self.cache_BM = np.take_along_axis(self.cache_BM[sentence_B], parent_BM, 1)


class Fixed:
    """A Stepper that gives the probabilities {prefix: {token: probability}} of one sentence; others have 0."""

    def __init__(self, probabilities: dict[tuple[int, ...], dict[int, float]], vocabulary: int = 6):
        self.probabilities, self.vocabulary = probabilities, vocabulary
        self.prefixes: list[tuple[int, ...]] = [()]

    def step(self, token_BM):
        self.prefixes = [(*prefix, token) for prefix, token in zip(self.prefixes, token_BM[0].tolist(), strict=True)]
        logits = torch.full((1, len(self.prefixes), self.vocabulary), -math.inf)
        for m, prefix in enumerate(self.prefixes):
            for token, probability in self.probabilities.get(prefix[1:], {EOS: 1.0}).items():
                logits[0, m, token] = math.log(probability)
        return USED[0](logits + 3.0)  # unnormalised

    def select(self, sentence_B, parent_BM):
        self.prefixes = [self.prefixes[parent] for parent in parent_BM[0].tolist()]


def beam(table, sentences, limits, *, n_best=1, **changes):
    return beam_search(TableStepper(table, sentences), torch.tensor(limits), n_best=n_best, **changes)


def whole(hypothesis: Hypothesis) -> list[int]:
    return hypothesis.tokens + [EOS] * hypothesis.finished


def ranked(scored: list[tuple[list[int], float]], alpha: float, n_best: int) -> list[list[int]]:
    """The n best sequences, those with EOS before those without."""
    normalised = [(tokens[-1] != EOS, -score / ((5 + len(tokens)) / 6) ** alpha, tokens) for tokens, score in scored]
    return [tokens for _, _, tokens in sorted(normalised)[:n_best]]


def anything(tokens: list[int]) -> list[int]:
    """Every token of a small vocabulary but the banned ones."""
    return [token for token in range(7) if token not in BANNED]


def every_sequence(table: Table, sentence: int, limit: int, may_follow=anything) -> list[tuple[list[int], float]]:
    """All sequences of at most `limit` tokens and their scores; those without EOS have exactly that many."""
    found: list[tuple[list[int], float]] = []

    def grow(tokens: list[int]) -> None:
        if tokens[-1:] == [EOS] or len(tokens) == limit:
            found.append((tokens, sum(table.rescore(sentence, tokens))))
            return
        for token in may_follow(tokens):
            grow([*tokens, token])

    grow([])
    return found


def slow_beam(
    table: Table, sentence: int, limit: int, beam_size: int, alpha: float, n_best: int, may_follow=None
) -> list[list[int]]:
    """Beam search in lists, always run to the maximum length."""
    live: list[tuple[list[int], float]] = [([], 0.0)]
    ended: list[tuple[list[int], float]] = []
    for _ in range(limit):
        longer = [
            ([*tokens, token], score + log_probability)
            for tokens, score in live
            for token, log_probability in enumerate(table.log_probabilities(sentence, tokens))
            if (token not in BANNED if may_follow is None else token in may_follow(tokens))
        ]
        longer.sort(key=lambda candidate: -candidate[1])
        ended += [candidate for candidate in longer[:beam_size] if candidate[0][-1] == EOS]
        live = [candidate for candidate in longer if candidate[0][-1] != EOS][:beam_size]
    return ranked(ended + live, alpha, n_best)
