"""Exact MAML: the query NLL after K gradient steps, differentiated through those steps."""

from __future__ import annotations

from dataclasses import dataclass

from abmll.core.passes import Passes
from abmll.core.types import AdapterSpec, Episode, Likelihood, Method, Metrics, OuterOptimizer
from abmll.methods.parts.gradient import GradientAdaptation
from abmll.methods.parts.inner import InnerLoop, examples_of
from abmll.methods.parts.objective import Objective
from abmll.methods.parts.space import SGD_RATE, LogUniform, searched
from abmll.methods.parts.stateless import Stateless
from abmll.methods.parts.unrolled import WAY_BACK, gradient_through, require_sgd


@dataclass(frozen=True)
class Maml(Stateless):
    """∇_θ NLL(query; φ_K(θ)), second-order terms included; φ_K is K steps of gradient descent on the support set.

    Needs a `FunctionalLikelihood`, two to three times the seconds of first order and memory in proportion to K.
    Source: Finn et al. 2017, arXiv 1703.03400, algorithm 2. It is also the core of MAML-en-LLM (arXiv 2405.11446),
    whose moments, shared between inner and outer optimiser, are left out: what is in print does not say how they are
    combined, and an adaptive inner step has no derivative at a fresh LoRA (see `unrolled.require_sgd`).
    """

    inner: InnerLoop = InnerLoop(optimizer="sgd")
    outer: Objective = Objective()

    def __post_init__(self) -> None:
        require_sgd(self.inner)

    def meta_gradient(self, likelihood: Likelihood, episode: Episode) -> Metrics:
        return gradient_through(self.inner, self.outer, likelihood, episode.support, episode.query)

    def passes(self, support: int, query: int, progress: float = 1.0) -> Passes:
        return Passes(float(WAY_BACK * examples_of(self.inner, support) + query))


@searched(learning_rate=SGD_RATE, outer_learning_rate=LogUniform(3e-4, 3e-2))
def maml(
    num_steps: int = 5,
    learning_rate: float = 0.1,
    batch_size: int | None = None,
    outer_learning_rate: float = 3e-3,
) -> Method:
    """Exact MAML on a LoRA, second order through plain gradient steps."""
    inner = InnerLoop(num_steps, learning_rate, "sgd", batch_size)
    outer = OuterOptimizer("adamw", outer_learning_rate, "linear")
    return Method(AdapterSpec(), GradientAdaptation(inner), Maml(inner), outer)
