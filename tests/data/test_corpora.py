"""The named corpora, and the readers' own errors."""

import json
import typing
from collections.abc import Iterable
from pathlib import Path

import pytest

from projtrans import config
from projtrans.data import corpora
from projtrans.data.corpora import CORPORA
from projtrans.data.corpus import SPLITS, CorpusConfig
from projtrans.data.data_folder import default_folder, read_split
from projtrans.data.events import Report
from projtrans.data.prepare import prepare
from projtrans.errors import ConfigError, DataError
from projtrans.files import checksum, read_lines, write_lines
from tests.data.cases import PAIRS


def test_a_missing_tab_is_named_by_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("a\tb\n\nc d\n")
    with pytest.raises(DataError, match=r"x\.tsv:3: no tab in the line; expected SOURCE<tab>TARGET$"):
        list(corpora.read_table(tmp_path / "x.tsv"))


@pytest.mark.parametrize(("lines", "others"), [(2, 1), (5, 1), (1, 2), (1, 5), (0, 3), (3, 0)])
def test_unequal_files_are_named_with_both_counts(tmp_path: Path, lines: int, others: int) -> None:
    (tmp_path / "x.en").write_text("a\n" * lines)
    (tmp_path / "x.es").write_text("a\n" * others)
    with pytest.raises(DataError, match=rf"x\.en has {lines} lines, \S*x\.es has {others}; line N of the one"):
        list(corpora.parallel_pairs(tmp_path / "x.en", tmp_path / "x.es"))


@pytest.mark.parametrize("name", CORPORA)
def test_a_named_corpus_is_known_completely(name: str) -> None:
    corpus = CORPORA[name]
    assert corpus.configuration in config.shipped_names()
    assert config.read_yaml(config.find(corpus.configuration)).get("corpus", {}).get("name", corpora.BUNDLED) == name
    assert len(corpus.languages) == len(set(corpus.languages)) == len(corpus.examples) == 2
    assert len(corpus.examples[0]) == len(corpus.examples[1])
    assert all(text.strip() for texts in corpus.examples for text in texts)


def test_every_direction_is_allowed_in_a_configuration_and_no_other() -> None:
    named = {direction for name in CORPORA for direction in corpora.directions(name)}
    assert set(typing.get_args(corpora.Direction)) == named
    assert list(corpora.directions("toy.tsv")) == ["forward", "backward"]


@pytest.mark.parametrize(("direction", "first"), [("forward", "Let me"), ("en-es", "Let me"), ("es-en", "Dejadme")])
def test_examples_are_in_the_source_language(direction: str, first: str) -> None:
    for name in CORPORA:
        assert corpora.examples(name, direction)[0].startswith(first)
    assert corpora.examples("toy.tsv", "forward") == ()


def test_only_named_corpora_have_a_shipped_configuration() -> None:
    assert corpora.shipped_configuration("tatoeba-spa-eng") == "tatoeba"
    assert corpora.shipped_configuration("toy.tsv") is None


@pytest.mark.parametrize(
    ("name", "ending"),
    [("a.tsv", ".tsv"), ("b/a.tsv.gz", ".tsv.gz"), ("a.tsv.xz", None), ("phrasebook", None), ("tsv", None)],
)
def test_files_are_known_by_their_ending(name: str, ending: str | None) -> None:
    assert corpora.ending(name) == ending


def test_a_new_corpus_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(archive: Path | None, report: Report) -> corpora.RawText:
        return corpora.RawText(pairs=PAIRS, name="letters", groups=[pair.source[:11] for pair in PAIRS])

    letters = corpora.NamedCorpus(
        read=read, configuration="phrasebook", languages=("es", "en"), examples=(("Ve aaa.",), ("See aaa.",)), note=""
    )
    monkeypatch.setitem(CORPORA, "letters", letters)
    config = CorpusConfig(name="letters", direction="en-es", vocab_size=400)
    manifest = prepare(config, tmp_path / "letters")
    assert (manifest.origin, manifest.counts.kept, manifest.counts.groups) == ("letters", 200, 20)
    assert config.backward
    assert corpora.examples("letters", "en-es") == ("See aaa.",)
    assert prepare(config, tmp_path / "letters") == manifest


def test_a_new_file_format_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path) -> Iterable[corpora.RawPair]:
        return ((pair["en"], pair["es"]) for pair in map(json.loads, read_lines(path)))

    monkeypatch.setitem(corpora.FORMATS, ".jsonl", corpora.Format(origin="objects", read=read))
    path = tmp_path / "news.jsonl"
    write_lines(path, [json.dumps({"en": source, "es": target}) for source, target in PAIRS])
    config = CorpusConfig(name=str(path), vocab_size=400)
    folder = default_folder(config, tmp_path)
    manifest = prepare(config, folder)
    assert folder == tmp_path / "news"
    assert (manifest.origin, manifest.sources) == ("objects", {"objects": checksum(path)})
    assert sorted(pair for name in SPLITS for pair in read_split(folder, name)) == sorted(PAIRS)
    write_lines(path, [])
    with pytest.raises(ConfigError, match=r"news\.jsonl is not the objects file it was made from"):
        prepare(config, folder)
