"""Search against oracles: exhaustive enumeration, a slow and obvious beam search, forced rescoring, cases by hand.

Every test runs with the scores of torch and with those of numpy.
"""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from projtrans.config import build
from projtrans.errors import ConfigError, RunError
from projtrans.search.decoding import DecodingConfig
from projtrans.search.rules import Restriction, Rules
from projtrans.search.search import length_penalty
from tests.search_cases import (
    ALPHAS,
    BANNED,
    BOS,
    ENGINES,
    EOS,
    RULES,
    SEEDS,
    UNK,
    USED,
    A,
    B,
    Fixed,
    Table,
    TableStepper,
    beam,
    beam_search,
    by_both,
    every_sequence,
    greedy,
    ranked,
    search,
    slow_beam,
    whole,
)


@pytest.fixture(scope="module", params=ENGINES.values(), ids=ENGINES, autouse=True)
def _used(request: pytest.FixtureRequest) -> None:
    USED[:] = [request.param]


# ---------------------------------------------------------------------------------------------------------- oracles


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, limit=st.integers(1, 4), alpha=ALPHAS, n_best=st.sampled_from([1, 3, 20]))
def test_a_beam_as_wide_as_the_tree_finds_what_enumeration_finds(seed, limit, alpha, n_best):
    table = Table(seed)
    [found] = beam(table, [seed % 5], [limit], beam_size=3**limit * 4, length_penalty=alpha, n_best=n_best)
    assert [whole(hypothesis) for hypothesis in found] == ranked(every_sequence(table, seed % 5, limit), alpha, n_best)


@settings(max_examples=60, deadline=None)
@given(
    seed=SEEDS,
    limit=st.integers(1, 14),
    beam_size=st.integers(1, 6),
    alpha=ALPHAS,
    n_best=st.sampled_from([1, 2, 5, 8]),
    end_bias=st.sampled_from([-2.0, 0.0, 3.0]),
)
def test_stopping_early_gives_what_running_to_the_maximum_gives(seed, limit, beam_size, alpha, n_best, end_bias):
    table = Table(seed, vocabulary=9, end_bias=end_bias)
    [found] = beam(table, [3], [limit], beam_size=beam_size, length_penalty=alpha, n_best=n_best)
    assert [whole(hypothesis) for hypothesis in found] == slow_beam(table, 3, limit, beam_size, alpha, n_best)


def test_stopping_early_saves_steps():
    table, limit, sentences = Table(0, vocabulary=40, end_bias=3.0), 60, 20
    steps = 0
    for sentence in range(sentences):
        stepper = TableStepper(table, [sentence])
        beam_search(stepper, torch.tensor([limit]), beam_size=4, length_penalty=1.0, n_best=1)
        steps += len(stepper.steps)
    assert steps < sentences * limit / 3


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, limit=st.integers(1, 12), end_bias=st.sampled_from([0.0, 2.0]))
def test_a_beam_of_one_is_greedy(seed, limit, end_bias):
    table, sentences = Table(seed, end_bias=end_bias), [0, 1, 2]
    limits = torch.tensor([limit, 1, limit])
    best = greedy(TableStepper(table, sentences), limits, length_penalty=0.0)
    beams = beam_search(TableStepper(table, sentences), limits, beam_size=1, length_penalty=0.0, n_best=1)
    assert beams == best
    for sentence, [hypothesis] in zip(sentences, best, strict=True):
        for t, token in enumerate(whole(hypothesis)):
            allowed = table.log_probabilities(sentence, hypothesis.tokens[:t])
            assert allowed[token] == max(p for other, p in enumerate(allowed) if other not in BANNED)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("beam_size", [1, 2, 5])
def test_scores_are_those_of_forced_rescoring(dtype, tolerance, beam_size):
    table, sentences = Table(11, vocabulary=20, dtype=dtype), list(range(8))
    lists = beam(table, sentences, [9] * 8, beam_size=beam_size, length_penalty=0.7, n_best=beam_size)
    lists += greedy(TableStepper(table, sentences), torch.tensor([9] * 8), length_penalty=0.7)
    for sentence, hypotheses in zip(sentences * 2, lists, strict=True):
        for hypothesis in hypotheses:
            tokens = whole(hypothesis)
            assert hypothesis.token_scores == pytest.approx(table.rescore(sentence, tokens), abs=tolerance)
            assert hypothesis.score == pytest.approx(sum(hypothesis.token_scores), abs=1e-12)
            assert hypothesis.normalised_score == hypothesis.score / length_penalty(len(tokens), 0.7)
            assert max(hypothesis.token_scores) <= 0


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, data=st.data(), beam_size=st.integers(1, 4), n_best=st.sampled_from([1, 3]))
def test_a_sentence_does_not_depend_on_its_batch(seed, data, beam_size, n_best):
    table, sentences = Table(seed, vocabulary=12, end_bias=1.0), list(range(7))
    limits = data.draw(st.lists(st.integers(1, 12), min_size=7, max_size=7))
    order = data.draw(st.permutations(sentences))
    config = DecodingConfig(beam_size=beam_size)

    def run(chosen):
        limits_B = torch.tensor([limits[sentence] for sentence in chosen])
        return search(TableStepper(table, chosen), limits_B, config, n_best=n_best)

    alone = [run([sentence])[0] for sentence in sentences]
    assert run(sentences) == alone
    assert run(order) == [alone[sentence] for sentence in order]


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, beam_size=st.integers(1, 5), alpha=ALPHAS, limit=st.integers(1, 10))
def test_n_best_lists_are_sorted_distinct_and_start_with_the_one_best(seed, beam_size, alpha, limit):
    table = Table(seed)
    [several] = beam(table, [0], [limit], beam_size=beam_size, length_penalty=alpha, n_best=beam_size)
    [one] = beam(table, [0], [limit], beam_size=beam_size, length_penalty=alpha, n_best=1)
    order = [(hypothesis.finished, hypothesis.normalised_score) for hypothesis in several]
    assert order == sorted(order, reverse=True)
    assert len({tuple(whole(hypothesis)) for hypothesis in several}) == len(several) <= beam_size
    assert several[0] == one[0]
    assert not any(token in (*BANNED, EOS) for hypothesis in several for token in hypothesis.tokens)


# ----------------------------------------------------------------------------------------------------- cases by hand

TRAP = {(): {A: 0.6, B: 0.4}, (A,): {A: 0.3, B: 0.3, EOS: 0.4}, (B,): {EOS: 0.9, A: 0.1}}


def test_two_hypotheses_avoid_the_greedy_trap():
    """Greedy takes A for .6 and ends with .6 × .4 = .24; B and its end have .4 × .9 = .36."""
    limit = torch.tensor([5])
    [[best]] = greedy(Fixed(TRAP), limit, length_penalty=0.0)
    [[wide]] = beam_search(Fixed(TRAP), limit, beam_size=2, length_penalty=0.0, n_best=1)
    assert (best.tokens, wide.tokens) == ([A], [B])
    assert math.exp(best.score) == pytest.approx(0.24, rel=1e-5)
    assert math.exp(wide.score) == pytest.approx(0.36, rel=1e-5)


def test_the_length_penalty_turns_the_choice():
    """Ending at once has .5; A A A and its end .45: log .5 / 1 = -.693, log .45 / (9/6) = -.532."""
    long = {(): {EOS: 0.5, A: 0.5}, (A,): {A: 0.9, B: 0.1}, (A, A): {A: 1.0}, (A, A, A): {EOS: 1.0}}
    for alpha, expected in ((0.0, []), (1.0, [A, A, A])):
        [[best]] = beam_search(Fixed(long), torch.tensor([8]), beam_size=3, length_penalty=alpha, n_best=1)
        assert best.tokens == expected
    assert best.normalised_score == pytest.approx(math.log(0.45) / (9 / 6), rel=1e-5)


@pytest.mark.parametrize(
    ("length", "alpha", "penalty"),
    [(1, 0.6, 1.0), (7, 1.0, 2.0), (19, 0.5, 2.0), (13, 2.0, 9.0), (50, 0.0, 1.0)],
)
def test_length_penalty_is_that_of_gnmt(length, alpha, penalty):
    assert length_penalty(length, alpha) == pytest.approx(penalty, rel=1e-12)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_an_empty_translation_and_a_cut_one(beam_size):
    config = DecodingConfig(beam_size=beam_size)
    [[empty]] = search(Fixed({}), torch.tensor([4]), config)
    assert (empty.tokens, empty.finished, len(empty.token_scores)) == ([], True, 1)
    assert empty.score == pytest.approx(0, abs=1e-6)
    endless = {(A,) * length: {A: 1.0} for length in range(4)}
    [[cut]] = search(Fixed(endless), torch.tensor([4]), config)
    assert (cut.tokens, cut.finished, len(cut.token_scores)) == ([A] * 4, False, 4)


def test_unfinished_hypotheses_only_fill_up():
    """At two tokens only (A, end) has ended, though (A, A) is ten times as probable."""
    few = {(): {A: 0.99, B: 0.01}, (A,): {A: 0.9, EOS: 0.1}, (B,): {B: 1.0}}
    [one] = beam_search(Fixed(few), torch.tensor([2]), beam_size=2, length_penalty=1.0, n_best=1)
    [two] = beam_search(Fixed(few), torch.tensor([2]), beam_size=2, length_penalty=1.0, n_best=2)
    assert [(best.tokens, best.finished) for best in one] == [([A], True)]
    assert [(best.tokens, best.finished) for best in two] == [([A], True), ([A, A], False)]


@pytest.mark.parametrize("beam_size", [1, 4])
def test_a_banned_token_is_never_taken_and_leaves_the_others_their_probability(beam_size):
    [[best]] = search(Fixed({(): {UNK: 0.7, A: 0.3}}), torch.tensor([3]), DecodingConfig(beam_size=beam_size))
    assert best.tokens == [A]
    assert math.exp(best.score) == pytest.approx(0.3, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_of_equals_the_lowest_id_wins(dtype):
    class Level(TableStepper):
        def logits(self, token_BM):
            return super().logits(token_BM).to(dtype) * 0

    rules = Rules(bos_id=BOS, eos_id=6, banned_ids=BANNED)  # 6 ends here, so 2 is an ordinary token
    [[best]] = greedy(Level(Table(0), [0]), torch.tensor([3]), rules)
    assert best.tokens == [EOS] * 3
    several = {"beam_size": 8, "length_penalty": 0.0, "n_best": 3}
    [found] = beam_search(Level(Table(0), [0]), torch.tensor([2]), rules, **several)
    assert [hypothesis.tokens for hypothesis in found] == [[], [2], [4]]


@pytest.mark.parametrize("vocabulary", [4, 2047, 2048, 2051, 8000])
@pytest.mark.parametrize("allowed", [None, 3])
@pytest.mark.parametrize("count", [6, 700])
def test_the_best_tokens_are_those_of_a_sort(vocabulary, allowed, count):
    logits_BMV = torch.randn(3, 4, vocabulary, generator=torch.Generator().manual_seed(vocabulary))
    logits_BMV[..., allowed:][..., : vocabulary if allowed else 0] = -math.inf
    expected = logits_BMV.log_softmax(-1)
    expected[..., 1] = -math.inf
    ban_one = Restriction(EOS, [(slice(None), slice(None), 1)])
    logprob_BMK, token_BMK = (torch.as_tensor(x + 0) for x in USED[0](logits_BMV).best(count, ban_one))
    torch.testing.assert_close(
        logprob_BMK.sort(descending=True).values.float(), expected.sort(descending=True).values[..., :count]
    )
    torch.testing.assert_close(logprob_BMK.float(), expected.gather(-1, token_BMK))
    assert (token_BMK.diff() > 0).all()


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, beam_size=st.integers(1, 5), alpha=ALPHAS, data=st.data())
def test_both_engines_find_the_same(seed, beam_size, alpha, data):
    """The scores too, since the table is float64 here: beyond the rounding of a sum over the vocabulary."""
    table, limits_B = Table(seed, vocabulary=12), torch.tensor(data.draw(st.lists(st.integers(1, 9), min_size=1)))
    config = DecodingConfig(beam_size=beam_size, length_penalty=alpha)
    sentences = list(range(len(limits_B)))
    ours, theirs = by_both(table, sentences, limits_B, config, RULES, n_best=beam_size)
    for our, their in zip(itertools.chain(*ours), itertools.chain(*theirs), strict=True):
        assert (our.tokens, our.finished) == (their.tokens, their.finished)
        assert our.token_scores == pytest.approx(their.token_scores, abs=1e-12)


def test_finished_sentences_leave_the_batch():
    table, sentences = Table(5, vocabulary=10, end_bias=1.0), list(range(12))
    stepper = TableStepper(table, sentences)
    limits = torch.tensor([2, 12] * 6)
    best = greedy(stepper, limits, length_penalty=1.0)
    assert sum(stepper.steps) == sum(len(hypothesis.token_scores) for [hypothesis] in best)
    alone = [TableStepper(table, [sentence]) for sentence in sentences]
    for single, limit in zip(alone, limits.tolist(), strict=True):
        beam_search(single, torch.tensor([limit]), beam_size=3, length_penalty=1.0, n_best=1)
    together = TableStepper(table, sentences)
    beam_search(together, limits, beam_size=3, length_penalty=1.0, n_best=1)
    assert sum(together.steps) == sum(len(single.steps) for single in alone)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_no_sentences_give_no_hypotheses(beam_size):
    nothing = torch.empty(0, dtype=torch.long)
    assert search(TableStepper(Table(0), []), nothing, DecodingConfig(beam_size=beam_size)) == []


@pytest.mark.parametrize("beam_size", [1, 3])
def test_logits_that_are_not_finite_are_an_error(beam_size):
    table = Table(0)
    table.logits[:] = math.nan
    with pytest.raises(RunError, match="not finite"):
        search(TableStepper(table, [0, 1]), torch.tensor([4, 2]), DecodingConfig(beam_size=beam_size))


def test_settings_have_ranges_and_give_the_maximum_length():
    config = build(DecodingConfig, {"max_length_ratio": 1.5, "max_length_offset": 5})
    assert [config.longest(pieces) for pieces in (1, 2, 11)] == [6, 8, 21]
    for key, value in {"beam_size": 0, "length_penalty": -0.1, "max_length_offset": 0}.items():
        with pytest.raises(ConfigError, match=f"decoding.{key}: .* out of range"):
            build(DecodingConfig, {key: value}, "decoding")
