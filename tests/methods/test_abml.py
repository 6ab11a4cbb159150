"""The original ABML: its bound, and the bound's gradient through the whole inner loop."""

from __future__ import annotations

import math

import pytest
import torch

from abmll.core.params import clone
from abmll.core.types import META, AdapterSpec, Likelihood
from abmll.methods import build_method
from abmll.methods.abml import Abml
from abmll.methods.parts.inner import InnerLoop
from abmll.methods.parts.objective import Objective
from tests.toy import GaussianToy, ToyEpisodes, observation

NOISE, BETA, GAMMA, RATE, STEPS = 0.5, 0.3, 0.05, 0.05, 4


def objective(prior_weight=0.0):
    return Objective(BETA, prior_weight, "example", sample=True)


def learner(steps=STEPS):
    return Abml(InnerLoop(steps, RATE, "sgd", objective=objective()), objective(GAMMA))


def bound(theta, episode, steps=STEPS, draws=None):
    """The outer objective as a function of θ = (mean, log-variance), written out without the library.

    draws: the noise of every pass, one vector for each; None takes E_q in closed form.
    """
    mean, log_var = theta

    def loss(m, v, examples, noise, prior_weight):
        y = torch.stack([observation(example.prompt) for example in examples])
        square = (y - m).square() + v.exp() if noise is None else (y - m - (v / 2).exp() * noise).square()
        nll = 0.5 * (square / NOISE + math.log(2 * math.pi * NOISE)).sum(-1).mean()
        kl = 0.5 * (log_var - v + (v - log_var).exp() + (m - mean).square() * (-log_var).exp() - 1).sum()
        normal = 0.5 * (mean.square() + math.log(2 * math.pi))
        prior = (normal - math.log(0.01) + 0.01 * (-log_var).exp()).sum()  # Gamma(1, 0.01) on the precision
        return nll + (BETA * kl + prior_weight * prior) / len(examples)

    m, v = mean, log_var
    for step in range(steps):
        noise = None if draws is None else draws[step]
        inner = loss(m, v, episode.support, noise, 0.0)
        d_m, d_v = torch.autograd.grad(inner, (m, v), create_graph=True)
        m, v = m - RATE * d_m, v - RATE * d_v
    return loss(m, v, [*episode.support, *episode.query], None if draws is None else draws[steps], GAMMA)


def gradient_of(method, likelihood, episode):
    method.meta_gradient(likelihood, episode)
    return {name: tensor.grad for name, tensor in likelihood.parameters(META).items()}


@pytest.mark.parametrize("sampled", [False, True])
def test_gradient_is_that_of_the_bound_through_the_inner_loop(sampled):
    """By central differences of an independent computation; E_q in closed form, or by the same draws."""
    likelihood, episode = GaussianToy(expected=not sampled), ToyEpisodes()[2]
    start = clone(likelihood.parameters(META))
    torch.manual_seed(9)
    draws = [torch.randn(3, dtype=torch.float64) for _ in range(STEPS + 1)] if sampled else None
    torch.manual_seed(9)
    actual = gradient_of(learner(), likelihood, episode)

    step = 1e-5
    for which, name in enumerate(("mean", "log_var")):
        numeric = []
        for index in range(3):
            values = []
            for sign in (1, -1):
                theta = [start["mean"].clone(), start["log_var"].clone()]
                theta[which][index] += sign * step
                values.append(bound([part.requires_grad_() for part in theta], episode, draws=draws).item())
            numeric.append((values[0] - values[1]) / (2 * step))
        torch.testing.assert_close(actual[name], torch.tensor(numeric).double(), rtol=1e-6, atol=1e-7)


def test_the_bound_itself_is_the_one_written_out():
    likelihood, episode = GaussianToy(expected=True), ToyEpisodes()[1]
    theta = clone(likelihood.parameters(META))
    metrics = learner().meta_gradient(likelihood, episode)
    total = metrics["nll"] + (BETA * metrics["kl"] + GAMMA * metrics["hyper_prior"]) / 8
    expected = bound([theta["mean"].requires_grad_(), theta["log_var"].requires_grad_()], episode)
    assert total == pytest.approx(expected.item(), rel=1e-12)


def test_without_inner_steps_only_data_and_prior_pull():
    """K = 0: q is the prior, its KL and the KL's gradient vanish, and the bound is the NLL of support ∪ query."""
    likelihood, episode = GaussianToy(expected=True), ToyEpisodes()[0]
    method = learner(steps=0)
    method.meta_gradient(likelihood, episode)
    theta = likelihood.parameters(META)
    y = torch.stack([observation(example.prompt) for example in [*episode.support, *episode.query]])
    d_mean = (theta["mean"] - y.mean(0)) / NOISE + GAMMA * theta["mean"] / len(y)
    d_log_var = 0.5 * theta["log_var"].exp() / NOISE - GAMMA * 0.01 * (-theta["log_var"]).exp() / len(y)
    torch.testing.assert_close(theta["mean"].grad, d_mean.detach(), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(theta["log_var"].grad, d_log_var.detach(), rtol=1e-12, atol=1e-13)


def test_with_full_weight_the_inner_loop_reaches_the_conjugate_posterior():
    """β = 1 and "example" is the exact bound: gradient descent ends at the Bayes posterior of the support set."""
    likelihood, support = GaussianToy(expected=True), ToyEpisodes(support_size=6)[3].support
    inner = InnerLoop(500, 0.4, "sgd", objective=Objective(1.0, 0.0, "example", sample=True))
    inner.run(likelihood, support)
    theta, phi = (likelihood.parameters(role) for role in ("meta", "task"))
    prior_precision = (-theta["log_var"]).exp()
    precision = prior_precision + len(support) / NOISE
    y = torch.stack([observation(example.prompt) for example in support])
    mean = (prior_precision * theta["mean"] + y.sum(0) / NOISE) / precision
    torch.testing.assert_close(phi["mean"].detach(), mean.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(phi["log_var"].detach(), -precision.log().detach(), rtol=1e-6, atol=1e-6)


def test_the_row_is_a_gaussian_over_factors_that_predicts_by_samples():
    row = build_method("abml")
    assert row.adapter == AdapterSpec("abmll", -7.0, space="factors")
    likelihood, episode = GaussianToy(), ToyEpisodes()[0]
    assert isinstance(likelihood, Likelihood)
    assert row.adaptation.adapt(likelihood, episode.support).predict(episode.query, 6).shape == (6, 4, 2)
