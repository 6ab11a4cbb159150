"""Exact MAML: the query NLL after K gradient steps, differentiated through those steps."""

from __future__ import annotations

from dataclasses import dataclass

from abmll.core.types import Episode, Likelihood, Metrics
from abmll.methods.inner import InnerLoop
from abmll.methods.objective import Objective
from abmll.methods.stateless import Stateless
from abmll.methods.unrolled import gradient_through, require_sgd


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
