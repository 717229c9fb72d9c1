"""Fixtures of the tests of training: a prepared toy corpus without a model, and a bench of it for every test."""

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from projtrans.data.corpus import CorpusConfig, Pair
from projtrans.data.data_folder import load_tokenizer, read_split
from projtrans.data.prepare import prepare
from projtrans.runs import curves
from tests.toy import TINY, toy_pairs
from tests.training.bench import Bench

SIZES = {"train": 120, "valid": 12, "test": 12}
"""Pairs of a bench: what a test can afford."""


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy corpus, prepared in data/toy of a folder with its configuration. Not to be changed by tests."""
    folder = tmp_path_factory.mktemp("prepared")
    lines = [f"{source}\t{target}\n" for source, target in toy_pairs()]
    (folder / "toy.tsv").write_text("".join(lines), encoding="utf-8")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY), encoding="utf-8")
    with contextlib.chdir(folder):
        prepare(CorpusConfig(**TINY["corpus"]), Path("data/toy"))
    return folder / "data" / "toy"


@pytest.fixture
def project(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of a user who has prepared the toy corpus and trained nothing; no pictures, as in `bench`."""
    folder = tmp_path / "project"
    shutil.copytree(prepared.parent.parent, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(curves, "installed", lambda: False)
    return folder


@pytest.fixture
def bench(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The prepared toy corpus, cut to what a test can afford; no pictures, which take half of so small a training."""
    monkeypatch.setattr(curves, "installed", lambda: False)
    splits: dict[str, Sequence[Pair]] = {name: read_split(prepared, name)[:size] for name, size in SIZES.items()}
    return Bench(tmp_path, load_tokenizer(prepared), splits)
