"""Alignment: against the modules' own outputs, a model that attends where it is made to, and words counted by hand."""

import json
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from projtrans import OnnxTranslator, ProjtransError, Translator
from projtrans.data.tokenizer import Tokenizer
from projtrans.inference.translator import TranslateOptions
from projtrans.model.alignment import averaged, cross_attention, links, summed_to_words
from projtrans.model.batching import Layout
from projtrans.model.multihead import MultiHeadAttention, attentions
from projtrans.search.decoding import DecodingConfig
from tests.attention_cases import ATTENTIONS
from tests.commands import cli, done
from tests.tiny_training import fresh
from tests.toy import KINDS, Toy

LAYOUT = Layout(pad_id=0, bos_id=2, eos_id=3, max_length=12, mask_padding=True)
SOURCES = [[5, 6, 7, 3], [8, 3], [9, 10, 11, 5, 6, 3]]
TARGETS = [[4, 5], [6, 7, 8, 9], [10]]


@pytest.fixture(scope="module", params=KINDS)
def translator(toy: Toy, request: pytest.FixtureRequest) -> Translator:
    """A toy model of each kind of attention."""
    return Translator.load(toy.run(request.param), "cpu")


# ---------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("name", ATTENTIONS)
def test_weights_are_those_that_make_the_module_s_output(name: str) -> None:
    """W_o Σ_j p_tj v_j from the weights that are returned is what the module computed, on whatever path it took."""
    model = fresh(ATTENTIONS[name]).eval()
    (found,) = cross_attention(model, LAYOUT, SOURCES[:1], TARGETS[:1])
    seen: list[tuple[Tensor, Tensor]] = []
    modules = [module for _, module in attentions(model) if module.role == "cross"]

    def after(module: MultiHeadAttention, given: tuple, output: Tensor) -> None:
        weights = found[len(seen)]
        y_BHTK = weights @ module.values(given[1])
        seen.append((module.output(y_BHTK.transpose(1, 2).flatten(2)), output))

    hooks = [module.register_forward_hook(after) for module in modules]
    with torch.no_grad():
        model(torch.tensor(SOURCES[:1]), torch.ones(1, 4, dtype=torch.bool), torch.tensor([[2, 4]]))
    for hook in hooks:
        hook.remove()
    assert len(seen) == len(modules) == len(found)
    for ours, theirs in seen:
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_rows_sum_to_one_whatever_stands_beside_a_pair(name: str) -> None:
    model = fresh(ATTENTIONS[name]).eval()
    together = cross_attention(model, LAYOUT, SOURCES, TARGETS)
    for found, source, target in zip(together, SOURCES, TARGETS, strict=True):
        assert found.shape[2:] == (len(target), len(source))
        torch.testing.assert_close(found.sum(-1), torch.ones(found.shape[:3]))
        (alone,) = cross_attention(model, LAYOUT, [source], [target])
        torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-4)


def test_looking_leaves_nothing_behind_and_no_target_has_no_rows() -> None:
    model = fresh(ATTENTIONS["projection"]).eval()
    (found,) = cross_attention(model, LAYOUT, [[3]], [[]])
    assert found.shape[2:] == (0, 1)
    with pytest.raises(IndexError):  # a token that the model does not have
        cross_attention(model, LAYOUT, [[3]], [[10_000, 1]])
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_of_several_layers_the_last_but_one_is_read() -> None:
    layers = [torch.full((2, 3, 4), float(number)) for number in (1, 2, 3)]
    layers[1][0] += 1.0
    assert torch.equal(averaged(torch.stack(layers)), torch.full((3, 4), 2.5))
    assert torch.equal(averaged(torch.stack(layers[2:])), torch.full((3, 4), 3.0))


# ------------------------------------------------------------------------------------------------------------ words


def test_tokens_are_summed_to_words_by_hand() -> None:
    weights_TS = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.5, 0.1, 0.2, 0.2], [0.0, 0.6, 0.3, 0.1]])
    source, target = [[0], [0], [1]], [[0], [1], [1]]  # the fourth column is EOS
    assert torch.allclose(summed_to_words(weights_TS, source, target), torch.tensor([[0.3, 0.3], [1.2, 0.5]]))
    assert links(weights_TS + torch.tensor([0.0, 0.0, 0.1, 0.0]), source, target) == [(1, 0), (0, 1)]
    shared, nothing = [[0, 1], [2], []], [[], [0], [1]]  # a run of unknown words; a token without text
    assert torch.allclose(
        summed_to_words(weights_TS, shared, nothing), torch.tensor([[0.5, 0.5, 0.1], [0.0, 0.0, 0.6]])
    )
    assert links(weights_TS, [[], []], target) == []
    assert links(weights_TS, source, []) == []


class Pointing(MultiHeadAttention):
    """Looks at the source position that a table names for every target position, and nowhere else."""

    places: tuple[int, ...]

    def weights(self, q_BHTK: Tensor, memory, mask=None, causal=False) -> Tensor:
        found = torch.zeros(*q_BHTK.shape[:3], memory.k_BHSK.shape[2])
        for t, place in enumerate(self.places[: q_BHTK.shape[2]]):
            found[:, :, t, place] = 1.0
        return found


@given(data=st.data())
def test_a_model_that_points_is_aligned_where_it_points(data: st.DataObject) -> None:
    """One-hot rows: every token of a target word looks at one token of a source word, so that word is its source."""
    source = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4), "tokens of each source word")
    target = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4), "tokens of each target word")
    wanted = [data.draw(st.integers(0, len(source) - 1)) for _ in target]
    source_words = [[word] for word, tokens in enumerate(source) for _ in range(tokens)]
    target_words = [[word] for word, tokens in enumerate(target) for _ in range(tokens)]
    model = fresh({"kind": "standard"}).eval()
    places = tuple(source_words.index([wanted[word]]) for (word,) in target_words)
    for _, module in attentions(model):
        if module.role == "cross":
            module.__class__ = type("Pointed", (Pointing, type(module)), {"places": places})
    (found,) = cross_attention(model, LAYOUT, [[5] * len(source_words) + [3]], [[6] * len(target_words)])
    assert links(averaged(found), source_words, target_words) == [(v, u) for u, v in enumerate(wanted)]


TEXTS = st.text(st.one_of(st.sampled_from("abcxyz ,.¿▁\u0301é😀\n"), st.characters()), max_size=30)
TRAINING = (["a b c abc cab, a.", "ab bc ca cc", "abc a b c"], ["x y z xyz", "xy yz zx ¿x?", "zzz yx xyz"])


@pytest.mark.parametrize("kind", ["bpe", "unigram", "word"])
@given(text=TEXTS)
def test_every_source_token_has_its_word(kind: str, text: str) -> None:
    """As many as there are tokens, in order; the text of a word's tokens is the word's."""
    tokenizer = Tokenizer.train(kind, *TRAINING, 330) if kind not in MADE else MADE[kind]
    MADE[kind] = tokenizer
    (ids,) = tokenizer.encode_source([text])
    found = tokenizer.source_words(text)
    assert len(found) == len(ids) - (kind != "word")
    flat = [word for words in found for word in words]
    assert flat == sorted(flat)
    raw = text.split()
    assert set(flat) == {i for i, word in enumerate(raw) if tokenizer.normal_form(word)}
    if kind != "word":
        tokens = tokenizer.source_tokens(ids[:-1])
        for number in set(flat):
            of_word = [id_ for id_, words in zip(ids, found, strict=False) if words == [number]]
            assert tokenizer.decode_target([of_word]) == [tokenizer.normal_form(raw[number])]
        assert len(tokens) == len(flat)


MADE: dict[str, Tokenizer] = {}


@pytest.mark.parametrize("kind", ["bpe", "unigram", "word"])
@given(data=st.data())
def test_every_target_token_has_its_word(kind: str, data: st.DataObject) -> None:
    tokenizer = MADE[kind] if kind in MADE else Tokenizer.train(kind, *TRAINING, 330)
    MADE[kind] = tokenizer
    ids = data.draw(st.lists(st.integers(4, tokenizer.target_size - 1), max_size=12))
    found = tokenizer.target_words(ids)
    assert len(found) == len(ids)
    words = tokenizer.decode_target([ids])[0].split()
    assert sorted({word for token in found for word in token}) == list(range(len(words)))


# ------------------------------------------------------------------------------------------------------ translations


def test_every_word_of_a_translation_is_aligned(translator: Translator) -> None:
    aligned = translator.with_options(alignment=True)
    texts = ["three one four", "", "seven  nine", "One two. " * 40, "x" * 200 + " one"]
    for plain, found in zip(
        translator.with_options(n_best=3).translate(texts), aligned.with_options(n_best=3).translate(texts), strict=True
    ):
        assert [h.translation for h in plain.hypotheses] == [h.translation for h in found.hypotheses]
        assert all(h.alignment is None for h in plain.hypotheses)
        for hypothesis in found.hypotheses:
            assert hypothesis.alignment is not None
            assert [j for _, j in hypothesis.alignment] == list(range(len(hypothesis.translation.split())))
            assert all(0 <= i < len(found.source.split()) for i, _ in hypothesis.alignment)


def test_words_are_counted_through_the_parts(translator: Translator) -> None:
    aligned = translator.with_options(alignment=True).with_decoding(beam_size=1)
    line = "One two three. " * 12 + "x" * 300 + " four"
    (found,) = aligned.translate([line])
    assert found.breaks_word
    words, first, wanted, begun = 0, 0, [], 0
    for part in found.parts:
        before = line[:begun].split()
        continues = begun and not line[begun - 1].isspace()
        first = len(before) - bool(continues)
        wanted += [(first + i, words + j) for i, j in aligned.translate([part.source])[0].best.alignment or []]
        words += len(part.text.split())
        begun += len(part.source)
    assert found.best.alignment == wanted


def test_company_does_not_change_an_alignment(translator: Translator) -> None:
    aligned = translator.with_options(alignment=True)
    texts = ["three one four", "nine nine", "one two three four five six seven", "zero"]
    together = [found.best.alignment for found in aligned.with_options(n_best=2).translate(texts)]
    assert together == [aligned.with_options(n_best=2).translate([text])[0].best.alignment for text in texts]


def test_the_command_shows_what_python_returns(toy: Toy, translator: Translator) -> None:
    run = toy.run(translator.model.config.attention.kind)
    texts = ["three one four", "nine two"]
    wanted = [found.hypotheses for found in translator.with_options(alignment=True, n_best=2).translate(texts)]
    result = done("translate", "--model", run, "--alignment", "--n-best", 2, "--format", "json", *texts)
    for line, hypotheses in zip(result.lines, wanted, strict=True):
        record = json.loads(line)
        assert [h["alignment"] for h in record["hypotheses"]] == [
            [list(pair) for pair in h.alignment or []] for h in hypotheses
        ]
        assert record["alignment"] == record["hypotheses"][0]["alignment"]
    result = done("translate", "--model", run, "--alignment", "--n-best", 2, "--format", "tsv", stdin=f"{texts[0]}\n\n")
    for line, hypothesis in zip(result.lines[:2], wanted[0], strict=True):
        _, translation, pairs = line.split("\t")
        assert translation == hypothesis.translation
        assert re.fullmatch(r"\d+-\d+( \d+-\d+)*", pairs)
        assert [tuple(map(int, pair.split("-"))) for pair in pairs.split()] == hypothesis.alignment
    assert result.lines[2] == "0.000000\t\t"


REFUSED = [
    ("text", ["--alignment"], "--format"),
    ("onnx", ["--alignment", "--format", "json", "--engine", "onnx"], "--engine"),
    ("a precision", ["--alignment", "--format", "json", "--precision", "int8"], "--precision"),
]


@pytest.mark.parametrize(("reason", "options", "named"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_cannot_be_aligned_is_refused(toy: Toy, reason: str, options: list[str], named: str) -> None:
    result = cli("translate", "--model", toy.run("standard"), "one", *options)
    assert (result.status, result.out, len(result.errors)) == (2, "", 1)
    assert named in result.err


def test_the_other_engine_says_that_it_cannot() -> None:
    translator = object.__new__(OnnxTranslator)
    translator.options = TranslateOptions(decoding=DecodingConfig())
    for asked in ({"alignment": True}, {"copy_unknown": True}):
        with pytest.raises(ProjtransError, match="torch engine"):
            translator.with_options(**asked)


def test_a_learned_table_of_positions_is_long_enough(toy: Toy, tmp_path: Path) -> None:
    """A translation as long as the table, without end, needs no position beyond it."""
    from projtrans.model.transformer import Transformer
    from projtrans.runs.settings import resolve

    config = resolve({"model": {"width": 16, "heads": 2, "positions": "learned"}}).model
    model = Transformer(config, source_size=20, target_size=20, max_length=6, joint=True).eval()
    layout = Layout(pad_id=0, bos_id=2, eos_id=3, max_length=6, mask_padding=True)
    (found,) = cross_attention(model, layout, [[5, 6, 7, 8, 9, 3]], [[4] * 6])
    assert found.shape[2:] == (6, 6)
