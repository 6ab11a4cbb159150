"""Reptile: θ moves towards where the inner loop ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from abmll.core.params import add_to_grad
from abmll.core.types import META, TASK, Episode, Likelihood, Metrics
from abmll.methods.inner import InnerLoop
from abmll.methods.stateless import Stateless


@dataclass(frozen=True)
class Reptile(Stateless):
    """K inner steps on support ∪ query, then the gradient θ - φ.

    With an outer SGD of learning rate ε this is θ ← θ + ε(φ - θ).
    Source: Nichol et al. 2018, arXiv 1803.02999, algorithm 1; AdamW in the inner loop and a decaying ε as in the
    baseline of arXiv 2508.14285.
    """

    equal_passes: ClassVar[bool] = True
    inner: InnerLoop = InnerLoop()

    def meta_gradient(self, likelihood: Likelihood, episode: Episode) -> Metrics:
        loss = self.inner.run(likelihood, [*episode.support, *episode.query])
        theta, phi = likelihood.parameters(META), likelihood.parameters(TASK)
        add_to_grad(theta, {name: (theta[name] - phi[name]).detach() for name in theta})
        return {"inner_loss": loss}
