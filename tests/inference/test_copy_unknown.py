"""Words that go around the model: each is kept, and the others are translated as if it were not there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projtrans import Translator
from projtrans.data.tokenizer import Tokenizer
from projtrans.inference.copy_unknown import leave_out, put_back
from projtrans.inference.translation import Candidate
from tests.commands import cli, done
from tests.toy import Toy


def ascii_only(character: str) -> bool:
    return character.isascii()


CASES = [
    ("nothing to copy", "Hello,  Tom.", "Hello,  Tom.", []),
    ("an emoji", "Hello 😀 Tom.", "Hello Tom.", ["😀"]),
    ("punctuation behind goes to the word before", "with his family 👩‍👩‍👧.", "with his family.", ["👩‍👩‍👧."]),
    ("but not twice", "He said: 😀, yes.", "He said: yes.", ["😀,"]),
    ("known and unknown characters in a word", "Łukasz came.", "Łukasz came.", []),
    ("addresses", "See (http://a.example/b?c=1), or a.b@c.d!", "See or!", ["(http://a.example/b?c=1),", "a.b@c.d!"]),
    ("long numbers, not years", "Call 5551234567 in 1999.", "Call in 1999.", ["5551234567"]),
    ("nothing else", "😀 漢字", "", ["😀", "漢字"]),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "text", "left", "copied"), CASES, ids=[case[0] for case in CASES])
def test_what_cannot_be_spelt_is_left_out(reason: str, text: str, left: str, copied: list[str]) -> None:
    reduced = leave_out(text, ascii_only)
    assert (reduced.text, [copy.text for copy in reduced.copies]) == (left, copied)


def test_positions_by_hand() -> None:
    """Source: a 😀 b c. 漢 / translated as C B A: the emoji follows what a became, the end stays at the end."""
    reduced = leave_out("a 😀 b c 漢.", ascii_only)
    found = put_back(reduced, Candidate("C B A.", -1.0, alignment=[(2, 0), (1, 1), (0, 2)]))
    assert reduced.text == "a b c."
    assert found.translation == "C B A 😀 漢."
    assert found.alignment == [(3, 0), (2, 1), (0, 2), (1, 3), (4, 4)]
    assert put_back(leave_out("😀 a", ascii_only), Candidate("A", -1.0, alignment=[(0, 0)])).translation == "😀 A"
    assert put_back(leave_out("a 😀 b", ascii_only), Candidate("B", -1.0, alignment=[(1, 0)])).translation == "😀 B"
    assert put_back(leave_out("😀", ascii_only), Candidate("", 0.0, alignment=[])).translation == "😀"


WORDS = st.lists(st.sampled_from(["one", "two.", "😀", "漢字,", "(🚀)", "nine", "a@b.org"]), max_size=8)


@pytest.mark.slow
@given(words=WORDS)
def test_every_copied_word_comes_through_once(toy: Toy, words: list[str]) -> None:
    translator = Translator.load(toy.run("projection"), "cpu").with_decoding(beam_size=1)
    text = " ".join(words)
    (found,) = translator.with_options(copy_unknown=True).translate([text])
    copied = [word for word in words if word in ("😀", "漢字,", "(🚀)", "a@b.org")]
    shown = found.text.split()
    for word in set(copied):
        assert shown.count(word) == copied.count(word)
    if copied:
        (part,) = found.parts
        assert found.score == part.score
        assert len(shown) == len(copied) + len(part.text.split())
    else:
        assert (found.text, found.parts) == (translator.translate([text])[0].text, [])


def test_alignment_counts_the_words_of_the_whole_line(toy: Toy) -> None:
    translator = Translator.load(toy.run("projection"), "cpu").with_options(copy_unknown=True)
    text = "three 😀 one four 漢字"
    (found,) = translator.with_options(alignment=True, n_best=2).translate([text])
    for hypothesis in found.hypotheses:
        assert hypothesis.alignment is not None
        target = hypothesis.translation.split()
        for i, j in hypothesis.alignment:
            assert (text.split()[i] in ("😀", "漢字")) == (target[j] in ("😀", "漢字"))
        assert [j for _, j in hypothesis.alignment] == list(range(len(target)))
    assert translator.translate([text])[0].best.alignment is None


def test_the_tokenizer_says_what_it_knows() -> None:
    tokenizer = Tokenizer.train("bpe", ["a b c é"] * 3, ["x y z"] * 3, 300)
    assert [tokenizer.knows(sign) for sign in "aéz😀漢 "] == [True, True, True, False, False, True]


def test_the_command_copies_or_says_why_not(toy: Toy) -> None:
    run = toy.run("standard")
    lines = done("translate", "--model", run, "--copy-unknown", stdin="three 😀 one\n\n漢字\n").lines
    assert "😀" in lines[0].split()
    assert lines[1:] == ["", "漢字"]
    refused = cli("translate", "--model", run, "--copy-unknown", "--engine", "onnx", "one")
    assert (refused.status, len(refused.errors)) == (2, 1)
    assert "--copy-unknown" in refused.err
