"""`compare` end to end on small runs, with sacrebleu's command, `evaluate` and counts by hand as oracles."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from projtrans import config
from projtrans.comparison import compare, report
from projtrans.comparison.compare import open_runs
from projtrans.comparison.systems import Side, Spread
from projtrans.comparison.timing import UNTIMED, time_ratios
from projtrans.data.corpora import CORPORA
from projtrans.data.corpus import CorpusConfig, Pair
from projtrans.data.data_folder import read_split
from projtrans.errors import ConfigError
from projtrans.evaluation import metrics
from projtrans.evaluation.evaluate import Evaluation
from projtrans.evaluation.metrics import Score, check_bootstrap_seed, paired_bootstrap
from projtrans.evaluation.test_scores import kept
from projtrans.files import write_lines
from projtrans.runs.run_folder import Run
from projtrans.runs.settings import Config, flat
from projtrans.search.decoding import DecodingConfig
from tests.conftest import Toy, cli, done

KIND = "model.attention.kind"


@pytest.fixture(scope="module")
def trained(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy's folder with more runs in it: two seeds a kind, wide heads, another split, words."""
    folder = tmp_path_factory.mktemp("compare") / "folder"
    shutil.copytree(toy.folder, folder, symlinks=True)
    runs = {
        "standard-2": ["--attention", "standard", "--seed", 2],
        "projection-2": ["--attention", "projection", "--seed", 2],
        "wide": ["--attention", "standard", "--set", "model.head_width=32", "--set", "training.evaluate_test=false"],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, options in runs.items():
            done("train", "--config", "tiny.yaml", "--run", f"runs/{name}", "--threads", 1, *options)
    return folder


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to work in, as current folder."""
    folder = tmp_path / "place"
    shutil.copytree(trained, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("SACREBLEU_SEED", raising=False)
    return folder


STANDARD, PROJECTION = "runs/tiny-standard", "runs/tiny-projection"
SEEDS = [STANDARD, PROJECTION, "runs/projection-2", "runs/standard-2"]


def compared(*arguments: object) -> dict[str, Any]:
    """The object that the command prints."""
    found: dict[str, Any] = json.loads(done("compare", *arguments, "--format", "json", "--threads", 1).out)
    return found


def hypotheses(run: str) -> list[str]:
    """What `evaluate` translates the test split to."""
    done("evaluate", run, "--hypotheses", "hypotheses", "--threads", 1)
    return Path("hypotheses").read_text(encoding="utf-8").split("\n")[:-1]


# ------------------------------------------------------------------------------------------------------ significance


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


def test_certain_and_small_differences_are_told_apart() -> None:
    references = [f"the answer to question {number} is {number * 7}" for number in range(60)]
    almost = [*references[:-1], "no answer"]
    (chance,) = paired_bootstrap("BLEU", references, [almost], references)
    assert chance.p_value > 0.05
    (certain,) = paired_bootstrap("chrF", ["no idea"] * 60, [references], references)
    assert (certain.score, certain.p_value) == (pytest.approx(100), pytest.approx(1 / 1001))


@pytest.mark.parametrize("metric", ["BLEU", "chrF"])
def test_systems_tested_together_have_the_figures_that_each_has_alone(metric: str) -> None:
    references = [f"the answer to question {number} is {number * 7}" for number in range(40)]
    spoilt = [[text if number % step else "no idea" for number, text in enumerate(references)] for step in (2, 3, 7, 9)]
    base, *systems = spoilt
    together = paired_bootstrap(metric, base, systems, references)
    assert together == [paired_bootstrap(metric, base, [system], references)[0] for system in systems]
    assert len({test.p_value for test in together} | {test.score for test in together}) > 3


def test_three_sides_are_tested_as_each_of_two(place: Path) -> None:
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
    monkeypatch.setattr(compare, "_members", refuse)
    result = cli("compare", STANDARD, PROJECTION)
    assert (result.status, result.out) == (2, "")
    assert len(result.errors) == 1
    assert f"SACREBLEU_SEED: {seed!r}" in result.errors[0]


@pytest.mark.parametrize("seed", ["0", "7", " 12 ", "None", "none"])
def test_a_seed_that_sacrebleu_takes_is_taken(monkeypatch: pytest.MonkeyPatch, seed: str) -> None:
    monkeypatch.setenv("SACREBLEU_SEED", seed)
    check_bootstrap_seed()
    (test,) = paired_bootstrap("BLEU", ["a b c d", "e"], [["a b c d", "f"]], ["a b c d", "e f"])
    assert f"seed:{'none' if seed.lower() == 'none' else int(seed)}" in test.signature


def test_seeds_of_a_side_have_mean_and_deviation(place: Path) -> None:
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


# ------------------------------------------------------------------------------------------------- kept translations


def test_training_keeps_the_translations_that_its_summary_scores(place: Path) -> None:
    run = Run(Path(STANDARD))
    assert run.hypotheses_file.read_text(encoding="utf-8").split("\n")[:-1] == hypotheses(STANDARD)
    summary = json.loads(run.summary_file.read_text(encoding="utf-8"))
    assert json.loads(run.test_file.read_text(encoding="utf-8"))["evaluation"] == summary["test"]


def refuse(*arguments: object, **options: object) -> None:
    raise AssertionError("translated again")


def test_kept_translations_are_not_made_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = compared(STANDARD, "runs/wide")  # the second one kept none so far
    assert Run(Path("runs/wide")).hypotheses_file.is_file()
    monkeypatch.setattr(compare, "evaluate", refuse)
    assert compared(STANDARD, "runs/wide") == before


SPOILT: list[tuple[str, Callable[[Run], object]]] = [
    ("another model", lambda run: shutil.copy("runs/standard-2/model.safetensors", run.model_file)),
    ("changed translations", lambda run: run.hypotheses_file.write_text("ba\n" * 46, encoding="utf-8")),
    ("no record", lambda run: run.test_file.unlink()),
    ("a damaged record", lambda run: run.test_file.write_text("{", encoding="utf-8")),
    ("a record of another shape", lambda run: run.test_file.write_text("[]", encoding="utf-8")),
    ("no translations", lambda run: run.hypotheses_file.unlink()),
]


@pytest.mark.parametrize(("reason", "spoil"), SPOILT, ids=[row[0] for row in SPOILT])
def test_stale_translations_are_never_used(place: Path, reason: str, spoil: Callable[[Run], object]) -> None:
    run = Run(Path(STANDARD))
    spoil(run)
    found = compared(STANDARD, PROJECTION)
    own = json.loads(done("evaluate", STANDARD, "--json", "--threads", 1).out)
    assert found["sides"][0]["runs"][0]["bleu"] == own["bleu"]
    assert run.hypotheses_file.read_text(encoding="utf-8").split("\n")[:-1] == hypotheses(STANDARD)  # and kept
    assert kept(run, read_split(place / "data" / "toy", "test"), run.section("decoding", DecodingConfig)) is not None


def test_other_settings_pairs_or_searches_do_not_match(place: Path) -> None:
    run, pairs = Run(Path(STANDARD)), read_split(place / "data" / "toy", "test")
    own = run.section("decoding", DecodingConfig)
    found = kept(run, pairs, own)
    assert found is not None
    assert len(found[1]) == len(pairs)
    assert kept(run, pairs, dataclasses.replace(own, beam_size=1)) is None
    assert kept(run, pairs, dataclasses.replace(own, min_length=3)) is None
    record = json.loads(run.test_file.read_bytes())
    del record["decoding"]["min_length"], record["evaluation"]["search"]  # as written before there was one
    run.test_file.write_text(json.dumps(record), encoding="utf-8")
    assert kept(run, pairs, own) == found
    assert kept(run, [*pairs[:-1], Pair(pairs[-1].source, "ba")], own) is None
    run.keep_config(run.raw_config | {"model": run.raw_config["model"] | {"heads": 4}})
    assert kept(run, pairs, own) is None


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


def test_an_evaluation_survives_its_json() -> None:
    score = Score(1.5, "signature")
    one = Evaluation("run", "test", 3, 1.0, 2.7, 0.5, None, score, score, None, 2, "raw text", 5, 1.0, 0.25)
    other = dataclasses.replace(one, bleu_multi_reference=score)
    assert [Evaluation.from_json(json.loads(json.dumps(e.to_json()))) for e in (one, other)] == [one, other]


# -------------------------------------------------------------------------------------------------------------- time


def side(label: str, milliseconds: float | None) -> Side:
    """A side of which only the time of an update is known."""
    nothing: dict[str, Any] = {field.name: None for field in dataclasses.fields(Side)}
    spread = None if milliseconds is None else Spread(milliseconds, None, 1)
    return Side(**nothing | {"label": label, "update_milliseconds": spread, "runs": [], "epochs": []})


def settings(kind: str, head_width: int | None, **more: Any) -> dict[str, Any]:
    """Flat settings: eight heads, width 64."""
    given = dict.fromkeys(UNTIMED) | {"model.width": 64, "model.heads": 8, "model.head_width": head_width, KIND: kind}
    return given | {path.replace("__", "."): value for path, value in more.items()}


WIDE, SLICED, NARROW = settings("standard", 64), settings("standard", None), settings("projection", 8)


def test_a_ratio_of_times_is_the_product_of_head_width_and_formula() -> None:
    sides = [side("wide", 20.0), side("narrow", 12.0), side("sliced", 10.0)]
    narrow, sliced = time_ratios(sides, [WIDE, NARROW, SLICED])
    assert (narrow.ratio, narrow.missing) == (pytest.approx(0.6), None)
    ((first, second),) = narrow.products  # the sliced one stands between: null is width / heads, 8 here
    assert (first.cause, first.side, first.against, first.ratio) == ("head width", "sliced", "wide", 0.5)
    assert (second.cause, second.side, second.against, second.ratio) == ("formula", "narrow", "sliced", 1.2)
    ((only,),) = sliced.products
    assert (only.cause, only.ratio) == ("head width", 0.5)


def test_the_other_corner_serves_as_well_and_both_together_give_two_products() -> None:
    untimed = {path.replace(".", "__"): 0.5 for path in UNTIMED}
    other = settings("projection", 64, decoding__beam_size=3, **untimed)  # none of which takes time
    sides = [side("wide", 20.0), side("narrow", 12.0), side("corner", 24.0), side("sliced", 10.0)]
    narrow, *_ = time_ratios(sides, [WIDE, NARROW, other, SLICED])
    causes = [[(factor.cause, factor.ratio) for factor in product] for product in narrow.products]
    assert causes == [[("formula", 1.2), ("head width", 0.5)], [("head width", 0.5), ("formula", 1.2)]]
    for first, second in narrow.products:
        assert first.ratio * second.ratio == pytest.approx(narrow.ratio)


def test_a_missing_corner_names_the_run_to_train() -> None:
    (ratio,) = time_ratios([side("wide", 20.0), side("narrow", 12.0)], [WIDE, NARROW])
    assert ratio.products == []
    assert ratio.missing == "to divide it, add a run like narrow with --set model.head_width=64"
    more_heads = settings("projection", 4, model__heads=16)
    (ratio,) = time_ratios([side("wide", 20.0), side("many", 12.0)], [WIDE, more_heads])
    assert ratio.missing is not None
    assert ratio.missing.endswith("--set model.heads=8 --set model.head_width=64")


def test_what_else_differs_forbids_a_division() -> None:
    other = settings("projection", 8, model__norm="post")
    (ratio,) = time_ratios([side("wide", 20.0), side("other", 12.0)], [WIDE, other])
    assert ratio.missing == "they differ in model.norm too, so the time cannot be divided"
    third = settings("projection", 64, model__norm="post")  # a corner in which something else differs is none
    ratios = time_ratios([side("wide", 20.0), side("narrow", 12.0), side("third", 9.0)], [WIDE, NARROW, third])
    assert ratios[0].products == []


@pytest.mark.parametrize(
    ("times", "without"),
    [((None, 12.0), "wide"), ((20.0, None), "narrow"), ((None, None), "wide and narrow")],
)
def test_a_side_without_a_time_has_a_reason_instead_of_a_ratio(
    times: tuple[float | None, float | None], without: str
) -> None:
    sides = [side("wide", times[0]), side("narrow", times[1]), side("sliced", 10.0)]
    narrow, sliced = time_ratios(sides, [WIDE, NARROW, SLICED])
    assert (narrow.side, narrow.ratio, narrow.products) == ("narrow", None, [])
    assert narrow.missing == f"no time of {without}: no validation in the log so far"
    assert (sliced.ratio is None) == (times[0] is None)
    (line,) = report._ratio(narrow)
    assert line == f"an update of narrow takes – times that of wide; {narrow.missing}"


def test_what_may_differ_without_a_say_in_the_time_are_settings() -> None:
    """And each says something about when, how often or how far, and nothing about how much is computed in an update."""
    assert {dotted.partition(" ")[0] for dotted, *_ in config.describe(Config)} >= UNTIMED
    assert not UNTIMED & {"training.batch_tokens", "training.precision", "training.accumulation", "training.average"}


def test_the_command_divides_the_time(place: Path) -> None:
    text = done("compare", "runs/wide", PROJECTION, "--threads", 1).out
    assert "to divide it, add a run like projection with --set model.head_width=32" in text
    found = compared("runs/wide", PROJECTION, STANDARD)
    labels = ["standard, head_width=32", "projection", "standard"]
    assert [side["label"] for side in found["sides"]] == labels
    ((first, second),) = found["times"][0]["products"]
    assert (first["cause"], second["cause"]) == ("head width", "formula")
    assert first["ratio"] * second["ratio"] == pytest.approx(found["times"][0]["ratio"])
    wide, _, sliced = (side["multiply_adds"]["attention_products"] for side in found["sides"])
    assert wide == 2 * sliced


# ----------------------------------------------------------------------------------------------------------- prompts


def test_prompts_are_translated_by_every_side_as_translate_does(place: Path) -> None:
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


# ---------------------------------------------------------------------------------------------------------- the forms


def test_text_and_markdown_say_the_same(place: Path) -> None:
    arguments = ["compare", STANDARD, PROJECTION, "--prompt", "one | two *three*", "--threads", 1]
    text = done(*arguments)
    assert text.err == ""
    page = done(*arguments, "--format", "markdown").lines
    sentences = len(read_split(place / "data" / "toy", "test"))
    titles = [line.removeprefix("## ") for line in page if line.startswith("## ")]
    assert titles == [
        "Runs", "Settings that differ", "Time", "Multiply-adds of a forward pass, a target piece",
        f"Test split, {sentences} sentences", "Loss per epoch (nats a piece)", "Token accuracy per epoch",
        "Translations",
    ]  # fmt: skip
    assert all(title in text.lines for title in titles)
    for first, line in enumerate(page):
        if line.startswith("| ---"):
            columns = len(line.split("|"))
            rows = [page[first - 1], *page[first + 1 :]]
            for row in rows:
                if not row.startswith("|"):
                    break
                assert len(row.replace("\\|", "").split("|")) == columns, row
    assert any(line.startswith("| one \\| two \\*three\\* |") for line in page)
    assert "| beam size, length penalty | 5, 1 | 5, 1 |" in page
    assert (
        "| beam size, length penalty | 2, 0.5 | 2, 0.5 |"
        in done(*arguments, "--format", "markdown", "--beam-size", 2, "--length-penalty", 0.5).lines
    )
    bleu = next(line for line in page if line.startswith("| BLEU |"))
    for value in (f"{side['bleu']['mean']:.2f}" for side in compared(STANDARD, PROJECTION)["sides"]):
        assert value in bleu
        assert value in text.out


def test_the_fields_of_the_json_object_are_documented(place: Path) -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "files.md").read_text(encoding="utf-8")
    section = page.partition("## The object of `compare --format json`")[2]

    def names(value: Any) -> set[str]:
        if isinstance(value, list):
            return {name for item in value for name in names(item)}
        if not isinstance(value, dict):
            return set()
        return set(value) | {name for key, item in value.items() for name in names(item)
                             if key not in ("values", "translations")}  # fmt: skip

    missing = {name for name in names(compared(*SEEDS, "runs/wide")) if f"`{name}`" not in section}
    assert not missing


def test_output_goes_to_a_file(place: Path) -> None:
    for form in ("text", "markdown", "json"):
        arguments = ["compare", STANDARD, PROJECTION, "--format", form, "--threads", 1]
        printed = done(*arguments).out
        result = done(*arguments, "--output", "deep/out")
        assert result.out == ""
        assert Path("deep/out").read_text(encoding="utf-8") == printed


def test_the_figure_is_written_in_both_formats(place: Path) -> None:
    pytest.importorskip("matplotlib")
    done("compare", STANDARD, PROJECTION, "--figure", "curves.png", "--figure", "curves.svg")
    assert Path("curves.png").read_bytes().startswith(b"\x89PNG")
    svg = Path("curves.svg").read_text(encoding="utf-8")
    assert "<!-- standard -->" in svg
    assert "<!-- projection -->" in svg


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


def test_seeds_alone_are_one_side_and_nothing_is_tested(place: Path) -> None:
    found = compared(STANDARD, "runs/standard-2")
    assert [len(side["runs"]) for side in found["sides"]] == [2]
    assert (found["differences"], found["significance"], found["times"]) == ([], [], [])
    assert any("one side" in note for note in found["notes"])


def test_equal_runs_are_told_apart_by_their_folders(place: Path) -> None:
    shutil.copytree(STANDARD, "again")
    found = compared(STANDARD, "again")
    assert [side["label"] for side in found["sides"]] == [STANDARD, "again"]
    assert "none" in done("compare", STANDARD, "again").lines
    assert found["significance"] == []  # sacrebleu would call no difference at all a significant one
    assert any("word for word" in note for note in found["notes"])


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
    done("train", "--data", "data/other", "--run", "runs/other", "--threads", 1, "--set", "training.epochs=1",
         "--set", "model.width=32", "--set", "training.evaluate_test=false")  # fmt: skip
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


def test_the_bootstrap_has_a_thousand_resamples() -> None:
    assert metrics.RESAMPLES == 1000
