"""ABMLL's outer loop: θ and its variances, learned from what each half of a task says of the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from abmll.core.errors import AbmllError
from abmll.core.params import add_to_grad, reset_task
from abmll.core.passes import Passes
from abmll.core.types import META, AdapterSpec, Episode, Example, Likelihood, Method, Metrics, OuterOptimizer
from abmll.methods.parts.adam_steps import AdamSteps
from abmll.methods.parts.gradient import GradientAdaptation
from abmll.methods.parts.prior_steps import PriorSteps, Tensors, means_of, nll_gradient, variances
from abmll.methods.parts.stateless import Stateless


@dataclass(frozen=True)
class Amortised(Stateless):
    """The gradient by θ = (μ, log σ²) of what an episode's two halves say of each other:

        L(θ) = NLL(query; φ_K(θ, support)) + w · NLL(support; μ)

    φ_K is what the inner loop makes of μ and the support. With w = 1 and halves of one size, -L is, a row, the log
    evidence of the episode by the chain rule, log p(S, Q) = log p(S) + log p(Q | S), with φ_K for the posterior given
    S: the prior is learned as empirical Bayes would have it. The second term keeps μ good before anything is adapted;
    its gradient is that of the first inner step, so it is free.

    The chain rule holds in both orders. symmetric=True takes their mean, so that every row is asked about and every
    row is learned from: twice the passes, and less noise in the gradient.

    The first share `warm_up` of the outer steps take K = 0: NLL(support ∪ query; μ), one pass. It spares time, and it
    spares the exact gradient of natural steps a start where it is mostly noise.

    Attributes:
        inner: the inner loop; it knows the way back through its steps.
        support_weight: w.
        warm_up, symmetric: as above.

    Source: the chain rule as a score of a model, Dawid 1984, "Statistical theory: the prequential approach"; its mean
        over orders is the log evidence still, Fong and Holmes 2020, arXiv 1905.08737. MAML's gradient, Finn et al.
        2017, arXiv 1703.03400. The support's own loss is the k = 0 term of the multi-step loss of MAML++, Antoniou et
        al. 2019, arXiv 1810.09502.

    Raises:
        AbmllError: For options out of range.
    """

    equal_passes: ClassVar[bool] = True
    inner: PriorSteps = AdamSteps()
    support_weight: float = 1.0
    warm_up: float = 0.0
    symmetric: bool = False

    def __post_init__(self) -> None:
        if self.support_weight < 0:
            raise AbmllError(f"support_weight must be at least 0, got {self.support_weight}.")
        if not 0 <= self.warm_up < 1:
            raise AbmllError(f"warm_up must be at least 0 and below 1, got {self.warm_up}.")

    def meta_gradient(self, likelihood: Likelihood, episode: Episode) -> Metrics:
        if episode.progress < self.warm_up:
            return self._without_steps(likelihood, episode)
        share = 0.5 if self.symmetric else 1.0
        variance = variances(likelihood, self.inner.log_var_offset)
        metrics = self._with_steps(likelihood, episode.support, episode.query, variance, share)
        if self.symmetric:
            other = self._with_steps(likelihood, episode.query, episode.support, variance, share)
            metrics = {
                name: (value + other[name]) / (1 if name == "num_tokens" else 2) for name, value in metrics.items()
            }
        return metrics

    def passes(self, support: int, query: int, progress: float = 1.0) -> Passes:
        """The inner loop's own, there and back, and one on the query; in both orders if `symmetric`."""
        if progress < self.warm_up:
            return Passes(float(support + query))
        once = self.inner.examples(support) + query
        return Passes(float(once + self.inner.examples(query) + support if self.symmetric else once))

    def _with_steps(
        self,
        likelihood: Likelihood,
        support: Sequence[Example],
        query: Sequence[Example],
        variance: Mapping[str, float],
        share: float,
    ) -> Metrics:
        steps = self.inner.walk(likelihood, support, variance)
        theta = likelihood.parameters(META)
        log_vars = means_of(theta)
        query_nll, v, num_tokens = nll_gradient(likelihood, query, log_vars)
        v, of_log_var = self.inner.back(likelihood, steps, v, variance)
        metrics = {"inner_loss": steps[-1].nll if steps else 0.0, "nll": query_nll, "num_tokens": float(num_tokens)}
        if steps:
            v = {name: v[name] + self.support_weight * steps[0].gradient[name] for name in v}
            metrics["support_nll"] = steps[0].nll
        gradient = {}
        for name, value in of_log_var.items():
            log_var = theta[log_vars[name]]  # σ² is the mean over its elements: each has its share
            gradient[name] = share * v[name]
            gradient[log_vars[name]] = torch.full_like(log_var, share * value / log_var.numel())
        _add(likelihood, gradient)
        return metrics

    def _without_steps(self, likelihood: Likelihood, episode: Episode) -> Metrics:
        """The gradient of the mean NLL of all rows at θ."""
        reset_task(likelihood)
        means = means_of(likelihood.parameters(META))
        nll, gradient, num_tokens = nll_gradient(likelihood, [*episode.support, *episode.query], means)
        _add(likelihood, gradient)
        return {"inner_loss": 0.0, "nll": nll, "num_tokens": float(num_tokens), "support_nll": nll}


def _add(likelihood: Likelihood, gradient: Tensors) -> None:
    """Adds a gradient to θ's, zeros for what it does not hold."""
    theta = likelihood.parameters(META)
    add_to_grad(theta, {name: gradient.get(name, torch.zeros_like(tensor)) for name, tensor in theta.items()})


def amortised(learner: Amortised, outer_learning_rate: float, variance_rate: float) -> Method:
    """The method of this outer loop, adapted by its own inner loop, at its mean."""
    return Method(
        AdapterSpec("abmll", learner.inner.log_var_offset, space="factors"),
        GradientAdaptation(learner.inner),
        learner,
        OuterOptimizer("adamw", outer_learning_rate, "linear", log_var_rate=variance_rate),
    )
