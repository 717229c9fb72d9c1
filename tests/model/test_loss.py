"""The fused output layer and loss against torch's own cross-entropy in float64.

Axes: N target positions, D width, V vocabulary.
"""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from projtrans.model.loss import CHUNK, TokenLoss, cross_entropy, r_drop

SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7]


def problem(n: int, d: int = 5, v: int = 11, seed: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """h [N, D], weight [V, D] and bias [V] in float64 with gradients, and targets [N]."""
    generator = torch.Generator().manual_seed(seed)
    h, weight, bias = (
        torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()
        for shape in ((n, d), (v, d), (v,))
    )
    return h, weight, bias, torch.randint(v, (n,), generator=generator)


def reference(h: Tensor, weight: Tensor, bias: Tensor, target: Tensor, smoothing: float) -> TokenLoss:
    """The same by torch."""
    logits = F.linear(h, weight, bias)
    return TokenLoss(
        F.cross_entropy(logits, target, reduction="sum", label_smoothing=smoothing),
        F.cross_entropy(logits, target, reduction="sum"),
        (logits.argmax(-1) == target).sum(),
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("n", SIZES)
def test_values_and_gradients_are_those_of_torch(n: int, smoothing: float) -> None:
    h, weight, bias, target = problem(n)
    ours, torchs = (function(h, weight, bias, target, smoothing) for function in (cross_entropy, reference))
    torch.testing.assert_close(ours.smoothed, torchs.smoothed, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.nll, torchs.nll, rtol=1e-12, atol=1e-12)
    assert ours.correct == torchs.correct
    # Times a factor, as where the caller divides by the number of tokens.
    found = torch.autograd.grad(ours.smoothed * 0.37, (h, weight, bias))
    expected = torch.autograd.grad(torchs.smoothed * 0.37, (h, weight, bias))
    for ours_grad, torchs_grad in zip(found, expected, strict=True):
        torch.testing.assert_close(ours_grad, torchs_grad, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("v", [1, 2, 97, 128, 131, 250, 257])
def test_the_most_probable_token_is_that_of_torch_and_the_first_of_equals(v: int) -> None:
    generator = torch.Generator().manual_seed(v)
    logits = torch.randint(-2, 3, (300, v), generator=generator).double()  # nearly every row has ties
    eye, zero, targets = torch.eye(300, dtype=torch.float64), torch.zeros(v, dtype=torch.float64), logits.argmax(-1)
    for target in (targets, (targets + 1) % v, torch.randint(v, (300,), generator=generator)):
        correct = cross_entropy(eye, logits.mT.contiguous(), zero, target, 0.0).correct
        assert correct == (target == targets).sum()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_gradient_is_that_of_finite_differences(smoothing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("projtrans.model.loss.CHUNK", 3)
    h, weight, bias, target = problem(7, 3, 4)
    assert torch.autograd.gradcheck(
        lambda *inputs: cross_entropy(*inputs, target, smoothing).smoothed, (h, weight, bias)
    )


def test_gradients_reach_what_the_hidden_states_came_from() -> None:
    h, weight, bias, target = problem(CHUNK + 3)
    ours, torchs = (
        torch.autograd.grad(function(torch.tanh(h), weight, bias, target, 0.1).smoothed, h)[0]
        for function in (cross_entropy, reference)
    )
    torch.testing.assert_close(ours, torchs, rtol=1e-11, atol=1e-13)


def test_one_matrix_that_is_both_embedding_and_output_gets_both_gradients() -> None:
    _, weight, bias, target = problem(9)
    both = [
        torch.autograd.grad(function(weight[target], weight, bias, target.flip(0), 0.1).smoothed, weight)[0]
        for function in (cross_entropy, reference)
    ]
    torch.testing.assert_close(*both, rtol=1e-11, atol=1e-12)


def test_a_weight_that_needs_no_gradient_gets_none() -> None:
    h, weight, bias, target = problem(4)
    cross_entropy(h, weight.detach(), bias.detach(), target, 0.1).smoothed.backward()
    expected = torch.autograd.grad(reference(h, weight, bias, target, 0.1).smoothed, h)[0]
    torch.testing.assert_close(h.grad, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("n", SIZES)
def test_without_gradients_the_sums_are_the_same(n: int) -> None:
    inputs = problem(n)
    with torch.no_grad():
        silent = cross_entropy(*inputs, 0.1)
    for quiet, loud in zip(silent, cross_entropy(*inputs, 0.1), strict=True):
        assert torch.equal(quiet, loud)
        assert not quiet.requires_grad


def test_only_the_smoothed_loss_is_differentiable() -> None:
    loss = cross_entropy(*problem(3), 0.1)
    assert loss.smoothed.requires_grad
    assert not loss.nll.requires_grad
    assert not loss.correct.requires_grad


def test_the_sum_over_rows_is_the_sum_of_the_rows() -> None:
    h, weight, bias, target = problem(2 * CHUNK + 5)
    whole = cross_entropy(h, weight, bias, target, 0.1)
    parts = [cross_entropy(h[n : n + 1], weight, bias, target[n : n + 1], 0.1) for n in range(len(h))]
    for name in TokenLoss._fields:
        total = sum(getattr(part, name) for part in parts)
        torch.testing.assert_close(getattr(whole, name), torch.as_tensor(total), rtol=1e-12, atol=0)


def test_uniform_logits_cost_the_logarithm_of_the_vocabulary() -> None:
    n, v = CHUNK + 1, 50
    zeros = (torch.zeros(n, 4), torch.zeros(v, 4), torch.zeros(v))
    loss = cross_entropy(*zeros, torch.arange(n) % v, 0.1)
    assert loss.nll.item() == pytest.approx(n * math.log(v), rel=1e-5)
    assert loss.smoothed.item() == pytest.approx(n * math.log(v), rel=1e-5), "smoothing cannot change it"


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    ("reason", "logits"),
    [
        ("far apart", [1e4, -1e4, 0.0]),
        ("all huge", [1e6, 1e6, 1e6]),
        ("all hugely negative", [-1e6, -1e6, -1e6 - 1]),
        ("beyond exp() of float32", [200.0, 0.0, -200.0]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_extreme_logits_give_finite_losses_and_gradients(reason: str, logits: list[float], smoothing: float) -> None:
    h = torch.ones(3, 1, requires_grad=True)
    weight = torch.tensor(logits)[:, None].requires_grad_()
    bias, target = torch.zeros(3, requires_grad=True), torch.tensor([0, 1, 2])
    loss = cross_entropy(h, weight, bias, target, smoothing)
    exact = reference(h.double(), weight.double(), bias.double(), target, smoothing)
    rounding = 4 * torch.finfo(torch.float32).eps * max(map(abs, logits))
    torch.testing.assert_close(loss.smoothed.double(), exact.smoothed, rtol=1e-5, atol=rounding)
    grads = torch.autograd.grad(loss.smoothed, (h, weight, bias))
    exacts = torch.autograd.grad(exact.smoothed, (h, weight, bias))
    # The gradient of h is the gradient of the logits, rounded, times weights of the size of the logits.
    for found, expected, error in zip(grads, exacts, (rounding, 1e-5, 1e-5), strict=True):
        assert torch.isfinite(found).all(), reason
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=error)


@pytest.mark.parametrize("n", [5, CHUNK + 9])
def test_bfloat16_hidden_states_come_close_to_float32(n: int) -> None:
    h, weight, bias, target = problem(n, 32, 100)
    wide = [(tensor.detach() / 4).bfloat16().float().requires_grad_() for tensor in (h, weight, bias)]
    # Hidden states in bfloat16 beside float32 master weights, as under autocast.
    narrow = [wide[0].detach().bfloat16().requires_grad_(), *wide[1:]]
    exact, rough = (cross_entropy(*inputs, target, 0.1) for inputs in (wide, narrow))
    torch.testing.assert_close(rough.smoothed, exact.smoothed, rtol=5e-3, atol=0)
    torch.testing.assert_close(rough.nll, exact.nll, rtol=5e-3, atol=0)
    assert rough.smoothed.dtype == torch.float32, "a bfloat16 sum of thousands of positions would stand still"
    found, expected = (torch.autograd.grad(loss.smoothed, inputs) for loss, inputs in ((rough, narrow), (exact, wide)))
    assert [grad.dtype for grad in found] == [torch.bfloat16, torch.float32, torch.float32]
    for ours, theirs in zip(found, expected, strict=True):
        error = (ours.float() - theirs).norm() / theirs.norm()
        assert error < 0.02, "bfloat16 has 8 bits"


# ------------------------------------------------------------------------------------------------------------ R-Drop


def other_of(h: Tensor, seed: int = 2) -> Tensor:
    """The hidden states of a second pass."""
    noise = torch.randn(h.shape, dtype=h.dtype, generator=torch.Generator().manual_seed(seed))
    return (h.detach() + 0.5 * noise).requires_grad_()


def two_passes(
    h: Tensor, other: Tensor, weight: Tensor, bias: Tensor, target: Tensor, smoothing: float, alpha: float
) -> TokenLoss:
    """The same by torch: half of Liang et al.'s L = CE + CE + α/2 (KL + KL), with torch's own divergences."""
    one, two = (F.linear(states, weight, bias) for states in (h, other))
    log_p, log_q = one.log_softmax(-1), two.log_softmax(-1)
    divergence = F.kl_div(log_q, log_p, reduction="sum", log_target=True)  # KL(p‖q): torch's target comes second
    divergence = divergence + F.kl_div(log_p, log_q, reduction="sum", log_target=True)
    first, second = (reference(states, weight, bias, target, smoothing) for states in (h, other))
    total = first.smoothed + second.smoothed + alpha / 2 * divergence
    return TokenLoss(total / 2, (first.nll + second.nll) / 2, (first.correct + second.correct) / 2)


@pytest.mark.parametrize("alpha", [0.5, 5.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("n", SIZES)
def test_r_drop_is_that_of_torch(n: int, smoothing: float, alpha: float) -> None:
    h, weight, bias, target = problem(n)
    inputs = (h, other_of(h), weight, bias)
    ours, torchs = (function(*inputs, target, smoothing, alpha) for function in (r_drop, two_passes))
    for found, expected in zip(ours, torchs, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11, check_dtype=False)
    found, expected = (torch.autograd.grad(loss.smoothed * 0.37, inputs) for loss in (ours, torchs))
    for ours_grad, torchs_grad in zip(found, expected, strict=True):
        torch.testing.assert_close(ours_grad, torchs_grad, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_gradient_of_r_drop_is_that_of_finite_differences(
    smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projtrans.model.loss.CHUNK", 3)
    h, weight, bias, target = problem(7, 3, 4)
    assert torch.autograd.gradcheck(
        lambda *inputs: r_drop(*inputs, target, smoothing, 3.0).smoothed, (h, other_of(h), weight, bias)
    )


def test_two_passes_that_agree_are_one() -> None:
    h, weight, bias, target = problem(CHUNK + 2)
    twice = r_drop(h, h.detach().clone().requires_grad_(), weight, bias, target, 0.1, 5.0)
    once = cross_entropy(h, weight, bias, target, 0.1)
    for found, expected in zip(twice, once, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-10)
    found, expected = (torch.autograd.grad(loss.smoothed, (weight, bias)) for loss in (twice, once))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)


def test_the_passes_of_r_drop_can_change_places() -> None:
    h, weight, bias, target = problem(50)
    other = other_of(h)
    one, two = (r_drop(*states, weight, bias, target, 0.1, 2.0) for states in ((h, other), (other, h)))
    torch.testing.assert_close(one.smoothed, two.smoothed, rtol=1e-13, atol=0)
    found, expected = (torch.autograd.grad(loss.smoothed, (h, other)) for loss in (one, two))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("n", SIZES)
def test_r_drop_without_gradients_has_the_same_sums(n: int) -> None:
    h, weight, bias, target = problem(n)
    inputs = (h, other_of(h), weight, bias)
    with torch.no_grad():
        silent = r_drop(*inputs, target, 0.1, 5.0)
    for quiet, loud in zip(silent, r_drop(*inputs, target, 0.1, 5.0), strict=True):
        assert torch.equal(quiet, loud)
        assert not quiet.requires_grad


def test_passes_that_are_certain_of_different_tokens_have_a_finite_divergence() -> None:
    """Here probabilities underflow to 0 in float32: KL is the difference of the logits, and not infinite."""
    h, other = torch.ones(2, 1, requires_grad=True), torch.ones(2, 1, requires_grad=True)
    weight, bias = torch.tensor([[300.0], [0.0], [-300.0]]).requires_grad_(), torch.zeros(3, requires_grad=True)
    with torch.no_grad():
        other.mul_(-1.0)
    target = torch.tensor([0, 2])
    loss = r_drop(h, other, weight, bias, target, 0.0, 1.0)
    assert loss.smoothed.item() == pytest.approx((600 + 600) / 2 + 0.25 * 2 * 2 * 600, rel=1e-6)
    wide = [tensor.detach().double().requires_grad_() for tensor in (h, other, weight, bias)]
    exact = two_passes(*wide, target, 0.0, 1.0)
    found = torch.autograd.grad(loss.smoothed, (h, other, weight, bias))
    expected = torch.autograd.grad(exact.smoothed, wide)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("n", [5, CHUNK + 9])
def test_r_drop_in_bfloat16_comes_close_to_float32(n: int) -> None:
    h, weight, bias, target = problem(n, 32, 100)
    wide = [(tensor.detach() / 4).bfloat16().float().requires_grad_() for tensor in (h, other_of(h), weight, bias)]
    narrow = [*(tensor.detach().bfloat16().requires_grad_() for tensor in wide[:2]), *wide[2:]]
    exact, rough = (r_drop(*inputs, target, 0.1, 5.0) for inputs in (wide, narrow))
    torch.testing.assert_close(rough.smoothed, exact.smoothed, rtol=1e-2, atol=0)
    found, expected = (torch.autograd.grad(loss.smoothed, inputs) for loss, inputs in ((rough, narrow), (exact, wide)))
    assert [grad.dtype for grad in found] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.float() - theirs).norm() < 0.03 * theirs.norm()
