"""Splits and their leakage, against brute force."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projtrans.data import splitting
from projtrans.data.corpus import Corpus, Pair, collect, hashed
from projtrans.data.splitting import Leakage, Splits
from projtrans.errors import DataError

# Few distinct sentences, so that the pairs are linked in many ways.
sentences = st.sampled_from([f"s{number}" for number in range(30)])
small_corpora = st.lists(st.builds(Pair, sentences, sentences), min_size=1, max_size=40)


def corpus_of(pairs: Iterable[tuple[str, str]]) -> Corpus:
    return collect(pairs, "pairs")


def split_of(pairs: Iterable[tuple[str, str]], groups: Sequence[object] | None, how: str, seed: int) -> Splits:
    """The splits, of the distinct pairs and with any labels."""
    labels = None if groups is None else hashed(map(str, groups))
    return splitting.split(corpus_of(pairs), labels, how, seed)


def lists(splits: Splits) -> list[list[Pair]]:
    return [list(part) for part in splits.by_name().values()]


def components_of(pairs: list[Pair], groups: list[int] | None = None) -> list[list[int]]:
    """The indices of the pairs that have the same label, in the order of the labels' first appearance."""
    labels = None if groups is None else hashed(map(str, groups))
    parts: dict[int, list[int]] = {}
    for index, label in enumerate(splitting.components(corpus_of(pairs).hashes, labels).tolist()):
        parts.setdefault(label, []).append(index)
    return list(parts.values())


def by_closure(pairs: list[Pair], groups: list[int] | None) -> set[frozenset[int]]:
    """The components the slow way: what touches is merged until nothing touches."""
    parts = [{index} for index in range(len(pairs))]

    def touch(one: set[int], other: set[int]) -> bool:
        return any(
            pairs[i].source == pairs[j].source
            or pairs[i].target == pairs[j].target
            or (groups is not None and groups[i] == groups[j])
            for i, j in itertools.product(one, other)
        )

    while touching := next(((a, b) for a, b in itertools.combinations(parts, 2) if touch(a, b)), None):
        parts = [part for part in parts if part not in touching] + [touching[0] | touching[1]]
    return {frozenset(part) for part in parts}


@given(small_corpora, st.data())
def test_components_are_the_transitive_closure(pairs: list[Pair], data: st.DataObject) -> None:
    labels = st.lists(st.integers(0, 40), min_size=len(pairs), max_size=len(pairs))
    groups = data.draw(st.none() | labels)
    assert {frozenset(part) for part in components_of(pairs, groups)} == by_closure(pairs, groups)


@given(small_corpora.filter(lambda pairs: len(pairs) > 2), st.sampled_from(["grouped", "random"]), st.integers(0, 5))
def test_a_split_is_a_partition_near_its_shares(pairs: list[Pair], how: str, seed: int) -> None:
    sizes = [len(part) for part in components_of(pairs)] if how == "grouped" else [1] * len(pairs)
    if len(sizes) < 3:
        with pytest.raises(DataError, match=r"too few for a grouped split into three; use --split random or add data$"):
            split_of(pairs, None, how, seed)
        return
    parts = lists(split_of(pairs, None, how, seed))
    assert Counter(itertools.chain(*parts)) == Counter(pairs)
    assert all(parts)
    if max(sizes) <= 0.15 * len(pairs):
        for part, share in zip(parts, splitting.SHARES, strict=True):
            assert abs(len(part) - share * len(pairs)) <= max(sizes)


@given(small_corpora, st.integers(0, 5))
def test_a_grouped_split_never_leaks(pairs: list[Pair], seed: int) -> None:
    if len(components_of(pairs)) < 3:
        return
    splits = split_of(pairs, None, "grouped", seed)
    for one, other in itertools.combinations(lists(splits), 2):
        assert not {pair.source for pair in one} & {pair.source for pair in other}
        assert not {pair.target for pair in one} & {pair.target for pair in other}
    nothing = Leakage(source=0, target=0, either=0, both=0)
    assert splitting.leakage(splits) == {"valid": nothing, "test": nothing}


def split_slowly(pairs: list[Pair], groups: list[int] | None, how: str, seed: int) -> list[list[Pair]]:
    """The definition, with lists and dictionaries: parts in the order of their smallest pair's rank, cut by shares."""

    def rank(pair: Pair) -> tuple[bytes, Pair]:
        return hashlib.blake2b(f"{seed}\t{pair.source}\t{pair.target}".encode(), digest_size=8).digest(), pair

    parts = [list(part) for part in by_closure(pairs, groups)] if how == "grouped" else [[i] for i in range(len(pairs))]
    parts.sort(key=lambda part: rank(min(pairs[index] for index in part)))
    ends = [0, *itertools.accumulate(map(len, parts))]
    first = min(range(1, len(parts) - 1), key=lambda cut: abs(ends[cut] - len(pairs) * 0.7))
    second = min(range(first + 1, len(parts)), key=lambda cut: abs(ends[cut] - len(pairs) * (0.7 + 0.15)))
    cuts = [parts[:first], parts[first:second], parts[second:]]
    return [sorted((pairs[index] for part in cut for index in part), key=rank) for cut in cuts]


@given(small_corpora, st.data(), st.sampled_from(["grouped", "random"]), st.integers(0, 5))
def test_a_split_is_the_one_of_its_definition(pairs: list[Pair], data: st.DataObject, how: str, seed: int) -> None:
    pairs = list(dict.fromkeys(pairs))
    groups = data.draw(st.none() | st.lists(st.integers(0, 40), min_size=len(pairs), max_size=len(pairs)))
    if len(by_closure(pairs, groups) if how == "grouped" else pairs) < 3:
        return
    assert lists(split_of(pairs, groups, how, seed)) == split_slowly(pairs, groups, how, seed)


def numbered(count: int) -> list[Pair]:
    return [Pair(f"source {number}", f"target {number}") for number in range(count)]


def test_labels_hold_pairs_together() -> None:
    splits = split_of(numbered(100), [number // 4 for number in range(100)], "grouped", 1)
    where = [{int(pair.source.split()[1]) // 4 for pair in part} for part in lists(splits)]
    assert (splits.groups, splits.largest_group) == (25, 4)
    assert sum(map(len, where)) == 25
    assert len(set.union(*where)) == 25


@pytest.mark.parametrize("how", ["grouped", "random"])
def test_the_order_of_the_corpus_does_not_matter_but_the_seed_does(how: str) -> None:
    pairs = numbered(200)
    first = lists(split_of(pairs, None, how, 1))
    assert lists(split_of(pairs[::-1], None, how, 1)) == first
    other = lists(split_of(pairs, None, how, 2))
    assert other[2] != first[2]
    assert set(other[2]) != set(first[2])
    assert list(map(len, first)) == [140, 30, 30]
    assert first[0] != sorted(first[0], key=pairs.index)  # shuffled: the head of a split is a fair sample


def test_the_order_is_that_of_a_published_hash() -> None:
    """Not of Python's random numbers: seed and text determine the split, on any machine."""
    pairs = numbered(20)
    train, valid, test = lists(split_of(pairs, None, "grouped", 7))
    assert train + valid + test == sorted(
        pairs, key=lambda pair: hashlib.blake2b(f"7\t{pair.source}\t{pair.target}".encode(), digest_size=8).digest()
    )


def test_texts_that_no_tokenizer_can_tell_apart_are_equal() -> None:
    pairs = [Pair("caf\u00e9", "a"), Pair("cafe\u0301", "b"), Pair("x  y", "c"), Pair("x y", "d")]
    assert components_of(pairs) == [[0, 1], [2, 3]]


def test_large_components_have_the_chances_of_small_ones() -> None:
    """A component goes by one pair of it; going by its smallest hash would send the large ones to train."""
    pairs = [Pair(f"source {number // 5 if number < 100 else number}", f"target {number}") for number in range(200)]
    held_out = 0
    for seed in range(30):
        splits = split_of(pairs, None, "grouped", seed)
        held_out += sum(int(pair.source.split()[1]) < 20 for pair in [*splits.valid, *splits.test])
    assert 0.22 < held_out / (30 * 100) < 0.38


@pytest.mark.parametrize("how", ["grouped", "random"])
@pytest.mark.parametrize("count", [1, 2])
def test_too_little_to_split(how: str, count: int) -> None:
    with pytest.raises(DataError, match=rf"has {count} sentence pair\(s\); at least 3 are needed"):
        split_of(numbered(count), None, how, 1)
    assert split_of(numbered(3), None, how, 1).test


def test_one_component_cannot_be_split() -> None:
    pairs = [Pair("same", f"target {number}") for number in range(50)]
    with pytest.raises(DataError, match=r"^50 pairs are linked into 1 group"):
        split_of(pairs, None, "grouped", 1)
    assert len(split_of(pairs, None, "random", 1).train) == 35


def test_leakage_counts_pairs_by_side() -> None:
    train = [Pair("a", "A"), Pair("b", "B")]
    test = [Pair("a", "X"), Pair("x", "B"), Pair("a", "B"), Pair("y", "Y"), Pair("z", "Z")]
    splits = Splits(train=corpus_of(train), valid=corpus_of([Pair("b", "B")]), test=corpus_of(test))
    assert splitting.leakage(splits) == {
        "valid": Leakage(source=1, target=1, either=1, both=1),
        "test": Leakage(source=0.4, target=0.4, either=0.6, both=0.2),
    }
