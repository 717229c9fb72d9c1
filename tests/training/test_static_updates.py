"""Updates in fixed shapes: the losses and weights of plain ones, by the device alone; resumed to the bit."""

import contextlib
import math
import sys
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_leaves

from projtrans.errors import ConfigError, Interrupted
from projtrans.training import static_updates
from projtrans.training.device_corpus import Resident, shapes
from projtrans.training.static_updates import StaticUpdates, choose_mode
from tests.training.bench import CPU, Bench, NoWaiting, double, epochs, same_run, settings_of, stop_at, weights

STATIC = "training.compile=static"


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
        if trainer.state.average:
            trainer.state.average.model.double()
    ours, theirs = epochs(static, 6), epochs(host, 6)
    assert isinstance(static.updates, StaticUpdates)
    assert host.updates is host.plain
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-5, atol=1e-6)
    assert ours[-1][0] / ours[-1][3] < ours[0][0] / ours[0][3], "it learns"
    for (name, weight), other in zip(weights(static).items(), weights(host).values(), strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-4, atol=1e-6, msg=name)
    ours_average, theirs_average = static.state.average, host.state.average
    if ours_average and theirs_average:
        assert float(ours_average.updates) == float(theirs_average.updates) == static.state.counters.update
        for weight, other in zip(ours_average.model.parameters(), theirs_average.model.parameters(), strict=True):
            torch.testing.assert_close(weight, other, rtol=1e-4, atol=1e-6)


@manners
def test_recording_changes_nothing(bench: Bench, reason: str, sets: list[str]) -> None:
    """It warms up on updates that are left out: weights, moments, average, sums, counts and generators stay."""
    trainer = bench.trainer(settings_of(STATIC, "model.dropout=0.2", *sets))
    epochs(trainer, 3)
    static, state = trainer.updates, trainer.state
    assert isinstance(static, StaticUpdates)
    moments = [value for moments in state.optimizer.state.values() for value in moments.values()]
    average = state.average.model.state_dict() if state.average else {}
    moving = {
        **{f"model {name}": value for name, value in state.model.state_dict().items()},
        **{f"optimizer {number}": value for number, value in enumerate(moments)},
        **{f"average {name}": value for name, value in average.items()},
        "totals": state.recent.totals_5, "in a row": state.skips.in_a_row, "new": state.skips.new,
        "loss": static.loss, "gathered": static.gathered_5,
    }  # fmt: skip
    state.skips.new += 3
    before = {name: value.clone() for name, value in moving.items()}
    generator = torch.get_rng_state()
    static._record()
    for name, value in moving.items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(torch.get_rng_state(), generator)
    assert trainer.state.average is None or float(trainer.state.average.updates) == trainer.state.counters.update


@pytest.mark.parametrize(
    "sets", [[], ["training.accumulation=2"], ["training.optimizer=rmsprop", "training.weight_decay=0.0"]]
)
def test_recording_before_the_first_update_leaves_no_trace(bench: Bench, sets: list[str]) -> None:
    """Recorded twice or once: the same first updates, with weight decay, dropout and an average."""
    runs = []
    for again in (False, True):
        trainer = bench.trainer(settings_of(STATIC, "model.dropout=0.2", *sets))
        trainer.begin_epoch()
        if again and isinstance(trainer.updates, StaticUpdates):
            trainer.updates._record()
        runs.append((epochs(trainer, 3), [value.clone() for value in trainer.state.model.state_dict().values()]))
    assert runs[0][0] == runs[1][0]
    assert all(map(torch.equal, runs[0][1], runs[1][1]))


@pytest.mark.slow
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
    whole, run = bench.trainer(settings), bench.created(settings)
    whole.train()
    for stop in (1, 4, 7, None):
        trainer = bench.trainer(settings, run=run)
        if run.has_begun:
            trainer.restore()
        stop_at(trainer, stop)
        with pytest.raises(Interrupted) if stop else contextlib.nullcontext():
            trainer.train()
    same_run(whole.run, run)


def test_a_state_put_back_has_nothing_of_what_was_recorded(bench: Bench) -> None:
    """The optimizer's moments lie elsewhere then: what was recorded with the old ones is void."""
    trainer = bench.trainer(settings_of(STATIC, "model.dropout=0.2"))
    epochs(trainer, 3)
    trainer.state.counters.epoch = 1
    trainer.saves.save(trainer.state)
    first = epochs(trainer, 3)
    trainer.restore()
    assert trainer.updates is None
    assert epochs(trainer, 3) == first


def test_an_update_that_is_not_finite_changes_nothing_and_is_counted(bench: Bench) -> None:
    trainer = bench.trainer(settings_of(STATIC))
    epochs(trainer, 1)
    weight = trainer.state.model.output.bias.detach().clone()
    with torch.no_grad():
        trainer.state.model.decoder_norm.bias[0] = math.inf
    for first in (0, 1, 2):
        trainer.advance(first, first + 1)
    assert trainer.state.skips.take() == (3, 3)
    assert torch.equal(trainer.state.model.output.bias, weight)
    assert trainer.state.recent.sums.values() == (0.0,) * 5
    with torch.no_grad():
        trainer.state.model.decoder_norm.bias[0] = 0.0
    trainer.advance(3, 4)
    assert trainer.state.skips.take() == (0, 0)
    assert trainer.state.recent.sums.loss > 0


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


@pytest.mark.slow
@manners
def test_an_update_is_the_device_s_alone(bench: Bench, meta: torch.device, reason: str, sets: list[str]) -> None:
    """From the row numbers to the moving average, on the ways that only devices other than a CPU take."""
    settings = settings_of(
        STATIC, "model.dropout=0.2", "model.attention_dropout=0.1", "model.output_dropout=0.1", *sets
    )
    trainer = bench.trainer(settings, device=meta)
    size = trainer.plan.together
    trainer.begin_epoch()
    assert isinstance(trainer.updates, StaticUpdates)
    with Alone():
        for first in (0, size):
            trainer.advance(first, first + size)
    assert trainer.state.counters.update == 2
    for spoilt in (lambda: float(trainer.state.recent.norm), lambda: trainer.state.recent.norm + torch.zeros(1)):
        with pytest.raises((AssertionError, RuntimeError)), Alone():
            spoilt()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@manners
def test_an_update_waits_for_no_number(bench: Bench, reason: str, sets: list[str], precision: str) -> None:
    trainer = bench.trainer(settings_of(STATIC, "model.dropout=0.2", f"training.precision={precision}", *sets))
    epochs(trainer, 1)
    before = trainer.state.model.output.bias.detach().clone()
    with NoWaiting():
        trainer.advance(0, trainer.plan.together)
    assert not torch.equal(before, trainer.state.model.output.bias)


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
    examples, gpu = bench.trainer(settings_of()).plan.examples, torch.device("cuda")
    static, auto = (settings_of(sets).training for sets in (STATIC, "training.compile=auto"))
    with pytest.raises(ConfigError, match="processes"):
        choose_mode(static, CPU, 2, examples)
    corpus = Resident.bytes(examples)
    for free, fits in ((4 * corpus, True), (4 * corpus - 1, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**12))
        if fits:
            assert choose_mode(static, gpu, 1, examples) == "static"
        else:
            with pytest.raises(ConfigError, match="quarter"):
                choose_mode(static, gpu, 1, examples)
        assert choose_mode(auto, gpu, 1, examples) == ("graph" if fits else "none")


@pytest.mark.parametrize("sets", [[], ["training.compile=auto"]])
def test_on_a_cpu_nothing_changes_by_itself(bench: Bench, sets: list[str]) -> None:
    trainer = bench.trainer(settings_of(*sets))
    assert trainer.mode == "none"
    epochs(trainer, 1)
    assert trainer.updates is trainer.plain


def test_an_error_that_is_not_of_memory_stays_itself(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*unused: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(StaticUpdates, "_gradient", broken)
    with pytest.raises(RuntimeError, match="broken"):
        bench.trainer(settings_of(STATIC)).begin_epoch()
