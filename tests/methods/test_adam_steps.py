"""Adam's steps under a prior against torch's optimiser, and their way back against finite differences, in float64."""

from __future__ import annotations

import pytest
import torch

from abmll.core.errors import AbmllError
from abmll.core.types import META, TASK
from abmll.methods.parts.adam_steps import AdamSteps
from abmll.methods.parts.amortised import Amortised
from abmll.methods.parts.prior_steps import log_var_of
from tests.methods.test_amortised import EPISODE, Bilinear

MEANS = ("mean_A", "mean_B")
OFFSET = -6.0


def test_the_steps_are_adams_at_the_rate_of_each_tensors_standard_deviation():
    likelihood = Bilinear()
    steps = list(AdamSteps(4, log_var_offset=OFFSET).steps(likelihood, EPISODE.support))
    theta = likelihood.parameters(META)
    phi = {n: theta[n].detach().clone().requires_grad_() for n in MEANS}
    rates = {n: (theta[log_var_of(n)].mean() + OFFSET).exp().sqrt().item() for n in MEANS}
    optimizer = torch.optim.AdamW([{"params": [phi[n]], "lr": rates[n]} for n in MEANS], weight_decay=0.0)
    for step in steps:
        optimizer.zero_grad()
        nll = likelihood.nll(EPISODE.support, phi).mean()
        nll.backward()
        assert step.nll == pytest.approx(nll.item())
        for name in MEANS:
            torch.testing.assert_close(step.point[name], phi[name].detach())
            torch.testing.assert_close(step.gradient[name], phi[name].grad)
        optimizer.step()
    for name in MEANS:
        torch.testing.assert_close(likelihood.parameters(TASK)[name].detach(), phi[name].detach())
        log_var = log_var_of(name)
        assert torch.equal(likelihood.parameters(TASK)[log_var], likelihood.parameters(META)[log_var])


def test_a_walk_keeps_one_copy_of_the_parameters_however_many_steps_it_has():
    likelihood = Bilinear()
    first, *others = AdamSteps(4, log_var_offset=OFFSET).walk(likelihood, EPISODE.support)
    assert first.point.keys() == first.gradient.keys() == set(MEANS)
    assert not any(step.point or step.gradient for step in others)
    assert len(others) == 3


def joint_objective(inner, support_weight, change):
    """NLL(query; φ_K) + w · NLL(support; θ) where θ is moved by `change`."""
    likelihood = Bilinear()
    theta = likelihood.parameters(META)
    with torch.no_grad():
        for name, direction in change.items():
            theta[name].add_(direction)
    start = likelihood.nll(EPISODE.support, theta).mean().item()
    inner.run(likelihood, EPISODE.support)
    return likelihood.nll(EPISODE.query, likelihood.parameters(TASK)).mean().item() + support_weight * start


def test_the_gradient_of_one_step_is_exact():
    """Of a sign it is; of K steps it is the first order's."""
    inner = AdamSteps(1, log_var_offset=OFFSET)
    likelihood = Bilinear()
    Amortised(inner, 0.3).meta_gradient(likelihood, EPISODE)
    reach = 1e-5
    for name, tensor in likelihood.parameters(META).items():
        found = torch.zeros_like(tensor)
        for place in range(tensor.numel()):
            direction = torch.zeros(tensor.numel(), dtype=torch.float64)
            direction[place] = reach
            up, down = (joint_objective(inner, 0.3, {name: sign * direction.view_as(tensor)}) for sign in (1.0, -1.0))
            found.view(-1)[place] = (up - down) / (2 * reach)
        torch.testing.assert_close(tensor.grad, found, rtol=1e-5, atol=1e-8)


def test_the_gradient_by_the_log_variances_is_that_of_the_way_gone():
    """Scaling every step of a tensor by s moves φ_K, to first order, by (s - 1) (φ_K - θ)."""
    inner = AdamSteps(4, log_var_offset=OFFSET)
    likelihood = Bilinear()
    Amortised(inner, 0.3).meta_gradient(likelihood, EPISODE)
    theta = {n: t.detach() for n, t in likelihood.parameters(META).items()}
    inner.run(likelihood, EPISODE.support)
    end = {n: t.detach() for n, t in likelihood.parameters(TASK).items()}
    shares = {n: torch.ones((), dtype=torch.float64, requires_grad=True) for n in MEANS}
    phi = {n: theta[n] + shares[n] * (end[n] - theta[n]) for n in MEANS}
    likelihood.nll(EPISODE.query, phi).mean().backward()
    for name in MEANS:
        found = likelihood.parameters(META)[log_var_of(name)].grad
        assert found.sum().item() == pytest.approx(shares[name].grad.item() / 2)


@pytest.mark.parametrize("options", [{"num_steps": -1}, {"batch_size": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(AbmllError, match="inner loop: num_steps must be at least 0 and batch_size at least 1"):
        AdamSteps(**options)
