"""A small phrasebook in place of the real one, whose tokenizer takes seconds, and a folder prepared from it."""

import shutil
from pathlib import Path

import pytest

from projtrans.data import phrasebook, prepare, tatoeba
from tests.data.cases import CONFIG, PAIRS

PHRASES = [phrasebook.Phrase(pair.source, pair.target, pair.source[:11]) for pair in PAIRS]


@pytest.fixture
def small_phrasebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """PAIRS as the bundled corpus, in groups of ten."""
    monkeypatch.setattr(phrasebook, "phrases", lambda: PHRASES)
    monkeypatch.delenv(tatoeba.VARIABLE, raising=False)


@pytest.fixture(scope="session")
def prepared_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small phrasebook, prepared with CONFIG. Not to be changed by tests."""
    folder = tmp_path_factory.mktemp("prepared") / "phrasebook"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phrasebook, "phrases", lambda: PHRASES)
        prepare.prepare(CONFIG, folder)
    return folder


@pytest.fixture
def prepared(prepared_once: Path, tmp_path: Path) -> Path:
    """A copy of the prepared folder, to work on: data/phrasebook in `tmp_path`."""
    return Path(shutil.copytree(prepared_once, tmp_path / "data" / "phrasebook"))
