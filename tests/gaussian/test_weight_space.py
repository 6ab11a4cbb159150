"""The Gaussian over weights: samples and divergences without the matrix, against the matrix written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Gamma, Normal, kl_divergence
from torch.utils.checkpoint import checkpoint

from abmll.gaussian import moments, weight_space
from abmll.gaussian.layer_output import implementation
from tests.gaussian.asked import with_tensors

IN, OUT, RANK = 5, 4, 2


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def leaf(*shape: int) -> Tensor:
    return (0.5 * torch.randn(*shape, dtype=torch.float64)).requires_grad_()


def factors(scaling: float = 1.5, offset: float = 0.5, rank: int = RANK, out: int = OUT) -> Any:
    return moments.Factors(leaf(rank, IN), leaf(out, rank), leaf(rank, IN), leaf(out, rank), scaling, offset)


def normal(g: Any) -> Normal:
    """Every weight's Gaussian, as the paper writes it."""
    return Normal(g.scaling * g.mean_B @ g.mean_A, signed_std(g).abs())


def signed_std(g: Any) -> Tensor:
    return g.scaling * g.log_var_B @ g.log_var_A + torch.tensor(g.offset / 2, dtype=torch.float64).exp()


def assert_gradients_agree(ours: Tensor, theirs: Tensor, tensors: list[Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
    weight = torch.tensor(1.7, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad(ours, tensors, weight, allow_unused=True, materialize_grads=True, retain_graph=True),
        torch.autograd.grad(theirs, tensors, weight, allow_unused=True, materialize_grads=True, retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * float(b.abs().max()))


@pytest.mark.parametrize("name", ["fused", "naive"])
@pytest.mark.parametrize("tile", [1, 2 * IN, 2**16])
def test_divergence_prior_and_their_gradients_are_those_of_torch_distributions(
    tile: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_space, "TILE", tile)
    for p in (factors(0.7, -0.4), factors(rank=3)):
        q = factors(offset=-3.0)
        assert (signed_std(q) < 0).any()
        assert (signed_std(q) > 0).any()
        tensors = [*q[:4], *p[:4]]
        with implementation(name):
            kl, hyper = weight_space.divergence(q, p, hyper_prior=True)
        assert_gradients_agree(kl, kl_divergence(normal(q), normal(p)).sum(), tensors)
        gamma = Gamma(*torch.tensor([1.0, 0.01], dtype=torch.float64))
        prior = Normal(*torch.tensor([0.0, 1.0], dtype=torch.float64)).log_prob(normal(p).mean)
        prior = prior + gamma.log_prob(1 / normal(p).variance)
        assert_gradients_agree(hyper, -prior.sum(), tensors)


def test_gradients_reach_only_what_is_trained() -> None:
    q, p = factors(), factors()
    for tensor in p[:4]:
        tensor.requires_grad_(False)
    kl, hyper = weight_space.divergence(q, p, hyper_prior=True)
    assert kl.requires_grad
    kl.backward()
    assert all(tensor.grad is None for tensor in p[:4])
    expected = torch.autograd.grad(kl_divergence(normal(q), normal(p)).sum(), q[:4])
    for tensor, gradient in zip(q[:4], expected, strict=True):
        torch.testing.assert_close(tensor.grad, gradient, rtol=1e-9, atol=1e-12)
    assert hyper is not None
    assert weight_space.divergence(q, p)[1] is None


def test_equals_have_a_divergence_of_exactly_zero_with_gradient_exactly_zero() -> None:
    q = moments.Factors(*(tensor.detach().float().requires_grad_() for tensor in factors()[:4]), 1.5, -20.0)
    p = with_tensors(q, (tensor.detach().clone().requires_grad_() for tensor in q[:4]))
    kl, _ = weight_space.divergence(q, p)
    assert kl.item() == 0.0
    for gradient in torch.autograd.grad(kl, [*q[:4], *p[:4]]):
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_a_standard_deviation_of_almost_nothing_has_the_divergence_that_float64_gives() -> None:
    """2⁻¹⁶ of the prior's: (σ/σ_p)² - 1 is -1 in float32."""
    one = torch.ones(1, 1)
    posterior = moments.Factors(one, 0 * one, one, -(1 - 2.0**-16) * one, 1.0, 0.0)
    prior = moments.Factors(one, 0 * one, one, 0 * one, 1.0, 0.0)
    found, _ = weight_space.divergence(posterior, prior, hyper_prior=False)
    expected = kl_divergence(*(Normal(torch.zeros(()).double(), std) for std in (torch.tensor(2.0**-16).double(), 1.0)))
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_some_rows_give_an_unbiased_estimate_of_value_and_gradient() -> None:
    q, p = factors(), factors(0.7)
    exact, exact_hyper = weight_space.divergence(q, p, hyper_prior=True)
    exact_gradient = torch.autograd.grad(exact, [q.mean_B, q.log_var_A, p.log_var_B])
    subsets: dict[tuple[float, ...], tuple[Tensor, ...]] = {}
    while len(subsets) < 6:  # every pair of the four rows; each pair is as likely
        kl, hyper = weight_space.divergence(q, p, hyper_prior=True, rows=2)
        gradient = torch.autograd.grad(kl, [q.mean_B, q.log_var_A, p.log_var_B])
        subsets[(round(kl.item(), 9),)] = (kl.detach(), hyper.detach(), *gradient)
    for estimates, truth in zip(
        zip(*subsets.values(), strict=True), (exact, exact_hyper, *exact_gradient), strict=True
    ):
        torch.testing.assert_close(torch.stack(estimates).mean(0), truth, rtol=1e-9, atol=1e-12)
    assert torch.equal(weight_space.divergence(q, p, rows=OUT)[0], exact)


def test_nothing_of_the_weights_size_is_kept() -> None:
    q, p = factors(out=600), factors(out=600)
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        weight_space.divergence(q, p, hyper_prior=True)
    assert max(sizes) == 600 * RANK < 600 * IN


@pytest.mark.parametrize("name", ["fused", "naive"])
def test_a_sample_is_the_weight_of_its_signs(name: str) -> None:
    x, base, g = leaf(3, 6, IN), leaf(3, 6, OUT), factors()
    tensors = [x, base, *g[:4]]
    torch.manual_seed(4)
    with implementation(name):
        value = weight_space.sampled_output(x, base, g, torch.float64)
    torch.manual_seed(4)
    v = weight_space.draw_signs(3, IN, device=x.device).double()
    u = weight_space.draw_signs(3, OUT, device=x.device).double()
    assert set(u.unique().tolist()) | set(v.unique().tolist()) == {-1.0, 1.0}
    weight = normal(g).mean + signed_std(g) * (u[:, :, None] * v[:, None])
    expected = base + torch.einsum("boi,bti->bto", weight, x)
    weights = torch.randn_like(value)
    assert_gradients_agree((value * weights).sum(), (expected * weights).sum(), tensors)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


def test_a_sample_is_a_lora_of_rank_2r_plus_1_with_its_moments() -> None:
    """Exactly: the average over all signs is the mean, and the elements are uncorrelated with variance σ²."""
    g = factors(offset=-1.0)
    signs = torch.cartesian_prod(*[torch.tensor([-1, 1], dtype=torch.int8)] * (IN + OUT))
    A, B = weight_space.as_lora(g, signs[:, :IN], signs[:, IN:])
    assert (A.shape[-2], B.shape[-1]) == (2 * RANK + 1, 2 * RANK + 1)
    weights = (B @ A).flatten(1).detach()
    mean, variance = normal(g).mean.flatten(), normal(g).variance.flatten()
    torch.testing.assert_close(weights.mean(0), mean.detach(), rtol=1e-9, atol=1e-12)
    covariance = (weights - mean).T @ (weights - mean) / len(weights)
    torch.testing.assert_close(covariance, torch.diag(variance), rtol=1e-9, atol=1e-12)


def test_sampled_outputs_have_the_moments_of_the_dense_gaussian() -> None:
    """Monte Carlo, through the layer's own path, against outputs of densely sampled weights' moments."""
    g, draws = factors(offset=-1.0), 100_000
    x = torch.randn(2, IN, dtype=torch.float64)
    with torch.no_grad():
        zero = torch.zeros(draws, 2, OUT, dtype=torch.float64)
        y = weight_space.sampled_output(x.expand(draws, 2, IN), zero, g, torch.float64)
        mean = x @ normal(g).mean.T
        # tokens of one example share their weight: Cov(y_to, y_so) = Σ_i x_ti x_si σ_oi²
        covariance = torch.einsum("ti,si,oi->ots", x, x, normal(g).variance)
        centred = (y - mean).permute(2, 1, 0)
        measured = centred @ centred.mT / draws
    assert ((y.mean(0) - mean).abs() < 5 * (covariance.diagonal(dim1=1, dim2=2).T / draws).sqrt()).all()
    torch.testing.assert_close(measured, covariance, rtol=0.05, atol=0.02 * float(covariance.abs().max()))


def test_only_inner_products_and_signs_are_kept_of_a_sample() -> None:
    x, base, g = leaf(3, 60, IN), leaf(3, 60, OUT), factors()
    known = {tensor.data_ptr() for tensor in (x, *g[:4])}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in known:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        weight_space.sampled_output(x, base, g, torch.float64)
    assert sum(kept.values()) == 3 * 60 * (2 * RANK + 1) * 8 + 3 * (IN + OUT)


def test_checkpointing_draws_the_same_signs_again() -> None:
    x, base, g = leaf(3, 6, IN), leaf(3, 6, OUT), factors()
    gradients = []
    for checkpointed in (False, True):
        torch.manual_seed(8)
        arguments = (x, base, g, torch.float64)
        run = weight_space.sampled_output
        value = checkpoint(run, *arguments, use_reentrant=False) if checkpointed else run(*arguments)
        gradients.append(torch.autograd.grad(value.square().sum(), [x, base, *g[:4]]))
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


def test_half_precision_is_computed_in_float32_and_rounded_once() -> None:
    g = moments.Factors(*(tensor.detach().float().requires_grad_() for tensor in factors()[:4]), 1.5, -1.0)
    x, base = torch.randn(3, 6, IN).bfloat16().requires_grad_(), torch.randn(3, 6, OUT).bfloat16()
    torch.manual_seed(1)
    value = weight_space.sampled_output(x, base, g, torch.bfloat16)
    torch.manual_seed(1)
    wide = weight_space.sampled_output(x.float(), base.float(), g, torch.float32)
    assert torch.equal(value, wide.bfloat16())
    value.float().sum().backward()
    assert (x.grad.dtype, g.mean_A.grad.dtype) == (torch.bfloat16, torch.float32)
