"""Adaptation by gradient steps: MAP on a point adapter, variational inference on a Gaussian one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from abmll.core.params import placed, reset_task
from abmll.core.passes import Passes
from abmll.core.types import TASK, Example, Likelihood
from abmll.methods.parts.inner import InnerLoop
from abmll.methods.parts.posterior import AdapterPosterior
from abmll.methods.parts.prior_steps import PriorSteps


@dataclass(frozen=True)
class GradientAdaptation:
    """φ ← θ, then the inner loop on the support set with a fresh optimiser.

    With KL weight 0 on a LoRA this is ordinary fine-tuning; with a Gaussian adapter and a KL it minimises the
    tempered free energy of the support set, and `sample` predicts by draws from the posterior.
    """

    inner: InnerLoop | PriorSteps = InnerLoop()
    sample: bool = False

    def adapt(self, likelihood: Likelihood, support: Sequence[Example]) -> AdapterPosterior:
        self.inner.run(likelihood, support)
        return AdapterPosterior(likelihood, likelihood.parameters(TASK), sample=self.sample)

    def restore(self, likelihood: Likelihood, state: Mapping[str, Tensor]) -> AdapterPosterior:
        return AdapterPosterior(likelihood, placed(likelihood, state), sample=self.sample)

    def query_passes(self, num_samples: int) -> Passes:
        return Passes(0.0, float(max(1, num_samples) if self.sample else 1))


@dataclass(frozen=True)
class NoAdaptation:
    """Predicts with θ as it is and never looks at the support set: zero-shot."""

    def adapt(self, likelihood: Likelihood, support: Sequence[Example]) -> AdapterPosterior:
        reset_task(likelihood)
        return AdapterPosterior(likelihood, likelihood.parameters(TASK))

    def restore(self, likelihood: Likelihood, state: Mapping[str, Tensor]) -> AdapterPosterior:
        return AdapterPosterior(likelihood, placed(likelihood, state))

    def query_passes(self, num_samples: int) -> Passes:
        return Passes(0.0, 1.0)
