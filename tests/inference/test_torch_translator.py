"""The translator: one line out for any line in, the same in any batch, with the model's own score."""

import itertools
import json
import math
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projtrans import Translator
from projtrans.data.data_folder import read_split
from projtrans.inference.torch_translator import TorchStepper
from projtrans.search.rules import Rules
from projtrans.search.search import SearchRequest, search
from tests.commands import cli, done
from tests.toy import KINDS, Toy, numbers, spell

COMMON = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
ANYTHING = st.text(st.characters(), max_size=40)
"""Python strings without any restriction: controls, lone surrogates, line ends of every kind."""
LINES = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=10), max_size=12)
"""Lines of a text file: anything that UTF-8 can carry, but for the line feed."""


@pytest.fixture(scope="module", params=KINDS)
def translator(toy: Toy, request: pytest.FixtureRequest) -> Translator:
    """A toy model of each kind of attention."""
    return Translator.load(toy.run(request.param), "cpu")


@pytest.fixture(scope="module")
def sentences(toy: Toy) -> list[str]:
    """Test sentences of many lengths, with repetitions and blank ones."""
    texts = [pair.source for pair in read_split(toy.data, "test")][:30]
    longer = [spell("".join(numbers(6, seed, longest=3))) for seed in range(3)]
    return [*texts, "", *longer, texts[0], "  ", "one"]


def scores_agree(left: float, right: float) -> bool:
    """Equal beyond float rounding."""
    return math.isclose(left, right, abs_tol=1e-4)


# ------------------------------------------------------------------------------------------------ one in, one out

NASTY = [
    ("nothing", ""),
    ("a space", " "),
    ("white space of all sorts", "\t\v\f\r \u00a0\u2003\u3000"),
    ("line and paragraph separators", "one\u2028two\u2029three"),
    ("next line", "one\u0085two"),
    ("other separators that Python splits lines at", "one\x1ctwo\x1dthree\x1efour"),
    ("a carriage return inside", "one\rtwo"),
    ("NUL", "one\0two"),
    ("only NUL", "\0"),
    ("escape sequences", "\x1b[31mone\x1b[0m \x07"),
    ("emoji, joined and with modifiers", "😀 👩‍👩‍👧 🏳️‍🌈 👍🏽"),
    ("right to left", "שלום one \u202eowt\u202c مرحبا"),
    ("combining marks without a base", "\u0301\u0308" * 20),
    ("composed and decomposed", "é e\u0301"),
    ("byte-order mark inside", "one\ufefftwo"),
    ("the sign that SentencePiece writes for a space", "▁ ▁one▁"),
    ("what looks like special pieces", "<s> </s> <pad> <unk> <0x0A> [start] [end]"),
    ("private use and noncharacters", "\ue000\ufffe\uffff\U0010ffff"),
    ("a tab", "one\ttwo"),
    ("a language it never saw", "漢字かな交じり文"),
    ("one very long word", "x" * 5000),
    ("three thousand words", "one two three " * 1000),
]


@pytest.mark.parametrize(("reason", "line"), NASTY, ids=[reason for reason, _ in NASTY])
def test_one_line_gives_one_line(translator: Translator, reason: str, line: str) -> None:
    (found,) = translator.translate([line])
    assert found.source == line
    assert "\n" not in found.text
    assert math.isfinite(found.score)
    assert (found.text == "") if not line.strip() else True


def test_nasty_lines_in_a_stream_keep_their_places(toy: Toy) -> None:
    lines = ["one two", *(line for _, line in NASTY), "one two"]
    stdin = "".join(f"{line}\n" for line in lines)
    result = done("translate", "--model", toy.run("projection"), "--beam-size", 1, stdin=stdin)
    assert len(result.lines) == len(lines)
    assert result.lines[0] == result.lines[-1] != ""
    assert [not line for line, text in zip(result.lines, lines, strict=True) if not text.strip()] == [True, True, True]


@COMMON
@given(texts=st.lists(ANYTHING, max_size=8))
def test_any_strings_are_translated_in_order(translator: Translator, texts: list[str]) -> None:
    found = translator.with_decoding(beam_size=1).translate(texts)
    assert [translation.source for translation in found] == texts
    for translation in found:
        assert "\n" not in translation.text
        assert (translation.text, translation.score) == ("", 0.0) or translation.source.strip()


@pytest.mark.slow
@COMMON
@given(lines=LINES)
def test_any_text_file_gives_as_many_lines(toy: Toy, lines: list[str]) -> None:
    stdin = "\n".join(lines).encode("utf-8")
    result = done("translate", "--model", toy.run("standard"), "--beam-size", 1, stdin=stdin)
    expected = stdin.count(b"\n") + (not stdin.endswith(b"\n") and stdin != b"")
    assert len(result.lines) == expected
    assert result.err == ""


# -------------------------------------------------------------------------------------------------------- long lines


@pytest.mark.parametrize("beam_size", [1, 5])
def test_a_long_line_is_its_parts_joined(translator: Translator, beam_size: int) -> None:
    """Every part is translated as if it stood alone; scores add up; nothing is left out."""
    decoder = translator.with_decoding(beam_size=beam_size)
    line = "One two. " * 40 + "Three four, " * 60 + "five six. " + "Seven " * 200
    (found,) = decoder.translate([line])
    assert "".join(part.source for part in found.parts) == line
    assert not found.breaks_word
    assert [part.source for part in found.parts][:41] == ["One two. "] * 40 + [found.parts[40].source]
    alone = decoder.translate([part.source for part in found.parts])
    assert [part.text for part in found.parts] == [one.text for one in alone]
    assert found.text == " ".join(one.text for one in alone)
    assert scores_agree(found.score, sum(one.score for one in alone))
    assert all(len(decoder.tokenizer.encode_source([part.source])[0]) <= 128 for part in found.parts)


def test_hypotheses_of_a_long_line_are_the_best_of_all_combinations(translator: Translator) -> None:
    """By the sum of normalised scores, against every combination there is."""
    decoder = translator.with_decoding(beam_size=4)
    decoder.longest_source = len(decoder.tokenizer.encode_source(["Three one."])[0])
    line = "One two. Three one. Four two."
    (found,) = decoder.with_options(n_best=4).translate([line])
    apart = [
        part.hypotheses for part in decoder.with_options(n_best=4).translate(["One two. ", "Three one. ", "Four two."])
    ]
    every = sorted(itertools.product(*apart), key=lambda chosen: -sum(h.normalised_score for h in chosen))
    assert len(found.hypotheses) == 4
    for hypothesis, chosen in zip(found.hypotheses, every, strict=False):
        assert hypothesis.translation == " ".join(h.translation for h in chosen)
        assert scores_agree(hypothesis.score, sum(h.score for h in chosen))
    assert found.text == decoder.translate([line])[0].text


def test_samples_and_token_scores_of_a_long_line_are_those_of_its_parts(translator: Translator) -> None:
    """Equal sentences of a line are drawn independently, and the first samples do not depend on how many there are."""
    decoder = translator.with_decoding(sample=True, temperature=2.0).with_options(token_scores=True, sentences=True)
    line = "One two three. " * 6
    (found,) = decoder.with_options(n_best=3).translate([line], numbers=[5])
    assert len({part.text for part in found.parts}) > 1
    for number, sample in enumerate(found.hypotheses):
        chosen = [part.hypotheses[number] for part in found.parts]
        assert sample.translation == " ".join(h.translation for h in chosen if h.translation)
        assert sample.pieces == [piece for h in chosen for piece in h.pieces or []]
        assert sample.token_scores is not None
        assert scores_agree(sample.score, sum(sample.token_scores))
    assert decoder.translate([line], numbers=[5])[0].text == found.text
    assert decoder.translate([line], numbers=[6])[0].text != found.text


def test_a_prefix_begins_a_long_line_once(translator: Translator) -> None:
    decoder = translator.with_options(sentences=True, prefix="du ")
    (found,) = decoder.translate(["One two. Three one."])
    assert found.text.split()[0] == "du"
    assert found.parts[1].text == translator("Three one.")


def test_short_lines_are_as_they_were_beside_long_ones(translator: Translator) -> None:
    found = translator.translate(["one two. three.", "one. " * 200, "one two. three."])
    (alone,) = translator.translate(["one two. three."])
    for one in (found[0], found[2]):
        assert one.parts == alone.parts == []
        assert (one.text, one.source) == (alone.text, alone.source)


def test_every_sentence_by_itself_on_request(translator: Translator) -> None:
    decoder = translator.with_options(sentences=True)
    (found,) = decoder.translate(["One two. Three! four"])
    assert [part.source for part in found.parts] == ["One two. ", "Three! four"], "a small letter begins no sentence"
    assert not decoder.translate(["one two"])[0].parts
    assert found.text == f"{translator('One two. ')} {translator('Three! four')}"
    assert not translator.options.sentences


def test_a_word_that_is_too_long_is_translated_in_parts_and_the_line_is_named(toy: Toy) -> None:
    stdin = "one\n\n" + "two " * 500 + "\none\n" + "x" * 700 + " one\n"
    result = done("translate", "--model", toy.run("standard"), "--beam-size", 1, "--format", "json", stdin=stdin)
    records = [json.loads(line) for line in result.lines]
    assert len(records) == 5
    assert [len(record.get("parts", [])) > 1 for record in records] == [False, False, True, False, True]
    assert "".join(part["source"] for part in records[4]["parts"]) == "x" * 700 + " one"
    assert result.err.count("\n") == 1
    assert "line 5" in result.err


def test_of_a_word_without_end_the_beginning_is_translated(translator: Translator) -> None:
    line = "one " + "x" * 100_000 + " two"
    (found,) = translator.with_decoding(beam_size=1).translate([line])
    assert found.cut
    assert found.source == line
    assert "".join(part.source for part in found.parts) == "one " + "x" * 4096 + " two"


def test_a_model_that_was_trained_on_cut_lines_cuts_them(toy: Toy, tmp_path: Path) -> None:
    run, line = tmp_path / "run", "one two three. " * 60
    shutil.copytree(toy.run("standard"), run)
    settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    settings["corpus"]["overlong"] = "cut"
    (run / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    result = done("translate", "--model", run, "--engine", "torch", "--format", "json", stdin=f"one\n{line}\n")
    short, cut = map(json.loads, result.lines)
    assert "parts" not in short | cut
    assert result.err.count("\n") == 1
    assert "line 2" in result.err
    translator = Translator.load(run, "cpu")
    [ids] = translator.tokenizer.encode_source([line])
    request = SearchRequest(
        limits=[translator.decoding.longest(translator.longest_source)],
        rules=translator._rules([[]]),
        decoding=translator.decoding,
        numbers=[2],
    )
    (forced,) = translator.search([ids[: translator.longest_source]], request)
    assert scores_agree(cut["score"], forced[0].score)


def test_a_line_feed_that_the_model_invents_does_not_break_the_line(toy: Toy) -> None:
    """There is a token for every byte, line feed included: only training keeps a model from using it."""
    translator = Translator.load(toy.run("standard"), "cpu").with_decoding(beam_size=5)
    pieces = translator.tokenizer.target_tokens(range(translator.tokenizer.target_size))
    with torch.no_grad():
        translator.model.output.bias[[pieces.index("<0x0A>"), pieces.index("<0x0D>"), pieces.index("<0x41>")]] += 1000.0
    hypotheses = translator.with_options(n_best=5).translate(["one two three"])[0].hypotheses
    assert any("A" in hypothesis.translation for hypothesis in hypotheses)
    assert not any("\n" in hypothesis.translation for hypothesis in hypotheses)


# ----------------------------------------------------------------------------------------------------- the same line


@pytest.mark.parametrize("beam_size", [1, 5])
def test_the_rest_of_the_batch_does_not_change_a_translation(
    translator: Translator, sentences: list[str], beam_size: int
) -> None:
    """A batch, single sentences, another order, other neighbours: equal but for near-ties within 1e-4."""
    decoder = translator.with_decoding(beam_size=beam_size)
    together = decoder.translate(sentences)
    order = random.Random(1).sample(range(len(sentences)), len(sentences))
    shuffled = decoder.translate([sentences[i] for i in order])
    crowd = decoder.translate([*sentences, *["one two three four five six seven eight nine"] * 40])
    for i, sentence in enumerate(sentences):
        for other in (decoder.translate([sentence])[0], shuffled[order.index(i)], crowd[i]):
            assert scores_agree(other.score, together[i].score), sentence
            assert other.text == together[i].text, sentence


def test_order_is_kept_and_blank_lines_stay_blank(translator: Translator, sentences: list[str]) -> None:
    found = translator.translate(sentences)
    assert [translation.source for translation in found] == sentences
    for translation in found:
        if not translation.source.strip():
            assert [(h.translation, h.score) for h in translation.hypotheses] == [("", 0.0)]


@pytest.mark.parametrize("window", [1, 3, 1000])
def test_a_stream_gives_what_translate_gives(translator: Translator, sentences: list[str], window: int) -> None:
    streamed = list(translator.with_options(n_best=2).stream(iter(sentences), window=window))
    whole = translator.with_options(n_best=2).translate(sentences)
    assert [t.source for t in streamed] == sentences
    for ours, theirs in zip(streamed, whole, strict=True):
        assert [h.translation for h in ours.hypotheses] == [h.translation for h in theirs.hypotheses]
        assert scores_agree(ours.score, theirs.score)


def test_a_stream_reads_no_further_than_its_window(translator: Translator) -> None:
    read = []

    def endless() -> Iterator[str]:
        for count in itertools.count():
            read.append(count)
            yield "one two"

    stream = translator.stream(endless(), window=4)
    next(stream)
    assert len(read) == 4


def test_the_best_of_several_is_the_one_best(translator: Translator, sentences: list[str]) -> None:
    for beam_size in (2, 5):
        decoder = translator.with_decoding(beam_size=beam_size)
        for one, several in zip(
            decoder.translate(sentences), decoder.with_options(n_best=beam_size).translate(sentences), strict=True
        ):
            assert several.text == one.text
            assert scores_agree(several.score, one.score)
            assert len(several.hypotheses) == (beam_size if one.source.strip() else 1)


# ------------------------------------------------------------------------------------------------------ the right one


def greedy_by_hand(translator: Translator, text: str) -> tuple[str, float]:
    """The most probable next token given the whole prefix, again and again: no cache, no batch, no search."""
    tokenizer, model = translator.tokenizer, translator.model
    (source,) = tokenizer.encode_source([text])
    tokens, score = [tokenizer.bos_id], 0.0
    with torch.no_grad():
        memory = model.encode(torch.tensor([source]), None)
        for _ in range(int(2.0 * len(source)) + 10):
            logprob = model.output(model.decode(torch.tensor([tokens]), memory))[0, -1].double().log_softmax(-1)
            logprob[[tokenizer.pad_id, tokenizer.bos_id, tokenizer.unk_id]] = -math.inf
            tokens.append(int(logprob.argmax()))
            score += float(logprob.max())
            if tokens[-1] == tokenizer.eos_id:
                break
    return tokenizer.decode_target([[token for token in tokens[1:] if token != tokenizer.eos_id]])[0], score


def test_a_beam_of_one_is_greedy_search(translator: Translator, sentences: list[str]) -> None:
    texts = [text for text in sentences if text.strip()]
    for found in translator.with_decoding(beam_size=1).translate(texts):
        text, score = greedy_by_hand(translator, found.source)
        assert found.text == text
        assert scores_agree(found.score, score)


@pytest.mark.parametrize("beam_size", [1, 5])
def test_a_score_is_that_of_forced_rescoring(translator: Translator, sentences: list[str], beam_size: int) -> None:
    """The sum of log-probabilities that the model gives to the tokens, EOS included, when they are forced on it."""
    decoder = translator.with_decoding(beam_size=beam_size)
    texts = list(dict.fromkeys(text for text in sentences if text.strip()))
    tokenizer, model, layout = decoder.tokenizer, decoder.model, decoder.layout
    for translation in decoder.with_options(n_best=beam_size).translate(texts):
        (source,) = tokenizer.encode_source([translation.source])
        with torch.no_grad():
            memory = model.encode(torch.tensor([source]), None)
            request = SearchRequest(
                limits=[decoder.decoding.longest(len(source))],
                rules=Rules(
                    bos_id=layout.bos_id,
                    eos_id=layout.eos_id,
                    banned_ids=[layout.pad_id, layout.bos_id, tokenizer.unk_id],
                ),
                decoding=decoder.decoding,
                n_best=beam_size,
            )
            (hypotheses,) = search(TorchStepper(model, memory, 1), request)
            assert len(hypotheses) == len(translation.hypotheses)
            for hypothesis, candidate in zip(hypotheses, translation.hypotheses, strict=True):
                target = [*hypothesis.tokens, *([layout.eos_id] if hypothesis.finished else [])]
                before = torch.tensor([[layout.bos_id, *target[:-1]]])
                logprob = model.output(model.decode(before, memory))[0].double().log_softmax(-1)
                forced = sum(logprob[position, piece].item() for position, piece in enumerate(target))
                assert scores_agree(candidate.score, forced)
                assert tokenizer.decode_target([hypothesis.tokens]) == [candidate.translation]


def test_hypotheses_are_distinct_and_in_falling_order_without_a_penalty(
    translator: Translator, sentences: list[str]
) -> None:
    for translation in translator.with_decoding(length_penalty=0.0).with_options(n_best=5).translate(sentences):
        scores = [hypothesis.score for hypothesis in translation.hypotheses]
        assert scores == sorted(scores, reverse=True)


def test_the_models_know_the_toy_language_better_than_chance(translator: Translator, toy: Toy) -> None:
    """Or the tests above compare noise with noise: right words at least, in the wrong order at worst."""
    pairs = read_split(toy.data, "test")[:30]
    found = translator.translate([pair.source for pair in pairs])
    shared = [len(set(t.text.split()) & set(p.target.split())) for t, p in zip(found, pairs, strict=True)]
    assert sum(shared) > len(pairs)


# ------------------------------------------------------------------------------------------------------------- Python


def test_python_translates_as_in_the_readme(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy.folder)
    translator = Translator.load("runs/latest")
    text = translator("three one four")
    assert isinstance(text, str)
    assert done("translate", "three one four").out == f"{text}\n"
    assert Translator.load()("three one four") == text  # runs/latest is the default
    assert Translator.load(Path("runs/latest"), "cpu")("three one four") == text


def test_other_search_settings_leave_the_translator_as_it_was(translator: Translator) -> None:
    before = translator.decoding
    other = translator.with_decoding(beam_size=2, length_penalty=0.5)
    assert (other.decoding.beam_size, other.decoding.length_penalty) == (2, 0.5)
    assert translator.decoding == before
    assert translator.with_decoding().decoding == before
    assert (before.beam_size, before.length_penalty) == (5, 1.0)


def test_no_texts_give_no_translations(translator: Translator) -> None:
    assert translator.translate([]) == []
    assert list(translator.stream([])) == []


# ------------------------------------------------------------------------------------------------------------ formats


def test_json_lines_hold_what_python_returns(toy: Toy, translator: Translator) -> None:
    texts = ["one two", "", 'a "quoted" \\ line\u2028', "seven"]
    run = toy.run(translator.model.config.attention.kind)
    result = done(
        "translate", "--model", run, "--format", "json", "--n-best", 3, stdin="".join(f"{t}\n" for t in texts)
    )
    for line, translation in zip(result.lines, translator.with_options(n_best=3).translate(texts), strict=True):
        record = json.loads(line)
        assert list(record) == ["source", "translation", "score", "hypotheses"]
        assert (record["source"], record["translation"]) == (translation.source, translation.text)
        assert scores_agree(record["score"], translation.score)
        assert record["hypotheses"][0] == {"translation": record["translation"], "score": record["score"]}
        assert [h["translation"] for h in record["hypotheses"]] == [h.translation for h in translation.hypotheses]


def test_tsv_lines_hold_score_and_translation(toy: Toy, translator: Translator) -> None:
    run = toy.run(translator.model.config.attention.kind)
    result = done("translate", "--model", run, "--format", "tsv", "--n-best", 2, "one two", "seven")
    wanted = [h for t in translator.with_options(n_best=2).translate(["one two", "seven"]) for h in t.hypotheses]
    for line, hypothesis in zip(result.lines, wanted, strict=True):
        score, text = line.split("\t")
        assert text == hypothesis.translation
        assert scores_agree(float(score), hypothesis.score)


def test_a_model_with_numbers_that_are_not_finite_is_refused(toy: Toy, tmp_path: Path) -> None:
    """A diverged model must not look like one that translates everything to nothing."""
    from safetensors.torch import load_file, save_file

    run = Path(shutil.copytree(toy.run("standard"), tmp_path / "run"))
    path = run / "model.safetensors"
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    weights = load_file(path)
    weights["output.bias"][:] = math.nan
    save_file(weights, path, header["__metadata__"])
    result = cli("translate", "--model", run, "one two")
    assert (result.status, result.out) == (1, "")
    assert len(result.errors) == 1
