"""Settings that a resumed run may change, those that it may change where asked, and those that it may not."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from projtrans import config
from projtrans.data.tokenizer import Tokenizer
from projtrans.errors import ConfigError, DataError, Interrupted
from projtrans.runs.run_folder import Run
from projtrans.runs.settings import Config, resumed
from projtrans.training import events
from tests.commands import cli, done
from tests.training.bench import Bench, after, events_of, same_run, settings_of

REFUSED = [
    ("training.learning_rate=0.1", [], "training.learning_rate"),
    ("training.batch_tokens=100", [], "training.batch_tokens"),
    ("model.dropout=0.3", [], "model.dropout"),
    ("model.width=64", [], "model.width"),
    ("corpus.max_length=5", [], "corpus.max_length"),
    ("model.attention.sigma.self=0.5", [], "model.attention.sigma.self"),
    ("training.epochs=9", [("training.seed", 7)], "training.seed"),
]


ALLOWED = ["epochs=90", "updates=1000", "minutes=2.5", "patience=null", "patience=3", "tensorboard=true"]


@pytest.mark.parametrize(("assignment", "flags", "named"), REFUSED)
def test_resuming_refuses_another_setting_by_name(
    bench: Bench, assignment: str, flags: list[tuple[str, Any]], named: str
) -> None:
    run = bench.created(settings_of())
    with pytest.raises(ConfigError, match=rf"--resume: cannot change {named} \(.* to .*\)"):
        resumed(run, sets=[assignment], flags=flags)


ASKED = ["training.learning_rate=0.1", "training.batch_tokens=100", "model.dropout=0.3", "training.seed=7"]


SENSELESS = [
    ("model.width=64", "the weights are those of that model"),
    ("model.attention.sigma.self=0.5", "the weights are those of that model"),
    ("corpus.max_length=5", "the weights have learned that corpus"),
    ("training.optimizer=rmsprop", "its moments are another optimi.er's"),
    ("training.average=null", "the average begins with the run or not at all"),
]


@pytest.mark.parametrize("assignment", ASKED)
def test_resuming_changes_what_the_weights_survive_where_asked(bench: Bench, assignment: str) -> None:
    run = bench.created(settings_of())
    with pytest.raises(ConfigError, match="add --allow-changes"):
        resumed(run, sets=[assignment], flags=[])
    assert resumed(run, sets=[assignment], flags=[], allow_changes=True) == settings_of(assignment)


@pytest.mark.parametrize(("assignment", "reason"), SENSELESS)
def test_resuming_never_changes_what_they_do_not(bench: Bench, assignment: str, reason: str) -> None:
    run = bench.created(settings_of("training.weight_decay=0.0"))
    for asked in (False, True):
        with pytest.raises(ConfigError, match=f"cannot change .*: {reason}"):
            resumed(run, sets=[assignment], flags=[], allow_changes=asked)


@pytest.mark.slow
@pytest.mark.parametrize("assignment", [*ASKED, "training.accumulation=2", "training.epochs=3"])
def test_a_run_goes_on_with_the_settings_it_is_given(bench: Bench, assignment: str) -> None:
    """Told, logged, kept; an epoch of other batches begins anew, and ends as one that was never stopped again."""
    before, settings = settings_of("training.epochs=2"), settings_of("training.epochs=2", assignment)
    run, seen = bench.new(), []
    with after(2) as stop_signal, pytest.raises(Interrupted):
        bench.train(before, run, stop_signal=stop_signal)
    copied = Run(bench.folder / "copied")
    shutil.copytree(run.folder, copied.folder)
    bench.train(settings, run, resume=True, report=seen.append)
    path = assignment.partition("=")[0]
    (told,) = [event for event in seen if isinstance(event, events.Changed)]
    (logged,) = [event for event in events_of(run) if event["event"] == "changed"]
    assert (told.update, list(told.settings)) == (2, [path])
    assert logged["settings"] == told.settings
    assert config.build(Config, run.raw_config) == settings
    valid = [event for event in events_of(run) if event["event"] == "valid"]
    per_epoch = bench.trainer(settings).plan.per_epoch
    again = 2 if path in ("training.batch_tokens", "training.seed", "training.accumulation") else 0
    assert [event["update"] for event in valid] == [
        again + per_epoch * n for n in range(1, settings.training.epochs + 1)
    ]
    with after(1) as stop_signal, pytest.raises(Interrupted):
        bench.train(settings, copied, resume=True, stop_signal=stop_signal)
    bench.train(settings, copied, resume=True)
    same_run(run, copied)


@pytest.mark.parametrize("assignment", ALLOWED)
def test_resuming_allows_another_limit(bench: Bench, assignment: str) -> None:
    key, _, value = assignment.partition("=")
    settings = resumed(bench.created(settings_of()), sets=[f"training.{assignment}"], flags=[])
    assert getattr(settings.training, key) == json.loads(value)


def test_resuming_without_a_change_gives_the_same_settings(bench: Bench) -> None:
    settings = settings_of("model.attention.kind=standard", "training.seed=4")
    assert resumed(bench.created(settings), sets=[], flags=[]) == settings


def test_resuming_with_the_data_of_another_tokenizer_is_refused(bench: Bench) -> None:
    settings = settings_of("training.epochs=2")
    run = bench.new()
    with after(1) as stop_signal, pytest.raises(Interrupted):
        bench.train(settings, run, stop_signal=stop_signal)
    texts = [pair.source for pair in bench.splits["train"]]
    bench.tokenizer = Tokenizer.train("bpe", texts, texts, 350)
    with pytest.raises(DataError, match="tokenizer"):
        bench.train(settings, run, resume=True)


def test_other_training_pairs_are_refused(bench: Bench) -> None:
    settings = settings_of("training.epochs=2")
    run = bench.new()
    with after(1) as stop_signal, pytest.raises(Interrupted):
        bench.train(settings, run, stop_signal=stop_signal)
    bench.splits["train"] = bench.splits["train"][::-1]
    with pytest.raises(DataError, match="other training pairs"):
        bench.train(settings, run, resume=True)


def test_changes_go_through_the_command(project: Path) -> None:
    done("train", "--config", "tiny.yaml", "--threads", 1, "--set", "training.epochs=1")
    arguments = ["train", "--resume", "--threads", 1, "--set", "training.epochs=2", "--set", "training.beta1=0.8"]
    refused = cli(*arguments)
    assert refused.status == 2
    assert "add --allow-changes" in refused.errors[0]
    told = done(*arguments, "--allow-changes").err
    assert "training.beta1 (0.9 to 0.8)" in told
