"""metrics.jsonl, summary.json and the events: their fields, their order, their figures, their clock."""

import copy
import itertools
import json
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors import safe_open

from projtrans import config
from projtrans.cli import displays
from projtrans.data.data_folder import read_split
from projtrans.evaluation.metrics import METRICS, Metric
from projtrans.inference.torch_translator import Translator
from projtrans.model.attention_statistics import attention_statistics
from projtrans.runs.build import build_model, encode
from projtrans.runs.run_folder import Run
from projtrans.runs.settings import Config, resolve
from projtrans.training import events
from projtrans.training.events import Event, Finished, Started
from projtrans.training.optimizer import rate
from projtrans.training.state import StateFiles
from projtrans.training.updates import PlainUpdates
from projtrans.training.watchers import scalars
from tests.toy import KINDS, TINY, Toy
from tests.training.bench import CPU, Bench, events_of, settings_of

TRAIN_FIELDS = {"event", "epoch", "update", "seconds", "loss", "accuracy", "target_tokens_per_second"}


VALID_FIELDS = {"event", "epoch", "update", "seconds", "loss", "accuracy", "bleu", "chrf"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_log_has_the_fields_of_the_contract(toy: Toy, kind: str) -> None:
    found = events_of(Run(toy.run(kind)))
    assert {event["event"] for event in found} == {"train", "valid"}
    for event in found:
        wanted = TRAIN_FIELDS if event["event"] == "train" else VALID_FIELDS
        assert wanted <= event.keys(), wanted - event.keys()
        assert 0 <= event["accuracy"] <= 1
        assert event["loss"] > 0
        assert event["seconds"] > 0
    updates = [(event["epoch"], event["update"]) for event in found]
    assert updates == sorted(updates)
    assert [event["seconds"] for event in found] == sorted(event["seconds"] for event in found)


def test_train_figures_of_an_epoch_are_the_means_of_its_reports(bench: Bench) -> None:
    """Weighted by pieces: with one report an update and batches of all pairs, each report has the same weight."""
    run = bench.train(
        settings_of("training.epochs=2", "training.report_updates=1", "training.by_length=false",
                    "training.batch_sentences=120")
    )  # fmt: skip
    reports = [event for event in events_of(run) if event["event"] == "train"]
    validations = [event for event in events_of(run) if event["event"] == "valid"]
    assert [event["update"] for event in reports] == [1, 2]
    for report, validation in zip(reports, validations, strict=True):
        assert validation["train_loss"] == pytest.approx(report["loss"])
        assert validation["train_accuracy"] == pytest.approx(report["accuracy"])


def test_reports_come_when_due_and_tell_the_rate_of_their_update(bench: Bench) -> None:
    settings = settings_of("training.epochs=3", "training.report_updates=3")
    seen: list[Event] = []
    run = bench.train(settings, report=seen.append)
    (started,) = [event for event in seen if isinstance(event, Started)]
    per_epoch = started.updates_an_epoch
    reports = [event for event in events_of(run) if event["event"] == "train"]
    due = [update for update in range(1, 3 * per_epoch + 1) if update % 3 == 0 or update % per_epoch == 0]
    assert [event["update"] for event in reports] == due
    for event in reports:
        assert event["learning_rate"] == rate(settings.training, event["update"], started.last_update)
        assert event["epoch"] == 1 + (event["update"] - 1) // per_epoch
    assert isinstance(seen[-1], Finished)


def test_every_validation_tells_what_attention_does_to_the_first_sentences_of_its_sample(bench: Bench) -> None:
    """As a model loaded from the run folder has it: the weights that were validated, here the averaged ones."""
    sets = ["training.epochs=2", "training.validation_sentences=4", "model.attention.decay=learned"]
    run = bench.train(settings_of(*sets))
    *_, last = (event for event in events_of(run) if event["event"] == "valid")
    assert last["best"]
    translator = Translator.of_run(run, CPU)
    sample = bench.splits["valid"][:: len(bench.splits["valid"]) // 4][:4]
    batch = translator.layout.batch(encode(bench.tokenizer, translator.layout, sample, cut=True))
    found = attention_statistics(translator.model, [batch], bench.tokenizer.pad_id)
    assert last["attention"].keys() == found.keys()
    assert sorted(name.split(".")[0] for name in found) == ["decoder", "decoder", "encoder"]
    for name, figures in found.items():
        for figure, values in figures.items():
            assert last["attention"][name][figure] == pytest.approx(values, abs=1e-4), (name, figure)


def test_training_seconds_are_those_of_updates_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that tells 1 s an update, 100 s a saved state, 10,000 s an event that is rendered."""
    clock = [0.0]

    def taking(seconds: float, function: Callable[..., Any]) -> Callable[..., Any]:
        def slow(*arguments: Any, **options: Any) -> Any:
            clock[0] += seconds
            return function(*arguments, **options)

        return slow

    monkeypatch.setattr("projtrans.training.state.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(PlainUpdates, "update", taking(1, PlainUpdates.update))
    monkeypatch.setattr(StateFiles, "save", taking(100, StateFiles.save))
    told = taking(10_000, lambda event: None)
    run = bench.train(
        settings_of("training.epochs=3", "training.save_minutes=1", "training.report_updates=2"), report=told
    )
    summary = json.loads(run.summary_file.read_text(encoding="utf-8"))
    assert summary["training_seconds"] == summary["updates"] > 6
    assert summary["seconds"] == clock[0] - 2 * 10_000  # what tells of the beginning and of the end lies outside
    for event in events_of(run):
        if event["event"] == "valid":
            assert event["training_seconds"] == event["update"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_summary_says_how_it_ended(toy: Toy, kind: str) -> None:
    run = Run(toy.run(kind))
    summary = json.loads(run.summary_file.read_text(encoding="utf-8"))
    found = events_of(run)
    assert (summary["epochs"], summary["updates"]) == (8, found[-1]["update"])
    best = [event["epoch"] for event in found if event["event"] == "valid" and event["best"]]
    assert summary["best_epoch"] == best[-1]
    assert summary["seconds"] >= summary["training_seconds"] > 0
    assert summary["versions"].keys() >= {"projtrans", "torch", "python"}
    assert summary["device"]
    settings, tokenizer = config.build(Config, run.raw_config), run.tokenizer()
    model = build_model(settings.model, settings.corpus, tokenizer)
    assert summary["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert summary["test"]["sentences"] == len(read_split(toy.data, "test"))


def test_the_events_of_a_run_come_in_order(bench: Bench) -> None:
    seen: list[Event] = []
    settings = resolve(copy.deepcopy(TINY), sets=["training.epochs=2", "training.report_updates=1000"])
    bench.train(settings, report=seen.append)
    names = [name for name, _ in itertools.groupby(type(event).__name__ for event in seen)]
    epoch = ["Progress", "Validating", "Validated"]
    assert names == ["Started", *epoch, *epoch, "Testing", "Finished"]
    for kind in (events.Validating, events.Testing):
        done = [(event.done, event.total) for event in seen if isinstance(event, kind)]
        assert done[-1][0] == done[-1][1]
        assert all(0 < some <= total for some, total in done)


class Words:
    """A metric of sacrebleu's kind: how many words there are."""

    def corpus_score(self, hypotheses: Sequence[str], references: Any) -> SimpleNamespace:
        return SimpleNamespace(score=float(sum(len(text.split()) for text in hypotheses)))

    def get_signature(self) -> str:
        return "words"


def test_a_metric_more_is_logged_shown_and_kept_without_a_change_here(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(METRICS, "words", Metric("Words", Words))
    with displays.TrainingDisplay(quiet=False) as display:
        run = bench.train(
            settings_of("training.epochs=2", "training.average_checkpoints=2", "training.average=null"), report=display
        )
    *_, valid, average = events_of(run)
    assert (valid["event"], average["event"]) == ("valid", "average")
    assert valid["words"] > 0
    assert list(valid)[5:9] == ["loss", "accuracy", "accuracy_with_padding", "bleu"]
    assert f"Words {valid['words']:.1f}" in capsys.readouterr().err
    assert ("valid/words", valid["words"]) in list(scalars(valid))
    with safe_open(run.model_file, "pt") as file:
        assert json.loads(file.metadata()["projtrans"])["valid_words"] in (valid["words"], average["words"])
