"""The gradient and the loss of an update are those of plain PyTorch, and nothing of it waits for a number."""

import copy

import pytest
import torch
from safetensors.torch import load_file

from tests.by_hand import forced_by_hand
from tests.toy import KINDS
from tests.training.bench import EXACT, Bench, NoWaiting, double, events_of, poisoned, settings_of, weights


@pytest.mark.slow
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
        assert other.state.counters.update == whole.state.counters.update == 8
        for (name, ours), theirs in zip(weights(whole).items(), weights(other).values(), strict=True):
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
    fresh = copy.deepcopy(trainer.state.model).eval()
    trainer.train()
    first, valid = events_of(trainer.run)
    longest = trainer.plan.layout.max_length
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
    model = copy.deepcopy(trainer.state.model)
    trainer.train()
    batch = trainer.plan.layout.batch(trainer.plan.examples)
    logits = model.output(model(batch.source_BS, None, batch.target_in_BT)).flatten(0, 1)
    torch.nn.functional.cross_entropy(logits, batch.target_out_BT.flatten(), label_smoothing=0.1).backward()
    for (name, ours), theirs in zip(trainer.state.model.named_parameters(), model.parameters(), strict=True):
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
    model = copy.deepcopy(trainer.state.model)
    trainer.train()
    batch = trainer.plan.layout.batch(trainer.plan.examples)
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
    for (name, ours), theirs in zip(trainer.state.model.named_parameters(), model.parameters(), strict=True):
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
    model, random = copy.deepcopy(trainer.state.model).train(), torch.get_rng_state()
    trainer.train()
    torch.set_rng_state(random)
    batch = trainer.plan.batch(0, trainer.plan.batches(0)[0])
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
    rate = trainer.state.optimizer.param_groups[0]["lr"]
    groups = [
        {"params": [parameter], "lr": rate * (10 if name.endswith("log_sigma") else 1)}
        for name, parameter in model.named_parameters()
    ]
    torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-9, weight_decay=0.0).step()
    for (name, ours), theirs in zip(trainer.state.model.named_parameters(), model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7), name


def test_a_seed_decides_the_run_and_another_seed_another(bench: Bench) -> None:
    weights = [
        load_file(bench.train(settings_of("training.epochs=1", f"training.seed={seed}")).model_file)
        for seed in (5, 5, 6)
    ]
    name = "output.bias"
    assert torch.equal(weights[0][name], weights[1][name])
    assert not torch.equal(weights[0][name], weights[2][name])


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
@pytest.mark.parametrize("padded", [False, True])
def test_an_update_waits_for_no_number(bench: Bench, optimizer: str, padded: bool) -> None:
    sets = [f"training.optimizer={optimizer}", "training.weight_decay=0.0", "training.accumulation=2"]
    if padded:
        sets += ["model.mask_padding=false", "training.padding_in_loss=true", "corpus.max_length=9"]
    trainer = bench.trainer(settings_of(*sets))
    trainer.state.model.train()
    updates = [[trainer.plan.batch(0, indices)] * 2 for indices in trainer.plan.batches(0)[:2]]
    trainer.plain.step(updates[0], 0.01)
    before = trainer.state.model.output.bias.detach().clone()
    with NoWaiting():
        trainer.plain.step(updates[1], 0.01)
    assert not torch.equal(before, trainer.state.model.output.bias)
    with pytest.raises(AssertionError), NoWaiting():
        bool(trainer.state.recent.norm.isfinite())


def test_what_is_left_out_enters_neither_average_nor_figures(bench: Bench) -> None:
    """Training with a poisoned update is training in which that update has another number, and no batch."""
    sets = ["training.epochs=1", "training.report_updates=1", "training.schedule=constant", "training.warmup_updates=0"]
    trainer = bench.trainer(settings_of(*sets, "model.dropout=0.0"))
    other = bench.trainer(settings_of(*sets, "model.dropout=0.0"))
    updates = len(trainer.begin_epoch())
    other.begin_epoch()
    for number in range(updates):
        with poisoned(trainer, lambda number=number: number == 2):
            trainer.advance(number, number + 1)
        if number != 2:
            other.advance(number, number + 1)
    assert trainer.state.average is not None
    assert other.state.average is not None
    assert trainer.state.average.updates == other.state.average.updates == updates - 1
    averages = (made.state.average.model.parameters() for made in (trainer, other))
    for ours, theirs in zip(*averages, strict=True):
        assert torch.equal(ours, theirs)
    assert trainer.state.recent.sums.values() == other.state.recent.sums.values()
    assert trainer.state.skips.take() == (1, 0)
    assert trainer.state.counters.update == updates
