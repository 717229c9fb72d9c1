"""Schedules by hand, one AdamW step by its own equations, the moving average by its recursion."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from projtrans.config import build
from projtrans.errors import ConfigError
from projtrans.model.transformer import ModelConfig, Transformer
from projtrans.runs.settings import OptimizerConfig
from projtrans.training.optimizer import Average, build_optimizer, clip, rate, set_rate, step

RATES = [
    ("warm-up begins at one share", "cosine", 100, 1, 1 / 100),
    ("half of the warm-up", "cosine", 100, 50, 0.5),
    ("the last update of the warm-up", "cosine", 100, 99, 0.99),
    ("the peak ends the warm-up", "cosine", 100, 100, 1.0),
    ("half way from peak to end", "cosine", 100, 550, 0.5),
    ("a quarter: (1 + cos 45°) / 2", "cosine", 100, 325, (1 + math.sqrt(0.5)) / 2),
    ("0 at the last", "cosine", 100, 1000, 0.0),
    ("0 beyond the last", "cosine", 100, 1200, 0.0),
    ("no warm-up, first", "cosine", 0, 1, (1 + math.cos(math.pi / 1000)) / 2),
    ("no warm-up, half way", "cosine", 0, 500, 0.5),
    ("no warm-up, last", "cosine", 0, 1000, 0.0),
    ("the warm-up takes at most a tenth of all", "cosine", 4000, 50, 0.5),
    ("and ends there", "cosine", 4000, 100, 1.0),
    ("and the rest is as it would be", "cosine", 1000, 550, 0.5),
    ("inverse root falls from the end of the shortened warm-up", "inverse_sqrt", 4000, 400, 0.5),
    ("inverse root, first", "inverse_sqrt", 100, 1, 1 / 100),
    ("inverse root, peak", "inverse_sqrt", 100, 100, 1.0),
    ("inverse root, four times the warm-up", "inverse_sqrt", 100, 400, 0.5),
    ("inverse root, last", "inverse_sqrt", 100, 1000, math.sqrt(0.1)),
    ("inverse root without warm-up, first", "inverse_sqrt", 0, 1, 1.0),
    ("inverse root without warm-up, fourth", "inverse_sqrt", 0, 4, 0.5),
    ("constant, first", "constant", 100, 1, 1 / 100),
    ("constant, peak", "constant", 100, 100, 1.0),
    ("constant, half way", "constant", 100, 550, 1.0),
    ("constant, last", "constant", 100, 1000, 1.0),
    ("constant without warm-up, first", "constant", 0, 1, 1.0),
]


@pytest.mark.parametrize(("reason", "schedule", "warmup", "update", "share"), RATES, ids=[row[0] for row in RATES])
def test_the_learning_rate_of_an_update(reason: str, schedule: str, warmup: int, update: int, share: float) -> None:
    config = build(OptimizerConfig, {"learning_rate": 0.02, "schedule": schedule, "warmup_updates": warmup})
    assert rate(config, update, 1000) == pytest.approx(0.02 * share, rel=1e-12, abs=1e-17), reason


@given(
    st.sampled_from(["cosine", "inverse_sqrt", "constant"]),
    st.integers(0, 50),
    st.integers(1, 300),
    st.integers(1, 400),
)
def test_the_rate_stays_between_zero_and_its_peak_and_rises_only_in_the_warm_up(
    schedule: str, warmup: int, last: int, update: int
) -> None:
    config = build(OptimizerConfig, {"learning_rate": 1.0, "schedule": schedule, "warmup_updates": warmup})
    now, then = rate(config, update, last), rate(config, update + 1, last)
    assert 0 <= now <= 1
    assert (then > now) if update < min(warmup, last // 10) else (then <= now)


# ----------------------------------------------------------------------------------------------------------- groups


def model(tie: str = "all", attention: dict[str, Any] | None = None) -> Transformer:
    """A small model with every sort of parameter."""
    config = build(
        ModelConfig,
        {
            "layers": {"encoder": 1, "decoder": 2},
            "width": 8,
            "heads": 2,
            "feedforward": 12,
            "positions": "learned",
            "embeddings": {"tie": tie},
            "attention": attention or {"decay": "learned"},
        },
    )
    return Transformer(config, source_size=11, target_size=11, max_length=6, joint=True)


ATTENTIONS: list[tuple[dict[str, Any], int]] = [  # and how many of a module's numbers are learned in self-attention
    ({"learn_sigma": "none"}, 0),
    ({"learn_sigma": "module"}, 1),
    ({"learn_sigma": "head", "decay": 2.0}, 1),
    ({"learn_sigma": "none", "decay": "learned"}, 1),
    ({"learn_sigma": "head", "decay": "learned"}, 2),
    ({"kind": "standard"}, 0),
    ({"kind": "standard", "learn_scale": "head", "decay": "learned"}, 2),
]


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
@pytest.mark.parametrize("tie", ["all", "output", "none"])
@pytest.mark.parametrize(("attention", "learned"), ATTENTIONS, ids=[str(row[0]) for row in ATTENTIONS])
def test_every_parameter_is_moved_by_exactly_one_group(
    optimizer: str, tie: str, attention: dict[str, Any], learned: int
) -> None:
    """Matrices decay, vectors do not; log σ and log τ do not either, and have their own rate."""
    net = model(tie, attention)
    decay = 0.1 if optimizer == "adamw" else 0.0
    config = build(OptimizerConfig, {"optimizer": optimizer, "sigma_rate": 7, "weight_decay": decay})
    made = build_optimizer(net, config)
    held = [id(parameter) for group in made.param_groups for parameter in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(parameter) for parameter in net.parameters()}
    rule = {id(p): (group["weight_decay"], group["relative"]) for group in made.param_groups for p in group["params"]}
    for name, parameter in net.named_parameters():
        if name.endswith(("log_sigma", "log_tau")):
            assert rule[id(parameter)] == (0.0, 7.0), name
        elif parameter.ndim == 1:
            assert rule[id(parameter)] == (0.0, 1.0), name
        else:
            assert rule[id(parameter)] == (decay, 1.0), name
    numbers = [name for name, _ in net.named_parameters() if "log_" in name]
    assert len([name for name in numbers if "self_attention" in name]) == 3 * learned, "in one and two layers"


def test_sigma_and_tau_learn_ten_times_as_fast_by_default() -> None:
    net = model()
    made = build_optimizer(net, OptimizerConfig())
    set_rate(made, 0.003)
    scales = {id(parameter) for name, parameter in net.named_parameters() if name.endswith(("log_sigma", "log_tau"))}
    assert len(scales) == 5 + 3, "of five modules, three of them attending to themselves"
    for group in made.param_groups:
        assert group["lr"] == pytest.approx(0.03 if id(group["params"][0]) in scales else 0.003)


def test_a_model_without_sigma_has_no_empty_group() -> None:
    net = nn.Linear(3, 2)
    assert [len(group["params"]) for group in build_optimizer(net, OptimizerConfig()).param_groups] == [1, 1]


def test_rmsprop_with_weight_decay_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"weight_decay: .*0"):
        OptimizerConfig(optimizer="rmsprop", weight_decay=0.1)


# ------------------------------------------------------------------------------------------------------------ steps


def gradients(count: int, shape: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(count)]


@pytest.mark.parametrize(("shape", "decay"), [((3, 4), 0.2), ((5,), 0.0)], ids=["matrix", "vector"])
def test_adamw_takes_the_steps_of_its_paper(shape: tuple[int, ...], decay: float) -> None:
    """Loshchilov & Hutter 2019, algorithm 2, with the decay scaled by the learning rate."""
    config = OptimizerConfig(weight_decay=0.2, beta1=0.8, beta2=0.95)
    net = nn.Module()
    net.weight = nn.Parameter(torch.linspace(-1, 1, math.prod(shape), dtype=torch.float64).view(shape))
    theta, m, v = net.weight.detach().clone(), torch.zeros(shape).double(), torch.zeros(shape).double()
    made = build_optimizer(net, config)
    for t, g in enumerate(gradients(4, shape), start=1):
        eta = 0.01 * t
        set_rate(made, eta)
        net.weight.grad = g.clone()
        made.step()
        m = 0.8 * m + 0.2 * g
        v = 0.95 * v + 0.05 * g * g
        theta = theta - eta * decay * theta
        theta = theta - eta * (m / (1 - 0.8**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-9)
        torch.testing.assert_close(net.weight.detach(), theta, rtol=1e-12, atol=1e-14)


def test_rmsprop_takes_the_steps_of_its_definition() -> None:
    """v = α v + (1 - α) g², θ = θ - η g / √(v + ε): Keras has ε under the root, torch beside it."""
    config = OptimizerConfig(optimizer="rmsprop", weight_decay=0.0, beta2=0.9)
    net = nn.Module()
    net.weight = nn.Parameter(torch.ones(2, 3, dtype=torch.float64))
    theta, v = torch.ones(2, 3).double(), torch.zeros(2, 3).double()
    made = build_optimizer(net, config)
    for g in gradients(4, (2, 3)):
        g = g * 1e-3  # so small that ε has a say
        set_rate(made, 0.05)
        net.weight.grad = g.clone()
        step(made, torch.zeros(()))
        v = 0.9 * v + 0.1 * g * g
        theta = theta - 0.05 * g / (v + 1e-7).sqrt()
        torch.testing.assert_close(net.weight.detach(), theta, rtol=1e-12, atol=1e-14)


# ---------------------------------------------------------------------------------------------------------- average


def test_the_average_is_its_recursion_and_forgets_its_beginning_faster() -> None:
    net = nn.Linear(2, 1, bias=False).double()
    average = Average(net, 0.7)
    expected = net.weight.detach().clone()
    for n, values in enumerate(gradients(60, (1, 2)), start=1):
        net.weight.data = values
        average.update(net)
        decay = min(0.7, n / (n + 10))
        expected = decay * expected + (1 - decay) * values
        torch.testing.assert_close(average.model.weight, expected, rtol=1e-12, atol=1e-14)


def test_the_average_of_what_stands_still_is_itself_and_of_a_tie_is_a_tie() -> None:
    net = model("all")
    average = Average(net, 0.9)
    for _ in range(3):
        average.update(net)
    for (name, ours), theirs in zip(average.model.named_parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-6, atol=1e-7, msg=name)
    assert average.model.output.weight is average.model.source_embedding.weight  # type: ignore[union-attr]


def test_the_average_leaves_the_model_alone_and_cannot_be_trained() -> None:
    net = model()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    average = Average(net, 0.5)
    average.update(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training
    assert not average.model.training
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    assert all(parameter.requires_grad for parameter in net.parameters())
    with torch.no_grad():
        net.output.bias += 1
    assert torch.equal(average.model.output.bias, before["output.bias"]), "a copy, not a view"  # type: ignore[union-attr]


# --------------------------------------------------------------------------------------------------------- clipping


def clipped(values: list[list[float]], limit: float | None) -> tuple[float, Tensor]:
    parameters = [nn.Parameter(torch.zeros(len(part), dtype=torch.float64)) for part in values]
    for parameter, part in zip(parameters, values, strict=True):
        parameter.grad = torch.tensor(part, dtype=torch.float64)
    norm = clip(parameters, limit)
    return norm.item(), torch.cat([p.grad for p in parameters if p.grad is not None])


def test_the_norm_is_that_of_the_whole_gradient_and_is_brought_down_to_the_limit() -> None:
    norm, gradient = clipped([[3.0, 0.0], [4.0]], 1.0)
    assert norm == pytest.approx(5.0)
    torch.testing.assert_close(gradient, torch.tensor([0.6, 0.0, 0.8]).double(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("limit", [5.1, None], ids=["below the limit", "no limit"])
def test_a_gradient_within_the_limit_is_left_alone(limit: float | None) -> None:
    norm, gradient = clipped([[3.0, 0.0], [4.0]], limit)
    assert norm == pytest.approx(5.0)
    assert gradient.tolist() == [3.0, 0.0, 4.0]


@pytest.mark.parametrize("bad", [math.inf, math.nan])
@pytest.mark.parametrize("limit", [1.0, None])
def test_a_gradient_that_is_no_number_shows_in_the_norm(bad: float, limit: float | None) -> None:
    assert not math.isfinite(clipped([[bad], [1.0]], limit)[0])


# --------------------------------------------------------------------------------------------------- steps left out


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_a_step_that_is_left_out_leaves_everything(optimizer: str) -> None:
    net = torch.nn.Linear(3, 2)
    made = build_optimizer(net, OptimizerConfig(optimizer=optimizer, weight_decay=0.0))

    def moved(gradient: float, skip: float) -> list[Tensor]:
        for parameter in net.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        step(made, torch.tensor(skip))
        moments = [value for state in made.state.values() for value in state.values()]
        return [value.detach().clone() for value in [*net.parameters(), *moments]]

    before = moved(0.5, 0.0)
    for gradient in (math.nan, math.inf, 1.0):
        assert all(map(torch.equal, moved(gradient, 1.0), before))
    assert not any(map(torch.equal, moved(0.5, 0.0), before))


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
