"""The runs that the tests of a comparison share."""

import shutil
from pathlib import Path

import pytest

from tests.commands import done
from tests.toy import Toy


def train(name: str, *options: object) -> None:
    done("train", "--config", "tiny.yaml", "--run", f"runs/{name}", "--threads", 1, *options)


@pytest.fixture(scope="package")
def trained(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy's folder with one more run in it, of wide heads and without scores."""
    folder = tmp_path_factory.mktemp("compare") / "folder"
    shutil.copytree(toy.folder, folder, symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(
            "wide", "--attention", "standard", "--set", "model.head_width=32", "--set", "training.evaluate_test=false"
        )
    return folder


@pytest.fixture(scope="package")
def second_seeds(trained: Path) -> list[Path]:
    """A run of each kind of attention with another seed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained)
        for kind in ("standard", "projection"):
            train(f"{kind}-2", "--attention", kind, "--seed", 2)
    return [trained / "runs" / f"{kind}-2" for kind in ("standard", "projection")]


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `trained` to work in, as current folder."""
    folder = tmp_path / "place"
    shutil.copytree(trained, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("SACREBLEU_SEED", raising=False)
    return folder


@pytest.fixture
def seeds(second_seeds: list[Path], place: Path) -> None:
    """Two seeds of each kind in `place`."""
    for run in second_seeds:
        shutil.copytree(run, place / "runs" / run.name, dirs_exist_ok=True)
