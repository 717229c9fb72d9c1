"""Dropout: its statistics, gradient and seed, and where in a model it acts."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from projtrans.config import build
from projtrans.model.transformer import ModelConfig, _cheap_dropout, dropout
from tests.model.small_transformer import padded, same, transformer


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(*shape, dtype=dtype)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_its_share_and_keeps_the_mean(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    n = 200_001
    found = _cheap_dropout(ones(n, dtype=dtype), rate)
    assert found.dtype == dtype
    gone = (found == 0).double()
    sigma = math.sqrt(rate * (1 - rate) / n)
    assert gone.mean().item() == pytest.approx(rate, abs=5 * sigma + 1 / 65536)
    kept = found[found != 0].double()
    assert (kept == kept[0]).all()
    assert kept[0].item() == pytest.approx(1 / (1 - rate), rel=1e-3 if dtype == torch.float32 else 2**-8)
    rounding = 2**-8 if dtype == torch.bfloat16 else 1e-6
    assert found.double().mean().item() == pytest.approx(1, abs=5 * sigma / (1 - rate) + rounding)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_at_one_position_or_call_tells_nothing_about_another(rate: float) -> None:
    """Correlations of n pairs of independent numbers have a standard error of 1/√n; the lags share a 64-bit draw."""
    torch.manual_seed(2)
    n = 200_000
    first, second = ((_cheap_dropout(ones(n), rate) == 0).double() for _ in range(2))
    pairs = {"another call": (first, second)}
    pairs |= {f"lag {lag}": (first[:-lag], first[lag:]) for lag in (1, 2, 3, 4, 5, 8)}
    # By place in the draw as well: a bad generator would be bad in one of its four words.
    pairs |= {f"words {a}, {b}": (first[a::4], first[b::4]) for a, b in itertools.combinations(range(4), 2)}
    for reason, (one, other) in pairs.items():
        correlation = torch.corrcoef(torch.stack([one, other]))[0, 1].item()
        assert abs(correlation) < 5 / math.sqrt(len(one)), reason
    for word in range(4):
        share = first[word::4].mean().item()
        assert share == pytest.approx(rate, abs=5 * math.sqrt(4 * rate * (1 - rate) / n) + 1 / 65536), word


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3), (5, 1, 7), (4, 4), (0, 3), (2, 3, 5, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dropout_takes_any_shape(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    x = torch.randn(shape, dtype=dtype)
    found = _cheap_dropout(x, 0.5)
    assert (found.shape, found.dtype) == (x.shape, x.dtype)
    assert torch.equal(found, torch.where(found == 0, torch.zeros_like(x), 2 * x))


def test_dropout_takes_a_view_that_is_not_contiguous() -> None:
    x = torch.randn(6, 5).mT
    found = _cheap_dropout(x, 0.5)
    assert torch.equal(found, torch.where(found == 0, torch.zeros_like(x), 2 * x))
    assert (found == 0).any()
    assert (found != 0).any()


def test_the_gradient_of_dropout_is_its_mask_times_its_scale() -> None:
    torch.manual_seed(4)
    x = torch.randn(7, 9, dtype=torch.float64, requires_grad=True)
    found = _cheap_dropout(x, 0.25)
    found.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, (found != 0).double() / 0.75, rtol=1e-12, atol=0)


def test_dropout_is_the_identity_outside_training_and_at_rate_zero() -> None:
    x = torch.randn(4, 5)
    assert dropout(x, 0.9, False) is x
    assert dropout(x, 0.0, True) is x
    assert not torch.equal(dropout(x, 0.5, True), x)


def test_dropout_follows_the_seed() -> None:
    results = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        results.append(_cheap_dropout(ones(64), 0.5))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("rate", [1e-9, 1e-5, 0.99999, math.nextafter(1, 0)])
def test_every_rate_that_the_settings_admit_is_possible(rate: float) -> None:
    assert build(ModelConfig, {"dropout": rate}).dropout == rate
    found = dropout(ones(1000), rate, True)
    assert torch.isfinite(found).all()
    assert (found == 0).float().mean().item() == pytest.approx(rate, abs=0.02)


@pytest.mark.parametrize("name", ["dropout", "attention_dropout", "output_dropout"])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_model_drops_in_training_alone(name: str, norm: str) -> None:
    model = transformer(norm=norm, **{name: 0.4})
    plain = transformer(norm=norm)
    source, mask, target = padded()
    assert not torch.equal(model(source, mask, target), model(source, mask, target))
    same(model.eval()(source, mask, target), plain(source, mask, target))


def test_output_dropout_acts_on_the_last_hidden_states_alone() -> None:
    model, plain = transformer(output_dropout=0.5), transformer()
    source, mask, target = padded()
    found, expected = model(source, mask, target), plain(source, mask, target)
    same(found, torch.where(found == 0, torch.zeros_like(expected), 2 * expected))
