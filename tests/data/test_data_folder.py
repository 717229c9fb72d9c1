"""A prepared folder, read: its manifest, its tokenizer, and what it is compared with."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from projtrans.config import Raw
from projtrans.data import data_folder, prepare
from projtrans.data.corpus import CorpusConfig
from projtrans.data.tokenizer import Tokenizer
from projtrans.errors import DataError
from tests.data.cases import CONFIG, ready_made


def test_differences_are_named_in_words(prepared: Path, tmp_path: Path) -> None:
    manifest = data_folder.load_manifest(prepared)
    assert data_folder.differences(manifest, CONFIG) == []
    other = CorpusConfig(name="phrasebook.tsv", seed=2, split="random", tokenizer="word", direction="backward")
    assert data_folder.differences(manifest, other) == [
        "corpus is phrasebook, the configuration asks for phrasebook.tsv",
        "direction is forward, the configuration asks for backward",
        "split is grouped, the configuration asks for random",
        "seed is 1, the configuration asks for 2",
        "tokenizer is bpe, the configuration asks for word",
        "vocab_size is 400, the configuration asks for 8000",
    ]
    custom = prepare.prepare(CONFIG, tmp_path / "custom", files=ready_made(tmp_path))
    assert data_folder.differences(custom, dataclasses.replace(CONFIG, name="custom", seed=2, split="random")) == []


def test_another_tokenizer_is_noticed(prepared: Path) -> None:
    Tokenizer.train("bpe", ["something else"], ["otra cosa"], 301).save(prepared)
    with pytest.raises(DataError, match=r"tokenizer\.model changed since prepared"):
        data_folder.load_tokenizer(prepared)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: "{", r"damaged, not JSON"),
        (lambda raw: "[]", r"format None, this version reads 1"),
        (lambda raw: json.dumps(raw | {"format": 2}), r"format 2, this version reads 1"),
        (lambda raw: json.dumps({**raw, "counts": 3}), r"damaged \(counts: expected settings"),
        (lambda raw: json.dumps({**raw, "counts": {}}), r"damaged"),
        (lambda raw: json.dumps({**raw, "files": []}), r"damaged \(files"),
        (lambda raw: json.dumps({key: raw[key] for key in raw if key != "files"}), r"damaged \(no files\)"),
    ],
)
@pytest.mark.usefixtures("small_phrasebook")
def test_a_damaged_manifest_is_one_line(prepared: Path, change: Callable[[Raw], str], message: str) -> None:
    path = prepared / "manifest.json"
    path.write_text(change(json.loads(path.read_text())))
    expected = rf"manifest\.json: {message}.*; prepare again with --force$"
    with pytest.raises(DataError, match=expected):
        data_folder.load_manifest(prepared)
    with pytest.raises(DataError, match=expected):
        prepare.prepare(CONFIG, prepared)
    assert prepare.prepare(CONFIG, prepared, force=True) == data_folder.load_manifest(prepared)


def test_no_folder_is_no_prepared_corpus(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no prepared corpus \(manifest\.json is missing\); run projtrans prepare$"):
        data_folder.load_manifest(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("phrasebook", "data/phrasebook"),
        ("tatoeba-spa-eng", "data/tatoeba-spa-eng"),
        ("some/news.tsv.gz", "data/news"),
        ("mine", "data/mine"),
        ("some/prepared", "some/prepared"),
    ],
)
def test_default_folders(name: str, folder: str) -> None:
    assert data_folder.default_folder(CorpusConfig(name=name)) == Path(folder)
