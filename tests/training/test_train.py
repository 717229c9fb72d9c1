"""Training: the same run however it was stopped, the gradient of the settings, limits that limit, an honest log."""

import contextlib
import copy
import itertools
import json
import math
import random
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_post_hook

from projtrans import config
from projtrans.data.corpus import Pair
from projtrans.data.data_folder import load_tokenizer, open_splits, read_split
from projtrans.data.tokenizer import Tokenizer
from projtrans.errors import ConfigError, DataError, DivergedError, Interrupted, ProjtransError
from projtrans.evaluation.evaluate import forced
from projtrans.inference.torch_translator import Translator
from projtrans.model.attention_statistics import attention_statistics
from projtrans.runs.build import build_model, encode, layout_of
from projtrans.runs.run_folder import Run
from projtrans.runs.settings import Config, resolve, resumed
from projtrans.training import events
from projtrans.training.events import Event, Finished, Started, Validated
from projtrans.training.optimizer import rate
from projtrans.training.train import train
from projtrans.training.trainer import Trainer
from tests.conftest import KINDS, TINY, Toy, cli, done, forced_by_hand

CPU = torch.device("cpu")
EXACT = ["training.average=null", "model.dropout=0.0"]
"""Settings under which the weights after an update can be computed by hand."""


def settings_of(*sets: str) -> Config:
    """The toy's configuration with changes."""
    return resolve(copy.deepcopy(TINY), sets=["training.evaluate_test=false", *sets])


def events_of(run: Run) -> list[dict[str, Any]]:
    """metrics.jsonl, read as strictly as any other JSON reader would."""

    def no_constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    lines = run.metrics_file.read_text(encoding="utf-8").splitlines()
    return [json.loads(line, parse_constant=no_constant) for line in lines]


def timeless(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records without what the clock says."""
    times = ("seconds", "training_seconds", "target_tokens_per_second")
    return [{key: value for key, value in event.items() if key not in times} for event in records]


@contextlib.contextmanager
def after(updates: int) -> Iterator[Callable[[], int | None]]:
    """A stop signal that comes when torch's optimiser has made so many steps."""
    steps = itertools.count(1)
    made = [0]
    hook = register_optimizer_step_post_hook(lambda *unused: made.__setitem__(0, next(steps)))
    try:
        yield lambda: signal.SIGTERM if made[0] == updates else None
    finally:
        hook.remove()


def once_seen(kind: type, seen: Sequence[Event]) -> Callable[[], int | None]:
    """A stop signal that comes with the first event of a kind."""
    return lambda: signal.SIGINT if any(isinstance(event, kind) for event in seen) else None


@dataclass
class Bench:
    """The toy corpus and a place for runs."""

    folder: Path
    tokenizer: Tokenizer
    splits: dict[str, Sequence[Pair]]
    made: list[Run] = field(default_factory=list)

    def new(self) -> Run:
        """The place of a run that begins."""
        self.made.append(Run(self.folder / f"run-{len(self.made)}"))
        return self.made[-1]

    def created(self, settings: Config) -> Run:
        """A run that has begun, without an update."""
        run = self.new()
        run.create(config.dump(settings), self.tokenizer)
        return run

    def train(self, settings: Config, run: Run | None = None, **options: Any) -> Run:
        run = run or self.new()
        train(settings, run, self.tokenizer, self.splits, device=CPU, **options)
        return run

    def trainer(self, settings: Config, report: Callable[[Event], None] = lambda event: None) -> Trainer:
        return Trainer(
            settings, self.created(settings), self.tokenizer, self.splits["train"], self.splits["valid"], CPU, report
        )


@pytest.fixture
def bench(toy: Toy, tmp_path: Path) -> Bench:
    """The prepared toy corpus, cut to what a test can afford."""
    splits = {name: read_split(toy.data, name) for name in ("train", "valid", "test")}
    small = {"train": splits["train"][:120], "valid": splits["valid"][:12], "test": splits["test"][:12]}
    return Bench(tmp_path, load_tokenizer(toy.data), small)


# ----------------------------------------------------------------------------------------------------------- resume

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


def same_run(left: Run, right: Run) -> None:
    """Two runs ended with the same weights, the same state and the same log."""
    for name in ("model_file", "state_file"):
        ours, theirs = load_file(getattr(left, name)), load_file(getattr(right, name))
        assert ours.keys() == theirs.keys()
        for key, tensor in ours.items():
            assert torch.equal(tensor, theirs[key]), f"{name}: {key}"
    assert timeless(events_of(left)) == timeless(events_of(right))


@pytest.mark.parametrize(("reason", "sets"), MANNERS, ids=[reason for reason, _ in MANNERS])
def test_a_run_stopped_anywhere_ends_as_one_that_was_not(bench: Bench, reason: str, sets: list[str]) -> None:
    settings = settings_of("training.epochs=4", "training.report_updates=2", "model.dropout=0.2", *sets)
    whole = bench.train(settings)
    per_epoch = bench.trainer(settings).per_epoch
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


def test_a_kept_encoding_trains_as_the_text_does(bench: Bench, toy: Toy) -> None:
    """Weights, scores and log: training, validation and test read the ids from the disk."""
    settings = resolve(copy.deepcopy(TINY), sets=["training.epochs=2", "corpus.max_length=9"])
    bench.splits = {name: read_split(toy.data, name) for name in bench.splits}
    fresh = bench.train(settings)
    bench.splits = dict(open_splits(toy.data, bench.tokenizer, lambda event: pytest.fail("encoded twice")))
    same_run(fresh, bench.train(settings))


def test_dropout_of_subwords_is_a_function_of_seed_epoch_and_pair(bench: Bench) -> None:
    """Not of the pairs around it; other epochs and seeds segment otherwise, and 0 not at all."""

    def sampled(*sets: str, number: int = 0) -> list[tuple[list[int], list[int]]]:
        trainer = bench.trainer(settings_of("corpus.max_length=60", *sets))
        return [(example.source, example.target) for example in trainer.examples_of(number)]

    dropout, whole = "training.subword_dropout=0.4", bench.splits["train"]
    first = sampled(dropout)
    assert sampled(dropout) == first
    bench.splits["train"] = whole[:50]
    assert sampled(dropout) == first[:50]
    bench.splits["train"] = whole
    plain = sampled("training.subword_dropout=0.0")
    kept = encode(bench.tokenizer, bench.trainer(settings_of("corpus.max_length=60")).layout, whole, cut=False)
    assert plain == [(example.source, example.target) for example in kept]
    for other in (plain, sampled(dropout, number=1), sampled(dropout, "training.seed=2")):
        assert sum(ours != theirs for ours, theirs in zip(first, other, strict=True)) > 0.7 * len(whole)
    for (source, target), pair in zip(first, whole, strict=True):
        assert bench.tokenizer.decode_target([source, target]) == [pair.source, pair.target]


def test_batches_with_dropout_of_subwords_keep_to_the_budget(bench: Bench) -> None:
    trainer = bench.trainer(settings_of("training.subword_dropout=0.3", "training.batch_tokens=200"))
    for number in range(2):
        trainer.counters.epoch = number
        batches = trainer.batches(number)
        assert sorted(itertools.chain(*batches)) == list(range(len(bench.splits["train"])))
        made = [trainer.batch(indices) for indices in batches]
        assert all(batch.target_out_BT.numel() <= 200 and batch.source_BS.numel() <= 200 for batch in made)


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
    with after(bench.trainer(settings).per_epoch) as stop_signal, pytest.raises(Interrupted):
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
    ("training.optimizer=rmsprop", "its moments are another optimiser's"),
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
    per_epoch = bench.trainer(settings).per_epoch
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


# ------------------------------------------------------------------------------------- embeddings from co-occurrence

COOCCURRENCE = "model.embeddings.init=cooccurrence"


@pytest.mark.parametrize("tie", ["all", "output", "none"])
def test_embeddings_from_cooccurrence_change_nothing_else(bench: Bench, tie: str) -> None:
    """Neither another weight nor a number that torch draws afterwards: data and dropout come as with `normal`."""
    tied = f"model.embeddings.tie={tie}"
    normal, trainer = bench.trainer(settings_of(tied)), bench.trainer(settings_of(tied, COOCCURRENCE))
    before = torch.get_rng_state()
    trainer.initialise()
    assert torch.equal(torch.get_rng_state(), before)
    assert list(trainer.batches(1)) == list(normal.batches(1))
    changed = {
        name: (ours != theirs).any(1)
        for (name, ours), theirs in zip(trainer.model.named_parameters(), normal.model.parameters(), strict=True)
        if not torch.equal(ours, theirs)
    }
    assert changed.keys() == {"source_embedding.weight"} | ({"target_embedding.weight"} if tie != "all" else set())
    examples = trainer.examples
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
    assert trainer.average is not None
    for ours, theirs in zip(trainer.average.model.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_embeddings_are_computed_for_a_new_run_alone_and_told(bench: Bench) -> None:
    seen: list[Event] = []
    run = bench.train(settings_of(COOCCURRENCE, "training.epochs=1"), report=seen.append)
    (told,) = [event for event in seen if isinstance(event, events.Initialised)]
    assert seen[0] is told
    assert 4 < told.given < told.pieces == bench.tokenizer.source_size
    assert told.seconds > 0
    loaded = Translator.of_run(run, CPU).model.source_embedding.weight
    assert torch.equal(loaded, load_file(run.model_file)["source_embedding.weight"]), "no training pair is needed"
    seen.clear()
    bench.train(settings_of(COOCCURRENCE, "training.epochs=2"), run, resume=True, report=seen.append)
    assert isinstance(next(event for event in seen if not isinstance(event, events.Changed)), Started)


def test_a_corpus_without_cooccurrences_leaves_one_line_and_no_run(workshop: Path) -> None:
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


def test_the_command_says_that_embeddings_come_from_cooccurrence(workshop: Path) -> None:
    sets = ["--set", COOCCURRENCE, "--set", "training.updates=1", "--set", "training.evaluate_test=false"]
    result = done("train", "--config", "tiny.yaml", "--run", "told", "--threads", 1, *sets)
    (line,) = [line for line in result.err.splitlines() if line.startswith("embeddings from co-occurrence: ")]
    assert re.search(r": \d+ of \d+ pieces, \d+\.\d s$", line)


# --------------------------------------------------------------------------------------------- the gradient, the loss


def double(trainer: Trainer) -> Trainer:
    """The same training in double precision, where Adam cannot blow rounding up."""
    trainer.model.double()
    return trainer


@pytest.mark.parametrize("kind", KINDS)
def test_two_batches_an_update_are_one_of_twice_the_size(bench: Bench, kind: str) -> None:
    """The gradient is the mean over pieces, not over batches: the batches hold different numbers of pieces."""
    common = [*EXACT, f"model.attention.kind={kind}", "training.epochs=2", "training.by_length=false"]
    common += ["training.report_updates=1"]
    trained = []
    for size, accumulation in ((30, 1), (15, 2), (6, 5)):
        sets = [f"training.batch_sentences={size}", f"training.accumulation={accumulation}"]
        trainer = double(bench.trainer(settings_of(*common, *sets)))
        trainer.train()
        trained.append(trainer)
    whole, *divided = trained
    for other in divided:
        assert other.counters.update == whole.counters.update == 8
        for (name, ours), theirs in zip(whole.model.named_parameters(), other.model.parameters(), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-8), name
        for ours, theirs in zip(events_of(whole.run), events_of(other.run), strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", [False, True])
def test_the_first_loss_and_accuracy_are_those_of_the_fresh_weights(bench: Bench, kind: str, padding: bool) -> None:
    """One batch holds the whole split; the figures are unsmoothed and without padding, whatever is learnt."""
    bench.splits["train"] = bench.splits["train"][:25]
    sets = [*EXACT, f"model.attention.kind={kind}", "training.epochs=1", "training.report_updates=1"]
    sets += ["training.by_length=false", "training.batch_sentences=25"]
    if padding:
        sets += ["model.mask_padding=false", "training.padding_in_loss=true", "corpus.max_length=9"]
    trainer = bench.trainer(settings_of(*sets))
    fresh = copy.deepcopy(trainer.model).eval()
    trainer.train()
    first, valid = events_of(trainer.run)
    longest = trainer.layout.max_length
    slow = forced_by_hand(fresh, bench.tokenizer, bench.splits["train"], longest, padded=padding)
    assert (first["event"], first["update"]) == ("train", 1)
    assert first["loss"] == valid["train_loss"] == pytest.approx(slow.loss, abs=2e-5)
    assert first["accuracy"] == valid["train_accuracy"] == pytest.approx(slow.accuracy, abs=1e-9)
    with_padding = pytest.approx(slow.accuracy_with_padding, abs=1e-9) if padding else None
    assert valid["train_accuracy_with_padding"] == with_padding


def test_padding_in_the_loss_moves_the_gradient_as_torch_says(bench: Bench) -> None:
    """The paper's way: the mean over all positions of a fixed length, padding among them."""
    bench.splits["train"] = bench.splits["train"][:20]
    sets = [*EXACT, "training.epochs=1", "training.by_length=false", "training.batch_sentences=20"]
    sets += ["model.mask_padding=false", "training.padding_in_loss=true", "corpus.max_length=9"]
    sets += ["training.optimizer=rmsprop", "training.weight_decay=0.0", "training.clip_norm=null"]
    trainer = double(bench.trainer(settings_of(*sets, "training.schedule=constant", "training.warmup_updates=0")))
    model = copy.deepcopy(trainer.model)
    trainer.train()
    batch = trainer.layout.batch(trainer.examples)
    logits = model.output(model(batch.source_BS, None, batch.target_in_BT)).flatten(0, 1)
    torch.nn.functional.cross_entropy(logits, batch.target_out_BT.flatten(), label_smoothing=0.1).backward()
    for (name, ours), theirs in zip(trainer.model.named_parameters(), model.parameters(), strict=True):
        assert theirs.grad is not None
        relative = 10 if name.endswith("log_sigma") else 1
        step = theirs.grad / ((1 - 0.98) * theirs.grad.square() + 1e-7).sqrt()  # Keras' rule
        assert torch.allclose(ours, theirs - 0.01 * relative * step, rtol=1e-5, atol=1e-7), name


def test_the_first_update_is_that_of_torch(bench: Bench) -> None:
    """Loss, smoothing, clipping and the groups of parameters, done over in plain PyTorch."""
    bench.splits["train"] = bench.splits["train"][:20]
    sets = [*EXACT, "training.epochs=1", "training.by_length=false", "training.batch_sentences=20"]
    sets += ["training.schedule=constant", "training.weight_decay=0.1", "training.clip_norm=0.5"]
    trainer = double(bench.trainer(settings_of(*sets, "training.learning_rate=0.02")))
    model = copy.deepcopy(trainer.model)
    trainer.train()
    batch = trainer.layout.batch(trainer.examples)
    h = model(batch.source_BS, batch.source_mask_BS, batch.target_in_BT)
    loss = torch.nn.functional.cross_entropy(
        model.output(h).flatten(0, 1), batch.target_out_BT.flatten(), ignore_index=0, label_smoothing=0.1
    )
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    groups = [
        {
            "params": [parameter],
            "lr": 0.02 * (10 if name.endswith("log_sigma") else 1),
            "weight_decay": 0.1 if parameter.ndim > 1 and not name.endswith("log_sigma") else 0.0,
        }
        for name, parameter in model.named_parameters()
    ]
    torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-9).step()
    for (name, ours), theirs in zip(trainer.model.named_parameters(), model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7), name


@pytest.mark.parametrize("padding", [False, True])
def test_the_first_update_under_r_drop_is_that_of_torch(bench: Bench, padding: bool) -> None:
    """Two passes, one after the other, with the dropout that torch's generator gives them, and torch's divergences."""
    bench.splits["train"] = bench.splits["train"][:20]
    sets = ["training.average=null", "model.dropout=0.3", "training.r_drop=4.0", "training.epochs=1"]
    sets += ["training.by_length=false", "training.batch_sentences=20", "training.clip_norm=null"]
    if padding:
        sets += ["model.mask_padding=false", "training.padding_in_loss=true", "corpus.max_length=9"]
    trainer = double(bench.trainer(settings_of(*sets, "training.weight_decay=0.0")))
    model, random = copy.deepcopy(trainer.model).train(), torch.get_rng_state()
    trainer.train()
    torch.set_rng_state(random)
    batch = trainer.batch(trainer.batches(0)[0])
    counted = torch.ones_like(batch.counted_BT) if padding else batch.counted_BT
    both = [
        model.output(model(batch.source_BS, batch.source_mask_BS, batch.target_in_BT))[counted].log_softmax(-1)
        for _ in range(2)
    ]
    assert not torch.equal(*both)
    nll = [
        torch.nn.functional.cross_entropy(log_p, batch.target_out_BT[counted], label_smoothing=0.1) for log_p in both
    ]
    p, q = (log_p.exp() for log_p in both)
    divergence = ((p - q) * (both[0] - both[1])).sum() / counted.sum()
    ((nll[0] + nll[1] + 4.0 / 2 * divergence) / 2).backward()
    rate = trainer.optimizer.param_groups[0]["lr"]
    groups = [
        {"params": [parameter], "lr": rate * (10 if name.endswith("log_sigma") else 1)}
        for name, parameter in model.named_parameters()
    ]
    torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-9, weight_decay=0.0).step()
    for (name, ours), theirs in zip(trainer.model.named_parameters(), model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7), name


def test_a_seed_decides_the_run_and_another_seed_another(bench: Bench) -> None:
    weights = [
        load_file(bench.train(settings_of("training.epochs=1", f"training.seed={seed}")).model_file)
        for seed in (5, 5, 6)
    ]
    name = "output.bias"
    assert torch.equal(weights[0][name], weights[1][name])
    assert not torch.equal(weights[0][name], weights[2][name])


# --------------------------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("kind", KINDS)
def test_ten_pairs_are_learnt_by_heart(bench: Bench, kind: str) -> None:
    ten = list({pair.source: pair for pair in bench.splits["train"]}.values())[:10]
    bench.splits = {"train": ten * 20, "valid": ten, "test": ten}
    sets = [*EXACT, f"model.attention.kind={kind}", "training.label_smoothing=0.0", "training.epochs=25"]
    sets += ["training.by_length=false", "training.batch_sentences=20"]
    run = bench.train(settings_of(*sets))
    last = events_of(run)[-1]
    assert last["event"] == "valid"
    assert last["loss"] < 0.01
    assert last["accuracy"] == 1.0
    assert last["bleu"] == pytest.approx(100.0)
    translator = Translator.of_run(run, CPU)
    assert [translator(pair.source) for pair in ten] == [pair.target for pair in ten]


@pytest.mark.parametrize("kind", KINDS)
def test_reversing_digits_is_learnt_through_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Held-out numbers come out back to front: word order and words, from encoder to output."""
    monkeypatch.chdir(tmp_path)
    numbers = ["".join(digits) for length in (2, 3, 4) for digits in itertools.product("012345", repeat=length)]
    random.Random(3).shuffle(numbers)
    parts = {"train": numbers[:1250], "valid": numbers[1250:1340], "test": numbers[1340:1540]}
    for name, part in parts.items():
        Path(f"{name}.src").write_text("".join(f"{' '.join(number)}\n" for number in part), encoding="utf-8")
        Path(f"{name}.tgt").write_text("".join(f"{' '.join(number[::-1])}\n" for number in part), encoding="utf-8")
    files = [item for name in parts for item in (f"--{name}", f"{name}.src", f"{name}.tgt")]
    done("prepare", *files, "-o", "data", "--vocab-size", 301, "--quiet")
    sets = [
        "model.layers.encoder=1", "model.layers.decoder=1", "model.width=96", "model.heads=2", "model.feedforward=128",
        "model.dropout=0.0", "training.batch_tokens=384", "training.learning_rate=0.003", "training.warmup_updates=50",
        "training.epochs=40", "training.average=null", "training.patience=null", "training.validation_sentences=1",
        "training.evaluate_test=false", "training.precision=fp32",
    ]  # fmt: skip
    sets = [item for assignment in sets for item in ("--set", assignment)]
    done("train", "--data", "data", "--attention", kind, "--run", "run", "--threads", 1, "--quiet", *sets)
    sources = Path("test.src").read_text(encoding="utf-8")
    found = done("translate", "--model", "run", "--beam-size", 1, "--threads", 1, stdin=sources).lines
    wanted = [" ".join(number[::-1]) for number in parts["test"]]
    right = sum(ours == theirs for ours, theirs in zip(found, wanted, strict=True))
    assert right / len(wanted) >= 0.98


# ---------------------------------------------------------------------------------------------- checkpoint averaging

NOISY = ["training.average=null", "training.schedule=constant", "training.learning_rate=0.1", "training.epochs=10"]
"""Weights that jump about the minimum: their mean is better than each of them."""


def mean_by_hand(weights: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([one[name].double() for one in weights]).mean(0).float() for name in weights[0]}


def trained_with_snapshots(bench: Bench, settings: Config) -> tuple[Trainer, dict[int, dict[str, torch.Tensor]]]:
    """A trainer at its end, and the weights that it validated, by update."""
    snapshots: dict[int, dict[str, torch.Tensor]] = {}

    def see(event: Event) -> None:
        if isinstance(event, Validated):
            model = trainer.average.model if trainer.average else trainer.model
            snapshots[event.update] = {name: p.detach().clone() for name, p in model.named_parameters()}

    trainer = bench.trainer(settings, see)
    trainer.train()
    return trainer, snapshots


@pytest.mark.parametrize("best", ["loss", "bleu"])
@pytest.mark.parametrize(("count", "sets", "better"), [(3, NOISY, True), (2, ["training.epochs=5"], False)])
def test_the_mean_of_the_best_weights_is_kept_where_it_is_better(
    bench: Bench, best: str, count: int, sets: list[str], better: bool
) -> None:
    """By hand: choice, mean and scores. While weights still improve, their mean lags behind the last ones."""
    settings = settings_of(*sets, f"training.average_checkpoints={count}", f"training.best={best}")
    trainer, snapshots = trained_with_snapshots(bench, settings)
    *_, tried = events_of(trainer.run)
    validations = [event for event in events_of(trainer.run) if event["event"] == "valid"]
    assert tried["event"] == "average"
    ranked = sorted(validations, key=lambda event: event["loss"] if best == "loss" else -event["bleu"])
    assert tried["updates"] == sorted(event["update"] for event in ranked[:count])
    assert {path.name for path in trainer.run.candidate_files} == {
        f"validated-{update}.safetensors" for update in tried["updates"]
    }
    mean = mean_by_hand([snapshots[update] for update in tried["updates"]])
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            parameter.copy_(mean[name])
    translator = Translator(trainer.model.eval(), bench.tokenizer, trainer.layout, settings.decoding, CPU)
    scores = forced(translator, bench.splits["valid"])
    assert (tried["loss"], tried["accuracy"]) == (pytest.approx(scores.loss), pytest.approx(scores.accuracy))
    first = ranked[0]
    wins = tried["loss"] < first["loss"] if best == "loss" else tried["bleu"] > first["bleu"]
    assert tried["best"] == wins
    if best == "loss":
        assert wins == better
    saved, wanted = load_file(trainer.run.model_file), mean if wins else snapshots[first["update"]]
    assert saved.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(saved[name], tensor), name


def test_the_summary_tells_whether_weights_were_averaged(bench: Bench) -> None:
    summary, _ = finish(bench, *NOISY, "training.average_checkpoints=3")
    assert summary["averaged"] == events_of(bench.made[-1])[-1]["updates"]
    assert finish(bench, "training.epochs=4", "training.average_checkpoints=2")[0]["averaged"] is None
    assert finish(bench, *EXACT, "training.epochs=1", "training.average_checkpoints=2")[0]["averaged"] is None
    summary, _ = finish(bench, "training.epochs=2")
    assert (summary["averaged"], bench.made[-1].candidate_files) == (None, [])


class Death(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("epoch", [2, 4])
def test_a_run_that_died_before_its_state_was_saved_averages_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    """Weights were validated and kept that the last saved state does not know of; others would have had to go."""
    settings = settings_of(*NOISY, "training.average_checkpoints=2", "training.epochs=5")
    whole, run = bench.train(settings), bench.new()
    save = Trainer.save

    def die(trainer: Trainer, **options: Any) -> None:
        if trainer.counters.epoch == epoch:
            raise Death
        save(trainer, **options)

    with monkeypatch.context() as patch, pytest.raises(Death):
        patch.setattr(Trainer, "save", die)
        bench.train(settings, run)
    bench.train(settings, run, resume=True)
    same_run(whole, run)
    assert [path.name for path in run.candidate_files] == [path.name for path in whole.candidate_files]
    for ours, theirs in zip(run.candidate_files, whole.candidate_files, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(load_file(ours).values(), load_file(theirs).values(), strict=True))
    bench.train(settings, run, resume=True)  # a finished one: it is tried again, with the same end
    same_run(whole, run)


def test_weights_that_are_gone_are_one_line(bench: Bench) -> None:
    settings = settings_of(*NOISY, "training.average_checkpoints=2", "training.epochs=2")
    run = bench.train(settings)
    run.candidate_files[0].unlink()
    with pytest.raises(ProjtransError, match=r"validated-\d+\.safetensors: damaged or not a model file"):
        bench.train(settings, run, resume=True)


# ----------------------------------------------------------------------------------------------------------- limits


def finish(bench: Bench, *sets: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Train, and return the summary and the validations."""
    run = bench.train(settings_of(*sets))
    summary = json.loads(run.summary_file.read_text(encoding="utf-8"))
    return summary, [event for event in events_of(run) if event["event"] == "valid"]


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_patience_counts_validations_since_the_best(bench: Bench, patience: int) -> None:
    """A rate too small to move a weight makes every validation as good as the first: none after it is better."""
    summary, validations = finish(
        bench, *EXACT, f"training.patience={patience}", "training.learning_rate=1e-30", "training.epochs=9"
    )
    assert [event["best"] for event in validations] == [True] + [False] * patience
    assert (summary["epochs"], summary["best_epoch"]) == (1 + patience, 1)
    assert f"no better validation in {patience} epochs" in summary["reason"]


def test_without_patience_every_epoch_is_made(bench: Bench) -> None:
    summary, validations = finish(bench, *EXACT, "training.learning_rate=1e-30", "training.epochs=4")
    assert (summary["epochs"], summary["best_epoch"], len(validations)) == (4, 1, 4)


@pytest.mark.parametrize("best", ["loss", "bleu"])
def test_the_best_validation_is_the_one_that_is_kept(bench: Bench, best: str) -> None:
    settings = settings_of("training.epochs=8", f"training.best={best}", "training.learning_rate=0.05")
    run = bench.train(settings)
    validations = [event for event in events_of(run) if event["event"] == "valid"]
    sign = -1 if best == "loss" else 1
    scores = [sign * event[best] for event in validations]
    assert [event["best"] for event in validations] == [
        score > max(scores[:index], default=-math.inf) for index, score in enumerate(scores)
    ]
    summary = json.loads(run.summary_file.read_text(encoding="utf-8"))
    assert summary["best_epoch"] == 1 + scores.index(max(scores))


@pytest.mark.parametrize("updates", [1, 3, 4, 5, 7])
@pytest.mark.parametrize("report", [1, 20])
def test_training_stops_after_so_many_updates(bench: Bench, updates: int, report: int) -> None:
    """Inside an epoch and at its end, whether or not a report is due: the weights are validated and saved."""
    summary, validations = finish(bench, f"training.updates={updates}", f"training.report_updates={report}")
    assert summary["updates"] == updates
    assert validations[-1]["update"] == updates
    assert validations[-1]["train_loss"] > 0
    assert f"{updates} updates" in summary["reason"]


def test_training_stops_after_so_many_minutes(bench: Bench) -> None:
    summary, validations = finish(bench, "training.minutes=1e-9")
    assert summary["updates"] == 1 == validations[-1]["update"]
    assert "minutes" in summary["reason"]


def test_pairs_that_are_too_long_are_left_out_of_training_and_counted(bench: Bench) -> None:
    settings = settings_of("corpus.max_length=5")
    layout = layout_of(bench.tokenizer, settings.corpus, settings.model)
    pairs = bench.splits["train"]
    examples = encode(bench.tokenizer, layout, pairs, cut=False)
    sources = bench.tokenizer.encode_source([pair.source for pair in pairs])
    targets = bench.tokenizer.encode_target([pair.target for pair in pairs])
    fitting = [len(s) <= 5 and len(t) + 1 <= 5 for s, t in zip(sources, targets, strict=True)]
    assert 0 < sum(fitting) == len(examples) < len(pairs)
    trainer = bench.trainer(settings)
    assert (len(trainer.examples), trainer.left_out) == (len(examples), len(pairs) - len(examples))
    cut = encode(bench.tokenizer, layout, pairs, cut=True)
    assert len(cut) == len(pairs)
    assert max(max(len(example.source), len(example.target)) for example in cut) == 5
    with pytest.raises(DataError, match=r"corpus\.max_length: 1 "):
        bench.trainer(settings_of("corpus.max_length=1"))


# -------------------------------------------------------------------------------------------------------- divergence


def test_one_gradient_that_is_not_finite_is_skipped(bench: Bench) -> None:
    """The weights and the optimiser stay as they were, the update counts, and training goes on."""
    snapshots: list[dict[str, torch.Tensor]] = []  # the weights at every gradient, before its update

    def poison(gradient: torch.Tensor) -> torch.Tensor:
        snapshots.append({name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()})
        return gradient * math.nan if len(snapshots) == 3 else gradient

    trainer = bench.trainer(settings_of("training.epochs=2", "training.report_updates=1"))
    trainer.model.output.bias.register_hook(poison)
    trainer.train()
    assert len(snapshots) == trainer.counters.update == trainer.last_update
    assert trainer.counters.skipped == 1
    told = [event for event in events_of(trainer.run) if event["event"] == "skipped"]
    assert [(event["skipped"], event["in_a_row"]) for event in told] == [(1, 0)]
    for name, before in snapshots[2].items():  # the third gradient moves nothing
        assert torch.equal(before, snapshots[3][name]), name
    for earlier, later in ((1, 2), (3, 4)):
        assert not torch.equal(snapshots[earlier]["output.bias"], snapshots[later]["output.bias"])
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


def test_a_poisoned_weight_ends_training_after_four_returns(bench: Bench) -> None:
    settings = settings_of("training.epochs=50", "training.by_length=false", "training.batch_sentences=4")
    trainer = bench.trainer(settings)
    with torch.no_grad():
        trainer.model.output.weight[5, 5] = math.nan
    with pytest.raises(DivergedError, match=r"20 updates in a row.* at update 20, after 4 returns.*learning_rate"):
        trainer.train()
    assert not trainer.run.model_file.exists()


@pytest.mark.parametrize("sentences", [4, 100])
def test_a_run_that_diverges_ends_with_status_three(workshop: Path, sentences: int) -> None:
    """In epochs of many updates as in epochs of few, where a validation comes before twenty updates are skipped."""
    sets = [f"training.batch_sentences={sentences}", "training.learning_rate=1e30", "training.warmup_updates=0"]
    sets = [item for assignment in sets for item in ("--set", assignment)]
    result = cli("train", "--config", "tiny.yaml", "--run", "wild", "--threads", 1, *sets)
    assert result.status == 3, result.err
    assert len(result.errors) == 1
    assert "diverged" in result.errors[0]
    assert result.out == ""


def test_the_log_of_a_run_that_diverges_is_json(bench: Bench) -> None:
    sets = ["training.learning_rate=1e30", "training.warmup_updates=0", "training.report_updates=1"]
    settings = settings_of(*sets, "training.by_length=false", "training.batch_sentences=4")
    run = bench.new()
    with pytest.raises(ProjtransError):
        bench.train(settings, run)
    assert {event["event"] for event in events_of(run)} >= {"train"}


# ---------------------------------------------------------------------------------------------------------- the log

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

    monkeypatch.setattr("projtrans.training.trainer.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(Trainer, "update", taking(1, Trainer.update))
    monkeypatch.setattr(Trainer, "save", taking(100, Trainer.save))
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
