"""`train`: the corpus it prepares, the folder it takes, which setting wins."""

import os
import re
from pathlib import Path

import pytest
import yaml

from projtrans import config
from projtrans.model.attention import StandardConfig
from projtrans.runs.run_folder import Run
from tests.cli.cases import one_error, tiny, with_set
from tests.commands import cli, done, run, tree
from tests.toy import KINDS, TINY, Toy


def test_training_prepares_the_corpus_where_nothing_is_prepared(bare: Path, toy: Toy) -> None:
    result = done(*with_set("training.updates=2"), "--threads", 1)
    assert result.out == ""
    assert "preparing toy.tsv in data/toy" in result.err
    assert tree(bare / "data" / "toy") == tree(toy.data)  # what `prepare` made, to the byte
    assert os.readlink("runs/latest") == "tiny-projection"
    assert len(done("translate", "one").lines) == 1


def test_a_second_training_takes_a_folder_of_its_own(bare: Path) -> None:
    for expected in ("tiny-projection", "tiny-projection-2"):
        before = tree(bare / "runs")
        done(*with_set("training.updates=2", "training.evaluate_test=false"), "--threads", 1)
        assert os.readlink("runs/latest") == expected
        after = tree(bare / "runs")
        assert all(after[name] == before[name] for name in before if name != "latest")


def test_a_flag_beats_set_and_set_beats_the_file_and_the_file_the_defaults(bare: Path) -> None:
    Path("own.yaml").write_text(
        yaml.safe_dump(
            {**TINY, "training": {**TINY["training"], "seed": 7, "epochs": 1, "updates": 2, "accumulation": 2}}
        ),
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
                      "--set", "training.updates=2", "--set", "training.evaluate_test=false")  # fmt: skip
        found[kind] = yaml.safe_load(Path(kind, "config.yaml").read_text(encoding="utf-8"))["model"]["attention"]
        assert ("σ" in result.err) is (kind == "projection")
        if kind == "projection":  # which of both σ is: printed at the start
            assert re.search(r"σ encoder: 0\.3 \(fixed\)", result.err)
    assert found["standard"] == config.dump(StandardConfig())
    assert found["projection"]["sigma"]["self"] == 0.3


def test_a_refused_training_leaves_its_run_folder_free(workshop: Path) -> None:
    """With the setting corrected, the same command works."""
    arguments = ["--run", "runs/mine", "--threads", 1, "--set", "training.updates=2"]
    assert cli(*tiny(), *arguments, "--set", "corpus.max_length=1").status == 1
    done(*tiny(), *arguments)


@pytest.mark.slow
def test_a_run_is_trained_by_one_process_at_a_time(workshop: Path) -> None:
    folder = Path("runs") / "tiny-projection"
    again = ("train", "--resume", "--run", str(folder), "--set", "training.epochs=9", "--threads", "1")
    with Run(folder).held():
        one_error(run(*again, folder=workshop), 1, "another process is training it")
    done(*again)
