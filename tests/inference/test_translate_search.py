"""What `translate` offers beside the best translation: prefixes, lengths, no repetition, samples, token scores.

On trained toy models, from Python and by the command, against the model's own probabilities and the rules in words.
"""

import itertools
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from projtrans import Translator
from projtrans.data.data_folder import read_split
from projtrans.data.tokenizer import Tokenizer, normal_form
from projtrans.errors import ConfigError
from projtrans.inference.translation import Translation
from projtrans.inference.translator import SentenceTranslator
from projtrans.search.decoding import DecodingConfig
from tests.commands import cli, done
from tests.toy import KINDS, Toy, numbers, spell

COMMON = settings(max_examples=25, suppress_health_check=list(HealthCheck))
NEAR = 1e-4


@pytest.fixture(scope="module", params=KINDS)
def translator(toy: Toy, request: pytest.FixtureRequest) -> Translator:
    """A toy model of each kind of attention."""
    return Translator.load(toy.run(request.param), "cpu")


@pytest.fixture(scope="module")
def sentences(toy: Toy) -> list[str]:
    """Test sentences of many lengths, with a blank one and a repetition."""
    texts = [pair.source for pair in read_split(toy.data, "test")][:12]
    return [*texts, "", *[spell(number) for number in numbers(3, 1, longest=9)], texts[0]]


def hypotheses(translations: list[Translation]) -> list[tuple[str, list[tuple[str, float]]]]:
    return [(t.source, [(h.translation, pytest.approx(h.score, abs=NEAR)) for h in t.hypotheses]) for t in translations]


def rescored(translator: Translator, source: str, pieces: list[str]) -> list[float]:
    """What the model gives to the tokens when they are forced on it, from the whole prefix, without a search."""
    tokenizer, model = translator.tokenizer, translator.model
    ids = {piece: id_ for id_, piece in enumerate(tokenizer.target_tokens(range(tokenizer.target_size)))}
    target = [ids[piece] for piece in pieces]
    with torch.no_grad():
        memory = model.encode(torch.tensor(tokenizer.encode_source([source])), None)
        before = torch.tensor([[tokenizer.bos_id, *target[:-1]]])
        logprob = model.output(model.decode(before, memory))[0].double().log_softmax(-1)
    return [logprob[position, piece].item() for position, piece in enumerate(target)]


# ---------------------------------------------------------------------------------------------------------- prefixes

PREFIXES = [
    ("a word", "bo"),
    ("a word that is closed", "bo "),
    ("the middle of a word", "b"),
    ("two words, the last begun", "du b"),
    ("what the model would never say", "zzz, (9)! "),
    ("characters that it never saw", "漢字 😀"),
    ("decomposed accents", "e\u0301a\u0303"),
    ("white space of all sorts", "\t bo \u2003 du\n"),
    ("nothing", ""),
    ("white space alone", "  "),
]


@pytest.mark.parametrize("options", [{"beam_size": 1}, {}, {"sample": True}], ids=["greedy", "beam", "sample"])
@pytest.mark.parametrize(("reason", "prefix"), PREFIXES, ids=[row[0] for row in PREFIXES])
def test_a_translation_begins_with_its_prefix(
    translator: Translator, sentences: list[str], reason: str, prefix: str, options: dict[str, int]
) -> None:
    begun = normal_form(prefix, "bpe")
    decoder = translator.with_decoding(**options).with_options(prefix=prefix, token_scores=True)
    for found in decoder.with_options(n_best=2).translate(sentences):
        for hypothesis in found.hypotheses:
            if not found.source:
                assert (hypothesis.translation, hypothesis.score) == ("", 0.0)
                continue
            assert hypothesis.translation.startswith(begun)
            if begun and prefix[-1].isspace():
                assert hypothesis.translation[len(begun) :][:1] in ("", " ")
            wanted = rescored(translator, found.source, hypothesis.pieces)
            assert hypothesis.token_scores == pytest.approx(wanted, abs=NEAR)
            assert hypothesis.score == pytest.approx(sum(wanted), abs=NEAR)
    assert reason != "nothing" or hypotheses(decoder.translate(sentences)) == hypotheses(
        translator.with_decoding(**options).translate(sentences)
    )


@COMMON
@given(prefix=st.text(st.characters(codec="utf-8"), max_size=12))
@example(prefix="\u2581a\u2581 ")
def test_any_text_can_be_a_prefix(translator: Translator, prefix: str) -> None:
    decoder = translator.with_decoding(beam_size=1)
    assert decoder.with_options(prefix=prefix)("one two three").startswith(normal_form(prefix, "bpe"))


def test_an_open_word_may_go_on_and_a_closed_one_may_not(toy: Toy) -> None:
    """Of forty samples that begin with `b` some go on within the word, if they may."""
    translator = Translator.load(toy.run("standard"), "cpu").with_decoding(sample=True)
    found = {
        prefix: translator.with_options(prefix=prefix, n_best=40).translate(["one two"])[0] for prefix in ("b", "b ")
    }
    texts = {prefix: [hypothesis.translation for hypothesis in found[prefix].hypotheses] for prefix in found}
    assert any(re.match(r"b\S", text) for text in texts["b"])
    assert all(re.fullmatch(r"b( .*)?", text) for text in texts["b "])


def test_every_sentence_may_have_a_prefix_of_its_own(translator: Translator, sentences: list[str]) -> None:
    prefixes = [prefix for _, prefix in itertools.islice(itertools.cycle(PREFIXES), len(sentences))]
    together = translator.with_options(n_best=3).translate(sentences, prefixes=prefixes)
    alone = [
        translator.with_options(prefix=prefix, n_best=3).translate([text])[0]
        for text, prefix in zip(sentences, prefixes, strict=True)
    ]
    assert hypotheses(together) == hypotheses(alone)
    with pytest.raises(ConfigError, match="1 for 2 texts"):
        translator.translate(["one", "two"], prefixes=["ba"])


def test_a_prefix_longer_than_other_translations_is_followed_by_one(translator: Translator) -> None:
    prefix = "ba be bi " * 20
    found = translator.with_options(prefix=prefix, token_scores=True).translate(["one"])[0]
    assert found.text.startswith(prefix.strip())
    assert translator.decoding.longest(2) < 60 < len(found.hypotheses[0].pieces)


class Words(SentenceTranslator):
    """A translator that never gets as far as searching."""

    def search(self, *_: object, **__: object) -> list[list[object]]:  # type: ignore[override]
        raise AssertionError


def test_a_prefix_that_the_vocabulary_cannot_express_is_an_error() -> None:
    tokenizer = Tokenizer.train("word", ["one two"] * 9, ["uno dos"] * 9, 20)
    translator = Words(tokenizer, DecodingConfig(), longest_source=10, longest_target=10)
    assert translator.with_options(prefix="Uno, dos ").options.prefix == "Uno, dos "
    with pytest.raises(ConfigError, match="prefix 'uno tres': the vocabulary lacks a word of it"):
        translator.with_options(prefix="uno tres")


LIMITS = [
    ({"max_length": 3}, "ba be bi bo", "prefix: its length, EOS included, . is more than max_length, 3"),
    ({"min_length": 11}, "", "min_length: 11 is more than the model's longest translation, 10"),
    ({}, "ba be bi bo bu da de di do du", "prefix: .* is more than the model's longest translation, 10"),
]


@pytest.mark.parametrize(("changes", "prefix", "said"), LIMITS)
def test_what_the_lengths_leave_no_room_for_is_an_error(
    translator: Translator, changes: dict[str, int], prefix: str, said: str
) -> None:
    asked = translator.with_decoding(**changes).with_options(prefix=prefix)
    asked.longest_target = 10
    with pytest.raises(ConfigError, match=said):
        asked.translate(["one two"])


# --------------------------------------------------------------------------------------------- lengths and repetition


@pytest.mark.parametrize("options", [{"beam_size": 1}, {}, {"sample": True}], ids=["greedy", "beam", "sample"])
def test_lengths_hold_and_nothing_is_repeated(
    translator: Translator, sentences: list[str], options: dict[str, int]
) -> None:
    free = translator.with_decoding(**options).with_options(token_scores=True)
    asked = free.with_decoding(min_length=9, max_length=12, no_repeat_ngram=2)
    texts = [text for text in sentences if text]
    lengths = {len(h.pieces) for t in free.with_options(n_best=3).translate(texts) for h in t.hypotheses}
    assert min(lengths) < 9, "or nothing is asked for"
    for found in asked.with_options(n_best=3).translate(texts):
        for hypothesis in found.hypotheses:
            pieces = hypothesis.pieces
            assert 9 <= len(pieces) <= 12
            assert len(set(itertools.pairwise(pieces))) == len(pieces) - 1
            wanted = rescored(translator, found.source, pieces)
            assert hypothesis.token_scores == pytest.approx(wanted, abs=NEAR)


# ---------------------------------------------------------------------------------------------------------- samples


def test_samples_do_not_depend_on_batch_window_or_stream(translator: Translator, sentences: list[str]) -> None:
    decoder = translator.with_decoding(sample=True, temperature=1.3, seed=4)
    together = hypotheses(decoder.with_options(n_best=3).translate(sentences))
    for window in (1, 3):
        assert hypotheses(list(decoder.with_options(n_best=3).stream(iter(sentences), window=window))) == together
    order = sorted(range(len(sentences)), key=lambda i: sentences[i])
    places = [i + 1 for i in order]
    shuffled = hypotheses(decoder.with_options(n_best=3).translate([sentences[i] for i in order], numbers=places))
    assert shuffled == [together[i] for i in order]
    assert together[0][1] != together[-1][1], "the same sentence again has samples of its own"
    assert hypotheses(decoder.with_decoding(seed=5).with_options(n_best=3).translate(sentences)) != together


def test_samples_are_as_frequent_as_they_are_probable(translator: Translator) -> None:
    """The most frequent first token of 400 samples, within five standard deviations of what its score tells."""
    (found,) = (
        translator.with_decoding(sample=True).with_options(token_scores=True, n_best=400).translate(["three one"])
    )
    first = [(hypothesis.pieces[0], round(hypothesis.token_scores[0], 3)) for hypothesis in found.hypotheses]
    most = max(set(first), key=first.count)
    share, probability = first.count(most) / 400, math.exp(most[1])
    assert abs(share - probability) < 5 * math.sqrt(probability * (1 - probability) / 400)
    assert 0.1 < probability < 0.9, "or it tells little"


# -------------------------------------------------------------------------------------------------------- the command


def test_token_scores_stand_beside_every_hypothesis(toy: Toy, translator: Translator) -> None:
    run = toy.run(translator.model.config.attention.kind)
    options = ["--model", run, "--n-best", 3, "--token-scores", "one two", "", "seven"]
    records = [json.loads(line) for line in done("translate", *options, "--format", "json").lines]
    rows = [line.split("\t") for line in done("translate", *options, "--format", "tsv").lines]
    for record in records:
        assert record["hypotheses"][0]["translation"] == record["translation"]
        for hypothesis in record["hypotheses"]:
            assert list(hypothesis) == ["translation", "score", "pieces", "token_scores"]
            assert len(hypothesis["pieces"]) == len(hypothesis["token_scores"])
            assert sum(hypothesis["token_scores"]) == pytest.approx(hypothesis["score"], abs=1e-6)
            assert "".join(hypothesis["pieces"]).replace("▁", " ").strip() == f"{hypothesis['translation']}" + (
                "</s>" if hypothesis["pieces"] else ""
            )
    wanted = [hypothesis for record in records for hypothesis in record["hypotheses"]]
    for (score, text, pieces, scores), hypothesis in zip(rows, wanted, strict=True):
        assert (text, pieces.split()) == (hypothesis["translation"], hypothesis["pieces"])
        assert float(score) == pytest.approx(hypothesis["score"], abs=1e-6)
        assert [float(part) for part in scores.split()] == pytest.approx(hypothesis["token_scores"], abs=1e-6)


def test_the_command_does_what_python_does(toy: Toy, sentences: list[str], tmp_path: Path) -> None:
    """Arguments, a pipe and a file, all flags together."""
    run = toy.run("projection")
    flags = ["--min-length", 4, "--max-length", 9, "--no-repeat-ngram", 2, "--prefix", "bo "]
    searched = {"beam_size": 3, "length_penalty": 0.5, "min_length": 4, "max_length": 9, "no_repeat_ngram": 2}
    sampled = {"sample": True, "temperature": 0.7, "top_k": 20, "seed": 9} | {
        name: searched[name] for name in ("min_length", "max_length", "no_repeat_ngram")
    }
    given_file = tmp_path / "in"
    given_file.write_text("".join(f"{text}\n" for text in sentences), encoding="utf-8")
    for changes, more in (
        (searched, ["--beam-size", 3, "--length-penalty", 0.5]),
        (sampled, ["--sample", "--temperature", 0.7, "--top-k", 20, "--seed", 9]),
    ):
        translator = Translator.load(run, "cpu").with_decoding(**changes).with_options(prefix="bo ")
        wanted = [h.translation for t in translator.with_options(n_best=2).translate(sentences) for h in t.hypotheses]
        options = ["--model", run, "--format", "tsv", "--n-best", 2, "--engine", "torch", *flags, *more]
        for result in (
            done("translate", *options, *sentences),
            done("translate", *options, stdin=given_file.read_bytes()),
            done("translate", *options, "--input", given_file),
        ):
            assert [line.split("\t")[1] for line in result.lines] == wanted


def test_the_configuration_has_them_all_and_flags_win(toy: Toy, tmp_path: Path) -> None:
    run = Path(shutil.copytree(toy.run("standard"), tmp_path / "run"))
    raw = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    raw["decoding"] |= {"sample": True, "seed": 3, "temperature": 2.0, "min_length": 7, "beam_size": 2}
    (run / "config.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    own = ["--model", toy.run("standard"), "one two"]
    asked = ["--sample", "--seed", 3, "--temperature", 2.0, "--min-length", 7]
    found = done("translate", "--model", run, "one two").out
    assert found == done("translate", *own, *asked).out
    assert found != done("translate", *own, "--sample", "--seed", 4, "--temperature", 2.0, "--min-length", 7).out
    searched = done("translate", "--model", run, "--no-sample", "one two").out
    assert searched == done("translate", *own, "--beam-size", 2, "--min-length", 7).out
    assert "\nsample" not in done("evaluate", toy.run("standard"), "--data", toy.data, "--threads", 1).out
    scores = json.loads(done("evaluate", run, "--data", toy.data, "--json", "--threads", 1).out)
    assert scores["search"] == {"sample": True, "seed": 3, "temperature": 2.0, "min_length": 7}
    assert re.search(r"min_length +. +7 ", done("evaluate", run, "--data", toy.data, "--threads", 1).out)


FLAGS = [
    ("a length of nothing", ["--min-length", "0"], "--min-length: 0 is out of range"),
    ("no room at all", ["--max-length", "0"], "--max-length: 0 is out of range"),
    ("more at least than at most", ["--min-length", "9", "--max-length", "8"], "--min-length: 9 is more than max_len"),
    ("runs of fewer than no pieces", ["--no-repeat-ngram", "-1"], "--no-repeat-ngram: -1 is out of range"),
    ("no temperature", ["--sample", "--temperature", "0"], "--temperature: 0.0 is out of range"),
    ("a temperature that is not finite", ["--sample", "--temperature", "inf"], "--temperature: expected a number"),
    ("the best of fewer than none", ["--sample", "--top-k", "-1"], "--top-k: -1 is out of range"),
    ("a seed below 0", ["--sample", "--seed", "-1"], "--seed: -1 is out of range"),
    ("a temperature of a search", ["--temperature", "2"], "--temperature 2.0: applies to samples only; add --sample"),
    ("a seed of a search", ["--seed", "2"], "--seed 2: applies to samples only; add --sample"),
    ("a beam of samples", ["--sample", "--beam-size", "2"], "--beam-size 2: samples are drawn, not searched for"),
    ("token scores as text", ["--token-scores"], "--token-scores: .* add --format tsv or json"),
    ("several samples as text", ["--sample", "--n-best", "3"], "--n-best 3"),
    ("a prefix without room", ["--prefix", "ba be bi", "--max-length", "2"], "prefix: .* is more than max_length, 2"),
]


@pytest.mark.parametrize(("reason", "options", "said"), FLAGS, ids=[row[0] for row in FLAGS])
def test_what_cannot_be_asked_for_is_told_in_a_line(toy: Toy, reason: str, options: list[str], said: str) -> None:
    result = cli("translate", "one two", "--model", toy.run("standard"), *options)
    assert (result.status, result.out) == (2, "")
    assert result.err.count("\n") == len(result.errors) == 1
    assert re.search(said, result.err)


def test_other_settings_by_an_unknown_name_are_an_error(translator: Translator) -> None:
    with pytest.raises(ConfigError, match="did you mean top_k"):
        translator.with_decoding(topk=3)
