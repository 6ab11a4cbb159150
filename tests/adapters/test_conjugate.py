"""A conjugate Gaussian through a real ABMLL layer: the bound's minimum is the exact posterior."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from abmll.core.params import train_only
from abmll.core.types import META, TASK, Example
from abmll.gaussian import layer_output
from abmll.methods.parts.objective import Objective
from tests.layer_likelihood import LayerLikelihood, fix_noise, prompt_of
from tests.parameters import few_of

FEATURES, UNITS, OBSERVATIONS, NOISE = 3, 2, 4, 0.5


def observations(example: Example) -> torch.Tensor:
    """(observations, units): what was seen of the layer's output at the example's one token."""
    return torch.tensor([[float(value) for value in text.split()] for text in example.choices], dtype=torch.float64)


def gaussian_nll(output: torch.Tensor, example: Example) -> torch.Tensor:
    """-log N(y; output, s²), summed over observations and units."""
    square = (observations(example) - output[-1]).square()
    return 0.5 * (square / NOISE + math.log(2 * math.pi * NOISE)).sum()


@pytest.mark.parametrize(
    ("computed", "estimator"),
    few_of(
        itertools.product(("fused", "naive"), ("closed_form", "sample")),
        [("fused", "sample"), ("naive", "closed_form")],
    ),
)
def test_minimising_nll_plus_kl_reaches_the_exact_posterior(computed, estimator, monkeypatch):
    likelihood = LayerLikelihood(FEATURES, UNITS, gaussian_nll, r=FEATURES, offset=-1.0, spread=0.4)
    generator = np.random.default_rng(0)
    points = np.eye(FEATURES) + 0.3 * generator.standard_normal((FEATURES, FEATURES))  # as many as r: all Gaussians fit
    seen = 2.0 * generator.standard_normal((FEATURES, OBSERVATIONS, UNITS))
    support = [
        Example(prompt_of([x]), tuple(" ".join(f"{value:.17g}" for value in y) for y in ys), 0)
        for x, ys in zip(points, seen, strict=True)
    ]
    objective = Objective(1.0, 0.0, "sum", estimator, sample=True)
    train_only(likelihood, TASK)
    phi = likelihood.parameters(TASK)
    optimizer = torch.optim.LBFGS(
        phi.values(), max_iter=2000, tolerance_grad=1e-13, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def free_energy():
        """E[NLL] + KL without sampling error: both are quadratic in the noise, and ±1 have its mean and variance."""
        optimizer.zero_grad()
        total = torch.zeros((), dtype=torch.float64)
        for sign in (-1.0, 1.0):
            fix_noise(monkeypatch, lambda _, shape, sign=sign: np.full(shape, sign))
            with (
                layer_output.implementation(computed),
                likelihood.terms(support, sample=True, kl=objective.kl) as terms,
            ):
                loss = objective(terms) / 2
                loss.backward()
            total += loss.detach()
        return total

    optimizer.step(free_energy)

    layer: Any = likelihood.model.get_base_model().proj
    x = torch.from_numpy(points)
    with torch.no_grad():
        base = layer.base_layer(x)
        prior, posterior = moments(likelihood, META, x), moments(likelihood, TASK, x)
    precision = 1 / prior[1] + OBSERVATIONS / NOISE
    residual = torch.from_numpy(seen).sum(1) - OBSERVATIONS * base
    mean = (prior[0] / prior[1] + residual / NOISE) / precision
    torch.testing.assert_close(posterior[0], mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(posterior[1], 1 / precision, rtol=1e-6, atol=0)
    # the minimum itself is -log p(D), which knows neither factors nor noise
    evidence = torch.zeros((), dtype=torch.float64)
    for unit_mean, unit_variance, ys in zip(
        (base + prior[0]).flatten(), prior[1].flatten(), seen.transpose(0, 2, 1).reshape(-1, OBSERVATIONS), strict=True
    ):
        covariance = unit_variance + NOISE * torch.eye(OBSERVATIONS, dtype=torch.float64)
        marginal = torch.distributions.MultivariateNormal(unit_mean.expand(OBSERVATIONS), covariance)
        evidence += marginal.log_prob(torch.from_numpy(ys))
    assert free_energy().item() == pytest.approx(-evidence.item(), abs=1e-9)


def moments(likelihood, role, x):
    """Mean and variance of the adapter's Gaussian at x, by matrix products: s = 2, c = -1."""
    factors = {name.rpartition("abmll_")[2]: value for name, value in likelihood.parameters(role).items()}
    mean = 2.0 * x @ (factors["mean_B"] @ factors["mean_A"]).T
    return mean, (2.0 * x @ (factors["log_var_B"] @ factors["log_var_A"]).T - 1.0).exp()
