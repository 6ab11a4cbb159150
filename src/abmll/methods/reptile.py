"""Reptile: θ moves towards where the inner loop ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from abmll.core.passes import Passes
from abmll.core.types import AdapterSpec, Episode, Likelihood, Method, Metrics, OuterOptimizer
from abmll.methods.parts.gradient import GradientAdaptation
from abmll.methods.parts.inner import InnerLoop, InnerOptimizer, examples_of, towards
from abmll.methods.parts.space import REPTILE_RATE, SGD_RATE, searched
from abmll.methods.parts.stateless import Stateless


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
        return towards(self.inner, likelihood, episode)

    def passes(self, support: int, query: int, progress: float = 1.0) -> Passes:
        return Passes(float(examples_of(self.inner, support + query)))


@searched(learning_rate=SGD_RATE, outer_learning_rate=REPTILE_RATE)
def reptile(
    num_steps: int = 5,
    learning_rate: float = 0.03,
    optimizer: InnerOptimizer = "sgd",
    batch_size: int | None = None,
    outer_learning_rate: float = 1.0,
) -> Method:
    """Reptile on a LoRA; the outer rate ε decays linearly to 0, as in the paper's baseline (AdamW, ε = 0.5 there)."""
    inner = InnerLoop(num_steps, learning_rate, optimizer, batch_size)
    outer = OuterOptimizer("sgd", outer_learning_rate, "linear")
    return Method(AdapterSpec(), GradientAdaptation(inner), Reptile(inner), outer)
