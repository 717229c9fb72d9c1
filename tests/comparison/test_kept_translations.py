"""Translations of the test split that run folders keep, as `compare` uses them; the oracle is `evaluate`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from projtrans.data.data_folder import read_split
from projtrans.evaluation import test_scores
from projtrans.evaluation.test_scores import kept
from projtrans.runs.run_folder import Run
from projtrans.search.decoding import DecodingConfig
from tests.commands import done
from tests.comparison.cases import PROJECTION, STANDARD, compared, hypotheses


def test_training_keeps_the_translations_that_its_summary_scores(place: Path) -> None:
    run = Run(Path(STANDARD))
    assert run.hypotheses_file.read_text(encoding="utf-8").split("\n")[:-1] == hypotheses(STANDARD)
    summary = json.loads(run.summary_file.read_text(encoding="utf-8"))
    assert json.loads(run.test_file.read_text(encoding="utf-8"))["evaluation"] == summary["test"]


def refuse(*arguments: object, **options: object) -> None:
    raise AssertionError("translated again")


@pytest.mark.slow
def test_kept_translations_are_not_made_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = compared(STANDARD, "runs/wide")  # the second one kept none so far
    assert Run(Path("runs/wide")).hypotheses_file.is_file()
    monkeypatch.setattr(test_scores, "evaluate", refuse)
    assert compared(STANDARD, "runs/wide") == before


def spoil_weights(run: Run) -> None:
    """Change the sign of the last thousand numbers."""
    data = bytearray(run.model_file.read_bytes())
    for last in range(len(data) - 1, len(data) - 4001, -4):
        data[last] ^= 0x80
    run.model_file.write_bytes(data)


SPOILT: list[tuple[str, Callable[[Run], object]]] = [
    ("another model", lambda run: spoil_weights(run)),
    ("changed translations", lambda run: run.hypotheses_file.write_text("ba\n" * 46, encoding="utf-8")),
    ("no record", lambda run: run.test_file.unlink()),
    ("a damaged record", lambda run: run.test_file.write_text("{", encoding="utf-8")),
    ("a record of another shape", lambda run: run.test_file.write_text("[]", encoding="utf-8")),
    ("no translations", lambda run: run.hypotheses_file.unlink()),
]


@pytest.mark.slow
@pytest.mark.parametrize(("reason", "spoil"), SPOILT, ids=[row[0] for row in SPOILT])
def test_stale_translations_are_never_used(place: Path, reason: str, spoil: Callable[[Run], object]) -> None:
    run = Run(Path(STANDARD))
    spoil(run)
    found = compared(STANDARD, PROJECTION)
    own = json.loads(done("evaluate", STANDARD, "--json", "--threads", 1).out)
    assert found["sides"][0]["runs"][0]["bleu"] == own["bleu"]
    assert run.hypotheses_file.read_text(encoding="utf-8").split("\n")[:-1] == hypotheses(STANDARD)  # and kept
    assert kept(run, read_split(place / "data" / "toy", "test"), run.section("decoding", DecodingConfig)) is not None


def test_other_search_settings_leave_what_is_kept(place: Path) -> None:
    files = [Path(run, name) for run in (STANDARD, PROJECTION) for name in ("test.json", "test.hypotheses.txt")]
    before = [file.read_bytes() for file in files]
    found = compared(STANDARD, PROJECTION, "--beam-size", 1)
    own = json.loads(done("evaluate", STANDARD, "--beam-size", 1, "--json", "--threads", 1).out)
    assert found["sides"][0]["runs"][0]["bleu"] == own["bleu"]
    assert [file.read_bytes() for file in files] == before


def test_a_folder_that_takes_no_translations_is_a_note_and_no_end(place: Path) -> None:
    Path("runs/wide/test.json").mkdir()
    found = compared(STANDARD, "runs/wide")
    assert found["sides"][1]["bleu"] is not None
    assert any("were not kept" in note for note in found["notes"])
