"""The options of a search: constraints, against exhaustive search; samples, by chi-square.

Every test runs with the scores of torch and with those of numpy.
"""

import dataclasses
import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from projtrans.config import build
from projtrans.errors import ConfigError
from projtrans.search.decoding import DecodingConfig, chance
from projtrans.search.rules import NEW_WORD
from tests.search_cases import (
    ALPHAS,
    BANNED,
    ENGINES,
    EOS,
    RULES,
    SEEDS,
    UNK,
    USED,
    Table,
    TableStepper,
    beam_search,
    by_both,
    every_sequence,
    greedy,
    ranked,
    search,
    slow_beam,
    whole,
)

VOCABULARY = 7
JOINING = (5, 6)
"""The tokens that continue a word: 4 alone begins one."""


@pytest.fixture(scope="module", params=ENGINES.values(), ids=ENGINES, autouse=True)
def _used(request: pytest.FixtureRequest) -> None:
    USED[:] = [request.param]


def rules(*prefixes, joining=JOINING):
    return dataclasses.replace(RULES, prefixes=prefixes, joining_ids=joining)


def follower(prefix, min_length, count):
    """What may follow a list of tokens, by the rules in words."""

    def may_follow(tokens):
        if len(tokens) < len(prefix) and prefix[len(tokens)] != NEW_WORD:
            return [prefix[len(tokens)]]
        found = [token for token in range(VOCABULARY) if token not in BANNED]
        if len(tokens) < len(prefix):
            found = [token for token in found if token not in JOINING]
        if len(tokens) + 1 < min_length:
            found = [token for token in found if token != EOS]
        if count:
            runs = [tokens[i : i + count] for i in range(len(tokens) - count + 1)]
            found = [token for token in found if [*tokens, token][-count:] not in runs]
        return found or [EOS]

    return may_follow


@st.composite
def constraints(draw, limit):
    """A prefix shorter than the limit, perhaps with its last word closed; a least length; an n-gram length."""
    prefix = draw(st.lists(st.sampled_from([4, 5, 6]), max_size=limit - 1))
    if prefix and draw(st.booleans()):
        prefix = [*prefix, NEW_WORD]
    return prefix, draw(st.integers(1, limit)), draw(st.integers(0, 3))


# ------------------------------------------------------------------------------------------------------ constraints


@settings(max_examples=60)
@given(seed=SEEDS, alpha=ALPHAS, n_best=st.sampled_from([1, 3, 20]), data=st.data())
def test_a_beam_as_wide_as_the_tree_finds_what_enumeration_finds(seed, alpha, n_best, data):
    limit = data.draw(st.integers(1, 4))
    prefix, min_length, count = data.draw(constraints(limit))
    table, sizes = Table(seed), {"beam_size": 3**limit * 4, "n_best": n_best, "length_penalty": alpha}
    asked = {"min_length": min_length, "no_repeat_ngram": count}
    [found] = beam_search(TableStepper(table, [2]), torch.tensor([limit]), rules(prefix), **sizes, **asked)
    sequences = every_sequence(table, 2, limit, follower(prefix, min_length, count))
    assert [whole(hypothesis) for hypothesis in found] == ranked(sequences, alpha, n_best)


@settings(max_examples=60)
@given(seed=SEEDS, alpha=ALPHAS, beam_size=st.integers(1, 5), n_best=st.sampled_from([1, 4]), data=st.data())
def test_a_narrow_beam_finds_what_the_slow_one_finds(seed, alpha, beam_size, n_best, data):
    """Long enough for every sort of repetition: there are three tokens, and runs of three."""
    limit = data.draw(st.integers(1, 14))
    prefix, min_length, count = data.draw(constraints(limit))
    table, sizes = Table(seed), {"beam_size": beam_size, "n_best": n_best, "length_penalty": alpha}
    asked = {"min_length": min_length, "no_repeat_ngram": count}
    [found] = beam_search(TableStepper(table, [3]), torch.tensor([limit]), rules(prefix), **sizes, **asked)
    wanted = slow_beam(table, 3, limit, beam_size, alpha, n_best, follower(prefix, min_length, count))
    assert [whole(hypothesis) for hypothesis in found] == wanted
    for hypothesis in found:
        assert hypothesis.token_scores == pytest.approx(table.rescore(3, whole(hypothesis)), abs=1e-12)


@settings(max_examples=40)
@given(seed=SEEDS, data=st.data())
def test_a_beam_of_one_is_greedy_and_that_is_the_best_of_what_may_follow(seed, data):
    limit = data.draw(st.integers(1, 12))
    asked = [data.draw(constraints(limit)) for _ in range(3)]
    (_, min_length, count), table, limits = asked[0], Table(seed), torch.tensor([limit] * 3)
    given_rules, changes = rules(*(prefix for prefix, _, _ in asked)), {"min_length": min_length}
    changes |= {"no_repeat_ngram": count, "length_penalty": 0.0, "beam_size": 1}
    best = greedy(TableStepper(table, [0, 1, 2]), limits, given_rules, **changes)
    assert beam_search(TableStepper(table, [0, 1, 2]), limits, given_rules, n_best=1, **changes) == best
    for sentence, [hypothesis] in enumerate(best):
        may_follow, tokens = follower(asked[sentence][0], min_length, count), whole(hypothesis)
        for t, token in enumerate(tokens):
            scores = table.log_probabilities(sentence, tokens[:t])
            assert token == max(may_follow(tokens[:t]), key=scores.__getitem__)
        assert hypothesis.token_scores == pytest.approx(table.rescore(sentence, tokens), abs=1e-12)


@pytest.mark.parametrize("options", [{"beam_size": 1}, {"beam_size": 4}, {"sample": True}])
def test_where_nothing_may_follow_a_hypothesis_ends(options):
    """Each of the three tokens once, and no end before the ninth: the fourth has to be the end all the same."""
    config = DecodingConfig(min_length=9, no_repeat_ngram=1, **options)
    found = search(TableStepper(Table(1), [0, 1]), torch.tensor([12, 12]), config, n_best=options.get("beam_size", 3))
    for hypothesis in itertools.chain(*found):
        assert (sorted(hypothesis.tokens), hypothesis.finished) == ([4, 5, 6], True)
        assert all(math.isfinite(score) for score in hypothesis.token_scores)


@pytest.mark.parametrize("options", [{"beam_size": 1}, {"beam_size": 3}, {"sample": True}])
def test_a_prefix_may_hold_what_is_otherwise_banned_and_repeat_itself(options):
    config = DecodingConfig(no_repeat_ngram=1, **options)
    table, prefix = Table(4), [4, 4, UNK, 4]
    [[found]] = search(TableStepper(table, [0]), torch.tensor([9]), config, rules(prefix))
    assert found.tokens[:4] == prefix
    assert not set(found.tokens[4:]) & {4, *BANNED}  # the prefix counts
    assert found.token_scores == pytest.approx(table.rescore(0, whole(found)), abs=1e-12)


@pytest.mark.parametrize("options", [{"beam_size": 1}, {"beam_size": 3}, {"sample": True}])
def test_a_prefix_as_long_as_the_maximum_is_all_there_is(options):
    [[found]] = search(TableStepper(Table(4), [0]), torch.tensor([2]), DecodingConfig(**options), rules([6, 5]))
    assert (found.tokens, found.finished) == ([6, 5], False)


@settings(max_examples=30)
@given(seed=SEEDS, data=st.data(), n_best=st.sampled_from([1, 3]), sample=st.booleans())
def test_a_sentence_does_not_depend_on_its_batch(seed, data, n_best, sample):
    """Whatever prefixes the others have; and its samples depend on its number, not on its position."""
    table, sentences = Table(seed), list(range(5))
    limits = data.draw(st.lists(st.integers(4, 12), min_size=5, max_size=5))
    asked = [data.draw(constraints(4)) for _ in sentences]
    config = DecodingConfig(beam_size=3, min_length=asked[0][1], no_repeat_ngram=asked[0][2], sample=sample)

    def run(chosen):
        given_rules = rules(*(asked[sentence][0] for sentence in chosen))
        limits_B, numbers = torch.tensor([limits[sentence] for sentence in chosen]), [s + 7 for s in chosen]
        return search(TableStepper(table, chosen), limits_B, config, given_rules, n_best=n_best, numbers=numbers)

    alone = [run([sentence])[0] for sentence in sentences]
    order = data.draw(st.permutations(sentences))
    assert run(order) == [alone[sentence] for sentence in order]


@settings(max_examples=40)
@given(seed=SEEDS, beam_size=st.integers(1, 4), data=st.data(), sample=st.booleans(), top_k=st.integers(0, 6))
def test_both_engines_find_the_same(seed, beam_size, data, sample, top_k):
    limits = data.draw(st.lists(st.integers(4, 12), min_size=1, max_size=4))
    asked = [data.draw(constraints(4)) for _ in limits]
    changes = {"min_length": asked[0][1], "no_repeat_ngram": asked[0][2], "sample": sample, "top_k": top_k}
    config = DecodingConfig(beam_size=beam_size, temperature=1.5, **changes)
    given_rules = rules(*(prefix for prefix, _, _ in asked))
    ours, theirs = by_both(
        Table(seed), list(range(len(limits))), torch.tensor(limits), config, given_rules, n_best=beam_size
    )
    for our, their in zip(itertools.chain(*ours), itertools.chain(*theirs), strict=True):
        assert (our.tokens, our.finished) == (their.tokens, their.finished)
        assert our.token_scores == pytest.approx(their.token_scores, abs=1e-12)


# ---------------------------------------------------------------------------------------------------------- samples


def sampled(table, sentences, limit, numbers=None, n_best=1, rules=RULES, **changes):
    config, limits_B = DecodingConfig(sample=True, **changes), torch.tensor([limit] * len(sentences))
    return search(TableStepper(table, sentences), limits_B, config, rules, n_best=n_best, numbers=numbers)


def distribution(table, limit, temperature, top_k, may_follow):
    """The probability of every sequence that is drawn token by token."""
    found = {}
    for tokens, _ in every_sequence(table, 0, limit, may_follow):
        found[tuple(tokens)] = 1.0
        for t, token in enumerate(tokens):
            scores = table.log_probabilities(0, tokens[:t])
            kept = sorted(may_follow(tokens[:t]), key=lambda other: -scores[other])[: top_k or None]
            weights = {other: math.exp(scores[other] / temperature) for other in kept}
            found[tuple(tokens)] *= weights.get(token, 0.0) / sum(weights.values())
    return {tokens: probability for tokens, probability in found.items() if probability}


def chi_square(counts, probabilities):
    """Pearson's statistic as a multiple of its 99.9 % quantile (Wilson, Hilferty); rare cells are one."""
    total, cells, rare = sum(counts.values()), [], [0.0, 0.0]
    for key, probability in probabilities.items():
        cell = [counts[key], total * probability]
        if cell[1] < 5:
            rare = [sum(pair) for pair in zip(rare, cell, strict=True)]
        else:
            cells.append(cell)
    cells += [rare] if rare[1] >= 5 else []
    freedom = len(cells) - 1
    quantile = freedom * (1 - 2 / (9 * freedom) + 3.09 * math.sqrt(2 / (9 * freedom))) ** 3
    return sum((seen - expected) ** 2 / expected for seen, expected in cells) / quantile


CASES = [
    ("the model's own distribution", {}),
    ("hotter", {"temperature": 2.0}),
    ("colder", {"temperature": 0.6}),
    ("from the two best", {"top_k": 2}),
    ("from the two best of what may follow, colder", {"top_k": 2, "temperature": 0.5, "no_repeat_ngram": 1}),
    ("at least three tokens, none twice", {"min_length": 3, "no_repeat_ngram": 1}),
]


@pytest.mark.parametrize(("reason", "changes"), CASES, ids=[case[0] for case in CASES])
def test_samples_have_the_distribution_that_is_asked_for(reason, changes):
    """4,000 draws of whole sequences: 40 samples of each of 100 sentences that are one to the model."""
    table, limit = Table(21), 3
    found = sampled(table, [0] * 100, limit, n_best=40, **changes)
    counts = Counter(tuple(whole(hypothesis)) for hypotheses in found for hypothesis in hypotheses)
    asked = {"temperature": 1.0, "top_k": 0} | {k: v for k, v in changes.items() if k in ("temperature", "top_k")}
    may_follow = follower([], changes.get("min_length", 1), changes.get("no_repeat_ngram", 0))
    right = distribution(table, limit, **asked, may_follow=may_follow)
    assert sum(right.values()) == pytest.approx(1)
    assert set(counts) <= set(right)
    assert chi_square(counts, right) < 1
    wrong = distribution(table, limit, **asked | {"temperature": asked["temperature"] * 1.3}, may_follow=may_follow)
    assert chi_square(counts, wrong) > 1, "or the test would not see another temperature"


def test_samples_of_a_sentence_and_of_its_neighbours_are_independent():
    """Pairs of first tokens, of sample and next sample, of sentence and next sentence: the product of the margins."""
    table = Table(8)
    found = sampled(table, [0] * 60, 1, n_best=60)
    first = [[whole(hypothesis)[0] for hypothesis in hypotheses] for hypotheses in found]
    margin = {tokens[0]: p for tokens, p in distribution(table, 1, 1.0, 0, follower([], 1, 0)).items()}
    product = {pair: margin[pair[0]] * margin[pair[1]] for pair in itertools.product(margin, repeat=2)}
    beside = Counter(pair for row in first for pair in zip(row[::2], row[1::2], strict=True))
    below = Counter(
        pair for up, down in zip(first[::2], first[1::2], strict=True) for pair in zip(up, down, strict=True)
    )
    assert chi_square(beside, product) < 1
    assert chi_square(below, product) < 1


def test_scores_of_samples_are_the_models_at_any_temperature():
    table = Table(3)
    for changes in ({}, {"temperature": 3.0}, {"top_k": 1}, {"temperature": 0.2, "min_length": 4}):
        for sentence, hypotheses in enumerate(sampled(table, [0, 1, 2], 6, n_best=4, **changes)):
            for hypothesis in hypotheses:
                scores = table.rescore(sentence, whole(hypothesis))
                assert hypothesis.token_scores == pytest.approx(scores, abs=1e-12)
                assert hypothesis.score == pytest.approx(sum(scores), abs=1e-12)


@pytest.mark.parametrize("changes", [{"top_k": 1}, {"temperature": 1e-9}, {"temperature": 1e-308}])
def test_cold_samples_are_greedy(changes):
    table, limits = Table(6), torch.tensor([9] * 5)
    asked = {"min_length": 4, "no_repeat_ngram": 2}
    best = greedy(TableStepper(table, list(range(5))), limits, **asked)
    for found, hypotheses in zip(sampled(table, list(range(5)), 9, n_best=3, **asked, **changes), best, strict=True):
        assert found == hypotheses * 3


def test_a_sample_is_a_function_of_seed_number_and_place_among_the_samples():
    table = Table(12)
    several = sampled(table, [0] * 6, 8, n_best=5)
    assert [hypotheses[:1] for hypotheses in several] == sampled(table, [0] * 6, 8)
    assert sampled(table, [0] * 6, 8, n_best=5, numbers=range(1, 7)) == several
    assert sampled(table, [0] * 2, 8, n_best=5, numbers=[6, 2]) == [several[5], several[1]]
    assert sampled(table, [0] * 6, 8, n_best=5, seed=1) == several
    others = [sampled(table, [0] * 6, 8, n_best=5, seed=2), sampled(table, [0] * 6, 8, n_best=5, numbers=range(2, 8))]
    assert all(other != several for other in others)
    assert len({tuple(whole(h)) for hypotheses in several for h in hypotheses}) > 10, "or they are all one"


def test_sentences_leave_the_batch_when_all_their_samples_have_ended():
    table = Table(5, end_bias=1.0)
    stepper = TableStepper(table, list(range(12)))
    config, limits = DecodingConfig(sample=True), torch.tensor([2, 12] * 6)
    found = search(stepper, limits, config, n_best=3)
    assert sum(stepper.steps) == sum(max(len(h.token_scores) for h in hypotheses) for hypotheses in found)
    assert {len(hypotheses) for hypotheses in found} == {3}


def test_no_sentences_give_no_samples():
    assert search(TableStepper(Table(0), []), torch.empty(0, dtype=torch.long), DecodingConfig(sample=True)) == []


# ------------------------------------------------------------------------------------------------------------ chance


def test_chances_are_uniform_in_every_direction_of_their_keys():
    """1,600 of each: over sentences, samples, positions and seeds, in sixteen equal cells."""
    for place in range(4):
        keys = [tuple(i if place == p else 3 for p in range(4)) for i in range(1600)]
        counts = Counter(int(chance(*key) * 16) for key in keys)
        assert chi_square(counts, dict.fromkeys(range(16), 1 / 16)) < 1


def test_chances_stay_the_same_for_ever():
    """Or a seed would mean other samples with every version. The digest is that of `b2sum -l 64`."""
    # printf '(1, 1, 0, 0)' | b2sum -l 64
    assert chance(1, 1, 0, 0) == (int.from_bytes(bytes.fromhex("5d5cfdf54befc7a4"), "little") >> 12) / 2**52


@given(st.integers(), st.floats(1, 1e300))
def test_a_chance_of_a_sum_is_less_than_the_sum(key, total):
    assert 0 <= chance(key) < 1
    assert (1 - 2.0**-52) * total < total  # the largest there is


# ---------------------------------------------------------------------------------------------------------- settings


def test_settings_have_ranges_and_agree():
    ranges = {"min_length": 0, "max_length": 0, "no_repeat_ngram": -1, "temperature": 0, "top_k": -1, "seed": -1}
    for key, value in ranges.items():
        with pytest.raises(ConfigError, match=f"decoding.{key}: .* out of range"):
            build(DecodingConfig, {key: value}, "decoding")
    with pytest.raises(ConfigError, match=r"^decoding\.min_length: 9 is more than max_length, 8$"):
        build(DecodingConfig, {"min_length": 9, "max_length": 8}, "decoding")
    assert build(DecodingConfig, {"min_length": 9, "max_length": 9}).longest(3) == 16
