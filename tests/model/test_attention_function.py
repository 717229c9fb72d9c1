"""Attention as batched products against automatic differentiation: values and gradients, over any shapes.

Axes: B sentences, H heads, T queries, S keys, K head width, V width of a value. Masks: True = may attend.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from projtrans.model.attention_function import TINY, attend, length, masked_softmax
from tests.attention_cases import close, normal

DIMS = {"none": None, "head": (3,), "model": (1, 3)}
"""The axes of a norm, by name of the normalisation."""


@dataclass(frozen=True)
class Problem:
    """All arguments of `attend`, made from a few numbers."""

    sizes: tuple[int, int, int, int, int, int]  # B, H, T, S, K, V
    normalize: str
    values: str
    kappas: bool  # one a head
    bias: str | None  # which of B, H, T, S it has, as letters
    mask: str | None
    zero: str = ""  # which of q, k hold zero vectors
    seed: int = 0

    def shape(self, letters: str) -> list[int]:
        """[B, H, T, S] with 1 for the axes not in `letters`."""
        return [size if axis in letters else 1 for axis, size in zip("BHTS", self.sizes, strict=False)]

    def tensors(self, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        """The tensors with a gradient: q, k, κ, and v and bias if there are any."""
        b, h, t, s, k, v = self.sizes
        made = {"q": normal(b, h, t, k, seed=self.seed), "k": normal(b, h, s, k, seed=self.seed + 1)}
        for name in self.zero:
            made[name][:, :, 0] = 0
        if self.values == "own":
            made["v"] = normal(b, h, s, v, seed=self.seed + 2)
        made = {name: tensor.to(dtype) for name, tensor in made.items()}
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        made["kappa"] = normal(h if self.kappas else 1, 1, 1, seed=self.seed + 3).exp().to(wide)
        if self.bias is not None:
            made["bias"] = normal(*self.shape(self.bias), seed=self.seed + 4).to(wide)
        return {name: tensor.requires_grad_() for name, tensor in made.items()}

    def seen(self) -> Tensor | None:
        """The mask: about a third is masked, and with an odd seed all of the first row."""
        if self.mask is None:
            return None
        mask = normal(*self.shape(self.mask), seed=self.seed + 5) < 0.4
        if self.seed % 2 and self.mask != "S":
            mask[0, 0, 0] = False
        return mask

    def divisors(self, q: Tensor, k: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The norms of queries and keys, if they are normalised."""
        dims = DIMS[self.normalize]
        return (None, None) if dims is None else (length(q, dims), length(k, dims))

    def ours(self, given: dict[str, Tensor]) -> Tensor:
        """By `attend`."""
        q, k = given["q"], given["k"]
        q_length, k_length = self.divisors(q, k)
        return attend(
            q,
            k,
            given.get("v"),
            given["kappa"],
            bias=given.get("bias"),
            q_length=q_length,
            k_length=k_length,
            unit_values=self.values == "keys",
            mask=self.seen(),
        )

    def plain(self, given: dict[str, Tensor]) -> Tensor:
        """By the equation, with automatic differentiation, and exp() and a row sum instead of a softmax."""
        q, k = given["q"], given["k"]
        q_length, k_length = self.divisors(q, k)
        unit_q, unit_k = (q, k) if q_length is None or k_length is None else (q / q_length, k / k_length)
        v = {"own": given.get("v"), "keys": unit_k, "raw_keys": k}[self.values]
        assert v is not None
        s = given["kappa"] * torch.einsum("bhtk,bhsk->bhts", unit_q, unit_k) + given.get("bias", 0.0)
        mask = self.seen()
        seen = torch.ones_like(s) if mask is None else mask.expand_as(s).to(s.dtype)
        z = (s - s.detach().amax(-1, keepdim=True)).exp() * seen
        total = z.sum(-1, keepdim=True)
        return torch.einsum("bhts,bhsv->bhtv", z / total.where(total > 0, 1.0), v)


def slopes(y: Tensor, given: dict[str, Tensor], dy: Tensor) -> dict[str, Tensor]:
    """The gradients of ⟨y, dy⟩."""
    found = torch.autograd.grad((y * dy).sum(), list(given.values()), allow_unused=True)
    return {
        name: torch.zeros_like(value) if grad is None else grad
        for (name, value), grad in zip(given.items(), found, strict=True)
    }


def compare(problem: Problem) -> None:
    """Compare values and gradients with those of the plain equation."""
    tolerance = 1e-10 if not problem.zero else 1e-7  # there 1/TINY = 10⁶ magnifies the rounding of float64
    ours, plain = problem.tensors(), problem.tensors()
    y, expected = problem.ours(ours), problem.plain(plain)
    close(y, expected, message="y")
    dy = normal(*y.shape, seed=problem.seed + 6)
    expected_slopes = slopes(expected, plain, dy)
    for name, slope in slopes(y, ours, dy).items():
        close(slope, expected_slopes[name], tolerance, f"gradient in {name}")


few, letters = st.integers(1, 4), st.sampled_from(["", "S", "HS", "BHS", "HTS", "TS", "BHTS", "BS", "H"])
PROBLEMS = st.builds(
    Problem,
    sizes=st.tuples(few, few, few, st.integers(1, 6), few, few),
    normalize=st.sampled_from(list(DIMS)),
    values=st.sampled_from(["own", "keys", "raw_keys"]),
    kappas=st.booleans(),
    bias=st.none() | letters,
    mask=st.none() | st.sampled_from(["S", "BS", "TS", "BTS", "BHTS"]),
    zero=st.sampled_from(["", "q", "k", "qk"]),
    seed=st.integers(0, 1000),
)


@pytest.mark.slow
@settings(max_examples=500)
@given(PROBLEMS)
def test_values_and_gradients_are_those_of_plain_automatic_differentiation(problem: Problem) -> None:
    compare(problem)


EACH = [
    Problem((2, 3, 4, 5, 3, 2), normalize, values, kappas, bias, mask, seed=7)
    for normalize, values, kappas, (bias, mask) in itertools.product(
        DIMS, ["own", "keys", "raw_keys"], [False, True], [(None, None), ("BHS", "BS"), ("HTS", "BTS"), ("S", "TS")]
    )
]


def words(problem: Problem) -> str:
    kappas = "a sigma a head" if problem.kappas else "one sigma"
    return f"{problem.normalize}-{problem.values}-{kappas}-bias {problem.bias}-mask {problem.mask}"


each = pytest.mark.parametrize("problem", EACH, ids=words)


@each
def test_every_sort_of_problem_is_that_of_plain_automatic_differentiation(problem: Problem) -> None:
    compare(problem)


@pytest.mark.parametrize("problem", EACH[1::4], ids=words)
def test_gradients_are_those_of_finite_differences(problem: Problem) -> None:
    given_ = problem.tensors()

    def y(*values: Tensor) -> Tensor:
        return problem.ours(dict(zip(given_, values, strict=True)))

    assert torch.autograd.gradcheck(y, tuple(given_.values()))


@pytest.mark.parametrize("problem", [p for p in EACH if p.bias == "BHS"], ids=words)
def test_what_needs_no_gradient_gets_none_and_changes_none_of_the_others(problem: Problem) -> None:
    whole = problem.tensors()
    y = problem.ours(whole)
    dy = normal(*y.shape, seed=6)
    expected = slopes(y, whole, dy)
    for name in whole:
        fixed = problem.tensors()
        fixed[name] = fixed[name].detach()
        rest = {other: value for other, value in fixed.items() if other != name}
        for other, slope in slopes(problem.ours(fixed), rest, dy).items():
            assert torch.equal(slope, expected[other]), f"gradient in {other} without one in {name}"


# --------------------------------------------------------------------------------------------------------- the edges


@pytest.mark.parametrize("normalize", ["head", "model"])
@pytest.mark.parametrize("values", ["own", "keys", "raw_keys"])
@pytest.mark.parametrize("scale", [0.0, 1e-9, 1e-3 * TINY], ids=["zero", "tiny", "a thousandth of tiny"])
def test_vectors_without_a_length_meet_all_keys_alike_and_have_finite_gradients(
    normalize: str, values: str, scale: float
) -> None:
    problem = Problem((2, 2, 3, 4, 3, 3), normalize, values, True, None, None)
    ours, plain = problem.tensors(), problem.tensors()
    for given_ in (ours, plain):
        for name in ("q", "k"):
            given_[name] = (scale * given_[name].detach()).requires_grad_()
    y, expected = problem.ours(ours), problem.plain(plain)
    close(y, expected, 1e-9)
    dy = normal(*y.shape, seed=6)
    expected_slopes = slopes(expected, plain, dy)
    for name, slope in slopes(y, ours, dy).items():
        assert torch.isfinite(slope).all()
        close(slope, expected_slopes[name], 1e-9, name)
    if values == "own":
        close(y, ours["v"].mean(2, keepdim=True).expand_as(y), 1e-2 if scale else 1e-12)


@pytest.mark.parametrize("problem", [p for p in EACH if p.mask not in (None, "S")], ids=words)
def test_rows_that_see_nothing_are_zero_and_move_nothing(problem: Problem) -> None:
    given_ = problem.tensors()
    y = problem.ours(given_)
    seen = problem.seen()
    assert seen is not None
    empty = ~seen.any(-1).expand(y.shape[:3])
    assert empty.any()
    assert not y[empty].any()
    found = slopes(y, given_, torch.ones_like(y))
    assert all(torch.isfinite(slope).all() for slope in found.values())
    if problem.normalize != "model":  # where the heads share no length
        assert not found["q"][empty].any()
    never = torch.zeros_like(y).masked_fill(empty[..., None], 1.0)
    assert not any(slope.any() for slope in slopes(problem.ours(given_), given_, never).values())


def test_masked_rows_are_probabilities_over_what_is_seen() -> None:
    s = normal(2, 3, 4, 5)
    seen = torch.rand(2, 1, 4, 5, generator=torch.Generator().manual_seed(4)) < 0.5
    seen[0, 0, 1] = False
    p = masked_softmax(s, seen)
    assert not p.masked_select(~seen).any()
    close(p.sum(-1), seen.any(-1).expand(2, 3, 4).double(), 1e-14)
    close(masked_softmax(s, None), s.exp() / s.exp().sum(-1, keepdim=True), 1e-14)
    huge = masked_softmax(1e30 * s.float(), seen)
    assert torch.isfinite(huge).all()
    assert not huge.masked_select(~seen).any()


@pytest.mark.parametrize("keys", range(1, 34))
def test_rows_of_every_length_are_probabilities_in_float32(keys: int) -> None:
    generator = torch.Generator().manual_seed(keys)
    s = 5 * torch.randn(3, 2, 4, keys, generator=generator)
    seen = torch.rand(3, 1, 4, keys, generator=generator) < 0.7
    for mask in (None, seen):
        weights = s.double().exp() if mask is None else s.double().exp() * mask
        expected = weights / weights.sum(-1, keepdim=True).clamp(min=1e-300)
        close(masked_softmax(s, mask).double(), expected, 1e-6)


def test_lengths_are_wide_and_never_zero() -> None:
    x = normal(2, 3, 4, 5)
    x[0, :, 0] = 0
    close(length(x, (3,)), x.square().sum(-1, keepdim=True).sqrt().clamp(min=TINY), 1e-14)
    close(length(x, (1, 3)), x.square().sum((1, 3), keepdim=True).sqrt().clamp(min=TINY), 1e-14)
    assert length(x.bfloat16(), (3,)).dtype == torch.float32
    assert length(x, (1, 3))[0, 0, 0] == TINY


# ----------------------------------------------------------------------------------------------- narrower precisions


@each
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 0.03)], ids=["fp32", "bf16"])
def test_narrower_numbers_come_close(problem: Problem, dtype: torch.dtype, tolerance: float) -> None:
    """Against float64 on the same rounded numbers, within some hundred roundings of the largest number."""
    narrow = problem.tensors(dtype)
    wide: dict[str, Any] = {name: value.detach().double().requires_grad_() for name, value in narrow.items()}
    y, expected = problem.ours(narrow), problem.plain(wide)
    assert y.dtype == dtype
    dy = normal(*y.shape, seed=6).to(dtype)
    close(y.double(), expected, tolerance)
    expected_slopes = slopes(expected, wide, dy.double())
    for name, slope in slopes(y, narrow, dy).items():
        assert slope.dtype == narrow[name].dtype
        close(slope.double(), expected_slopes[name], 4 * tolerance, name)


def test_autocast_changes_no_precision_inside() -> None:
    problem = EACH[5]
    given_ = problem.tensors(torch.float32)
    expected = problem.ours(given_)
    dy = torch.ones_like(expected)
    expected_slopes = slopes(expected, given_, dy)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = problem.ours(given_)
        found_slopes = slopes(found, given_, dy)  # backward is called inside autocast
    assert torch.equal(found, expected)
    for name, slope in found_slopes.items():
        assert torch.equal(slope, expected_slopes[name])


def test_the_gradient_has_no_gradient_of_its_own() -> None:
    """The hand-written gradient has no second derivative, and must not be wrong silently."""
    given_ = EACH[0].tensors()
    y = EACH[0].ours(given_)
    first = torch.autograd.grad(y, given_["q"], torch.ones_like(y, requires_grad=True), create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
