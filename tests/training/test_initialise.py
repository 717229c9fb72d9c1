"""Embeddings from co-occurrence: computed for a new run alone, and nothing else is changed by them."""

import itertools
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from projtrans.inference.torch_translator import Translator
from projtrans.training import events
from projtrans.training.events import Event, Started
from tests.commands import cli, done
from tests.training.bench import CPU, Bench, settings_of, weights

COOCCURRENCE = "model.embeddings.init=cooccurrence"


@pytest.mark.parametrize("tie", ["all", "output", "none"])
def test_embeddings_from_cooccurrence_change_nothing_else(bench: Bench, tie: str) -> None:
    """Neither another weight nor a number that torch draws afterwards: data and dropout come as with `normal`."""
    tied = f"model.embeddings.tie={tie}"
    normal, trainer = bench.trainer(settings_of(tied)), bench.trainer(settings_of(tied, COOCCURRENCE))
    before = torch.get_rng_state()
    trainer.initialise()
    assert torch.equal(torch.get_rng_state(), before)
    assert list(trainer.plan.batches(1)) == list(normal.plan.batches(1))
    changed = {
        name: (ours != theirs).any(1)
        for (name, ours), theirs in zip(weights(trainer).items(), weights(normal).values(), strict=True)
        if not torch.equal(ours, theirs)
    }
    assert changed.keys() == {"source_embedding.weight"} | ({"target_embedding.weight"} if tie != "all" else set())
    examples = trainer.plan.examples
    sides = {
        "source_embedding.weight": [e.source for e in examples],
        "target_embedding.weight": [e.target for e in examples],
    }
    if tie == "all":
        sides = {"source_embedding.weight": list(itertools.chain(*sides.values()))}
    for name, rows in changed.items():
        seen = set(itertools.chain(*sides[name])) - {0, 1, 2, 3}
        assert set(rows.nonzero()[:, 0].tolist()) == seen, "reserved and unseen pieces keep their random vectors"


def test_the_average_begins_where_the_model_does(bench: Bench) -> None:
    trainer = bench.trainer(settings_of(COOCCURRENCE))
    trainer.initialise()
    assert trainer.state.average is not None
    for ours, theirs in zip(trainer.state.average.model.parameters(), trainer.state.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_embeddings_are_computed_for_a_new_run_alone_and_told(bench: Bench) -> None:
    seen: list[Event] = []
    run = bench.train(settings_of(COOCCURRENCE, "training.epochs=1"), report=seen.append)
    (told,) = [event for event in seen if isinstance(event, events.Initialised)]
    assert seen[0] is told
    assert 4 < told.given < told.tokens == bench.tokenizer.source_size
    assert told.seconds > 0
    loaded = Translator.of_run(run, CPU).model.source_embedding.weight
    assert torch.equal(loaded, load_file(run.model_file)["source_embedding.weight"]), "no training pair is needed"
    seen.clear()
    bench.train(settings_of(COOCCURRENCE, "training.epochs=2"), run, resume=True, report=seen.append)
    assert isinstance(next(event for event in seen if not isinstance(event, events.Changed)), Started)


def test_a_corpus_without_cooccurrences_leaves_one_line_and_no_run(project: Path) -> None:
    Path("lone.tsv").write_text(
        "".join(f"{letter}\t{letter.upper()}\n" for letter in "abcdefghijklmn"), encoding="utf-8"
    )
    done("prepare", "lone.tsv", "--tokenizer", "word", "--vocab-size", 400)
    sets = [COOCCURRENCE, "model.embeddings.tie=none"]
    result = cli("train", "--data", "data/lone", "--run", "lone", *[item for one in sets for item in ("--set", one)])
    assert result.status == 1, result.err
    assert len(result.errors) == 1
    assert "model.embeddings.init" in result.errors[0]
    assert not Path("lone").exists()


def test_the_command_says_that_embeddings_come_from_cooccurrence(project: Path) -> None:
    sets = ["--set", COOCCURRENCE, "--set", "training.updates=1", "--set", "training.evaluate_test=false"]
    result = done("train", "--config", "tiny.yaml", "--run", "told", "--threads", 1, *sets)
    (line,) = [line for line in result.err.splitlines() if line.startswith("embeddings from co-occurrence: ")]
    assert re.search(r": \d+ of \d+ tokens, \d+\.\d s$", line)
