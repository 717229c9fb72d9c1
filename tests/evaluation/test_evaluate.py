"""Scores against oracles: sacrebleu's own command, and a model asked one sentence and one position at a time."""

import json
import math
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from projtrans import config
from projtrans.data.corpus import Pair
from projtrans.data.data_folder import read_split
from projtrans.evaluation.evaluate import forced
from projtrans.files import write_lines
from projtrans.inference.torch_translator import Translator
from projtrans.runs.run_folder import Run
from projtrans.runs.settings import Config
from tests.by_hand import forced_by_hand
from tests.commands import done
from tests.toy import KINDS, Toy

FIELDS = {
    "run", "split", "sentences", "loss", "perplexity", "accuracy", "accuracy_with_padding", "bleu", "chrf", "beam_size",
    "seconds", "bleu_multi_reference", "distinct_sources", "references", "length_penalty", "search",
}  # fmt: skip


def sacrebleu(hypotheses: Path, *references: Path, metric: str = "bleu") -> dict[str, Any]:
    """What sacrebleu's command says of the files."""
    command = [sys.executable, "-m", "sacrebleu", *map(str, references), "-i", str(hypotheses), "-m", metric, "-w", "4"]
    found = subprocess.run(command, capture_output=True, check=True, text=True, encoding="utf-8")
    return json.loads(found.stdout)


@pytest.fixture(scope="module")
def words(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model as in the paper: a vocabulary per language, fixed length, padding attended to and learnt."""
    folder = tmp_path_factory.mktemp("words")
    shutil.copy(toy.folder / "toy.tsv", folder)
    sets = [
        "corpus.name=toy.tsv", "corpus.direction=forward", "corpus.folder=data/words", "corpus.vocab_size=400",
        "model.width=32", "model.heads=2", "model.feedforward=64", "training.epochs=4", "training.batch_sentences=16",
        "training.validation_sentences=1000", "training.export=false",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        arguments = [item for assignment in sets for item in ("--set", assignment)]
        done("train", "--config", "sanger2026-projection", "--run", "runs/words", "--threads", 1, *arguments)
    return folder


@pytest.fixture(params=[*KINDS, "words"])
def case(request: pytest.FixtureRequest, toy: Toy, words: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, Path]:
    """Each model with its data, in its folder."""
    if request.param == "words":
        monkeypatch.chdir(words)
        return Run(words / "runs" / "words"), words / "data" / "words"
    monkeypatch.chdir(toy.folder)
    return Run(toy.run(request.param)), toy.data


def evaluated(run: Run, *arguments: object) -> dict[str, Any]:
    """The object of `evaluate --json`."""
    return json.loads(done("evaluate", run.folder, "--json", *arguments).out)


# ------------------------------------------------------------------------------------------------------ against oracles


@pytest.mark.parametrize("split", ["test", "valid"])
def test_bleu_and_chrf_are_those_of_the_sacrebleu_command(case: tuple[Run, Path], tmp_path: Path, split: str) -> None:
    run, data = case
    hypotheses, references = tmp_path / "hypotheses", tmp_path / "references"
    scores = evaluated(run, "--split", split, "--hypotheses", hypotheses)
    pairs, tokenizer = read_split(data, split), run.tokenizer()
    raw = tokenizer.kind != "word"
    write_lines(references, [pair.target if raw else tokenizer.normal_form(pair.target) for pair in pairs])
    assert scores["references"] == ("raw text" if raw else "normal form of the word tokenizer")
    for metric in ("bleu", "chrf"):
        theirs = sacrebleu(hypotheses, references, metric=metric)
        assert scores[metric]["score"] == pytest.approx(theirs["score"], abs=5e-5)
        assert scores[metric]["signature"] == theirs["signature"]
    assert scores["sentences"] == len(pairs) == len(hypotheses.read_text(encoding="utf-8").split("\n")) - 1


def test_loss_and_accuracy_are_those_of_one_sentence_at_a_time(case: tuple[Run, Path]) -> None:
    run, data = case
    scores = evaluated(run, "--beam-size", 1)
    settings = config.build(Config, run.raw_config)
    translator = Translator.load(run.folder, "cpu")
    fixed = not settings.model.mask_padding
    pairs, longest = read_split(data, "test"), settings.corpus.max_length
    slow = forced_by_hand(translator.model, translator.tokenizer, pairs, longest, padded=fixed)
    assert scores["loss"] == pytest.approx(slow.loss, abs=1e-5)
    assert scores["perplexity"] == pytest.approx(math.exp(slow.loss), rel=1e-5)
    assert scores["accuracy"] == pytest.approx(slow.accuracy, abs=1e-9)
    if fixed:
        assert scores["accuracy_with_padding"] == pytest.approx(slow.accuracy_with_padding, abs=1e-9)
        assert scores["accuracy_with_padding"] > scores["accuracy"]  # padding is easy to predict
    else:
        assert scores["accuracy_with_padding"] is None


@pytest.mark.parametrize("kind", KINDS)
def test_multi_reference_bleu_is_that_of_distinct_sources_against_all_references(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """For sacrebleu's command every source has as many references: the first again where there are fewer, which
    neither adds an n-gram nor changes the closest length."""
    monkeypatch.chdir(toy.folder)
    scores = evaluated(Run(toy.run(kind)), "--hypotheses", tmp_path / "hypotheses")
    hypotheses = (tmp_path / "hypotheses").read_text(encoding="utf-8").split("\n")[:-1]
    pairs = read_split(toy.data, "test")
    repeated = Counter(pair.source for pair in pairs)
    assert max(repeated.values()) == 2
    found: dict[str, tuple[str, list[str]]] = {}
    for pair, hypothesis in zip(pairs, hypotheses, strict=True):
        assert found.setdefault(pair.source, (hypothesis, []))[0] == hypothesis  # one source, one translation
        found[pair.source][1].append(pair.target)
    write_lines(tmp_path / "distinct", [hypothesis for hypothesis, _ in found.values()])
    for number in (0, 1):
        several = [references for _, references in found.values()]
        write_lines(tmp_path / f"{number}", [(references * 2)[number] for references in several])
    theirs = sacrebleu(tmp_path / "distinct", tmp_path / "0", tmp_path / "1")
    assert scores["distinct_sources"] == len(found) < scores["sentences"]
    assert scores["bleu_multi_reference"]["score"] == pytest.approx(theirs["score"], abs=5e-5)
    assert scores["bleu_multi_reference"]["score"] >= scores["bleu"]["score"]
    assert "nrefs:var" in scores["bleu_multi_reference"]["signature"]


def test_without_repeated_sources_there_is_no_multi_reference_bleu(workshop: Path) -> None:
    write_lines(workshop / "s", ["one two", "three"])
    write_lines(workshop / "r", ["bi be", "bo"])
    scores = json.loads(done("evaluate", "--json", "--source", "s", "--reference", "r").out)
    assert scores["bleu_multi_reference"] is None
    assert scores["sentences"] == scores["distinct_sources"] == 2


def test_the_hypotheses_are_what_translate_prints(case: tuple[Run, Path], tmp_path: Path) -> None:
    run, data = case
    evaluated(run, "--hypotheses", tmp_path / "hypotheses")
    stdin = (data / "test.src").read_bytes()
    assert done("translate", "--model", run.folder, stdin=stdin).out == (tmp_path / "hypotheses").read_text("utf-8")


def test_a_perfect_model_scores_a_hundred(workshop: Path) -> None:
    """The model's own translations as references."""
    sources = [f"{pair.source}" for pair in read_split(workshop / "data" / "toy", "test")]
    write_lines(workshop / "s", sources)
    done("translate", "--input", "s", "--output", "r", "--beam-size", 2)
    scores = json.loads(done("evaluate", "--json", "--source", "s", "--reference", "r", "--beam-size", 2).out)
    assert scores["bleu"]["score"] == pytest.approx(100.0)
    assert scores["chrf"]["score"] == pytest.approx(100.0)
    assert scores["beam_size"] == 2


# ----------------------------------------------------------------------------------------------- the log tells the same


def test_evaluate_reproduces_the_validation_in_the_log(case: tuple[Run, Path]) -> None:
    """The best weights on the whole validation split with the beam of validation: to the digit, chrF too."""
    run, _ = case
    events = [json.loads(line) for line in run.metrics_file.read_text(encoding="utf-8").splitlines()]
    best = [event for event in events if event["event"] == "valid" and event["best"]][-1]
    scores = evaluated(run, "--split", "valid", "--beam-size", 1)
    assert scores["loss"] == pytest.approx(best["loss"], abs=1e-6)
    assert scores["accuracy"] == pytest.approx(best["accuracy"], abs=1e-9)
    assert scores["accuracy_with_padding"] == best["accuracy_with_padding"]
    assert scores["bleu"]["score"] == pytest.approx(best["bleu"], abs=1e-9)
    assert scores["chrf"]["score"] == pytest.approx(best["chrf"], abs=1e-9)


def test_evaluate_reproduces_the_test_in_the_summary(case: tuple[Run, Path]) -> None:
    run, _ = case
    summary = json.loads(run.summary_file.read_text(encoding="utf-8"))["test"]
    scores = evaluated(run)
    assert summary.keys() == scores.keys()
    for key in scores.keys() - {"run", "seconds", "loss", "perplexity"}:
        assert scores[key] == summary[key], key
    assert scores["loss"] == pytest.approx(summary["loss"], abs=1e-6)


# --------------------------------------------------------------------------------------------------------- the contract


def test_the_object_has_the_fields_of_the_contract(case: tuple[Run, Path], tmp_path: Path) -> None:
    run, _ = case
    result = done("evaluate", run.folder, "--json", "--beam-size", 1, "--output", tmp_path / "scores.json")
    tool = subprocess.run(
        [sys.executable, "-m", "json.tool"], input=result.out.encode(), capture_output=True, check=True
    )
    scores = json.loads(result.out)
    assert json.loads(tool.stdout) == scores
    assert scores.keys() == FIELDS
    assert scores["bleu"].keys() == scores["chrf"].keys() == {"score", "signature"}
    assert (scores["split"], scores["beam_size"], scores["length_penalty"]) == ("test", 1, 1.0)
    assert scores["run"] == str(run.folder)
    assert 0 <= scores["accuracy"] <= 1
    assert scores["seconds"] > 0
    assert json.loads((tmp_path / "scores.json").read_text(encoding="utf-8")) == scores


def test_the_table_shows_the_scores_with_their_signatures(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy.folder)
    monkeypatch.setenv("COLUMNS", "20")
    table = done("evaluate", "--beam-size", 1).out
    scores = json.loads(done("evaluate", "--beam-size", 1, "--json").out)
    for shown in (
        scores["bleu"]["signature"],
        scores["chrf"]["signature"],
        f"{scores['bleu']['score']:.2f}",
        f"{scores['chrf']['score']:.2f}",
        f"{scores['bleu_multi_reference']['score']:.2f}",
        f"{scores['loss']:.4f}",
        f"{scores['accuracy']:.4f}",
    ):
        assert shown in table
    assert "\x1b" not in table


def test_files_of_ones_own_are_scored_pair_by_pair(workshop: Path) -> None:
    """Compressed or not; a score does not depend on where the pairs stand."""
    pairs = read_split(workshop / "data" / "toy", "test")
    write_lines(workshop / "s", [pair.source for pair in pairs])
    write_lines(workshop / "r", [pair.target for pair in pairs])
    subprocess.run(["gzip", "-k", "s", "r"], check=True)
    split = json.loads(done("evaluate", "--json", "--beam-size", 1).out)
    for ending in ("", ".gz"):
        files = ["--source", f"s{ending}", "--reference", f"r{ending}"]
        own = json.loads(done("evaluate", "--json", "--beam-size", 1, *files).out)
        for key in ("loss", "accuracy", "bleu", "chrf", "bleu_multi_reference", "sentences"):
            assert own[key] == split[key], key
        assert own["split"] == f"s{ending}"


@pytest.mark.parametrize("kind", KINDS)
def test_forced_scores_do_not_depend_on_order_or_company(toy: Toy, kind: str) -> None:
    translator = Translator.load(toy.run(kind), "cpu")
    pairs = read_split(toy.data, "test")
    whole, turned = forced(translator, pairs), forced(translator, pairs[::-1])
    single = [forced(translator, [pair]) for pair in pairs]
    count = sum(one.target_tokens for one in single)
    assert whole.target_tokens == turned.target_tokens == count
    assert turned.loss == pytest.approx(whole.loss, abs=1e-6)
    assert sum(one.loss * one.target_tokens for one in single) / count == pytest.approx(whole.loss, abs=1e-5)
    assert sum(one.accuracy * one.target_tokens for one in single) / count == pytest.approx(whole.accuracy, abs=1e-9)


def test_sentences_that_nothing_is_known_of_are_scored_too(toy: Toy) -> None:
    """Unknown letters, very long sides: finite scores, one translation a source."""
    translator = Translator.load(toy.run("projection"), "cpu").with_decoding(beam_size=1)
    pairs = [Pair("漢字", "😀"), Pair("one " * 400, "ba " * 400), Pair("one", "be")]
    assert math.isfinite(forced(translator, pairs).loss)


@pytest.mark.slow
def test_a_split_is_found_where_the_run_was_trained(workshop: Path) -> None:
    """`--data` says: default, the run's. Also if the data are in a folder of another name."""
    shutil.move("data/toy", "elsewhere")
    done("train", "--config", "tiny.yaml", "--data", "elsewhere", "--run", "runs/mine", "--threads", 1,
         "--set", "training.epochs=1", "--set", "training.evaluate_test=false")  # fmt: skip
    own = json.loads(done("evaluate", "runs/mine", "--json").out)
    named = json.loads(done("evaluate", "runs/mine", "--json", "--data", "elsewhere").out)
    assert own["sentences"] > 0
    assert own | {"seconds": None} == named | {"seconds": None}
