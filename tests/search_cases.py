"""Toy models for the searches, both searches behind one call, and obvious slow searches to hold them to."""

import math

import numpy as np
import torch
from hypothesis import strategies as st

from projtrans.search import numpy_search
from projtrans.search import search as torch_search
from projtrans.search.decoding import DecodingConfig, Hypothesis, Rules

PAD, BOS, END, UNK, A, B = range(6)
BANNED = (PAD, BOS, UNK)
RULES = Rules(bos_id=BOS, eos_id=END, banned_ids=BANNED)
SEEDS = st.integers(0, 10**6)
ALPHAS = st.sampled_from([0.0, 0.3, 1.0, 2.0])


class Numpy:
    """A Stepper of tensors as one of arrays."""

    def __init__(self, stepper):
        self.stepper = stepper

    def step(self, token_BM):
        assert isinstance(token_BM, np.ndarray)
        return array(self.stepper.step(torch.from_numpy(token_BM)))

    def select(self, sentence_B, parent_BM):
        self.stepper.select(torch.from_numpy(sentence_B), torch.from_numpy(parent_BM))


def array(tensor):
    """A tensor in numpy, which has no bfloat16."""
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


USED = [torch_search]
"""The search that the tests have before them."""


def called(name, stepper, limits_B, *arguments, **options):
    [module] = USED
    given = (Numpy(stepper), limits_B.numpy()) if module is numpy_search else (stepper, limits_B)
    return getattr(module, name)(*given, *arguments, **options)


def greedy(stepper, limits_B, rules=RULES, **changes):
    return called("greedy", stepper, limits_B, DecodingConfig(**changes), rules)


def beam_search(stepper, limits_B, rules=RULES, *, n_best, **changes):
    return called("beam_search", stepper, limits_B, DecodingConfig(**changes), rules, n_best=n_best)


def search(stepper, limits_B, config, rules=RULES, **options):
    return called("search", stepper, limits_B, config, rules, **options)


def by_both(table, sentences, limits_B, *arguments, **options):
    """What the search in numpy finds, and what that in torch finds."""
    theirs = torch_search.search(TableStepper(table, sentences), limits_B, *arguments, **options)
    stepper = Numpy(TableStepper(table, sentences))
    return numpy_search.search(stepper, limits_B.numpy(), *arguments, **options), theirs


class Table:
    """A toy model: the logits are a row of a random table, chosen by the sentence and the whole history."""

    def __init__(self, seed: int, vocabulary: int = 7, end_bias: float = 0.0, dtype: torch.dtype = torch.float64):
        generator = torch.Generator().manual_seed(seed)
        self.logits = torch.randn(997, vocabulary, dtype=torch.float64, generator=generator) * 2
        self.logits[:, END] += end_bias
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
        self.memory_B = torch.tensor(sentences)
        self.cache_BM = torch.zeros(len(sentences), 1, dtype=torch.long)
        self.steps: list[int] = []

    def step(self, token_BM):
        assert token_BM.shape == self.cache_BM.shape
        assert token_BM.dtype == torch.long
        assert (token_BM == BOS).all() or self.steps
        self.steps.append(len(token_BM))
        self.cache_BM = self.table.row(self.cache_BM, token_BM, self.memory_B[:, None])
        return self.table.logits[self.cache_BM]

    def select(self, sentence_B, parent_BM):
        kept = sentence_B.tolist()
        assert kept == sorted(set(kept))
        assert len(kept) == len(parent_BM) > 0
        slots = torch.arange(self.cache_BM.shape[1]).repeat(len(self.cache_BM), 1)
        assert len(kept) < len(slots) or not torch.equal(parent_BM, slots), "select called for nothing"
        self.memory_B = self.memory_B[sentence_B]
        self.cache_BM = self.cache_BM[sentence_B].gather(1, parent_BM)


class Fixed:
    """A Stepper that gives the probabilities {prefix: {token: probability}} of one sentence; others have 0."""

    def __init__(self, probabilities: dict[tuple[int, ...], dict[int, float]], vocabulary: int = 6):
        self.probabilities, self.vocabulary = probabilities, vocabulary
        self.prefixes: list[tuple[int, ...]] = [()]

    def step(self, token_BM):
        self.prefixes = [(*prefix, token) for prefix, token in zip(self.prefixes, token_BM[0].tolist(), strict=True)]
        logits = torch.full((1, len(self.prefixes), self.vocabulary), -math.inf)
        for m, prefix in enumerate(self.prefixes):
            for token, probability in self.probabilities.get(prefix[1:], {END: 1.0}).items():
                logits[0, m, token] = math.log(probability)
        return logits + 3.0  # unnormalised

    def select(self, sentence_B, parent_BM):
        self.prefixes = [self.prefixes[parent] for parent in parent_BM[0].tolist()]


def beam(table, sentences, limits, *, n_best=1, **changes):
    return beam_search(TableStepper(table, sentences), torch.tensor(limits), n_best=n_best, **changes)


def whole(hypothesis: Hypothesis) -> list[int]:
    return hypothesis.tokens + [END] * hypothesis.finished


def ranked(scored: list[tuple[list[int], float]], alpha: float, n_best: int) -> list[list[int]]:
    """The n best sequences, those with an end before those without."""
    normalised = [(tokens[-1] != END, -score / ((5 + len(tokens)) / 6) ** alpha, tokens) for tokens, score in scored]
    return [tokens for _, _, tokens in sorted(normalised)[:n_best]]


def anything(tokens: list[int]) -> list[int]:
    """Every token of a small vocabulary but the banned ones."""
    return [token for token in range(7) if token not in BANNED]


def every_sequence(table: Table, sentence: int, limit: int, may_follow=anything) -> list[tuple[list[int], float]]:
    """All sequences of at most `limit` tokens and their scores; those without an end have as many."""
    found: list[tuple[list[int], float]] = []

    def grow(tokens: list[int]) -> None:
        if tokens[-1:] == [END] or len(tokens) == limit:
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
        ended += [candidate for candidate in longer[:beam_size] if candidate[0][-1] == END]
        live = [candidate for candidate in longer if candidate[0][-1] != END][:beam_size]
    return ranked(ended + live, alpha, n_best)
