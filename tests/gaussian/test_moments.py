"""The output-space Gaussian against torch.distributions, high-precision arithmetic and finite differences."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Gamma, Normal
from torch.distributions import kl_divergence as torch_kl

from abmll.gaussian import moments
from tests.parameters import few_of

RELATIVE = 1e-9
SHAPE = (3, 5)


def draw(*shape: int, scale: float = 1.0, shift: float = 0.0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (shift + scale * torch.randn(*shape, dtype=dtype)).requires_grad_()


def factors(rank: int = 2, dtype: torch.dtype = torch.float64, offset: float = -2.0) -> moments.Factors:
    return moments.Factors(
        draw(rank, 4, dtype=dtype),
        draw(3, rank, dtype=dtype),
        draw(rank, 4, dtype=dtype),
        draw(3, rank, dtype=dtype),
        scaling=1.5,
        offset=offset,
    )


def normal(mean: torch.Tensor, log_var: torch.Tensor) -> Normal:
    return Normal(mean, torch.exp(0.5 * log_var))


def column(*values: float) -> list[torch.Tensor]:
    return [torch.tensor([value], dtype=torch.float64) for value in values]


def assert_same_with_gradients(ours: torch.Tensor, theirs: torch.Tensor, inputs: list[torch.Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, rtol=RELATIVE, atol=0)
    weights = torch.randn_like(ours)  # another weight for each element, so that errors cannot cancel in the sum
    for mine, reference in zip(
        torch.autograd.grad(ours, inputs, weights), torch.autograd.grad(theirs, inputs, weights), strict=True
    ):
        torch.testing.assert_close(mine, reference, rtol=RELATIVE, atol=1e-12)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_low_rank_product_is_added_as_if_made_apart(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, base = draw(*shape, 4, dtype=dtype), draw(*shape, 5, dtype=dtype)
    A, B = draw(2, 4), draw(5, 2)
    if dtype != torch.float64:
        A, B = (one.detach().float().requires_grad_() for one in (A, B))
    expected = base.to(A.dtype) + 1.5 * (x.to(A.dtype) @ A.T) @ B.T
    found = moments.plus_low_rank(base, x, A, B, 1.5)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    for mine, reference in zip(
        torch.autograd.grad(found, (x, base, A, B), weights),
        torch.autograd.grad(expected, (x, base, A, B), weights),
        strict=True,
    ):
        torch.testing.assert_close(mine, reference)


def test_conditional_is_two_low_rank_maps_of_the_input() -> None:
    x, g = draw(2, 6, 4), factors()
    mean, log_var = moments.conditional(x, *g)
    for b, t in ((0, 0), (1, 5)):
        torch.testing.assert_close(mean[b, t], 1.5 * (g.mean_B @ g.mean_A @ x[b, t]), rtol=1e-12, atol=0)
        torch.testing.assert_close(
            log_var[b, t], 1.5 * (g.log_var_B @ g.log_var_A @ x[b, t]) - 2.0, rtol=1e-12, atol=1e-13
        )


def test_bounded_log_variance_is_a_tanh_of_the_linear_one() -> None:
    x, g = draw(2, 6, 4), factors()
    linear = moments.conditional(x, *g).log_var - g.offset
    within = moments.conditional(x, *g._replace(bound=0.7)).log_var - g.offset
    power = torch.exp(2 * linear / 0.7)
    torch.testing.assert_close(within, 0.7 * (1 - 2 / (power + 1)), rtol=1e-9, atol=1e-12)
    assert float(linear.detach().abs().max()) > 0.7 >= float(within.detach().abs().max()) - 1e-12


def test_bounded_moments_stay_finite_however_far_the_factors_are() -> None:
    g = factors(dtype=torch.float32)
    far = g._replace(log_var_A=g.log_var_A * 1e4, log_var_B=g.log_var_B * 1e4)
    x = draw(64, 4, dtype=torch.float32)
    assert float(torch.exp(moments.conditional(x, *far).log_var).max()) == torch.inf
    log_var = moments.conditional(x, *far._replace(bound=4.0)).log_var
    assert float((log_var - g.offset).abs().max()) <= 4.0 + 1e-5
    (gradient,) = torch.autograd.grad(torch.exp(log_var).sum(), g.log_var_B)
    assert torch.isfinite(gradient).all()


def test_default_offset_is_the_published_one() -> None:
    g = factors()
    _, log_var = moments.conditional(draw(1, 4), g.mean_A, g.mean_B, g.log_var_A, torch.zeros(3, 2).double(), 2.0)
    assert torch.equal(log_var, torch.full((1, 3), -20.0, dtype=torch.float64))


def test_conditionals_together_equal_each_alone_whatever_their_ranks() -> None:
    x, q, p = draw(2, 6, 4), factors(rank=2), factors(rank=3, offset=-5.0)
    for together, alone in zip(moments.conditionals(x, q, p), (q, p), strict=True):
        for a, b in zip(together, moments.conditional(x, *alone), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("x_dtype", "adapter_dtype", "expected"),
    [
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16, torch.float32),
        (torch.float16, torch.float32, torch.float32),
        (torch.float32, torch.float64, torch.float64),
        (torch.float64, torch.float32, torch.float64),
    ],
)
def test_arithmetic_is_in_float32_at_least(
    x_dtype: torch.dtype, adapter_dtype: torch.dtype, expected: torch.dtype
) -> None:
    x, g = draw(2, 4).to(x_dtype), factors(dtype=torch.float32)
    g = g._replace(**{name: getattr(g, name).to(adapter_dtype) for name in g._fields[:4]})
    ours = moments.conditional(x, *g)
    assert {m.dtype for m in ours} == {expected}
    wide = g._replace(**{name: getattr(g, name).double() for name in g._fields[:4]})
    for mine, exact in zip(ours, moments.conditional(x.double(), *wide), strict=True):
        torch.testing.assert_close(mine.double(), exact, rtol=1e-5, atol=1e-5)


def test_kl_and_its_gradients_equal_torch_distributions() -> None:
    q = [draw(*SHAPE), draw(*SHAPE, shift=-2.0)]
    p = [draw(*SHAPE), draw(*SHAPE, shift=-2.0)]
    theirs = torch_kl(normal(*q), normal(*p))
    assert_same_with_gradients(moments.kl_divergence(*q, *p), theirs, [*q, *p])


def test_kl_keeps_its_digits_where_the_two_are_nearly_equal() -> None:
    mpmath.mp.dps = 60
    for exponent in range(1, 8):
        step = 2.0 ** (-3 * exponent)  # exactly representable, so the difference of the arguments is exact
        ours = moments.kl_divergence(*column(0.0, -20.0 + step, 0.0, -20.0))
        # all that can be lost is the rounding of expm1: d·2^-53, where e^d - 1 - d would lose 2^-53
        exact = (mpmath.expm1(step) - step) / 2
        assert abs(mpmath.mpf(ours.item()) - exact) <= 2.0**-53 * step
        ours = moments.kl_divergence(*column(step, -20.0, 0.0, -20.0))
        exact = mpmath.mpf(step) ** 2 * mpmath.exp(20) / 2
        assert abs(ours.item() / exact - 1) < RELATIVE


def test_kl_of_equals_is_exactly_zero_with_exactly_zero_gradient() -> None:
    values = [draw(*SHAPE, dtype=torch.float32), draw(*SHAPE, shift=-20.0, dtype=torch.float32)]
    leaves = [v.detach().clone().requires_grad_() for v in (*values, *values)]
    kl = moments.kl_divergence(*leaves)
    assert torch.equal(kl, torch.zeros(SHAPE))
    assert all(torch.equal(g, torch.zeros(SHAPE)) for g in torch.autograd.grad(kl.sum(), leaves))


def test_kl_does_not_overflow_at_extreme_precisions() -> None:
    log_var = torch.tensor([-100.0])
    assert moments.kl_divergence(torch.ones(1), log_var, torch.ones(1), log_var).item() == 0.0
    small = moments.kl_divergence(torch.full((1,), 1e-20), log_var, torch.zeros(1), log_var)
    assert small.item() == pytest.approx(0.5 * 1e-40 * math.exp(100), rel=1e-4)


@settings(max_examples=50, deadline=None)
@given(*[st.floats(-8, 8) for _ in range(4)])
def test_kl_is_never_negative(mean: float, log_var: float, prior_mean: float, prior_log_var: float) -> None:
    kl = moments.kl_divergence(*column(mean, log_var, prior_mean, prior_log_var)).item()
    assert kl >= -1e-15


def test_kl_estimate_is_the_log_density_ratio() -> None:
    inputs = [draw(*SHAPE), draw(*SHAPE), draw(*SHAPE), draw(*SHAPE), draw(*SHAPE)]
    value, mean, log_var, prior_mean, prior_log_var = inputs
    theirs = normal(mean, log_var).log_prob(value) - normal(prior_mean, prior_log_var).log_prob(value)
    ours = moments.kl_estimate(*inputs)
    torch.testing.assert_close(ours, theirs, rtol=RELATIVE, atol=1e-12)
    assert_same_with_gradients(ours + 100, theirs + 100, inputs)  # +100: relative error without cancellation to 0


def test_kl_estimate_averages_to_the_kl() -> None:
    n = 200_000
    mean, log_var, prior_mean, prior_log_var = (v.expand(n) for v in column(0.3, -1.0, -0.2, -0.5))
    estimates = moments.kl_estimate(moments.sample(mean, log_var), mean, log_var, prior_mean, prior_log_var)
    exact = moments.kl_divergence(*(v[:1] for v in (mean, log_var, prior_mean, prior_log_var))).item()
    assert abs(estimates.mean().item() - exact) < 4 * estimates.std().item() / math.sqrt(n)


def test_sample_is_reparameterised_and_has_the_right_moments() -> None:
    n = 200_000
    mean, log_var = (v.requires_grad_() for v in column(0.7, -1.2))
    values = moments.sample(mean.expand(n), log_var.expand(n))
    std = math.exp(-0.6)
    assert abs(values.mean().item() - 0.7) < 4 * std / math.sqrt(n)
    assert abs(values.std().item() / std - 1) < 4 / math.sqrt(2 * n)
    d_mean, d_log_var = torch.autograd.grad(values.sum(), [mean, log_var])
    assert d_mean.item() == pytest.approx(n)
    assert d_log_var.item() == pytest.approx(0.5 * (values - 0.7).sum().item(), rel=1e-9)


def test_sample_follows_the_global_generator() -> None:
    mean, log_var = torch.zeros(4), torch.zeros(4)
    torch.manual_seed(3)
    first = moments.sample(mean, log_var)
    torch.manual_seed(3)
    assert torch.equal(first, moments.sample(mean, log_var))
    assert not torch.equal(first, moments.sample(mean, log_var))


@pytest.mark.parametrize(("shape", "rate", "variance"), [(1.0, 0.01, 1.0), (2.5, 0.7, 1.0), (1.0, 0.01, math.exp(-10))])
def test_hyper_prior_and_its_gradients_equal_torch_distributions(shape: float, rate: float, variance: float) -> None:
    inputs: Any = [draw(*SHAPE), draw(*SHAPE, shift=-2.0)]
    mean, log_var = inputs
    zero, std, a, b = column(0.0, math.sqrt(variance), shape, rate)
    theirs = -(Normal(zero, std).log_prob(mean) + Gamma(a, b).log_prob(torch.exp(-log_var)))
    assert_same_with_gradients(moments.hyper_prior(*inputs, shape, rate, variance), theirs, inputs)


def test_hyper_prior_defaults_are_the_published_ones() -> None:
    inputs: Any = [draw(*SHAPE), draw(*SHAPE)]
    assert torch.equal(moments.hyper_prior(*inputs), moments.hyper_prior(*inputs, 1.0, 0.01, 1.0))


@pytest.mark.parametrize("fast", few_of([True, False], [True]))  # along random directions, or each by itself
def test_gradients_to_every_factor_equal_finite_differences(fast: bool) -> None:
    x, q, p = draw(2, 3, 4, scale=0.5), factors(), factors()
    tensors = [x, *q[:4], *p[:4]]

    def objective(x: torch.Tensor, *parameters: Any) -> torch.Tensor:
        posterior, prior = moments.conditionals(
            x, moments.Factors(*parameters[:4], 0.5, -1.0), moments.Factors(*parameters[4:], 0.5, -1.0)
        )
        torch.manual_seed(1)
        value = moments.sample(*posterior)
        return torch.stack(
            [
                moments.kl_divergence(*posterior, *prior).sum(),
                moments.kl_estimate(value, *posterior, *prior).sum(),
                moments.hyper_prior(*prior).sum(),
            ]
        )

    assert torch.autograd.gradcheck(objective, tensors, fast_mode=fast)
    assert torch.autograd.gradgradcheck(objective, tensors, fast_mode=fast)
