"""Both engines behind the same command: the same lines and scores, chosen by a flag, and never a stale export."""

import contextlib
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from projtrans.data.data_folder import read_split
from projtrans.data.tokenizer import Tokenizer
from projtrans.inference import engine, onnx_translator
from projtrans.inference import onnx_export as exporting
from projtrans.inference.onnx_translator import OnnxTranslator
from projtrans.inference.torch_translator import Translator
from projtrans.runs.checkpoint import save_model
from projtrans.runs.run_folder import Run
from tests.commands import cli, done
from tests.toy import KINDS, TINY, Toy, numbers, spell

pytestmark = pytest.mark.slow  # exporting takes seconds

NEAR = 1e-4
"""Scores of both engines agree to this."""

PAPER = {
    "corpus": {"name": "toy.tsv", "tokenizer": "word", "vocab_size": 400, "max_length": 10},
    "model": TINY["model"] | {"positions": "learned", "mask_padding": False, "embeddings": {"tie": "none"}},
    "training": TINY["training"] | {"epochs": 8, "export": True},
}
"""Everything that the other toy models are not; exported by the training itself."""


@dataclass(frozen=True)
class Exported:
    """Copies of the toy's runs with exports in both precisions, and one that training exported."""

    folder: Path

    def run(self, kind: str) -> Path:
        """The run folder of a kind of attention."""
        return self.folder / "runs" / f"tiny-{kind}"

    @property
    def paper(self) -> Path:
        """The run with the paper's settings, in float32 alone."""
        return self.folder / "runs" / "paper"


@pytest.fixture(scope="module", name="exported")
def _exported(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("exported") / "toy"
    shutil.copytree(toy.folder, folder, symlinks=True)
    for kind in KINDS:
        run = folder / "runs" / f"tiny-{kind}"
        done("export", run, "--precision", "float32", "--precision", "int8", "--threads", 1)
    (folder / "paper.yaml").write_text(yaml.safe_dump(PAPER), encoding="utf-8")
    with contextlib.chdir(folder):
        done("prepare", "--config", "paper.yaml", "-o", "data/words", "toy.tsv")
        trained = done("train", "--config", "paper.yaml", "--data", "data/words", "--run", "runs/paper", "--threads", 1)
    assert trained.err.count("exported to onnx/") == 1
    return Exported(folder)


@pytest.fixture
def run(exported: Exported, tmp_path: Path) -> Path:
    """A run of its own to damage."""
    return Path(shutil.copytree(exported.run("projection"), tmp_path / "run"))


@pytest.fixture(scope="module")
def lines(toy: Toy) -> list[str]:
    """Sentences of many lengths, with blank ones, repetitions and strange ones."""
    texts = [pair.source for pair in read_split(toy.data, "test")][:40]
    longer = [spell("".join(numbers(6, seed, longest=3))) for seed in range(3)]
    return [*texts, "", *longer, "漢字 \u2028 x", texts[0], "  ", "one", "two " * 300]


# ------------------------------------------------------------------------------------------------------ the same lines


@pytest.mark.parametrize("beam_size", [1, 4])
@pytest.mark.parametrize("kind", [*KINDS, "paper"])
def test_both_engines_give_the_same_lines_with_the_same_scores(
    exported: Exported, lines: list[str], kind: str, beam_size: int
) -> None:
    run = Run(exported.paper if kind == "paper" else exported.run(kind))
    theirs = (
        Translator.load(run.folder, "cpu")
        .with_decoding(beam_size=beam_size)
        .with_options(n_best=beam_size)
        .translate(lines)
    )
    ours = (
        OnnxTranslator.of_run(run, "float32", 1)
        .with_decoding(beam_size=beam_size)
        .with_options(n_best=beam_size)
        .translate(lines)
    )
    assert len({translation.text for translation in theirs}) > 10, "or nothing is compared"
    for one, other in zip(ours, theirs, strict=True):
        assert one.source == other.source
        assert [part.source for part in one.parts] == [part.source for part in other.parts]
        for mine, that in zip(one.hypotheses, other.hypotheses, strict=True):
            assert mine.score == pytest.approx(that.score, abs=NEAR * max(1, len(one.parts)))
            assert mine.translation == that.translation


@pytest.mark.parametrize("kind", [*KINDS, "paper"])
@pytest.mark.parametrize(
    "asked",
    [
        {"beam_size": 1, "min_length": 6, "max_length": 9, "no_repeat_ngram": 2},
        {"beam_size": 4, "min_length": 6, "max_length": 9, "no_repeat_ngram": 2},
        {"sample": True, "temperature": 0.8, "top_k": 30, "seed": 5, "min_length": 3},
        {"sample": True},
    ],
    ids=["greedy", "beam", "top-k samples", "samples"],
)
def test_both_engines_apply_the_search_options(
    exported: Exported, lines: list[str], kind: str, asked: dict[str, Any]
) -> None:
    """Samples too: drawn by the same chances from probabilities that differ by rounding alone."""
    run = Run(exported.paper if kind == "paper" else exported.run(kind))
    prefixes = [("", "ba", "be bi ", "d")[i % 4] for i in range(len(lines))]
    if kind == "paper":
        prefixes = [prefix.replace("d", "du") for prefix in prefixes]  # its vocabulary is words
    theirs, ours = (
        translator.with_decoding(**asked).with_options(token_scores=True, n_best=3).translate(lines, prefixes=prefixes)
        for translator in (Translator.load(run.folder, "cpu"), OnnxTranslator.of_run(run, "float32", 1))
    )
    pairs = [(a, b) for x, y in zip(ours, theirs, strict=True) for a, b in zip(x.hypotheses, y.hypotheses, strict=True)]
    same = [(mine, that) for mine, that in pairs if mine.pieces == that.pieces]
    assert len(pairs) - len(same) <= ("sample" in asked) * len(pairs) / 100  # a chance may fall on the edge of a token
    for mine, that in same:
        assert mine.translation == that.translation
        assert mine.token_scores == pytest.approx(that.token_scores, abs=NEAR)


def test_all_formats_and_the_filter_say_the_same(exported: Exported, lines: list[str], tmp_path: Path) -> None:
    run, stdin = exported.run("standard"), "".join(f"{line}\n" for line in [*lines, "x" * 300])
    for form in ("text", "tsv", "json"):
        options = ["--model", run, "--format", form, "--n-best", 1 if form == "text" else 3]
        theirs, ours = (done("translate", *options, "--engine", name, stdin=stdin) for name in ("torch", "onnx"))
        assert ours.err == theirs.err
        assert "too long" in ours.err or "longer than" in ours.err
        if form == "text":
            assert ours.out == theirs.out
        for mine, that in zip(ours.lines, theirs.lines, strict=True):
            if form == "tsv":
                (score, text), (expected, same) = mine.split("\t"), that.split("\t")
                assert (float(score), text) == (pytest.approx(float(expected), abs=NEAR), same)
            elif form == "json":
                one, other = json.loads(mine), json.loads(that)
                assert one.keys() == other.keys()
                assert one["translation"] == other["translation"]
                assert one["score"] == pytest.approx(other["score"], abs=NEAR)
    given = tmp_path / "lines.txt"
    given.write_text(stdin, encoding="utf-8")
    filed = done("translate", "--model", run, "--engine", "onnx", "--input", given, "--output", tmp_path / "out.txt")
    assert filed.out == ""
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == done(
        "translate", "--model", run, "--engine", "onnx", stdin=stdin
    ).out


def test_the_prompt_has_it_too(exported: Exported) -> None:
    run = exported.run("projection")
    answers = [
        done("translate", "--interactive", "--model", run, "--engine", name, stdin="one two\nthree four five\n").out
        for name in ("onnx", "torch")
    ]
    assert answers[0] == answers[1]
    assert answers[0].count("\n") == 2


@pytest.mark.parametrize("kind", KINDS)
def test_int8_is_near(exported: Exported, lines: list[str], kind: str) -> None:
    """Scores of the same translations differ, or int8 has not been used, and not by much."""
    run = Run(exported.run(kind))
    exact, rough = (OnnxTranslator.of_run(run, name, 1).translate(lines) for name in ("float32", "int8"))
    same = [(one, other) for one, other in zip(exact, rough, strict=True) if one.text == other.text]
    assert len(same) > 0.8 * len(lines)
    gaps = [abs(one.score - other.score) for one, other in same if one.text]
    assert 1e-4 < max(gaps) < 0.5


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_rest_of_the_batch_does_not_change_a_translation(
    exported: Exported, lines: list[str], precision: str
) -> None:
    translator = OnnxTranslator.of_run(Run(exported.run("projection")), precision, 1)
    together = translator.translate(lines)
    for line, crowd in zip(lines, together, strict=True):
        alone = translator.translate([line])[0]
        assert alone.score == pytest.approx(crowd.score, abs=NEAR)
        assert alone.text == crowd.text


@pytest.mark.parametrize("beam_size", [1, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_bf16_products_are_in_use_and_near_float32(
    exported: Exported, lines: list[str], kind: str, beam_size: int
) -> None:
    run, cpu = Run(exported.run(kind)), torch.device("cpu")
    exact, half = (
        Translator.of_run(run, cpu, precision).with_decoding(beam_size=beam_size) for precision in ("fp32", "bf16")
    )
    gaps = [abs(a.score - b.score) for a, b in zip(exact.translate(lines), half.translate(lines), strict=True)]
    assert 0 < statistics.median(gaps) < 0.1  # where a near-tie falls otherwise, the texts and their scores differ


# --------------------------------------------------------------------------------------------------- which one it is


@pytest.mark.parametrize(
    ("reason", "options", "torch"),
    [
        ("auto takes the export", [], False),
        ("asked for", ["--engine", "onnx", "--format", "json", "--n-best", "2"], False),
        ("int8 is asked for", ["--precision", "int8"], False),
        ("on the processor", ["--device", "cpu"], False),
        ("float32, which was exported", ["--precision", "float32"], False),
        ("bf16 is asked for", ["--precision", "bf16"], True),
        ("torch is asked for", ["--engine", "torch"], True),
    ],
)
def test_only_the_engine_that_computes_is_imported(
    exported: Exported, reason: str, options: list[str], torch: bool
) -> None:
    program = (
        "import sys; from projtrans.inference import engine; engine.GPU_FILES = ()\n"
        "from projtrans.cli.main import app\n"
        "try: app(sys.argv[1:])\n"
        "finally: print([name in sys.modules for name in ('torch', 'onnxruntime', 'rich', 'onnx')], file=sys.stderr)"
    )
    arguments = ["translate", "one two", "--model", str(exported.run("projection")), *options]
    finished = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=120, check=True
    )
    assert finished.stdout.count("\n") == 1
    assert finished.stderr == f"{[torch, not torch, False, False]}\n", reason


def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fills with the engines that are opened."""
    opened: list[str] = []

    def watch(name: str, of_run: Callable[..., object]) -> Callable[..., object]:
        return lambda *given: (opened.append(name), of_run(*given))[1]

    for name, kind in (("onnx", OnnxTranslator), ("torch", Translator)):
        monkeypatch.setattr(kind, "of_run", watch(name, kind.of_run))
    monkeypatch.setattr(engine, "GPU_FILES", ())
    return opened


def test_auto_leaves_the_export_where_a_gpu_is(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = used(monkeypatch)
    monkeypatch.setattr(engine, "GPU_FILES", (str(run),))
    done("translate", "one", "--model", run)
    done("translate", "one", "--model", run, "--device", "cpu")
    assert opened == ["torch", "onnx"]


def test_auto_is_torch_without_an_export_and_without_onnx_runtime(
    run: Path, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = used(monkeypatch)
    assert done("translate", "one", "--model", toy.run("projection")).err == ""
    monkeypatch.setattr(onnx_translator, "installed", lambda: False)
    assert done("translate", "one", "--model", run).err == ""
    assert opened == ["torch", "torch"]


def change_weights(run: Path) -> None:
    """As if training had gone on."""
    before = Translator.load(run, "cpu")
    weights = {name: value * 0.9 for name, value in before.model.named_parameters()}
    save_model(Run(run), weights, before.tokenizer, {})


def change_settings(run: Path) -> None:
    """As if the file had been edited."""
    text = (run / "config.yaml").read_text(encoding="utf-8")
    assert "mask_padding: true" in text
    (run / "config.yaml").write_text(text.replace("mask_padding: true", "mask_padding: false"), encoding="utf-8")


@pytest.mark.parametrize("change", [change_weights, change_settings])
def test_a_stale_export_is_never_used(change: object, run: Path, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    change(run)
    opened = used(monkeypatch)
    told = done("translate", "one two", "--model", run)
    assert told.out == done("translate", "one two", "--model", run, "--engine", "torch").out
    assert told.err.count("\n") == 1
    assert "other weights or settings" in told.err
    assert opened[-2:] == ["torch", "torch"]
    refused = cli("translate", "one two", "--model", run, "--engine", "onnx")
    assert (refused.status, len(refused.errors), refused.out) == (1, 1, "")
    assert "projtrans export" in refused.err
    done("export", run, "--threads", 1)
    assert done("translate", "one two", "--model", run).err == ""
    assert opened[-1] == "onnx"


# ------------------------------------------------------------------------------------------------------------- errors


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = [
    ("no encoder", lambda run: (run / "onnx" / "encoder.float32.onnx").unlink(), "missing, damaged"),
    ("half a decoder", lambda run: truncate(run / "onnx" / "decoder.float32.onnx"), "missing, damaged"),
    ("an empty graph", lambda run: (run / "onnx" / "decoder.float32.onnx").write_bytes(b""), "missing, damaged"),
    ("a record of no JSON", lambda run: (run / "onnx" / "float32.json").write_text("{"), "damaged"),
    ("a record of other fields", lambda run: (run / "onnx" / "float32.json").write_text('{"format": 1}'), "damaged"),
    ("no export", lambda run: shutil.rmtree(run / "onnx"), "no float32 export"),
    ("no weights", lambda run: (run / "model.safetensors").unlink(), "no model.safetensors"),
    ("another tokenizer", lambda run: other_tokenizer(run), "tokenizer"),
]


def other_tokenizer(run: Path) -> None:
    Tokenizer.train("bpe", ["a b c one two"] * 9, ["d e f"] * 9, 300).save(run)


@pytest.mark.parametrize(("reason", "damage", "said"), DAMAGES, ids=[row[0] for row in DAMAGES])
def test_damage_is_reported_in_one_line(reason: str, damage: Callable[[Path], object], said: str, run: Path) -> None:
    damage(run)
    result = cli("translate", "one", "--model", run, "--engine", "onnx")
    assert (result.status, result.out) == (1, "")
    assert result.err.count("\n") == len(result.errors) == 1
    assert said in result.err


FLAGS = [
    (["--engine", "onnx", "--device", "cuda"], "--device cuda"),
    (["--precision", "int8", "--device", "cuda:1"], "--device cuda:1"),
    (["--engine", "torch", "--precision", "int8"], "--precision int8"),
    (["--engine", "onnx", "--precision", "bf16"], "--precision bf16: the onnx engine has float32 and int8"),
    (["--engine", "tensorrt"], "tensorrt"),
    (["--engine", "onnx", "--length-penalty", "-1"], "--length-penalty"),
]


@pytest.mark.parametrize(("options", "said"), FLAGS)
def test_flags_that_exclude_each_other_are_refused(exported: Exported, options: list[str], said: str) -> None:
    result = cli("translate", "one", "--model", exported.run("standard"), *options)
    assert (result.status, result.out) == (2, "")
    assert result.err.count("\n") == len(result.errors) == 1
    assert said in result.err


def test_without_the_extra_a_line_names_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_translator, "installed", lambda: False)
    monkeypatch.setattr(exporting, "NEEDED", ("onnxruntime", "nosuchpackage"))
    for arguments in (["translate", "one", "--model", run, "--engine", "onnx"], ["export", run]):
        result = cli(*arguments)
        assert result.status == 2
        assert result.err.count("\n") == 1
        assert "projtrans[fast]" in result.err


def test_an_export_that_is_interrupted_leaves_none(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "_write", full)
    result = cli("export", run)
    assert (result.status, len(result.errors)) == (1, 1)
    assert (
        "no float32 export" in cli("translate", "one", "--model", run, "--engine", "onnx", "--precision", "float32").err
    )


def test_export_wants_a_run_with_weights_and_a_precision_that_it_knows(run: Path) -> None:
    assert "--precision int4" in cli("export", run, "--precision", "int4").err
    (run / "model.safetensors").unlink()
    result = cli("export", run)
    assert (result.status, len(result.errors)) == (1, 1)
    assert "no model.safetensors" in result.err
