"""What of the kept scores of the test split is used, and what is stale."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from sacrebleu.metrics.ter import TER

from projtrans.data.corpus import Pair
from projtrans.data.data_folder import read_split
from projtrans.evaluation.evaluate import Evaluation
from projtrans.evaluation.metrics import METRICS, Metric, Score
from projtrans.evaluation.test_scores import kept, score
from projtrans.files import checksum
from projtrans.inference.torch_translator import Translator
from projtrans.runs.run_folder import Run
from projtrans.search.decoding import DecodingConfig


@pytest.fixture
def run(workshop: Path) -> Run:
    """A run with kept scores."""
    return Run(workshop / "runs" / "tiny-standard")


@pytest.fixture
def pairs(workshop: Path) -> list[Pair]:
    """Its test split."""
    return read_split(workshop / "data" / "toy", "test")


def test_other_settings_pairs_or_searches_do_not_match(run: Run, pairs: list[Pair]) -> None:
    own = run.section("decoding", DecodingConfig)
    found = kept(run, pairs, own)
    assert found is not None
    assert len(found.texts) == len(pairs)
    assert kept(run, pairs, dataclasses.replace(own, beam_size=1)) is None
    assert kept(run, pairs, dataclasses.replace(own, min_length=3)) is None
    record = json.loads(run.test_file.read_bytes())
    del record["decoding"]["min_length"], record["evaluation"]["search"]  # as written before there was one
    run.test_file.write_text(json.dumps(record), encoding="utf-8")
    assert kept(run, pairs, own) == found
    assert kept(run, [*pairs[:-1], Pair(pairs[-1].source, "ba")], own) is None
    run.keep_config(run.raw_config | {"model": run.raw_config["model"] | {"heads": 4}})
    assert kept(run, pairs, own) is None


def test_a_record_without_one_of_the_metrics_is_stale(
    run: Run, pairs: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METRICS, "ter", Metric("TER", TER))
    assert kept(run, pairs, run.section("decoding", DecodingConfig)) is None
    translator = Translator.of_run(run, torch.device("cpu"))
    assert "ter" in score(run, pairs, translator, weights=checksum(run.model_file)).evaluation.scores
    assert kept(run, pairs, translator.decoding) is not None


def test_scores_are_kept_only_of_the_weights_in_the_folder(run: Run, pairs: list[Pair]) -> None:
    """A run in training may replace its model file while the translator of the old one is at work."""
    before, translator = checksum(run.model_file), Translator.of_run(run, torch.device("cpu"))
    kept_before = kept(run, pairs, translator.decoding)
    shutil.copy(run.folder.with_name("tiny-projection") / "model.safetensors", run.model_file)
    found = score(run, pairs, translator, weights=before)
    assert kept_before is not None
    assert (found.texts, found.evaluation.scores) == (kept_before.texts, kept_before.evaluation.scores)
    assert kept(run, pairs, translator.decoding) is None


def test_new_scores_are_returned_even_if_the_folder_cannot_take_them(run: Run, pairs: list[Pair]) -> None:
    run.test_file.unlink()
    run.test_file.mkdir()
    translator = Translator.of_run(run, torch.device("cpu"))
    calls: list[tuple[int, int]] = []
    found = score(run, pairs, translator, weights=checksum(run.model_file), report=lambda *done: calls.append(done))
    assert found.problem is not None
    assert found.problem.endswith("the translations were not kept")
    assert len(found.texts) == len(pairs)
    assert calls[-1][0] == calls[-1][1] > len(pairs)


def test_an_evaluation_survives_its_json() -> None:
    one_score = Score(1.5, "signature")
    both = {"bleu": one_score, "chrf": one_score}
    one = Evaluation("run", "test", 3, 1.0, 2.7, 0.5, None, both, None, 2, "raw text", 5, 1.0, 0.25)
    other = dataclasses.replace(one, bleu_multi_reference=one_score)
    assert [Evaluation.from_json(json.loads(json.dumps(e.to_json()))) for e in (one, other)] == [one, other]
