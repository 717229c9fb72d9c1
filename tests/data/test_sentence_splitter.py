"""Splitting: nothing is lost, every part fits, and the cuts are where a reader would pause."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projtrans.data.sentence_splitter import breaks_word, split

TEXTS = st.text(st.one_of(st.sampled_from("ab .,;:!?…\"' \u3000。，\n"), st.characters()), max_size=80)


def words(limit: int):
    return lambda text: len(text.split()) <= limit


def characters(limit: int):
    return lambda text: len(text) <= limit


@given(text=TEXTS, limit=st.integers(1, 20), every=st.booleans())
def test_parts_are_the_text_and_fit(text: str, limit: int, every: bool) -> None:
    parts = split(text, characters(limit), every_sentence=every)
    assert "".join(parts) == text
    for part in parts:
        assert len(part) <= limit or len(part.strip()) < 2
        assert part.strip() or not text.strip()


@given(text=TEXTS, limit=st.integers(1, 6))
def test_words_are_broken_only_where_they_have_to_be(text: str, limit: int) -> None:
    """Where every word fits, no part begins inside one, but after a stop that needs no space."""
    parts = split(text, words(limit))
    assert not any(breaks_word(left, right) for left, right in pairwise(parts))
    spaced = text.translate({ord(stop): "." for stop in "。！？；：，、"})
    assert [word for part in split(spaced, words(limit)) for word in part.split()] == spaced.split()


@given(text=TEXTS)
def test_what_fits_stays_whole(text: str) -> None:
    assert split(text, lambda part: True) == [text]


@given(text=TEXTS, limit=st.integers(1, 20))
def test_parts_are_not_split_again(text: str, limit: int) -> None:
    for part in split(text, characters(limit)):
        assert split(part, characters(limit)) == [part] or len(part.strip()) < 2


CASES = [
    ("sentences", 4, "One two. Three four! Five?", ["One two. ", "Three four! ", "Five?"]),
    ("quotes after the stop", 4, 'She said "No." Then "Yes!" he said.', ['She said "No." ', 'Then "Yes!" he said.']),
    ("inverted marks", 3, "Hola. ¿Qué tal? ¡Bien!", ["Hola. ", "¿Qué tal? ", "¡Bien!"]),
    ("no end before a small letter", 3, "He came at 5 p.m. today", ["He came at ", "5 p.m. today"]),
    ("abbreviations", 5, "Mr. Smith saw Dr. Ruiz. J. R. Jones too.", ["Mr. Smith saw Dr. Ruiz. ", "J. R. Jones too."]),
    ("decimals", 3, "It costs 3.50 dollars. Yes.", ["It costs ", "3.50 dollars. ", "Yes."]),
    ("ellipsis", 3, "Well... I see. Now go.", ["Well... ", "I see. ", "Now go."]),
    ("semicolons before commas", 4, "a, b c; d e, f", ["a, b c; ", "d e, f"]),
    ("commas before spaces", 4, "a b c d, e", ["a b c d, ", "e"]),
    ("spaces in the middle", 4, "a b c d e f", ["a b c ", "d e f"]),
    ("Chinese stops need no space", 0, "你好。再见！", ["你好。", "再见！"]),
    ("white space stays", 1, "  a.  B  ", ["  a.  ", "B  "]),
]


@pytest.mark.parametrize(("reason", "limit", "text", "wanted"), CASES, ids=[case[0] for case in CASES])
def test_cuts_are_where_a_reader_would_pause(reason: str, limit: int, text: str, wanted: list[str]) -> None:
    fits = words(limit) if limit else characters(3)
    assert split(text, fits)[: len(wanted)] == wanted


def test_a_word_that_is_too_long_is_broken_in_the_middle() -> None:
    parts = split("one " + "x" * 20, characters(8))
    assert parts == ["one ", *["xxxxx"] * 4]
    assert [breaks_word(*parts[i : i + 2]) for i in range(4)] == [False, True, True, True]


def test_a_long_line_asks_little() -> None:
    """The parts are found by halving: what is asked, in characters, grows but little faster than the text."""
    asked = 0

    def fits(text: str) -> bool:
        nonlocal asked
        asked += len(text)
        return len(text) <= 100

    split("word " * 20_000, fits)
    assert asked < 100_000 * 15
