"""Multi-task LoRA: one adapter trained on all tasks at once, the paper's Structured LoRA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from abmll.core.params import add_to_grad, gradients, reset_task, train_only
from abmll.core.passes import Passes
from abmll.core.types import META, TASK, AdapterSpec, Episode, Likelihood, Method, Metrics, OuterOptimizer
from abmll.methods.parts.gradient import GradientAdaptation
from abmll.methods.parts.inner import InnerLoop, InnerOptimizer
from abmll.methods.parts.objective import Objective
from abmll.methods.parts.space import OUTER_RATE, SGD_RATE, searched
from abmll.methods.parts.stateless import Stateless


@dataclass(frozen=True)
class MultiTask(Stateless):
    """The gradient of the NLL of support ∪ query at θ itself: no inner loop.

    Source: baseline "Structured LoRA" of arXiv 2508.14285. Deliberate difference: the published script steps
    K times on one task before it goes to the next; here every step is one step of the outer optimiser.
    """

    equal_passes: ClassVar[bool] = True
    objective: Objective = Objective()

    def meta_gradient(self, likelihood: Likelihood, episode: Episode) -> Metrics:
        reset_task(likelihood)
        train_only(likelihood, TASK)
        with likelihood.terms([*episode.support, *episode.query]) as terms:
            loss = self.objective.nll(terms)
            loss.backward()
        add_to_grad(likelihood.parameters(META), gradients(likelihood.parameters(TASK)))
        return {"nll": float(loss.detach()), "num_tokens": float(terms.num_tokens)}

    def passes(self, support: int, query: int, progress: float = 1.0) -> Passes:
        return Passes(float(support + query))


@searched(learning_rate=SGD_RATE, outer_learning_rate=OUTER_RATE)
def multitask(
    num_steps: int = 5,
    learning_rate: float = 0.03,
    optimizer: InnerOptimizer = "sgd",
    batch_size: int | None = None,
    outer_learning_rate: float = 3e-3,
) -> Method:
    """One LoRA trained on all tasks, then fine-tuned on each new task's support set."""
    inner = InnerLoop(num_steps, learning_rate, optimizer, batch_size)
    outer = OuterOptimizer("adamw", outer_learning_rate, "linear")
    return Method(AdapterSpec(), GradientAdaptation(inner), MultiTask(), outer)
