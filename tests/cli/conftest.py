"""Fixtures of the tests of the commands."""

import shutil
from pathlib import Path

import pytest

from projtrans.cli import filter as filtering
from tests.toy import Toy, numbers, spell


@pytest.fixture
def bare(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Corpus and configuration, nothing prepared."""
    for name in ("toy.tsv", "tiny.yaml"):
        shutil.copy(toy.folder / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def brief(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a toy model whose translations are short, so that thousands take seconds."""
    folder = shutil.copytree(toy.run("standard"), tmp_path_factory.mktemp("brief") / "run")
    file = folder / "config.yaml"
    text = file.read_text(encoding="utf-8")
    assert "max_length_ratio: 2.0" in text
    file.write_text(text.replace("max_length_ratio: 2.0", "max_length_ratio: 0.1"), encoding="utf-8")
    return Path(folder)


@pytest.fixture
def long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in with a file of 150 lines, translated 16 at a time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(filtering, "WINDOW", 16)
    lines = [spell(number) for number in numbers(150, seed=3)]
    lines[40] = ""
    Path("in").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return tmp_path
