"""The original ABML: MAML's gradient of a variational bound, for a Gaussian over weights."""

from __future__ import annotations

from dataclasses import dataclass

from abmll.core.types import Episode, Likelihood, Metrics
from abmll.methods.inner import InnerLoop
from abmll.methods.objective import Objective
from abmll.methods.stateless import Stateless
from abmll.methods.unrolled import gradient_through, require_sgd


@dataclass(frozen=True)
class Abml(Stateless):
    """∇_θ { E_q[NLL(support ∪ query)] + β·KL(q ‖ p(φ|θ)) - γ·log p(θ) }, q = q(φ; λ_K(θ)), through the inner loop.

    λ_K is K steps of gradient descent on E_q[NLL(support)] + β·KL(q ‖ p(φ|θ)) from λ_0 = θ: θ is both where the
    inner loop starts and the prior. The query set is judged together with the support set, which keeps the bound
    valid; the variational parameters see the support set alone.

    Source: Ravi & Beatson 2019, "Amortized Bayesian Meta-Learning", ICLR, sections 3.2-3.4. Deliberate difference:
    on a language model the weights are the two factors of every LoRA.
    """

    inner: InnerLoop = InnerLoop(optimizer="sgd")
    outer: Objective = Objective()

    def __post_init__(self) -> None:
        require_sgd(self.inner)

    def meta_gradient(self, likelihood: Likelihood, episode: Episode) -> Metrics:
        union = [*episode.support, *episode.query]
        return gradient_through(self.inner, self.outer.at(episode.progress), likelihood, episode.support, union)
