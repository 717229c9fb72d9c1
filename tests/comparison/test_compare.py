"""`compare` end to end on small runs, with sacrebleu's command, `evaluate` and counts by hand as oracles."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sacrebleu.metrics.ter import TER

from projtrans.comparison import compare
from projtrans.comparison.compare import open_runs
from projtrans.data.corpora import CORPORA
from projtrans.data.corpus import CorpusConfig
from projtrans.data.data_folder import read_split
from projtrans.errors import ConfigError
from projtrans.evaluation.metrics import METRICS, Metric
from projtrans.files import write_lines
from projtrans.runs.run_folder import Run
from projtrans.runs.settings import flat
from tests.commands import cli, done
from tests.comparison.cases import KIND, PROJECTION, SEEDS, STANDARD, compared, hypotheses

# ------------------------------------------------------------------------------------------------------ significance


@pytest.mark.slow
def test_scores_are_those_of_evaluate_and_p_values_those_of_sacrebleu(place: Path) -> None:
    found = compared(STANDARD, PROJECTION)
    assert [side["label"] for side in found["sides"]] == ["standard", "projection"]
    names = []
    for side, run in zip(found["sides"], (STANDARD, PROJECTION), strict=True):
        own = json.loads(done("evaluate", run, "--json", "--threads", 1).out)
        for metric in ("bleu", "chrf"):
            assert side["runs"][0][metric] == own[metric]
            assert side[metric] == {"mean": own[metric]["score"], "deviation": None, "runs": 1}
        for field in ("loss", "accuracy"):
            assert side[field]["mean"] == pytest.approx(own[field], rel=1e-9)
        names.append(Path(run).name)
        write_lines(Path(names[-1]), hypotheses(run))
    command = [sys.executable, "-m", "sacrebleu", "data/toy/test.tgt", "-i", *names, "-m", "bleu", "chrf"]
    command += ["--paired-bs", "-f", "text", "-w", "4"]  # its JSON writer fails on its own float32
    said = subprocess.run(command, capture_output=True, check=True, text=True, encoding="utf-8").stdout
    scores = [
        float(score) for score in re.findall(r"(\d+\.\d{4}) \(\d", said)
    ]  # BLEU and chrF of the one, of the other
    p_values = [float(value) for value in re.findall(r"p = (\d\.\d{4})", said)]
    (test,) = found["significance"]
    assert (test["side"], test["against"]) == ("projection", "standard")
    assert (test["run"], test["against_run"]) == (PROJECTION, STANDARD)
    for number, metric in enumerate(("bleu", "chrf")):
        assert test[metric]["baseline"] == pytest.approx(scores[number], abs=1e-4)
        assert test[metric]["score"] == pytest.approx(scores[number + 2], abs=1e-4)
        assert test[metric]["p_value"] == pytest.approx(p_values[number], abs=1e-4)
        assert test[metric]["signature"] in said
        assert "bs:1000|seed:12345" in test[metric]["signature"]


@pytest.mark.slow
def test_three_systems_are_tested_as_each_of_two(place: Path) -> None:
    together = compared(STANDARD, PROJECTION, "runs/wide")["significance"]
    assert [test["against_run"] for test in together] == [STANDARD, STANDARD]
    for test, run in zip(together, (PROJECTION, "runs/wide"), strict=True):
        (alone,) = compared(STANDARD, run)["significance"]
        assert test["run"] == run
        assert [test[metric] for metric in ("bleu", "chrf")] == [alone[metric] for metric in ("bleu", "chrf")]


@pytest.mark.parametrize("seed", ["lucky", "", "1.5", "-1"])
def test_a_seed_that_sacrebleu_cannot_take_is_one_line_before_any_work(
    place: Path, monkeypatch: pytest.MonkeyPatch, seed: str
) -> None:
    monkeypatch.setenv("SACREBLEU_SEED", seed)
    monkeypatch.setattr(compare, "_members", lambda *arguments: pytest.fail("it has begun"))
    result = cli("compare", STANDARD, PROJECTION)
    assert (result.status, result.out) == (2, "")
    assert len(result.errors) == 1
    assert f"SACREBLEU_SEED: {seed!r}" in result.errors[0]


@pytest.mark.slow
def test_a_metric_is_added_in_one_table(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TER, by sacreBLEU's command and in every form of `evaluate` and `compare`."""
    monkeypatch.setitem(METRICS, "ter", Metric("TER", TER, "{:.1f}"))
    found, names = compared(STANDARD, PROJECTION), []
    for system, run in zip(found["sides"], (STANDARD, PROJECTION), strict=True):
        own = json.loads(done("evaluate", run, "--json", "--threads", 1).out)
        assert list(own)[list(own).index("chrf") + 1] == "ter"
        assert system["runs"][0]["ter"] == own["ter"]
        assert system["ter"] == {"mean": own["ter"]["score"], "deviation": None, "runs": 1}
        assert f"{own['ter']['score']:.1f}  {own['ter']['signature']}" in done("evaluate", run, "--threads", 1).out
        names.append(Path(run).name)
        write_lines(Path(names[-1]), hypotheses(run))
    command = [sys.executable, "-m", "sacrebleu", "data/toy/test.tgt", "-i", names[0], "-m", "ter", "-w", "4", "-b"]
    theirs = subprocess.run(command, capture_output=True, check=True, text=True, encoding="utf-8").stdout
    assert found["sides"][0]["ter"]["mean"] == pytest.approx(float(theirs), abs=5e-5)
    assert 0 < found["significance"][0]["ter"]["p_value"] <= 1
    shown = done("compare", STANDARD, PROJECTION, "--format", "markdown", "--threads", 1).lines
    means = [f"{system['ter']['mean']:.1f}" for system in found["sides"]]
    assert f"| TER | {means[0]} | {means[1]} |" in shown
    assert any(line.startswith("| p of TER |") for line in shown)


@pytest.mark.slow
def test_seeds_of_a_system_have_mean_and_deviation(seeds: None) -> None:
    found = compared(*SEEDS)
    for side, names in zip(found["sides"], (SEEDS[0::3], SEEDS[1:3]), strict=True):
        assert [run["run"] for run in side["runs"]] == names
        assert [run["seed"] for run in side["runs"]] == [1, 2]
        a, b = (run["bleu"]["score"] for run in side["runs"])
        assert side["bleu"] == {"mean": pytest.approx((a + b) / 2), "deviation": pytest.approx(abs(a - b) / 2**0.5),
                                "runs": 2}  # fmt: skip
        first = [epoch["loss"] for epoch in (run["epochs"][0] for run in side["runs"])]
        assert side["epochs"][0]["loss"]["mean"] == pytest.approx(sum(first) / 2)
        assert len(side["epochs"]) == 8
    (test,) = found["significance"]
    assert (test["run"], test["against_run"]) == (PROJECTION, STANDARD)  # those of the lowest seed
    text = done("compare", *SEEDS).out
    assert "±" in text
    assert "runs of the lowest seed" in text


def test_what_the_folders_tell_is_what_is_compared(place: Path) -> None:
    found = compared(STANDARD, PROJECTION)
    for side in found["sides"]:
        run = Run(Path(side["runs"][0]["run"]))
        summary = json.loads(run.summary_file.read_text(encoding="utf-8"))
        assert side["parameters"] == summary["parameters"]
        assert side["training_seconds"]["mean"] == summary["training_seconds"]
        per_update = 1000 * summary["training_seconds"] / summary["updates"]
        assert side["update_milliseconds"]["mean"] == pytest.approx(per_update)
        assert side["runs"][0]["best_epoch"] == summary["best_epoch"]
        valid = [record for record in run.read_metrics() if record["event"] == "valid"]
        assert [epoch["accuracy"]["mean"] for epoch in side["epochs"]] == [record["accuracy"] for record in valid]
        assert [epoch["train_loss"]["mean"] for epoch in side["epochs"]] == [record["train_loss"] for record in valid]
    kinds = next(difference for difference in found["differences"] if difference["setting"] == KIND)
    assert kinds["values"] == {"standard": "standard", "projection": "projection"}
    for difference in found["differences"]:
        for label, run in (("standard", STANDARD), ("projection", PROJECTION)):
            value = flat(Run(Path(run)).raw_config).get(difference["setting"], "absent")
            assert difference["values"].get(label, "absent") == value


# ----------------------------------------------------------------------------------------------------------- prompts


def test_prompts_are_translated_by_every_system_as_translate_does(place: Path) -> None:
    prompts = ["one two", "seven | eight"]
    options = [item for prompt in prompts for item in ("--prompt", prompt)]
    found = compared(STANDARD, PROJECTION, *options)
    assert [sample["source"] for sample in found["samples"]] == prompts
    for label, run in (("standard", STANDARD), ("projection", PROJECTION)):
        wanted = done("translate", *prompts, "--model", run, "--threads", 1).lines
        assert [sample["translations"][label] for sample in found["samples"]] == wanted


def test_without_prompts_six_sentences_of_the_test_split_are_translated(place: Path) -> None:
    sources = list(dict.fromkeys(pair.source for pair in read_split(place / "data" / "toy", "test")))
    assert [sample["source"] for sample in compared(STANDARD, PROJECTION)["samples"]] == sources[:6]


def test_corpora_whose_languages_are_known_have_prompts_of_their_own() -> None:
    english, spanish = CORPORA["phrasebook"].examples
    assert len(english) == len(spanish) == 6
    assert english[0] == "Let me go alone."
    for direction, wanted in (("forward", english), ("en-es", english), ("backward", spanish), ("es-en", spanish)):
        corpus = CorpusConfig(name="phrasebook", direction=direction)  # type: ignore[arg-type]
        assert compare._prompts(corpus, []) == list(wanted)


# ------------------------------------------------------------------------------------------------- what is not there


def test_a_run_in_training_is_compared_as_far_as_it_is(place: Path) -> None:
    Path(PROJECTION, "summary.json").unlink()
    found = compared(STANDARD, PROJECTION)
    assert [side["runs"][0]["finished"] for side in found["sides"]] == [True, False]
    assert found["sides"][1]["bleu"] is not None
    assert any(note.startswith(f"{PROJECTION}: training has not ended") for note in found["notes"])
    Path(PROJECTION, "model.safetensors").unlink()
    found = compared(STANDARD, PROJECTION)
    assert found["sides"][1]["bleu"] is None
    assert found["sides"][1]["epochs"]
    assert (found["significance"], set(found["samples"][0]["translations"])) == ([], {"standard"})
    assert any("no model.safetensors in it yet" in note for note in found["notes"])
    assert any("no significance test" in note for note in found["notes"])
    assert "–" in done("compare", STANDARD, PROJECTION).out


@pytest.mark.slow
def test_seeds_alone_are_one_system_and_nothing_is_tested(seeds: None) -> None:
    found = compared(STANDARD, "runs/standard-2")
    assert [len(side["runs"]) for side in found["sides"]] == [2]
    assert (found["differences"], found["significance"], found["times"]) == ([], [], [])
    assert any("one system" in note for note in found["notes"])


def test_equal_runs_are_told_apart_by_their_folders(place: Path) -> None:
    shutil.copytree(STANDARD, "again")
    found = compared(STANDARD, "again")
    assert [side["label"] for side in found["sides"]] == [STANDARD, "again"]
    assert "none" in done("compare", STANDARD, "again").lines
    assert found["significance"] == []  # sacrebleu would call no difference at all a significant one
    assert any("nothing to test" in note for note in found["notes"])


@pytest.mark.slow
def test_other_references_are_said_and_not_tested(place: Path) -> None:
    """The `word` tokenizer scores against its normal form: upper case makes it another text than the raw one."""
    for name in ("train", "valid", "test"):
        for ending in ("src", "tgt"):
            lines = (place / "data" / "toy" / f"{name}.{ending}").read_text(encoding="utf-8")
            Path(f"{name}.{ending}").write_text(lines.upper(), encoding="utf-8")
    sides = [item for name in ("train", "valid", "test") for item in (f"--{name}", f"{name}.src", f"{name}.tgt")]
    for kind in ("bpe", "word"):
        done("prepare", *sides, "-o", f"data/{kind}", "--tokenizer", kind, "--vocab-size", 400)
        done("train", "--data", f"data/{kind}", "--run", f"runs/{kind}", "--threads", 1,
             "--set", "model.width=32", "--set", "model.heads=2", "--set", "model.embeddings.tie=none",
             "--set", "model.layers.encoder=1", "--set", "model.layers.decoder=1", "--set", "training.export=false",
             "--set", "training.epochs=2", "--set", "training.learning_rate=0.01")  # fmt: skip
    found = compared("runs/bpe", "runs/word")
    assert found["significance"] == []
    assert all(side["bleu"] for side in found["sides"])
    notes = " ".join(found["notes"])
    assert "other references" in notes
    assert "different tokenizers" in notes
    assert compared("runs/bpe", "runs/word", "--data", "data/word", "--data", "data/bpe") == found
    result = cli("compare", "runs/bpe", "runs/word", "--data", "data/word")
    assert (result.status, result.out) == (1, "")
    assert "data/word: not the data of runs/bpe" in result.errors[0]


def test_runs_of_different_devices_are_noted(place: Path) -> None:
    summary = Path(PROJECTION, "summary.json")
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"device": "another one"}), encoding="utf-8")
    assert any(
        "different devices" in note and "another one" in note for note in compared(STANDARD, PROJECTION)["notes"]
    )


def test_other_test_splits_are_one_line_with_the_setting(place: Path) -> None:
    done("prepare", "toy.tsv", "-o", "data/other", "--vocab-size", 400, "--seed", 5)
    done("train", "--config", "tiny.yaml", "--data", "data/other", "--run", "runs/other", "--threads", 1,
         "--set", "corpus.seed=5", "--set", "training.epochs=1", "--set", "training.evaluate_test=false")  # fmt: skip
    result = cli("compare", STANDARD, "runs/other")
    assert (result.status, result.out) == (1, "")
    assert "their test splits differ (corpus.seed 1 and 5)" in result.errors[0]


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        ([STANDARD], 2, "name two run folders or more"),
        ([], 2, "RUN"),
        ([STANDARD, STANDARD], 2, f"{STANDARD} is named twice"),
        ([PROJECTION, "runs/latest"], 2, "named twice"),
        ([STANDARD, "runs/gone"], 1, "runs/gone: no such folder"),
        ([STANDARD, PROJECTION, "--data", "gone"], 1, "gone"),
        ([STANDARD, PROJECTION, "--figure", "curves.pdf"], 2, "--figure curves.pdf"),
        ([STANDARD, PROJECTION, "--format", "html"], 2, "--format"),
        ([STANDARD, PROJECTION, "--length-penalty", "-1"], 2, "--length-penalty"),
        ([STANDARD, PROJECTION, "--output", "data"], 1, "data"),
    ],
)
def test_bad_input_is_one_line(place: Path, arguments: list[str], status: int, told: str) -> None:
    Path("runs/latest").unlink()
    Path("runs/latest").symlink_to("tiny-projection")
    result = cli("compare", *arguments)
    assert (result.status, result.out) == (status, ""), result.err
    assert len(result.errors) == 1
    assert told in result.errors[0]


def test_a_damaged_log_is_one_line(place: Path) -> None:
    with Path(PROJECTION, "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write("damaged\n")
    lines = len(Path(PROJECTION, "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    result = cli("compare", STANDARD, PROJECTION)
    assert (result.status, result.out) == (1, "")
    assert f"metrics.jsonl:{lines}: damaged" in result.errors[0]


def test_two_runs_at_least() -> None:
    with pytest.raises(ConfigError, match="0 run"):
        open_runs([])
