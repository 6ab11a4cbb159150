"""The Laplace approximation of the log evidence, and the prior precision that maximises it."""

from __future__ import annotations

import math

from torch import Tensor

PRECISION_RANGE = (1e-6, 1e12)
"""Where the prior precision is looked for: the evidence has no maximum inside if the data say nothing at all, or if
the mode is the prior mean itself."""


def log_evidence(log_likelihood: float, square_distance: float, eigenvalues: Tensor, precision: float) -> float:
    """log p(D | λ) of the Laplace approximation, in nats.

        log p(D | φ*) - ½λ‖φ* - μ‖² - ½ Σ log(1 + h/λ)

    Args:
        log_likelihood: log p(D | φ*) at the mode.
        square_distance: ‖φ* - μ‖² to the prior mean.
        eigenvalues: h, of the curvature of the negative log-likelihood (zeros add nothing). Exact if the likelihood is
            Gaussian in φ.
    """
    volume = (eigenvalues / precision).log1p().sum().item()
    return log_likelihood - 0.5 * precision * square_distance - 0.5 * volume


def best_precision(square_distance: float, eigenvalues: Tensor) -> float:
    """The λ that maximises `log_evidence`, with the mode held fixed.

    There λ‖φ* - μ‖² = Σ h/(h + λ), the effective number of parameters: the left side rises with λ and the right side
    falls, so bisection of log λ finds the only root.
    Source: MacKay 1992, "Bayesian interpolation"; Laplace-LoRA (arXiv 2308.13111) climbs to the same point by 100
    steps of gradient ascent.
    """
    low, high = (math.log(bound) for bound in PRECISION_RANGE)
    for _ in range(100):
        middle = 0.5 * (low + high)
        precision = math.exp(middle)
        if precision * square_distance < (eigenvalues / (eigenvalues + precision)).sum().item():
            low = middle
        else:
            high = middle
    return math.exp(0.5 * (low + high))
