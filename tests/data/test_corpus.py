"""Reading and what is kept of it; the corpus section of a configuration."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projtrans import config
from projtrans.data import corpora, corpus
from projtrans.data.corpus import CorpusConfig, Pair
from projtrans.data.splitting import distinct
from projtrans.errors import ConfigError, DataError

# What a sentence may hold and keep: no tab, no line end, no white space or mark at its ends.
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n")).map(
    lambda found: found.strip(corpus._EDGES)
)


# ---------------------------------------------------------------------------------------------------------- reading


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all examples of a property."""
    return tmp_path_factory.mktemp("texts")


@given(st.lists(st.builds(Pair, text.filter(bool), text.filter(bool)), min_size=1))
def test_tables_and_parallel_files_keep_every_pair(folder: Path, pairs: list[Pair]) -> None:
    (folder / "a.tsv").write_bytes("".join(f"{source}\t{target}\n" for source, target in pairs).encode())
    table = "\r\n".join(f"{source}\t{target}\tCC-BY 2.0\tmore" for source, target in pairs)
    (folder / "b.tsv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + table.encode()))
    (folder / "c.src").write_bytes("".join(f"{pair.source}\n" for pair in pairs).encode())
    (folder / "c.tgt.gz").write_bytes(gzip.compress("\n".join(pair.target for pair in pairs).encode()))
    for read in (
        corpus.collect(corpora.read_table(folder / "a.tsv"), "a"),
        corpus.collect(corpora.read_table(folder / "b.tsv.gz"), "b"),
        corpus.read_parallel(folder / "c.src", folder / "c.tgt.gz"),
    ):
        assert (list(read), read.blank) == (pairs, 0)
        assert [pairs[row] for row in distinct(read.hashes)] == list(dict.fromkeys(pairs))


GOLDEN = [
    ("a plain line", "Hi.\tHola.", Pair("Hi.", "Hola."), 0),
    ("attribution in further columns", "Hi.\tHola.\tCC-BY 2.0 (France)\tx", Pair("Hi.", "Hola."), 0),
    ("white space around a sentence is no text", " Hi. \t\u00a0Hola.\u3000", Pair("Hi.", "Hola."), 0),
    ("white space inside is", "Hi  you.\tHola,\u2028tú.", Pair("Hi  you.", "Hola,\u2028tú."), 0),
    ("no target", "Hi.\t", None, 1),
    ("no source", "\tHola.", None, 1),
    ("white space is blank, attribution no target", "Hi.\t \u2003\tCC-BY", None, 1),
    ("an empty line is a blank pair, not a missing tab", "", None, 1),
    ("a line of spaces likewise", "   ", None, 1),
    ("a stray byte-order mark is no sentence", "\ufeff\tHola.", None, 1),
]


@pytest.mark.parametrize(("reason", "line", "pair", "blank"), GOLDEN, ids=[row[0] for row in GOLDEN])
def test_what_a_line_yields(reason: str, line: str, pair: Pair | None, blank: int) -> None:
    read = corpus.collect(corpora.table_pairs([line, "a\tb"], "table"), "table")
    assert (list(read), read.blank) == ([pair, Pair("a", "b")] if pair else [Pair("a", "b")], blank), reason


def test_a_blank_sentence_removes_its_pair(tmp_path: Path) -> None:
    (tmp_path / "x.en").write_text("a\n \nc\n")
    (tmp_path / "x.es").write_text("A\nB\n\n")
    read = corpus.read_parallel(tmp_path / "x.en", tmp_path / "x.es")
    assert (list(read), read.blank) == ([Pair("a", "A")], 2)


@pytest.mark.parametrize("content", ["", "\n\n", "a\t\n"])
def test_no_pair_at_all_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.tsv").write_text(content)
    with pytest.raises(DataError, match=r"x\.tsv: no sentence pairs in it"):
        corpus.collect(corpora.read_table(tmp_path / "x.tsv"), "x.tsv")


def test_swapped_exchanges_source_and_target() -> None:
    read = corpus.collect([(f"source {number}", f"target {number}") for number in range(20)], "pairs")
    swapped = read.swapped()
    assert list(swapped) == [Pair(target, source) for source, target in read]
    again = corpus.collect(swapped, "pairs")
    for ours, theirs in zip(swapped.hashes, again.hashes, strict=True):
        assert ours.tolist() == theirs.tolist()


# ---------------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"direction": "en-es", "name": "x.tsv"}, r"corpus\.direction: en-es is for phrasebook and tatoeba-spa-eng"),
        ({"name": " "}, r"corpus\.name: empty"),
        ({"seed": -1}, r"corpus\.seed: -1 is out of range, it must be ≥ 0"),
        ({"vocab_size": 300}, r"corpus\.vocab_size: 300 is out of range, it must be > 300"),
        ({"max_length": 0}, r"corpus\.max_length: 0 is out of range"),
        ({"tokeniser": "bpe"}, r"corpus\.tokeniser: no such setting; did you mean tokenizer\?"),
        ({"tokenizer": "BPE"}, r"corpus\.tokenizer: expected one of bpe, unigram, word, found 'BPE'"),
        ({"split": "group"}, r"corpus\.split: expected grouped or random"),
    ],
)
def test_impossible_settings_are_named(raw: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{message}"):
        config.build(CorpusConfig, raw, "corpus")


@pytest.mark.parametrize(
    ("direction", "backward"), [("forward", False), ("en-es", False), ("backward", True), ("es-en", True)]
)
def test_directions(direction: str, backward: bool) -> None:
    assert config.build(CorpusConfig, {"direction": direction}).backward is backward


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("phrasebook", "phrasebook"),
        ("some/where/news.en-es.tsv", "news.en-es"),
        ("news.tsv.gz", "news"),
        ("data/news", "news"),
        (".tsv", "custom"),
    ],
)
def test_what_a_folder_is_called(name: str, folder: str) -> None:
    assert CorpusConfig(name=name).folder_name == folder
