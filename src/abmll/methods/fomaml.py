"""First-order MAML: θ moves by the query gradient taken where the inner loop ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from abmll.core.params import add_to_grad, clone, gradients, gradients_of
from abmll.core.passes import Passes
from abmll.core.types import META, TASK, AdapterSpec, Episode, Likelihood, Method, Metrics, OuterOptimizer
from abmll.methods.parts.gradient import GradientAdaptation
from abmll.methods.parts.inner import InnerLoop, InnerOptimizer, examples_of
from abmll.methods.parts.space import OUTER_RATE, SGD_RATE, searched
from abmll.methods.parts.stateless import Stateless


@dataclass(frozen=True)
class Fomaml(Stateless):
    """K inner steps on the support set, then ∇_φ NLL(query) at φ as θ's gradient: dφ/dθ is taken for the identity.

    Attributes:
        support_weight: w, adds w times the gradient of the support's NLL at θ, which the first inner step has taken
            anyway: θ is then good before it is adapted, too. 0 is the method as published.

    Any inner optimiser will do, gradient checkpointing too: no gradient passes through the inner loop.
    Source: Finn et al. 2017, arXiv 1703.03400, section 5.2.
    """

    equal_passes: ClassVar[bool] = True
    inner: InnerLoop = InnerLoop()
    support_weight: float = 0.0

    def meta_gradient(self, likelihood: Likelihood, episode: Episode) -> Metrics:
        phi = likelihood.parameters(TASK)
        first: dict[str, Tensor] = {}

        def keep(step: int) -> None:
            if step == 0 and self.support_weight:
                first.update(clone(gradients(phi)))

        inner_loss = self.inner.run(likelihood, episode.support, on_step=keep)
        with likelihood.terms(episode.query) as terms:
            loss = self.inner.objective.nll(terms)
            (gradient,) = gradients_of(loss, phi)
        for name, start in first.items():
            gradient[name] = gradient[name] + self.support_weight * start
        add_to_grad(likelihood.parameters(META), gradient)
        return {"inner_loss": inner_loss, "nll": float(loss.detach()), "num_tokens": float(terms.num_tokens)}

    def passes(self, support: int, query: int, progress: float = 1.0) -> Passes:
        return Passes(float(examples_of(self.inner, support) + query))


@searched(learning_rate=SGD_RATE, outer_learning_rate=OUTER_RATE)
def fomaml(
    num_steps: int = 5,
    learning_rate: float = 0.3,
    optimizer: InnerOptimizer = "sgd",
    batch_size: int | None = None,
    outer_learning_rate: float = 5e-3,
    support_weight: float = 0.0,
) -> Method:
    """First-order MAML on a LoRA.

    Args:
        support_weight: of the support's own NLL at θ in the outer objective; 0 as published.
    """
    inner = InnerLoop(num_steps, learning_rate, optimizer, batch_size)
    outer = OuterOptimizer("adamw", outer_learning_rate, "linear")
    return Method(AdapterSpec(), GradientAdaptation(inner), Fomaml(inner, support_weight), outer)
