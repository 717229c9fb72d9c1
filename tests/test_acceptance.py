"""The main job as the README tells it, for real: train on the phrasebook, score, translate. Takes minutes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from projtrans.data.data_folder import read_split
from projtrans.data.prepare import load_manifest
from tests.commands import command, done, run

pytestmark = pytest.mark.slow

ARCHIVE = os.environ.get("PROJTRANS_TATOEBA")
SENTENCE = "Let me go alone."
ACCEPTED = {
    f"{verb} {alone}."
    for verb in ("Déjame ir", "Déjeme ir", "Déjenme ir", "Deja que vaya", "Deje que vaya", "Dejen que vaya",
                 "Déjame que vaya", "Déjeme que vaya", "Déjenme que vaya",
                 "Permíteme ir", "Permítame ir", "Permítanme ir")
    for alone in ("solo", "sola")
}  # fmt: skip
"""You is tú, usted or ustedes; the speaker is a man or a woman; to let is dejar, also with que, or permitir."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's one command was run, and nothing before it."""
    folder = tmp_path_factory.mktemp("acceptance")
    finished = subprocess.run(
        command("train", "--attention", "projection"), cwd=folder, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == ""
    return folder


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder, as the current one."""
    monkeypatch.chdir(home)
    return home


def scores(folder: Path) -> dict[str, Any]:
    """The scores of the test split at the end of training."""
    summary = json.loads((folder / "runs" / "latest" / "summary.json").read_text(encoding="utf-8"))
    return summary["test"]


def test_the_model_reaches_a_multi_reference_bleu_of_ninety(here: Path) -> None:
    assert scores(here)["bleu_multi_reference"]["score"] >= 90.0


def test_evaluate_says_the_same_and_its_object_is_json(here: Path) -> None:
    line = f"{sys.executable} -m projtrans evaluate --json | {sys.executable} -m json.tool"
    finished = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)
    for metric in ("bleu", "chrf", "bleu_multi_reference"):
        assert found[metric]["signature"] == scores(here)[metric]["signature"]
        assert found[metric]["score"] == pytest.approx(scores(here)[metric]["score"], abs=0.05)
    assert found["bleu_multi_reference"]["score"] >= 90.0
    assert found["loss"] == pytest.approx(scores(here)["loss"], abs=1e-4)


def test_nothing_leaks_and_the_sentence_was_kept_out_of_training(here: Path) -> None:
    data = here / "data" / "phrasebook"
    leakage = load_manifest(data).leakage
    assert leakage.valid.either == leakage.test.either == 0
    assert not [pair for pair in read_split(data, "train") if pair.source == SENTENCE]
    assert not [pair for pair in read_split(data, "train") if pair.target in ACCEPTED]
    assert SENTENCE not in (data / "train.src").read_text(encoding="utf-8").split("\n")


def test_the_sentence_is_translated_correctly_and_nothing_else_is_printed(here: Path) -> None:
    result = run("translate", SENTENCE, folder=here)
    assert result.status == 0
    assert result.out.endswith("\n")
    assert result.out[:-1] in ACCEPTED


def test_three_lines_in_are_three_lines_out(here: Path) -> None:
    result = run("translate", folder=here, stdin=b"Hello.\n\nWhere is Tom?\n")
    assert (result.status, result.err) == (0, "")
    assert len(result.lines) == 3
    assert [bool(line) for line in result.lines] == [True, False, True]


@pytest.mark.skipif(not ARCHIVE, reason="PROJTRANS_TATOEBA names no copy of the archive")
def test_the_real_archive_is_prepared_without_leakage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done("prepare", "tatoeba-spa-eng", "--archive", Path(ARCHIVE or "").resolve())
    manifest = load_manifest(tmp_path / "data" / "tatoeba-spa-eng")
    assert manifest.counts.read == 118_964
    assert manifest.counts.kept + manifest.counts.blank + manifest.counts.duplicates == 118_964
    sizes = [getattr(manifest.splits, name).pairs for name in ("train", "valid", "test")]
    assert sum(sizes) == manifest.counts.kept
    for size, share in zip(sizes, (0.70, 0.15, 0.15), strict=True):
        assert size == pytest.approx(share * manifest.counts.kept, rel=0.02)
    for leakage in (manifest.leakage.valid, manifest.leakage.test):
        assert (leakage.source, leakage.target, leakage.either, leakage.both) == (0, 0, 0, 0)
