"""The contract of the command line: data on standard output, one line for an error, an exit status, nothing lost."""

import contextlib
import gzip
import itertools
import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from projtrans import config
from projtrans.data.tokenizer import Tokenizer
from projtrans.model.attention import StandardConfig
from projtrans.runs.checkpoint import load_state
from projtrans.runs.run_folder import Run
from tests.conftest import KINDS, TINY, Result, Toy, cli, command, done, full_disk, run, spell, tree

COMMANDS = ("prepare", "train", "evaluate", "compare", "translate")
PATIENCE = 120.0
"""Seconds after which a process that ought to have answered is taken to hang."""


def one_error(result: Result, status: int, told: str = "") -> str:
    """Check the manners of a failure: its status, one line that begins with `error:` at the end, no data."""
    assert result.status == status, result.err
    assert result.out == ""
    assert len(result.errors) == 1, result.err
    assert result.err.endswith(f"{result.errors[0]}\n"), result.err
    assert "Traceback" not in result.err
    assert told in result.errors[0], result.errors[0]
    return result.errors[0]


# --------------------------------------------------------------------------------------------------------- bad input


@pytest.fixture(scope="module")
def quarry(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy's folder with everything in it that can be wrong."""
    folder = tmp_path_factory.mktemp("bad") / "quarry"
    shutil.copytree(toy.folder, folder, symlinks=True)
    texts = {
        "empty.tsv": b"",
        "blank.tsv": b"\n\t\n \t \n",
        "one.tsv": b"one\tbe\n",
        "notab.tsv": b"one\tbe\ntwo bi\n",
        "latin.tsv": b"one\tbe\ntwo\tb\xed\n",
        "cut.tsv.gz": gzip.compress(b"one\tbe\n" * 99)[:-9],
        "plain.tsv.gz": b"one\tbe\n",
        "corpus.txt": b"one\tbe\n",
        "three": b"one\ntwo\nthree\n",
        "two": b"be\nbi\n",
        "nothing": b"",
        "latin": b"one\nt\xf3o\nthree\n",
        "file": b"a regular file",
        "zip": b"not an archive",
        "latin.yaml": b"corpus: {name: b\xed}\n",
    }
    for name, data in texts.items():
        (folder / name).write_bytes(data)
    (folder / "folder.tsv").mkdir()
    (folder / "full").mkdir()
    (folder / "full" / "mine").write_text("mine", encoding="utf-8")
    for name, text in _configurations().items():
        (folder / name).write_text(text, encoding="utf-8")
    for name in ("no-model", "truncated", "other", "no-tokenizer", "bad-config", "bad-tokenizer", "no-config"):
        shutil.copytree(toy.run("projection"), folder / "runs" / name)
    _spoil(folder / "runs")
    shutil.copytree(toy.data, folder / "data" / "damaged")
    (folder / "data" / "damaged" / "train.tgt").write_bytes(b"be\n")
    shutil.copytree(toy.data, folder / "data" / "garbage")
    (folder / "data" / "garbage" / "manifest.json").write_text("{", encoding="utf-8")
    return folder


def _configurations() -> dict[str, str]:
    return {
        "unknown.yaml": "training: {learning_rte: 0.1}\n",
        "section.yaml": "trainnig: {epochs: 3}\n",
        "type.yaml": "training: {epochs: many}\n",
        "boolean.yaml": "training: {epochs: yes}\n",
        "sigma.yaml": "model: {attention: {kind: projection, sigma: {self: 0}}}\n",
        "foreign.yaml": "model: {attention: {kind: standard, sigma: {self: 1}}}\n",
        "syntax.yaml": "training:\n  epochs: [1\n",
        "twice.yaml": "training: {epochs: 1}\ntraining: {epochs: 2}\n",
        "list.yaml": "- training\n",
        "control.yaml": "corpus: {name: \x01}\n",
        "empty-corpus.yaml": yaml.safe_dump({**TINY, "corpus": {"name": "empty.tsv", "vocab_size": 400}}),
        "gone-corpus.yaml": yaml.safe_dump({**TINY, "corpus": {"name": "gone.tsv", "vocab_size": 400}}),
        "other-vocabulary.yaml": yaml.safe_dump({**TINY, "corpus": {"name": "toy.tsv", "vocab_size": 500}}),
    }


def _spoil(runs: Path) -> None:
    (runs / "no-model" / "model.safetensors").unlink()
    model = runs / "truncated" / "model.safetensors"
    os.truncate(model, model.stat().st_size // 2)
    for name in ("last", "good"):
        os.truncate(runs / "truncated" / "checkpoints" / f"{name}.safetensors", 1000)
    Tokenizer.train("bpe", ["another language"] * 9, ["altogether"] * 9, 320).save(runs / "other")
    (runs / "no-tokenizer" / "tokenizer.model").unlink()
    (runs / "bad-config" / "config.yaml").write_text("model: {widht: 3}\n", encoding="utf-8")
    (runs / "bad-tokenizer" / "tokenizer.model").write_bytes(b"not a tokenizer")
    (runs / "no-config" / "config.yaml").unlink()
    (runs / "empty").mkdir()


def tiny(*arguments: str) -> list[str]:
    """`train` with the toy's configuration."""
    return ["train", "--config", "tiny.yaml", *arguments]


def with_set(*assignments: str) -> list[str]:
    """`train` with the toy's configuration and settings on top."""
    return tiny(*(item for assignment in assignments for item in ("--set", assignment)))


SIDES = ["--train", "three", "three", "--valid", "three", "three", "--test"]

BAD: list[tuple[str, list[str], int, str]] = [
    # corpora
    ("no such corpus file", ["prepare", "gone.tsv"], 1, "gone.tsv"),
    ("a folder for a corpus file", ["prepare", "folder.tsv"], 1, "folder.tsv"),
    ("an empty corpus", ["prepare", "empty.tsv"], 1, "empty.tsv"),
    ("a corpus of blank lines", ["prepare", "blank.tsv"], 1, "blank.tsv"),
    ("a corpus of one line", ["prepare", "one.tsv"], 1, "one.tsv"),
    ("a line without a tab", ["prepare", "notab.tsv"], 1, "notab.tsv:2"),
    ("a corpus that is not UTF-8", ["prepare", "latin.tsv"], 1, "latin.tsv:2"),
    ("a truncated .gz", ["prepare", "cut.tsv.gz"], 1, "cut.tsv.gz"),
    ("a .gz that is none", ["prepare", "plain.tsv.gz"], 1, "plain.tsv.gz"),
    ("a file of another ending", ["prepare", "corpus.txt"], 2, ".tsv"),
    ("a misspelt corpus", ["prepare", "phrasebok"], 2, "did you mean phrasebook?"),
    ("sides of unequal length", ["prepare", *SIDES, "three", "two"], 1, "three has 3 lines, two has 2"),
    ("an empty side", ["prepare", *SIDES, "three", "nothing"], 1, "nothing"),
    ("a missing side", ["prepare", *SIDES, "three", "gone"], 1, "gone"),
    ("a side that is not UTF-8", ["prepare", *SIDES, "three", "latin"], 1, "latin:2"),
    ("a folder for a side", ["prepare", *SIDES, "three", "folder.tsv"], 1, "folder.tsv"),
    ("two splits of three", ["prepare", *SIDES[:-1]], 2, "--test"),
    ("ready-made splits and a corpus", ["prepare", "toy.tsv", *SIDES, "three", "three"], 2, "exclude"),
    ("a missing archive", ["prepare", "tatoeba-spa-eng", "--archive", "gone.zip"], 1, "gone.zip"),
    ("an archive that is none", ["prepare", "tatoeba-spa-eng", "--archive", "zip"], 1, "zip"),
    ("an unknown split", ["prepare", "toy.tsv", "--split", "groupd"], 2, "corpus.split"),
    ("an unknown tokenizer", ["prepare", "toy.tsv", "--tokenizer", "bp"], 2, "corpus.tokenizer"),
    ("a vocabulary too small", ["prepare", "toy.tsv", "-o", "new", "--vocab-size", "7"], 2, "corpus.vocab_size"),
    ("a seed that is no number", ["prepare", "toy.tsv", "--seed", "one"], 2, "--seed"),
    ("a negative seed", ["prepare", "toy.tsv", "-o", "new", "--seed", "-1"], 2, "corpus.seed"),
    ("a direction of other languages", ["prepare", "toy.tsv", "--direction", "en-es"], 2, "corpus.direction"),
    ("prepared differently", ["prepare", "toy.tsv", "--vocab-size", "401"], 2, "--force"),
    ("a folder with other things in it", ["prepare", "toy.tsv", "-o", "full"], 2, "full"),
    ("the same, forced", ["prepare", "toy.tsv", "-o", "full", "--force"], 2, "full"),
    ("a file for the data folder", ["prepare", "toy.tsv", "-o", "file"], 2, "file"),
    ("a data folder below a file", ["prepare", "toy.tsv", "-o", "file/below"], 1, "file"),
    # configurations
    ("no such configuration file", ["train", "--config", "gone.yaml"], 2, "gone.yaml"),
    ("a folder for a configuration", ["train", "--config", "./full"], 2, "full"),
    ("a configuration that is not shipped", ["train", "--config", "phrasebok"], 2, "phrasebook"),
    ("an unknown key", ["train", "--config", "unknown.yaml"], 2, "training.learning_rte: no such setting"),
    ("the nearest key is named", ["train", "--config", "unknown.yaml"], 2, "learning_rate"),
    ("an unknown section", ["train", "--config", "section.yaml"], 2, "did you mean training?"),
    ("a wrong type", ["train", "--config", "type.yaml"], 2, "training.epochs: expected a whole number"),
    ("a boolean for a number", ["train", "--config", "boolean.yaml"], 2, "training.epochs"),
    ("σ of zero in the file", ["train", "--config", "sigma.yaml"], 2, "model.attention.sigma.self"),
    ("a setting of another kind", ["train", "--config", "foreign.yaml"], 2, "model.attention.sigma"),
    ("a mistake of syntax", ["train", "--config", "syntax.yaml"], 2, "line 3"),
    ("a section that stands twice", ["train", "--config", "twice.yaml"], 2, "stands twice"),
    ("a list for a configuration", ["train", "--config", "list.yaml"], 2, "list.yaml"),
    ("a configuration that is not UTF-8", ["train", "--config", "latin.yaml"], 2, "latin.yaml"),
    ("a control character", ["train", "--config", "control.yaml"], 2, "control.yaml"),
    ("a regular file as configuration folder", ["train", "--config", "file/x.yaml"], 2, "x.yaml"),
    # flags and settings
    ("an unknown kind", tiny("--attention", "projektion"), 2, "projection"),
    ("σ of zero", tiny("--sigma-self", "0"), 2, "model.attention.sigma.self"),
    ("a negative σ", tiny("--sigma-cross", "-0.1"), 2, "model.attention.sigma.cross"),
    ("a learned σ that is too small", tiny("--sigma-self", "0.05"), 2, "sigma.self"),
    ("σ that is no number", tiny("--sigma-self", "auto?"), 2, "--sigma-self"),
    ("σ that is not finite", tiny("--sigma-self", "nan"), 2, "model.attention.sigma.self"),
    ("σ under standard", tiny("--attention", "standard", "--sigma-self", "0.3"), 2, "model.attention.sigma"),
    ("a setting of the kind that was replaced",
     [*with_set("model.attention.learn_sigma=none"), "--attention", "standard"], 2, "model.attention.learn_sigma"),
    ("--set without =", with_set("training.epochs"), 2, "SECTION.KEY=VALUE"),
    ("--set without a key", with_set("=3"), 2, "SECTION.KEY=VALUE"),
    ("--set of no YAML", with_set("training.epochs=[1"), 2, "--set"),
    ("--set of an unknown key", with_set("training.epoch=3"), 2, "did you mean epochs?"),
    ("--set of a whole section", with_set("model=3"), 2, "model"),
    ("--set below a setting", with_set("training.epochs.more=3"), 2, "training.epochs"),
    ("--set to nothing", with_set("training.epochs="), 2, "training.epochs"),
    ("a negative width", with_set("model.width=-32"), 2, "model.width"),
    ("a width that heads do not divide", with_set("model.heads=5"), 2, "5 does not divide width 32"),
    ("dropout of one", with_set("model.dropout=1"), 2, "model.dropout"),
    ("padding in the loss where it is masked", with_set("training.padding_in_loss=true"), 2, "mask_padding"),
    ("random batches of no size", with_set("training.by_length=false"), 2, "training.batch_sentences"),
    ("weight decay under rmsprop", with_set("training.optimizer=rmsprop"), 2, "weight_decay"),
    ("ties of two vocabularies",
     with_set("corpus.tokenizer=word", "corpus.folder=data/words"), 2, "model.embeddings.tie"),
    ("no pair that is short enough", with_set("corpus.max_length=1"), 1, "corpus.max_length: 1"),
    ("a negative seed of training", tiny("--seed", "-1"), 2, "training.seed"),
    ("a device that is none", tiny("--device", "gpu"), 2, "--device gpu"),
    ("a device without a number", tiny("--device", "cuda:x"), 2, "--device cuda:x"),
    ("no threads", tiny("--threads", "0"), 2, "--threads"),
    ("an unknown flag", tiny("--atention", "standard"), 2, "--atention"),
    ("a flag without its value", ["train", "--config"], 2, "--config"),
    ("an argument that train does not take", ["train", "tiny.yaml"], 2, "tiny.yaml"),
    ("an unknown command", ["trian"], 2, "trian"),
    # data and runs of training
    ("data that differ", ["train", "--config", "other-vocabulary.yaml", "--data", "data/toy"], 2, "projtrans prepare"),
    ("the prepared corpus differs", ["train", "--config", "other-vocabulary.yaml"], 2, "vocab_size is 400"),
    ("data that are not there", tiny("--data", "gone"), 1, "gone"),
    ("a file for the data", tiny("--data", "file"), 1, "file"),
    ("a folder without a manifest", tiny("--data", "full"), 1, "full"),
    ("a damaged manifest", tiny("--data", "data/garbage"), 1, "manifest.json"),
    ("damaged splits", tiny("--data", "data/damaged"), 1, "train"),
    ("an empty corpus to train on", ["train", "--config", "empty-corpus.yaml"], 1, "empty.tsv"),
    ("a missing corpus to train on", ["train", "--config", "gone-corpus.yaml"], 1, "gone.tsv"),
    ("a run folder that is taken", tiny("--run", "runs/tiny-projection"), 2, "--resume"),
    ("a file for the run folder", tiny("--run", "file"), 2, "file"),
    ("a run folder below a file", tiny("--run", "file/below"), 1, "file"),
    ("no run to resume", ["train", "--resume", "--run", "runs/gone"], 1, "runs/gone"),
    ("a folder that is no run", ["train", "--resume", "--run", "runs/empty"], 1, "runs/empty"),
    ("a damaged state", ["train", "--resume", "--run", "runs/truncated", "--data", "data/toy"], 1, "last.safetensors"),
    ("another setting", ["train", "--resume", "--set", "training.learning_rate=1"], 2, "training.learning_rate"),
    ("another seed", ["train", "--resume", "--seed", "9"], 2, "training.seed"),
    ("another σ", ["train", "--resume", "--sigma-self", "9"], 2, "model.attention.sigma.self"),
    ("another kind", ["train", "--resume", "--attention", "standard"], 2, "model.attention"),
    ("another configuration", ["train", "--resume", "--config", "tiny.yaml"], 2, "--config"),
    # evaluation
    ("no such run", ["evaluate", "runs/gone"], 1, "runs/gone"),
    ("a file for a run", ["evaluate", "file"], 1, "file"),
    ("an unknown split to evaluate", ["evaluate", "--split", "train"], 2, "--split"),
    ("a source without its reference", ["evaluate", "--source", "three"], 2, "--reference"),
    ("a reference without its source", ["evaluate", "--reference", "three"], 2, "--source"),
    ("own files of unequal length", ["evaluate", "--source", "three", "--reference", "two"], 1, "3 lines"),
    ("own files that are empty", ["evaluate", "--source", "nothing", "--reference", "nothing"], 1, "nothing"),
    ("own files that are missing", ["evaluate", "--source", "gone", "--reference", "two"], 1, "gone"),
    ("data of another tokenizer", ["evaluate", "runs/other"], 1, "tokenizer"),
    ("a beam of nothing", ["evaluate", "--beam-size", "0"], 2, "--beam-size"),
    ("scores to a folder", ["evaluate", "--json", "--beam-size", "1", "--output", "full"], 1, "full"),
    ("hypotheses below a file", ["evaluate", "--beam-size", "1", "--hypotheses", "file/below"], 1, "file"),
    # comparison
    ("one run to compare", ["compare", "runs/tiny-standard"], 2, "two run folders"),
    ("a run compared with itself", ["compare", "runs/tiny-projection", "runs/latest"], 2, "named twice"),
    ("a run that is not there", ["compare", "runs/tiny-standard", "runs/gone"], 1, "runs/gone"),
    ("a run of another tokenizer", ["compare", "runs/tiny-standard", "runs/other"], 1, "tokenizer"),
    ("a run of an unknown setting to compare", ["compare", "runs/tiny-standard", "runs/bad-config"], 1, "widht"),
    ("a truncated model to compare", ["compare", "runs/tiny-standard", "runs/truncated"], 1, "model.safetensors"),
    ("a figure of another format", ["compare", "runs/tiny-standard", "runs/tiny-projection", "--figure", "a.gif"], 2,
     "--figure a.gif"),
    ("a comparison to a folder", ["compare", "runs/tiny-standard", "runs/tiny-projection", "--output", "full"], 1,
     "full"),
    # translation
    ("no run to translate with", ["translate", "--model", "runs/gone", "one"], 1, "runs/gone"),
    ("a run without a model", ["translate", "--model", "runs/no-model", "one"], 1, "model.safetensors"),
    ("a truncated model", ["translate", "--model", "runs/truncated", "one"], 1, "model.safetensors"),
    ("a model of another tokenizer", ["translate", "--model", "runs/other", "one"], 1, "tokenizer"),
    ("a run without a tokenizer", ["translate", "--model", "runs/no-tokenizer", "one"], 1, "tokenizer.model"),
    ("a tokenizer that is none", ["translate", "--model", "runs/bad-tokenizer", "one"], 1, "tokenizer.model"),
    ("a run of an unknown setting", ["translate", "--model", "runs/bad-config", "one"], 1, "widht"),
    ("a run without a configuration", ["translate", "--model", "runs/no-config", "one"], 1, "config.yaml"),
    ("an empty folder", ["translate", "--model", "runs/empty", "one"], 1, "runs/empty"),
    ("a folder for the input", ["translate", "--input", "full"], 1, "full"),
    ("no input file", ["translate", "--input", "gone"], 1, "gone"),
    ("output to a folder", ["translate", "--input", "three", "--output", "full"], 1, "full"),
    ("output below a file", ["translate", "--input", "three", "--output", "file/below"], 1, "file"),
    ("text and --input", ["translate", "one", "--input", "three"], 2, "--input"),
    ("text and --interactive", ["translate", "one", "--interactive"], 2, "--interactive"),
    ("several translations as text", ["translate", "one", "--n-best", "2"], 2, "--format"),
    ("no translation at all", ["translate", "one", "--n-best", "0"], 2, "--n-best"),
    ("an unknown format", ["translate", "one", "--format", "jsonl"], 2, "--format"),
    ("a negative length penalty", ["translate", "one", "--length-penalty", "-1"], 2, "--length-penalty"),
    ("a length penalty beyond numbers", ["translate", "one", "--length-penalty", "1e5"], 2, "--length-penalty"),
    ("threads without end", ["translate", "one", "--threads", "100000"], 2, "--threads"),
    ("a length penalty that is not finite", ["translate", "one", "--length-penalty", "nan"], 2, "--length-penalty"),
    ("CUDA that is not there", ["translate", "one", "--device", "cuda:99"], 2, "--device cuda:99"),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "arguments", "status", "told"), BAD, ids=[row[0] for row in BAD])
def test_bad_input_gets_one_line_and_nothing_is_lost(
    quarry: Path, monkeypatch: pytest.MonkeyPatch, reason: str, arguments: list[str], status: int, told: str
) -> None:
    monkeypatch.chdir(quarry)
    before = tree(quarry)
    result = cli(*arguments)
    after = tree(quarry)
    for name in sorted(after.keys() - before.keys(), reverse=True):  # leave no traces for the next row
        path = quarry / name
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    one_error(result, status, told)
    assert {name: after.get(name) for name in before} == before
    new = {name for name in after.keys() - before.keys() if not name.startswith("data/words")}  # prepared, and right so
    assert not new


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("arguments", [["translate", "one"], ["evaluate"], tiny("--run", "new")])
def test_cuda_without_cuda_is_an_error_and_no_fallback(workshop: Path, arguments: list[str]) -> None:
    one_error(cli(*arguments, "--device", "cuda"), 2, "--device cuda: no CUDA device")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
@pytest.mark.parametrize(
    ("mode", "arguments"),
    [
        (0o000, ["prepare", "toy.tsv", "-o", "new"]),
        (0o000, ["translate", "--input", "toy.tsv"]),
        (0o555, ["translate", "one", "--output", "closed/out"]),
        (0o555, ["prepare", "toy.tsv", "-o", "closed/data"]),
        (0o555, tiny("--run", "closed/run")),
    ],
)
def test_what_may_not_be_read_or_written_is_an_error(workshop: Path, mode: int, arguments: list[str]) -> None:
    Path("closed").mkdir()
    target = Path("toy.tsv") if mode == 0 else Path("closed")
    target.chmod(mode)
    before = os.listdir("closed")
    try:
        one_error(cli(*arguments), 1)
        assert os.listdir("closed") == before
    finally:
        target.chmod(0o755)


# ---------------------------------------------------------------------------------------------------------- full disk

WRITING = [
    (["prepare", "toy.tsv", "-o", "data/new"], 1000),
    (["prepare", "toy.tsv", "--vocab-size", "401", "--force"], 1000),
    (tiny("--run", "runs/new"), 100_000),  # room for tokenizer and configuration, none for the state
    (tiny("--run", "runs/new"), 1000),
    (["train", "--resume", "--set", "training.epochs=9"], 20_000),
    (["evaluate", "--beam-size", "1", "--output", "scores.json"], 100),
    (["evaluate", "--beam-size", "1", "--hypotheses", "hypotheses"], 100),
    (["compare", "runs/tiny-standard", "runs/tiny-projection", "--output", "old"], 100),
    (["translate", "--input", "data/toy/test.src", "--output", "old"], 100),
]


@pytest.mark.parametrize(("arguments", "size"), WRITING)
def test_a_full_disk_is_one_line_and_loses_nothing(workshop: Path, arguments: list[str], size: int) -> None:
    Path("old").write_text("old\n", encoding="utf-8")
    before = tree(workshop)
    with full_disk(size):
        result = cli(*arguments)
    after = tree(workshop)
    one_error(result, 1)
    log = "runs/tiny-projection/metrics.jsonl"  # grows by whole lines; a resumed run cuts it back
    assert {name: after.get(name) for name in before if name != log} == {n: before[n] for n in before if n != log}
    assert not [name for name in after if Path(name).name.startswith(".")]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [["translate", "one", "two"], ["evaluate", "--beam-size", "1", "--json"]])
def test_standard_output_on_a_full_disk_is_an_error(workshop: Path, arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        finished = subprocess.run(command(*arguments), stdout=full, stderr=subprocess.PIPE, check=False)
    one_error(Result(finished.returncode, "", finished.stderr.decode("utf-8")), 1)


# ------------------------------------------------------------------------------------------------------ help, version


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    result = done(name, "--help")
    assert f"{name} [OPTIONS]" in result.out
    assert "Example: " in result.out
    assert result.err == ""


@pytest.mark.parametrize("option", ["--quiet", "--threads"])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_common_options(name: str, option: str) -> None:
    assert option in done(name, "--help").out


def test_the_help_states_the_default_penalty_and_beam() -> None:
    text = " ".join(done("translate", "--help").out.split())
    assert re.search(r"--beam-size .* 5 unless set", text)
    assert re.search(r"--length-penalty .*\(\(5 \+ length\) / 6\)\^α .* 1\.0 unless set", text)


def test_the_help_lists_the_commands() -> None:
    result = done("--help")
    assert all(name in result.out for name in COMMANDS)


def test_no_command_is_a_usage_error_with_help() -> None:
    result = cli()
    assert (result.status, result.out) == (2, "")
    assert all(name in result.err for name in COMMANDS)


def test_the_version_is_that_of_the_package() -> None:
    import projtrans

    assert done("--version").out == f"projtrans {projtrans.__version__}\n"


def test_help_and_version_do_not_import_torch(tmp_path: Path) -> None:
    """Torch takes over a second; neither it nor what stands on it may come in."""
    program = """
import contextlib, sys
from projtrans.cli.main import app
for arguments in (["--version"], ["--help"], *([name, "--help"] for name in sys.argv[1:])):
    with contextlib.suppress(SystemExit):
        app(arguments)
heavy = {"torch", "numpy", "sacrebleu", "sentencepiece", "safetensors"} & set(sys.modules)
print(sorted(heavy), file=sys.stderr)
"""
    finished = subprocess.run(
        [sys.executable, "-c", program, *COMMANDS], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert finished.stderr == "[]\n"
    assert finished.stdout.count("Usage:") == 1 + len(COMMANDS)


def test_the_package_does_not_import_torch_until_it_is_needed() -> None:
    program = "import sys, projtrans; print('torch' in sys.modules, projtrans.Translator.__name__)"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout == "False Translator\n"


# ---------------------------------------------------------------------------------------------------------- filtering


@pytest.mark.parametrize(
    ("reason", "stdin", "blank"),
    [
        ("the README's", b"Hello.\n\nWhere is Tom?\n", [False, True, False]),
        ("no final newline", b"one\ntwo", [False, False]),
        ("Windows line ends", b"one\r\n\r\ntwo\r\n", [False, True, False]),
        ("a byte-order mark", b"\xef\xbb\xbfone\n", [False]),
        ("blank lines at both ends", b"\n\none\n\n\n", [True, True, False, True, True]),
        ("one newline", b"\n", [True]),
        ("nothing", b"", []),
    ],
)
def test_a_filter_writes_a_line_for_a_line(workshop: Path, reason: str, stdin: bytes, blank: list[bool]) -> None:
    result = done("translate", stdin=stdin)
    assert [not line for line in result.lines] == blank
    assert result.err == ""
    for option in (["--input", "-"], ["--output", "-"]):
        assert done("translate", *option, stdin=stdin) == result
    Path("in").write_bytes(stdin)
    silent = done("translate", "--input", "in", "--output", "out")
    assert silent.out == ""
    assert Path("out").read_text(encoding="utf-8") == result.out


def test_line_ends_of_windows_change_no_translation(workshop: Path) -> None:
    assert done("translate", stdin=b"one two\r\nthree\r\n").out == done("translate", stdin=b"one two\nthree\n").out


def test_a_filter_names_the_line_that_is_not_utf8(workshop: Path) -> None:
    result = cli("translate", stdin=b"one\ntwo\nthr\xffe\n")
    assert result.status == 1
    assert len(result.errors) == 1
    assert "standard input" in result.errors[0]
    assert re.search(r"\b3\b", result.errors[0])


def test_text_is_translated_one_a_line_and_stdin_is_not_read(workshop: Path) -> None:
    result = done("translate", "one", "", "two three", stdin="four\nfive\n")
    assert len(result.lines) == 3
    assert result.lines[1] == ""
    assert done("translate", "two three").lines == result.lines[2:]


def test_an_argument_that_is_not_utf8_is_translated_all_the_same(workshop: Path) -> None:
    for options in (["--format", "text"], ["--format", "json"], ["--format", "json", "--output", "out"]):
        result = run("translate", *options, b"one \xff two".decode("utf-8", "surrogateescape"), folder=workshop)
        assert (result.status, result.err) == (0, "")
    json.loads(Path("out").read_text(encoding="utf-8"))


def test_the_module_is_the_command(workshop: Path) -> None:
    stdin = b"one\n\ntwo three\n"
    result = run("translate", folder=workshop, stdin=stdin)
    assert result == done("translate", stdin=stdin)
    assert len(result.lines) == 3


def test_a_filter_answers_before_its_input_ends(workshop: Path) -> None:
    """A program at both ends of the pipe writes a line and waits for its translation."""
    process = subprocess.Popen(command("translate"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        for text in ("one two", "three"):
            process.stdin.write(f"{text}\n".encode())
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], 20.0)
            assert ready, "no translation while the input stays open"
            assert process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def test_a_reader_that_leaves_early_is_no_error(workshop: Path) -> None:
    """As `projtrans translate < file | head -1` does."""
    Path("in").write_text("".join(f"{spell(str(number))}\n" for number in range(6000)), encoding="utf-8")
    with Path("in").open("rb") as source:
        process = subprocess.Popen(
            command("translate", "--beam-size", 1), stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().strip()
        process.stdout.close()
        assert process.stderr.read() == b""
        process.wait(PATIENCE)
        process.stderr.close()


def test_closed_standard_input_is_no_traceback(workshop: Path) -> None:
    line = f"{shlex.join(command('translate'))} <&-"
    finished = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert "Traceback" not in finished.stderr
    assert finished.stdout == ""


# ------------------------------------------------------------------------------------------------------------- prompt


@dataclass
class Typist:
    """A process at a pseudo-terminal: what it shows, and keys pressed on it."""

    process: subprocess.Popen[bytes]
    terminal: int
    seen: str = ""  # and expected
    unread: str = ""

    def press(self, keys: str) -> None:
        os.write(self.terminal, keys.encode())

    def shows(self, text: str, seconds: float) -> bool:
        """Whether the terminal shows the text in time; what stands up to it is taken as read."""
        deadline = time.monotonic() + seconds
        while text not in self.unread and time.monotonic() < deadline:
            if select.select([self.terminal], [], [], 0.2)[0]:
                try:
                    self.unread += os.read(self.terminal, 4096).decode("utf-8", "replace")
                except OSError:  # Linux: the other end is closed
                    break
        if text not in self.unread:
            return False
        before, found, self.unread = self.unread.partition(text)
        self.seen += before + found
        return True

    def until(self, text: str) -> None:
        assert self.shows(text, PATIENCE), f"{text!r} is not shown after {self.seen!r}, but {self.unread!r}"

    def interrupt_until(self, text: str) -> None:
        """Ctrl-C, again where it is not heard: Python's readline misses one that comes while it echoes a key."""
        for _ in range(int(PATIENCE / 5)):
            self.process.send_signal(signal.SIGINT)
            if self.shows(text, 5.0):
                return
        self.until(text)


@contextlib.contextmanager
def at_terminal(*arguments: str, stdout: int | None = None) -> Iterator[Typist]:
    """Run the command with a terminal as its standard input and, unless told otherwise, as its output."""
    terminal, slave = pty.openpty()
    environment = {**os.environ, "TERM": "dumb"}
    process = subprocess.Popen(
        command(*arguments), stdin=slave, stdout=slave if stdout is None else stdout, stderr=slave, env=environment
    )
    os.close(slave)
    try:
        yield Typist(process, terminal)
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


@pytest.mark.parametrize("leave", [":quit\n", "\x04"])
def test_the_prompt_translates_until_one_leaves(workshop: Path, leave: str) -> None:
    texts = ["three one four", "nine eight"]
    wanted = done("translate", *texts).lines
    with at_terminal("translate") as typist:
        for text, translation in zip(texts, wanted, strict=True):
            typist.until("> ")
            typist.press(f"{text}\n")
            typist.until(f"{translation}\r\n")
        typist.until("> ")
        typist.press("\n")
        typist.until("> ")
        typist.press(leave)
        assert typist.process.wait(PATIENCE) == 0
    assert "Traceback" not in typist.seen


def test_the_prompt_forgets_a_line_at_ctrl_c_and_remembers_the_others(
    workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(workshop / "state"))
    wanted = done("translate", "seven").lines[0]
    with at_terminal("translate") as typist:
        typist.until("> ")
        typist.press("nonsense")
        typist.until("nonsense")
        typist.interrupt_until("> ")
        typist.press("seven\n")
        typist.until(f"{wanted}\r\n")
        typist.until("> ")
        typist.press(":q\n")
        assert typist.process.wait(PATIENCE) == 0
    history = (workshop / "state" / "projtrans" / "history").read_text(encoding="utf-8")
    assert "seven" in history.split("\n")
    assert "nonsense" not in history


def test_the_prompt_writes_nothing_but_translations_to_standard_output(workshop: Path) -> None:
    """With standard output in a file, prompt and messages stay on the terminal."""
    wanted = done("translate", "three one four", "seven").out
    with Path("out").open("wb") as out, at_terminal("translate", stdout=out.fileno()) as typist:
        typist.press("three one four\nseven\n:quit\n")
        assert typist.process.wait(PATIENCE) == 0
    assert Path("out").read_text(encoding="utf-8") == wanted


def test_interactive_from_a_pipe_is_data_only_too(workshop: Path) -> None:
    result = run("translate", "--interactive", "--quiet", folder=workshop, stdin=b"three one four\nseven\n")
    assert result.status == 0
    assert result.out == done("translate", "three one four", "seven").out


# ------------------------------------------------------------------------------------------------------------ signals


def started(*arguments: str, folder: Path, wait_for: Path) -> subprocess.Popen[bytes]:
    """A process that runs until a file has something in it."""
    process = subprocess.Popen(
        command(*arguments), cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_for_something_in(wait_for, process)
    return process


LONG = with_set(
    "training.epochs=40", "training.report_updates=1", "training.validation_sentences=1", "training.evaluate_test=false"
)


@pytest.mark.parametrize(
    ("name", "number"), [("mine", signal.SIGINT), ("mine", signal.SIGTERM), ("my own run", signal.SIGTERM)]
)
def test_a_signal_saves_the_state_and_the_command_it_names_goes_on(
    workshop: Path, name: str, number: signal.Signals
) -> None:
    folder = Path("runs") / name
    process = started(*LONG, "--run", str(folder), "--threads", "1", folder=workshop,
                      wait_for=workshop / folder / "metrics.jsonl")  # fmt: skip
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    line = one_error(Result(process.returncode, out.decode(), err.decode()), 128 + number, "stopped at update")
    assert (folder / "checkpoints" / "last.safetensors").is_file()
    assert os.readlink("runs/latest") == folder.name
    resume = shlex.split(line.partition("go on with: ")[2])
    assert resume[:2] == ["projtrans", "train"]
    done(*resume[1:])
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8"))["epochs"] == 40


def on_a_terminal(script: str, folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """The shell script as the leader of a session on a terminal of its own, and our end of the terminal."""
    ours, theirs = pty.openpty()
    terminal = f"exec <>{os.ttyname(theirs)} >&0 2>&0; "
    process = subprocess.Popen(["sh", "-c", terminal + script], cwd=folder, start_new_session=True)
    os.close(theirs)
    return process, ours


def wait_for_something_in(file: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not (file.is_file() and file.stat().st_size):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("before", "status"), [("", 128 + signal.SIGHUP), ("trap '' HUP; ", 128 + signal.SIGTERM)])
def test_a_terminal_that_goes_away_stops_training_with_its_state_saved_but_for_nohup(
    workshop: Path, before: str, status: int
) -> None:
    words = [*LONG, "--run", "runs/mine", "--threads", "1", *(["--quiet"] if before else [])]
    process, terminal = on_a_terminal(before + "exec " + shlex.join(command(*words)), workshop)
    wait_for_something_in(workshop / "runs" / "mine" / "metrics.jsonl", process)
    os.close(terminal)
    metrics = workshop / "runs" / "mine" / "metrics.jsonl"
    if before:
        size = metrics.stat().st_size
        while metrics.stat().st_size < size + 4 * size_of_a_line(
            metrics
        ):  # whoever heeds a signal makes one update more
            assert process.poll() is None
            time.sleep(0.02)
        process.terminate()
    assert process.wait(timeout=PATIENCE) == status
    last = json.loads(metrics.read_text(encoding="utf-8").splitlines()[-1])["update"]
    assert load_state(Run(workshop / "runs" / "mine")).record["counters"]["update"] == last
    done("train", "--resume", "--run", "runs/mine", "--threads", "1")


def size_of_a_line(file: Path) -> int:
    return len(file.read_bytes().splitlines(keepends=True)[0])


def test_a_run_is_trained_by_one_process_at_a_time(workshop: Path) -> None:
    folder = Path("runs") / "mine"
    done("train", "--config", "tiny.yaml", "--run", folder, "--threads", "1")
    again = ("train", "--resume", "--run", str(folder), "--set", "training.epochs=3", "--threads", "1")
    with Run(folder).held():
        one_error(run(*again, folder=workshop), 1, "another process is training it")
    done(*again)


def test_the_command_named_goes_on_where_the_data_lie_elsewhere(workshop: Path) -> None:
    shutil.move("data/toy", "elsewhere")
    arguments = [*LONG, "--run", "runs/mine", "--data", "elsewhere", "--threads", "1"]
    process = started(*arguments, folder=workshop, wait_for=workshop / "runs" / "mine" / "metrics.jsonl")
    process.terminate()
    _, err = process.communicate(timeout=PATIENCE)
    resume = shlex.split(err.decode().partition("go on with: ")[2])
    done(*resume[1:])


def test_a_signal_to_a_filter_is_no_traceback(workshop: Path) -> None:
    process = subprocess.Popen(
        command("translate"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(b"one\n" * 5000)
    process.stdin.flush()
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert err.count(b"\n") <= 1


# ---------------------------------------------------------------------------------------- prepare and train, done right


@pytest.fixture
def bare(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Corpus and configuration, nothing prepared."""
    for name in ("toy.tsv", "tiny.yaml"):
        shutil.copy(toy.folder / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_training_prepares_the_corpus_where_nothing_is_prepared(bare: Path, toy: Toy) -> None:
    result = done(*with_set("training.epochs=1"), "--threads", 1)
    assert result.out == ""
    assert "preparing toy.tsv in data/toy" in result.err
    assert tree(bare / "data" / "toy") == tree(toy.data)  # what `prepare` made, to the byte
    assert os.readlink("runs/latest") == "tiny-projection"
    assert len(done("translate", "one").lines) == 1


def test_a_second_training_takes_a_folder_of_its_own(bare: Path) -> None:
    for expected in ("tiny-projection", "tiny-projection-2"):
        before = tree(bare / "runs")
        done(*with_set("training.epochs=1", "training.evaluate_test=false"), "--threads", 1)
        assert os.readlink("runs/latest") == expected
        after = tree(bare / "runs")
        assert all(after[name] == before[name] for name in before if name != "latest")


def test_preparing_the_same_again_does_nothing(workshop: Path) -> None:
    def times() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in Path("data/toy").iterdir()}

    before, tree_before = times(), tree(workshop)
    result = done("prepare", "toy.tsv", "--vocab-size", 400)
    assert (times(), tree(workshop)) == (before, tree_before)
    assert result.out == ""


def test_preparing_tells_counts_and_leakage(workshop: Path) -> None:
    random_split = done("prepare", "toy.tsv", "-o", "r", "--split", "random")
    grouped = done("prepare", "toy.tsv", "-o", "g")
    leaks = {}
    for folder, result in (("r", random_split), ("g", grouped)):
        manifest = json.loads(Path(folder, "manifest.json").read_text(encoding="utf-8"))
        leaks[folder] = manifest["leakage"]["test"]["source"]
        assert f"{leaks[folder]:.1%}" in result.err
        assert f"{manifest['splits']['train']['pairs']:,}" in result.err
        assert result.out == ""
    assert leaks["g"] == 0 < leaks["r"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["prepare", "toy.tsv", "-o", "new"],
        with_set("training.epochs=1"),
        ["evaluate", "--beam-size", "1"],
        ["compare", "runs/tiny-standard", "runs/tiny-projection"],
        ["translate", "one", "two " * 500],
    ],
)
def test_quiet_prints_nothing_but_data(workshop: Path, arguments: list[str]) -> None:
    assert done(*arguments, "--quiet").err == ""


def test_a_flag_beats_set_and_set_beats_the_file_and_the_file_the_defaults(bare: Path) -> None:
    Path("own.yaml").write_text(
        yaml.safe_dump({**TINY, "training": {**TINY["training"], "seed": 7, "epochs": 1, "accumulation": 2}}),
        encoding="utf-8",
    )
    sets = ["training.seed=6", "training.accumulation=1", "model.attention.sigma.cross=0.9"]
    sets = [item for assignment in sets for item in ("--set", assignment)]
    flags = ["--seed", 5, "--sigma-cross", 0.7]
    done("train", "--config", "own.yaml", "--run", "run", "--threads", 1, *flags, *sets)
    settings = yaml.safe_load(Path("run", "config.yaml").read_text(encoding="utf-8"))
    assert settings["training"]["seed"] == 5  # flag
    assert settings["model"]["attention"]["sigma"]["cross"] == 0.7  # flag
    assert settings["training"]["accumulation"] == 1  # --set
    assert settings["training"]["epochs"] == 1  # file
    assert settings["decoding"]["beam_size"] == 5  # default


def test_another_kind_drops_the_settings_that_the_file_gave_for_its_own(bare: Path) -> None:
    given = {"kind": "projection", "sigma": {"self": 0.3}, "learn_sigma": "none", "values": "keys"}
    Path("own.yaml").write_text(
        yaml.safe_dump({**TINY, "model": {**TINY["model"], "attention": given}}), encoding="utf-8"
    )
    found = {}
    for kind in KINDS:
        result = done("train", "--config", "own.yaml", "--attention", kind, "--run", kind, "--threads", 1,
                      "--set", "training.epochs=1", "--set", "training.evaluate_test=false")  # fmt: skip
        found[kind] = yaml.safe_load(Path(kind, "config.yaml").read_text(encoding="utf-8"))["model"]["attention"]
        assert ("σ" in result.err) is (kind == "projection")
        if kind == "projection":  # which of both σ is: printed at the start
            assert re.search(r"σ encoder: 0\.3 \(fixed\)", result.err)
    assert found["standard"] == config.dump(StandardConfig())
    assert found["projection"]["sigma"]["self"] == 0.3


def test_a_refused_training_leaves_its_run_folder_free(workshop: Path) -> None:
    """The settings mended, the same command must work."""
    arguments = ["--run", "runs/mine", "--threads", 1, "--set", "training.epochs=1"]
    assert cli(*tiny(), *arguments, "--set", "corpus.max_length=1").status == 1
    done(*tiny(), *arguments)


def test_commands_do_not_depend_on_the_order_of_their_options(workshop: Path) -> None:
    options = [["--beam-size", 2], ["--format", "json"], ["--n-best", 2]]
    found = {done("translate", "one two", *itertools.chain(*order)).out for order in itertools.permutations(options)}
    assert len(found) == 1


def test_a_closed_standard_output_is_told_to_whoever_writes_to_it(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("one\n", encoding="utf-8")
    base = f"{sys.executable} -m projtrans translate --model {toy.run('standard')}"
    for rest, status in ((f"--input {tmp_path}/in --output {tmp_path}/out", 0), ("one", 1), (f"< {tmp_path}/in", 1)):
        finished = subprocess.run(f"{base} {rest} >&-", shell=True, capture_output=True, text=True, check=False)
        assert finished.returncode == status, finished.stderr
        assert finished.stderr.count("\n") == status
    assert (tmp_path / "out").read_text(encoding="utf-8").count("\n") == 1
