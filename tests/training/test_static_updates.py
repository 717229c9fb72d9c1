"""Updates in fixed shapes: the host's batches, losses and weights; no word from the host; stops that nobody notices."""

import contextlib
import importlib.util
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor, nn
from torch.utils._pytree import tree_leaves

from projtrans.errors import ConfigError, Interrupted
from projtrans.model.batching import epoch, sizes
from projtrans.model.flops import multiply_adds
from projtrans.model.loss import cross_entropy
from projtrans.runs.checkpoint import load_state
from projtrans.runs.settings import OptimizerConfig
from projtrans.training import device_corpus as resident
from projtrans.training import static_updates
from projtrans.training.device_corpus import Resident, Schedule, Shape, fitting, shapes
from projtrans.training.distributed import Group
from projtrans.training.events import Event, Halved, Recorded
from projtrans.training.optimizer import build_optimizer, set_rate, step
from projtrans.training.static_updates import StaticUpdates
from projtrans.training.trainer import Trainer
from tests.model.test_batching import examples_of, layout, pairs
from tests.training.test_recovery import NoWaiting
from tests.training.test_train import CPU, Bench, bench, double, same_run, settings_of

__all__ = ["bench"]  # a fixture

STATIC = "training.compile=static"
Texts = list[tuple[list[int], list[int]]]
few = settings(max_examples=12)
some_sizes = st.lists(st.tuples(*(st.integers(1, 30) for _ in range(3))), min_size=1, max_size=40)


# ----------------------------------------------------------------------------------------------------------- corpus


@few
@given(pairs, st.booleans(), st.integers(1, 12), st.booleans(), st.randoms(use_true_random=False))
def test_batches_on_the_device_are_those_of_the_layout(
    texts: Texts, mask_padding: bool, max_length: int, cut: bool, random: Any
) -> None:
    examples = examples_of(layout(max_length, mask_padding=mask_padding), texts, cut=cut)
    if not len(examples):
        return
    chosen = [random.randrange(len(examples)) for _ in range(5)]
    batch = examples.layout.batch([examples[i] for i in chosen])
    shape = Shape(len(chosen), batch.source_BS.shape[1], batch.target_out_BT.shape[1])
    made = Resident(examples, CPU).rectangle(torch.tensor(chosen) + 1, shape)
    for name, ours in vars(made).items():
        theirs = getattr(batch, name)
        assert ours is theirs is None or (torch.equal(ours, theirs) and ours.dtype == theirs.dtype), name


@few
@given(pairs, st.integers(0, 3), st.integers(0, 4))
def test_what_fills_up_a_batch_is_padding_that_sees_one_position(texts: Texts, more: int, longer: int) -> None:
    examples = examples_of(layout(), texts)
    batch = examples.layout.batch(list(examples))
    (B, S), T = batch.source_BS.shape, batch.target_out_BT.shape[1]
    rows = torch.tensor([*range(1, B + 1), *[resident.EMPTY_ROW] * more])
    made = Resident(examples, CPU).rectangle(rows, Shape(B + more, S + longer, T + longer))
    assert made.source_mask_BS is not None
    assert batch.source_mask_BS is not None
    for ours, theirs, filled in (
        (made.source_BS, batch.source_BS, 0),
        (made.target_out_BT, batch.target_out_BT, 0),
        (made.counted_BT, batch.counted_BT, False),
        (made.source_mask_BS, batch.source_mask_BS, False),
    ):
        assert torch.equal(ours[:B, : theirs.shape[1]], theirs)
        assert (ours[:B, theirs.shape[1] :] == filled).all()
        first = ours[B:, 0] == (ours is made.source_mask_BS)
        assert first.all()
        assert (ours[B:, 1:] == filled).all()
    assert made.target_in_BT[B:].tolist() == [[1, *[0] * (T + longer - 1)]] * more
    assert torch.equal(made.target_in_BT[:B, :T], batch.target_in_BT)


@few
@given(pairs, pairs)
def test_another_corpus_takes_the_place_of_the_first_where_it_fits(texts: Texts, others: Texts) -> None:
    """An address that a graph has recorded stays; where there is no room, it is told."""
    first, second = (examples_of(layout(), some) for some in (texts, others))
    corpus = Resident(first, CPU)
    before = [tensor for side in corpus.sides for tensor in vars(side).values()]
    kept = corpus.load(second)
    now = [tensor for side in corpus.sides for tensor in vars(side).values()]
    assert [a.data_ptr() == b.data_ptr() for a, b in zip(before, now, strict=True)] == [kept] * 6
    assert kept or any(len(a) < len(b) for a, b in zip(before, now, strict=True))
    batch = second.layout.batch(list(second))
    shape = Shape(len(second), batch.source_BS.shape[1], batch.target_out_BT.shape[1])
    made = corpus.rectangle(torch.arange(len(second)) + 1, shape)
    assert torch.equal(made.source_BS, batch.source_BS)
    assert torch.equal(made.target_out_BT, batch.target_out_BT)


# ----------------------------------------------------------------------------------------------------------- shapes


def positions(size: Sequence[int]) -> int:
    return size[0] * (size[1] + size[2])


@few
@given(some_sizes, st.integers(1, 8))
def test_all_batches_fit_into_few_shapes(found: list[tuple[int, int, int]], most: int) -> None:
    planned = shapes(np.array(found), most)
    assert len(planned) <= most
    assert [positions(shape) for shape in planned] == sorted(map(positions, planned), reverse=True)
    for size, shape in zip(found, fitting(np.array(found), planned), strict=True):
        fits = [other for other in planned if all(np.array(size) <= np.array(other))]
        assert shape in fits
        assert shape is not None
        assert positions(shape) == min(map(positions, fits))
    if most >= len(set(found)):
        assert set(planned) == set(found), "no padding where none is needed"


def test_a_batch_that_fits_nowhere_is_told() -> None:
    assert fitting(np.array([[3, 4, 5], [2, 9, 1]]), [Shape(4, 5, 6), Shape(3, 4, 5)]) == [Shape(3, 4, 5), None]


@few
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), min_size=1, max_size=80), st.integers(40, 200))
def test_shapes_of_buckets_are_the_same_in_every_epoch_and_cost_little(lengths: Any, tokens: int) -> None:
    lay, lengths_N2 = layout(40), np.array(lengths)
    of_epochs = []
    for number in range(2):
        batches = epoch(lengths, tokens=tokens, sentences=None, by_length=True, seed=1, number=number)
        of_epochs.append(sorted(map(tuple, sizes(batches, lengths_N2, lay).tolist())))
        schedule = Schedule(batches, lengths_N2, lay, shapes(sizes(batches, lengths_N2, lay)), CPU)
        assert all(schedule.planned)
        for i, batch in enumerate(batches):
            rows = schedule.rows(i).tolist()
            assert rows == [index + 1 for index in batch] + [0] * (schedule.shapes[i].sentences - len(batch))
            assert schedule.pieces[i] == sum(lengths[index][1] for index in batch)
            assert schedule.positions[i] == len(batch) * max(lengths[index][1] for index in batch)
    assert of_epochs[0] == of_epochs[1]


def test_thirty_two_shapes_pad_realistic_lengths_by_a_few_percent() -> None:
    random = np.random.default_rng(1)
    source = random.lognormal(math.log(8), 0.45, 20_000).astype(int).clip(1, 60)
    target = (source * random.normal(1.1, 0.12, 20_000)).round().astype(int).clip(1, 60) + 1
    lengths_N2 = np.stack([source, target], 1)
    batches = epoch(lengths_N2, tokens=2048, sentences=None, by_length=True, seed=1, number=0)
    found = sizes(batches, lengths_N2, layout(80))
    assert len(np.unique(found, axis=0)) > 50
    planned = shapes(found)
    assert len(planned) == resident.MOST_SHAPES
    ours = Schedule(batches, lengths_N2, layout(80), planned, CPU).padding
    assert ours < 0.06
    sides = -(-found[:, 1:] // 8) * 8
    most = [found[(sides == some).all(1), 0].max() for some in sides]
    eights = 1 - sum(map(positions, found)) / sum(n * (S + T) for n, (S, T) in zip(most, sides, strict=True))
    assert eights > 10 * ours, "what rounding lengths up to multiples of 8 would cost"
    assert Schedule(batches, lengths_N2, layout(80), shapes(found, 4), CPU).padding > 0.1


# ------------------------------------------------------------------------------------------------------------- loss


@few
@given(st.integers(0, 600), st.sampled_from([0.0, 0.1]), st.integers(0, 10**6))
def test_groups_are_what_choosing_their_positions_gives(count: int, smoothing: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    target, group = (torch.randint(n, (count,), generator=generator) for n in (9, 3))
    weight, bias = (torch.randn(*size, generator=generator, dtype=torch.float64) for size in ((9, 6), (9,)))
    groups = torch.stack([group == 0, group == 1]).float()  # group 2 counts nowhere
    results = []
    for grouped in (True, False):
        leaves = [x.clone().requires_grad_() for x in (h, weight, bias)]
        if grouped:
            found = cross_entropy(*leaves, target, smoothing, groups)
            smoothed, nll, correct = found
        else:
            parts = [cross_entropy(leaves[0][group == g], *leaves[1:], target[group == g], smoothing) for g in (0, 1)]
            smoothed = parts[0].smoothed + parts[1].smoothed
            nll, correct = (torch.stack([getattr(part, name) for part in parts]) for name in ("nll", "correct"))
        smoothed.mul(0.7).backward()
        results.append([smoothed.detach(), nll, correct, *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


# ---------------------------------------------------------------------------------------------------------- updates

SETTINGS = [
    ("defaults", []),
    ("standard", ["model.attention.kind=standard"]),
    ("the paper's protocol", [
        "training.optimizer=rmsprop", "training.weight_decay=0.0", "training.clip_norm=null", "training.average=null",
        "training.by_length=false", "training.batch_sentences=16", "training.padding_in_loss=true",
        "model.mask_padding=false", "corpus.max_length=9", "model.norm=post", "model.positions=learned",
        "model.attention.normalize=model", "model.attention.values=keys", "model.attention.learn_sigma=none",
        "training.schedule=constant",
    ]),
    ("accumulation", ["training.accumulation=3", "training.batch_tokens=60"]),
    ("rmsprop", ["training.optimizer=rmsprop", "training.weight_decay=0.0"]),
    ("decay and distance", ["model.attention.decay=learned", "model.attention.distance=euclidean"]),
]  # fmt: skip
manners = pytest.mark.parametrize(("reason", "sets"), SETTINGS, ids=[reason for reason, _ in SETTINGS])


def epochs(trainer: Trainer, updates: int) -> list[list[float]]:
    """Loss sums, gradient norm and learning rate of so many updates."""
    trainer.model.train()
    seen: list[list[float]] = []
    while len(seen) < updates:
        batches = trainer.batches(trainer.counters.epoch)
        trainer.prepare()
        for first in range(0, len(batches), trainer.together):
            trainer.advance(batches, first)
            seen.append([*trainer.window.take().values()[:4], float(trainer.window.norm)])
        trainer.counters.epoch += 1
    return seen[:updates]


@manners
def test_fixed_shapes_make_the_updates_of_the_host(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, reason: str, sets: list[str]
) -> None:
    """The sums and the norm of every update, and the weights after them; with two shapes there is much padding."""
    monkeypatch.setattr(static_updates, "shapes", lambda found: shapes(found, 2))
    sets = [*sets, "model.dropout=0.0"]
    static, host = (
        double(bench.trainer(settings_of(f"training.compile={mode}", *sets))) for mode in ("static", "none")
    )
    for trainer in (static, host):
        if trainer.average:
            trainer.average.model.double()
    ours, theirs = epochs(static, 6), epochs(host, 6)
    assert static.static
    assert host.static is None
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-5, atol=1e-6)
    assert ours[-1][0] / ours[-1][3] < ours[0][0] / ours[0][3], "it learns"
    for (name, weight), other in zip(static.model.named_parameters(), host.model.parameters(), strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-4, atol=1e-6, msg=name)
    if static.average and host.average:
        assert float(static.average.updates) == float(host.average.updates) == static.counters.update
        for weight, other in zip(static.average.model.parameters(), host.average.model.parameters(), strict=True):
            torch.testing.assert_close(weight, other, rtol=1e-4, atol=1e-6)


@manners
def test_recording_changes_nothing(bench: Bench, reason: str, sets: list[str]) -> None:
    """It warms up on updates that are left out: weights, moments, average, sums, counts and generators stay."""
    trainer = bench.trainer(settings_of(STATIC, "model.dropout=0.2", *sets))
    epochs(trainer, 3)
    static = trainer.static
    assert static
    moving = {
        **{f"model {name}": value for name, value in trainer.model.state_dict().items()},
        **{f"optimizer {i}": v for i, v in enumerate(v for s in trainer.optimizer.state.values() for v in s.values())},
        **({f"average {name}": v for name, v in trainer.average.model.state_dict().items()} if trainer.average else {}),
        "totals": trainer.window.totals_5, "in a row": trainer.skips.in_a_row, "new": trainer.skips.new,
        "loss": static.loss, "gathered": static.gathered_5,
    }  # fmt: skip
    trainer.skips.new += 3
    before = {name: value.clone() for name, value in moving.items()}
    generator = torch.get_rng_state()
    static._record()
    for name, value in moving.items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(torch.get_rng_state(), generator)
    assert trainer.average is None or float(trainer.average.updates) == trainer.counters.update


@pytest.mark.parametrize(
    "sets", [[], ["training.accumulation=2"], ["training.optimizer=rmsprop", "training.weight_decay=0.0"]]
)
def test_recording_before_the_first_update_leaves_no_trace(bench: Bench, sets: list[str]) -> None:
    """Recorded twice or once: the same first updates, with weight decay, dropout and an average."""
    runs = []
    for again in (False, True):
        trainer = bench.trainer(settings_of(STATIC, "model.dropout=0.2", *sets))
        trainer.prepare()
        if again and trainer.static:
            trainer.static._record()
        runs.append((epochs(trainer, 3), [value.clone() for value in trainer.model.state_dict().values()]))
    assert runs[0][0] == runs[1][0]
    assert all(map(torch.equal, runs[0][1], runs[1][1]))


@pytest.mark.parametrize(
    "sets",
    [
        [],
        ["training.accumulation=2", "training.batch_tokens=80"],
        ["training.optimizer=rmsprop", "training.weight_decay=0.0", "training.average=null"],
        ["training.subword_dropout=0.3", "training.report_updates=3"],
    ],
)
def test_a_run_stopped_anywhere_ends_as_one_that_was_not(bench: Bench, sets: list[str]) -> None:
    settings = settings_of("training.epochs=3", "training.report_updates=2", "model.dropout=0.2", STATIC, *sets)
    whole, run, before = bench.train(settings), bench.new(), 0
    for stop in (1, 4, 7):
        with after_updates(stop) as stop_signal, pytest.raises(Interrupted):
            bench.train(settings, run, resume=before > 0, report=lambda event: None, stop_signal=stop_signal)
        before = stop
    bench.train(settings, run, resume=True)
    same_run(whole, run)


@contextlib.contextmanager
def after_updates(update: int) -> Iterator[Callable[[], int | None]]:
    """A stop signal that comes at that update of the run: warm-ups are steps of torch's optimiser too."""
    trainers: list[Trainer] = []
    original = Trainer.advance

    def advance(self: Trainer, *arguments: Any) -> None:
        trainers[:] = [self]
        original(self, *arguments)

    Trainer.advance = advance  # type: ignore[method-assign]
    try:
        yield lambda: 15 if trainers and trainers[0].counters.update == update else None
    finally:
        Trainer.advance = original  # type: ignore[method-assign]


def test_a_state_put_back_has_nothing_of_what_was_recorded(bench: Bench) -> None:
    """The optimiser's moments lie elsewhere then: what was recorded with the old ones is void."""
    trainer = bench.trainer(settings_of(STATIC, "model.dropout=0.2"))
    epochs(trainer, 3)
    trainer.counters.epoch = 1
    trainer.save()
    first = epochs(trainer, 3)
    trainer._put(load_state(trainer.run))
    assert trainer.static is None
    assert epochs(trainer, 3) == first


def test_an_update_that_is_not_finite_changes_nothing_and_is_counted(bench: Bench) -> None:
    trainer = bench.trainer(settings_of(STATIC))
    epochs(trainer, 1)
    batches = trainer.batches(1)
    weight = trainer.model.output.bias.detach().clone()
    with torch.no_grad():
        trainer.model.decoder_norm.bias[0] = math.inf
    for first in (0, 1, 2):
        trainer.advance(batches, first)
    assert trainer.skips.take() == (3, 3)
    assert torch.equal(trainer.model.output.bias, weight)
    assert trainer.window.sums.values() == (0.0,) * 5
    with torch.no_grad():
        trainer.model.decoder_norm.bias[0] = 0.0
    trainer.advance(batches, 3)
    assert trainer.skips.take() == (0, 0)
    assert trainer.window.sums.loss > 0


# --------------------------------------------------------------------------------------- what only a device could tell


class Alone(NoWaiting):
    """Fails on what waits for the device, on what a graph cannot hold, and where main memory meets the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, Tensor)]
        assert {x.device.type for x in found} <= {"meta"}, f"{func}: {[x.device for x in found]}"
        assert not any(isinstance(x, Generator) for x in tree_leaves(kwargs or {})), func
        return super().__torch_dispatch__(func, types, args, kwargs)


@pytest.fixture
def meta(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Torch's device without numbers, on which nothing can be read: a GPU as far as this code can tell."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *device: False)
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: contextlib.nullcontext())
    monkeypatch.setattr(sys.modules["torch.optim.adam"], "_device_dtype_check_for_fused", lambda *arguments: None)

    def adamw(*lists: list[Tensor], lr: Tensor, grad_scale: None, found_inf: Tensor, **numbers: Any) -> None:
        """Torch has no AdamW without numbers: what it would get."""
        assert {x.device.type for some in [*lists, [lr, found_inf]] for x in some} == {"meta"}
        assert not any(isinstance(number, Tensor) for number in numbers.values())

    monkeypatch.setattr(torch, "_fused_adamw_", adamw)
    return torch.device("meta")


@manners
def test_an_update_is_the_device_s_alone(bench: Bench, meta: torch.device, reason: str, sets: list[str]) -> None:
    """From the row numbers to the moving average, on the ways that only devices other than a CPU take."""
    settings = settings_of(
        STATIC, "model.dropout=0.2", "model.attention_dropout=0.1", "model.output_dropout=0.1", *sets
    )
    pairs, run = bench.splits, bench.created(settings)
    trainer = Trainer(settings, run, bench.tokenizer, pairs["train"], pairs["valid"], meta, lambda event: None)
    trainer.prepare()
    batches = trainer.batches(0)
    assert trainer.static
    with Alone():
        for first in range(0, 2 * trainer.together, trainer.together):
            trainer.advance(batches, first)
    assert trainer.counters.update == 2
    for spoilt in (lambda: float(trainer.window.norm), lambda: trainer.window.norm + torch.zeros(1)):
        with pytest.raises((AssertionError, RuntimeError)), Alone():
            spoilt()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@manners
def test_an_update_waits_for_no_number(bench: Bench, reason: str, sets: list[str], precision: str) -> None:
    trainer = bench.trainer(settings_of(STATIC, "model.dropout=0.2", f"training.precision={precision}", *sets))
    epochs(trainer, 1)
    before = trainer.model.output.bias.detach().clone()
    with NoWaiting():
        trainer.advance(trainer.batches(0), 0)
    assert not torch.equal(before, trainer.model.output.bias)


# ------------------------------------------------------------------------------------- one kernel for many parameters


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1.0])
def test_rmsprop_on_lists_takes_the_steps_that_it_takes_one_by_one(bad: float) -> None:
    settings = OptimizerConfig(optimizer="rmsprop", weight_decay=0.0, beta2=0.9)
    nets, made = [], []
    for _ in range(2):
        torch.manual_seed(1)
        nets.append(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
        made.append(build_optimizer(nets[-1], settings))
    for number in range(5):
        skip = torch.tensor(float(number == 2))
        for net, optimizer, as_tensor in zip(nets, made, (False, True), strict=True):
            generator = torch.Generator().manual_seed(number)
            for parameter in net.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            if number == 2:
                parameter.grad.fill_(bad)
            set_rate(optimizer, torch.tensor(0.01) if as_tensor else 0.01)
            step(optimizer, skip)
        for ours, theirs in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


# ----------------------------------------------------------------------------------------------------------- compiled


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, when its compiler is imported
def test_a_compiled_update_is_the_plain_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network traced as inductor gets it, forward and backward; generating code from that takes a minute.

    torch.compile has other random numbers for dropout, so there is none.
    """
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    sets = ["model.dropout=0.0", "training.by_length=false", "training.batch_sentences=24", "model.mask_padding=false"]
    made = [bench.trainer(settings_of(f"training.compile={mode}", *sets)) for mode in ("inductor", "static")]
    ours, theirs = (torch.tensor(epochs(trainer, 3)) for trainer in made)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


# --------------------------------------------------------------------------------------------------- what can be asked

REFUSED = [
    (["training.compile=graph"], "no CUDA graphs"),
    ([STATIC, "training.r_drop=1"], "R-Drop"),
]


@pytest.mark.parametrize(("sets", "reason"), REFUSED)
def test_what_cannot_be_made_so_is_an_error_before_there_is_a_run(bench: Bench, sets: list[str], reason: str) -> None:
    run = bench.new()
    with pytest.raises(ConfigError, match=f"training.compile: .*{reason}.*set it to none"):
        bench.train(settings_of(*sets), run)
    assert not run.folder.exists()


def test_a_group_and_a_large_corpus_are_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = bench.trainer(settings_of(STATIC))
    trainer.group = Group(rank=0, size=2)
    with pytest.raises(ConfigError, match="processes"):
        static_updates.mode_of(trainer)
    trainer.group, trainer.device = Group(), torch.device("cuda")
    corpus = Resident.bytes(trainer.examples)
    for free, fits in ((4 * corpus, True), (4 * corpus - 1, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**12))
        if fits:
            assert static_updates.mode_of(trainer) == "static"
        else:
            with pytest.raises(ConfigError, match="quarter"):
                static_updates.mode_of(trainer)
        trainer.training = settings_of("training.compile=auto").training
        assert static_updates.mode_of(trainer) == ("graph" if fits else "none")
        trainer.training = settings_of(STATIC).training


@pytest.mark.parametrize("sets", [[], ["training.compile=auto"]])
def test_on_a_cpu_nothing_changes_by_itself(bench: Bench, sets: list[str]) -> None:
    trainer = bench.trainer(settings_of(*sets))
    assert trainer.mode == "none"
    epochs(trainer, 1)
    assert trainer.static is None


def test_the_memory_that_is_asked_for_is_the_memory_that_is_taken(bench: Bench) -> None:
    examples = bench.trainer(settings_of(STATIC)).examples
    taken = sum(x.numel() * x.element_size() for side in Resident(examples, CPU).sides for x in vars(side).values())
    assert Resident.bytes(examples) == pytest.approx(taken, rel=0.05)


@pytest.mark.parametrize("planned", [True, False])
def test_too_little_memory_halves_the_batches(bench: Bench, monkeypatch: pytest.MonkeyPatch, planned: bool) -> None:
    """While recording, or in an update of a shape that was not planned: the epoch goes on cut, the next one smaller."""
    seen: list[Event] = []
    sets = ["training.epochs=3", "training.by_length=false", "training.batch_sentences=16"]
    trainer = bench.trainer(settings_of(STATIC, *sets), seen.append)
    true = StaticUpdates._gradient

    def limited(self: StaticUpdates, shape: Shape, rows_B: Tensor) -> None:
        true(self, shape, rows_B)  # what it leaves behind must not count
        if shape.sentences > 8 and (planned or self.schedule):
            if planned:
                self._finish()  # as in the warm-up of a shape before it
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(StaticUpdates, "_gradient", limited)
    if not planned:
        monkeypatch.setattr("projtrans.training.device_corpus.fitting", lambda sizes_B3, some: [None] * len(sizes_B3))
    trainer.train()
    (told,) = [event for event in seen if isinstance(event, Halved)]
    assert (told.update, told.batch_sentences, told.accumulation) == (0, 8, 2)
    assert trainer.static
    assert max(shape.sentences for shape in trainer.static.shapes) == 8
    assert not trainer.static.alone
    assert trainer.counters.update == trainer.last_update
    assert not trainer.counters.skipped
    recorded = [event for event in seen if isinstance(event, Recorded)]
    assert [event.mode for event in recorded] == ["static"] * (1 if planned else 2)


def test_an_error_that_is_not_of_memory_stays_itself(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*unused: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(StaticUpdates, "_gradient", broken)
    with pytest.raises(RuntimeError, match="broken"):
        bench.trainer(settings_of(STATIC)).prepare()


# -------------------------------------------------------------------------------------------------------- measuring


@pytest.fixture
def gpu() -> ModuleType:
    specification = importlib.util.spec_from_file_location(
        "gpu", Path(__file__).parent.parent.parent / "benchmarks" / "gpu.py"
    )
    assert specification is not None
    assert specification.loader is not None
    sys.modules["gpu"] = module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


CONFIGS = "sanger2026-projection,tatoeba"


def test_the_measurement_runs(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--tiny", "--device", "cpu", "--configs", CONFIGS, "--peak", "1"])
    gpu.main()
    out = capsys.readouterr().out
    assert len(re.findall(r"static: losses of \d+ updates within \d\.\de-0[4-9] of `none`", out)) == 2
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line[:1] == "|"]
    assert [row[:2] for row in rows[2:]] == [[name, mode] for name in CONFIGS.split(",") for mode in ("none", "static")]
    for row in rows[2:]:
        assert len(row) == len(gpu.HEAD)
        assert float(row[4]) > 0
        assert float(row[8].rstrip("%")) == pytest.approx(float(row[7]) * 100, abs=1.0)
    assert [row[5] == "–" for row in rows[2:]] == [True, False] * 2


@pytest.mark.parametrize("wrong", ["batch", "rate"])
def test_the_measurement_finds_a_wrong_graph(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """One that replays what stood at a place when it was recorded."""
    true, batch = StaticUpdates._finish, StaticUpdates._batch

    def finish(self: StaticUpdates) -> None:
        self.rate.zero_()
        true(self)

    if wrong == "rate":
        monkeypatch.setattr(StaticUpdates, "_finish", finish)
    else:
        monkeypatch.setattr(StaticUpdates, "_batch", lambda self, schedule, number: batch(self, schedule, 0))
    monkeypatch.setattr(gpu, "TINY", [*gpu.TINY, "training.batch_sentences=8"])
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--tiny", "--device", "cpu", "--configs", "sanger2026-projection"])
    with pytest.raises(SystemExit, match="so it is wrong"):
        gpu.main()


def test_operations_are_those_of_the_arithmetic(gpu: ModuleType, bench: Bench) -> None:
    """Six a multiply-add of every pair: forward, and twice that backward."""
    settings = settings_of(STATIC)
    trainer = bench.trainer(settings)
    data = gpu.Data(bench.tokenizer, {})
    expected = sum(
        6
        * multiply_adds(
            settings.model, bench.tokenizer.target_size, source=len(example.source), target=len(example.target)
        ).total
        for example in trainer.examples
    )
    assert gpu.flops(settings, data, trainer) == expected


def test_the_longest_name_of_a_device_decides(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for name in ("NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "NVIDIA H200", "NVIDIA A100-SXM4-40GB", "Tesla V100"):
        monkeypatch.setattr(gpu.devices, "describe", lambda device, name=name: name)
        found[name] = gpu.peak_of(CPU)
    assert list(found.values()) == [989, 756, 989, 312, None]
