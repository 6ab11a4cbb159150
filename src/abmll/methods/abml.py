"""The original ABML: MAML's gradient of a variational bound, for a Gaussian over weights."""

from __future__ import annotations

from dataclasses import dataclass

from abmll.core.passes import Passes
from abmll.core.types import AdapterSpec, Episode, Likelihood, Method, Metrics, OuterOptimizer
from abmll.methods.parts.gradient import GradientAdaptation
from abmll.methods.parts.inner import InnerLoop, examples_of
from abmll.methods.parts.objective import Objective
from abmll.methods.parts.space import SGD_RATE, Choice, LogUniform, searched
from abmll.methods.parts.stateless import Stateless
from abmll.methods.parts.unrolled import WAY_BACK, gradient_through, require_sgd


@dataclass(frozen=True)
class Abml(Stateless):
    """∇_θ { E_q[NLL(support ∪ query)] + β·KL(q ‖ p(φ|θ)) - γ·log p(θ) }, q = q(φ; λ_K(θ)), through the inner loop.

    λ_K is K steps of gradient descent on E_q[NLL(support)] + β·KL(q ‖ p(φ|θ)) from λ_0 = θ: θ is both where the
    inner loop starts and the prior. The query set is evaluated together with the support set, which keeps the bound
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

    def passes(self, support: int, query: int, progress: float = 1.0) -> Passes:
        return Passes(float(WAY_BACK * examples_of(self.inner, support) + support + query))


@searched(
    learning_rate=SGD_RATE,
    outer_learning_rate=LogUniform(3e-4, 3e-2),
    kl_weight=LogUniform(1e-5, 1.0),
    log_var_offset=Choice((-10.0, -8.0, -7.0, -6.0)),
)
def abml(
    num_steps: int = 5,
    learning_rate: float = 0.1,
    batch_size: int | None = None,
    outer_learning_rate: float = 3e-3,
    kl_weight: float = 1e-3,
    prior_weight: float = 0.0,
    log_var_offset: float = -7.0,
) -> Method:
    """The original ABML, on the factors of a LoRA: a variational inner loop, differentiated through.

    Args:
        kl_weight: 1 in the paper, which had to lower it for few-shot tasks; the same in both loops.
        log_var_offset: initial log-variance of every element; public implementations draw the log of the standard
            deviation from (-4, -3).
    """
    inner_objective = Objective(kl_weight, 0.0, "example", sample=True)
    inner = InnerLoop(num_steps, learning_rate, "sgd", batch_size, inner_objective)
    return Method(
        AdapterSpec("abmll", log_var_offset, space="factors"),
        GradientAdaptation(inner, sample=True),
        Abml(inner, Objective(kl_weight, prior_weight, "example", sample=True)),
        OuterOptimizer("adamw", outer_learning_rate, "linear"),
    )
