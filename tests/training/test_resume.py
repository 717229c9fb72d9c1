"""A resumed run reaches the weights, the state and the log of one that was not stopped."""

import copy
import json
import random
import signal

import pytest

from projtrans.errors import Interrupted
from projtrans.runs.settings import resolve
from projtrans.training import events
from projtrans.training.events import Validated
from projtrans.training.train import train
from tests.toy import TINY
from tests.training.bench import CPU, Bench, after, events_of, once_seen, same_run, settings_of

MANNERS = [
    ("defaults", []),
    ("standard attention", ["model.attention.kind=standard"]),
    ("no average", ["training.average=null"]),
    ("no average, standard", ["training.average=null", "model.attention.kind=standard"]),
    ("rmsprop", ["training.optimizer=rmsprop", "training.weight_decay=0.0", "training.schedule=constant"]),
    ("accumulation", ["training.accumulation=2", "training.batch_tokens=80"]),
    ("random batches", ["training.by_length=false", "training.batch_sentences=16"]),
    ("embeddings from co-occurrence", ["model.embeddings.init=cooccurrence"]),
    ("dropout of subwords", ["training.subword_dropout=0.3"]),
    ("patience and BLEU", ["training.patience=2", "training.best=bleu"]),
    ("R-Drop", ["training.r_drop=5"]),
    (
        "checkpoint averaging",
        ["training.average_checkpoints=2", "training.average=null", "training.learning_rate=0.05"],
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("reason", "sets"), MANNERS, ids=[reason for reason, _ in MANNERS])
def test_a_run_stopped_anywhere_ends_as_one_that_was_not(bench: Bench, reason: str, sets: list[str]) -> None:
    settings = settings_of("training.epochs=4", "training.report_updates=2", "model.dropout=0.2", *sets)
    whole = bench.train(settings)
    per_epoch = bench.trainer(settings).plan.per_epoch
    last = events_of(whole)[-1]["update"]
    assert per_epoch >= 3
    assert last == 4 * per_epoch or "subword_dropout" in str(sets)  # epochs of which differ a little
    inside, end, begin = per_epoch - 1, per_epoch, per_epoch + 1
    stops = sorted({1, inside, end, begin, *random.Random(reason).sample(range(1, last), 2)})
    run, before = bench.new(), 0
    for stop in stops:
        with (
            after(stop - before) as stop_signal,
            pytest.raises(Interrupted, match=f"stopped at update {stop};") as caught,
        ):
            bench.train(settings, run, resume=before > 0, stop_signal=stop_signal)
        assert caught.value.exit_status == 128 + signal.SIGTERM
        before = stop
    bench.train(settings, run, resume=True)
    same_run(whole, run)


@pytest.mark.parametrize("updates", ["null", "7", "8"])
def test_a_run_stopped_at_its_last_update_is_still_validated(bench: Bench, updates: str) -> None:
    """The last update may be the end of an epoch or lie inside one; its weights may be the best."""
    settings = settings_of("training.epochs=2", f"training.updates={updates}", "training.report_updates=1")
    whole = bench.train(settings)
    last = events_of(whole)[-1]["update"]
    run = bench.new()
    with after(last) as stop_signal, pytest.raises(Interrupted, match=f"stopped at update {last};"):
        bench.train(settings, run, stop_signal=stop_signal)
    bench.train(settings, run, resume=True)
    same_run(whole, run)


def test_a_signal_during_the_final_test_stops_the_run(bench: Bench) -> None:
    """Ctrl-C at any moment: translating a large test split takes minutes."""
    settings = resolve(copy.deepcopy(TINY), sets=["training.epochs=1"])
    run, seen = bench.new(), []
    with pytest.raises(Interrupted):
        bench.train(settings, run, report=seen.append, stop_signal=once_seen(events.Testing, seen))
    assert not run.summary_file.exists()
    bench.train(settings, run, resume=True)
    assert json.loads(run.summary_file.read_text(encoding="utf-8"))["test"]["sentences"] == 12


def test_a_signal_during_validation_stops_the_run(bench: Bench) -> None:
    settings = settings_of("training.epochs=2")
    run, seen = bench.new(), []
    with pytest.raises(Interrupted):
        bench.train(settings, run, report=seen.append, stop_signal=once_seen(Validated, seen))
    bench.train(settings, run, resume=True)
    same_run(bench.train(settings), run)


def test_the_last_report_of_an_epoch_is_the_same_after_a_stop_before_it(bench: Bench) -> None:
    """It tells the gradient's norm, which no update after the stop computes again."""
    settings = settings_of("training.epochs=1", "training.report_updates=1000")
    whole, run = bench.train(settings), bench.new()
    with after(bench.trainer(settings).plan.per_epoch) as stop_signal, pytest.raises(Interrupted):
        bench.train(settings, run, stop_signal=stop_signal)
    bench.train(settings, run, resume=True)
    assert events_of(run)[0]["gradient_norm"] > 0
    same_run(whole, run)


def test_a_log_that_ran_ahead_of_the_state_is_written_again(bench: Bench) -> None:
    """After a crash the log tells of updates that the last state does not know."""
    settings = settings_of("training.epochs=2", "training.report_updates=1")
    whole, run = bench.train(settings), bench.new()
    with after(3) as stop_signal, pytest.raises(Interrupted):
        bench.train(settings, run, stop_signal=stop_signal)
    run.append_metrics({"event": "train", "update": 4, "loss": 9.9})
    with run.metrics_file.open("a", encoding="utf-8") as file:
        file.write('{"event": "tra')
    bench.train(settings, run, resume=True)
    same_run(whole, run)


def test_a_finished_run_resumed_with_more_epochs_goes_on(bench: Bench) -> None:
    settings = settings_of("training.epochs=2")
    run = bench.train(settings)
    summary = train(settings_of("training.epochs=3"), run, bench.tokenizer, bench.splits, device=CPU, resume=True)
    assert summary["epochs"] == 3
    assert [event["epoch"] for event in events_of(run) if event["event"] == "valid"] == [1, 2, 3]
