"""Multi-task LoRA: one adapter trained on all tasks at once, the paper's Structured LoRA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from abmll.core.params import add_to_grad, gradients, reset_task, train_only
from abmll.core.types import META, TASK, Episode, Likelihood, Metrics
from abmll.methods.objective import Objective
from abmll.methods.stateless import Stateless


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
