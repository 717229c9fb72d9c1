"""Whatever is wrong with files, settings and flags: one line of error, an exit status, nothing changed on the disk."""

import gzip
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from projtrans.data.tokenizer import Tokenizer
from tests.cli.cases import one_error, tiny, with_set
from tests.commands import cli, tree
from tests.toy import TINY, Toy


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
        without = shutil.ignore_patterns() if name == "truncated" else shutil.ignore_patterns("checkpoints")
        shutil.copytree(toy.run("projection"), folder / "runs" / name, ignore=without)
    _spoil(folder / "runs")
    shutil.copytree(toy.data, folder / "data" / "damaged")
    (folder / "data" / "damaged" / "train.tgt").write_bytes(b"be\n")
    shutil.copytree(toy.data, folder / "data" / "garbage")
    (folder / "data" / "garbage" / "manifest.json").write_text("{", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def before(quarry: Path) -> dict[str, str]:
    """Everything in that folder, as no row may change it."""
    return tree(quarry)


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
    ("a section that stands twice", ["train", "--config", "twice.yaml"], 2, "is given twice"),
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
    quarry: Path,
    before: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    reason: str,
    arguments: list[str],
    status: int,
    told: str,
) -> None:
    monkeypatch.chdir(quarry)
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
    one_error(cli(*arguments, "--device", "cuda"), 2, "--device cuda: this PyTorch")


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
