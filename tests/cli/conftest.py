"""Fixtures of the tests of the commands."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import Toy


@pytest.fixture
def bare(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Corpus and configuration, nothing prepared."""
    for name in ("toy.tsv", "tiny.yaml"):
        shutil.copy(toy.folder / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path
