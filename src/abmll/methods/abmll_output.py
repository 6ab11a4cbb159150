"""ABMLL over a LoRA's output, as published (abmll-paper) and adapted further (abmll-output)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch

from abmll.core.params import add_to_grad, gradients_of, train_only
from abmll.core.passes import Passes
from abmll.core.types import META, TASK, AdapterSpec, Episode, Example, Likelihood, Method, Metrics, OuterOptimizer
from abmll.methods.parts.gradient import GradientAdaptation
from abmll.methods.parts.inner import InnerLoop, InnerOptimizer, examples_of
from abmll.methods.parts.objective import Objective, Reduction, Schedule
from abmll.methods.parts.space import ADAM_RATE, OUTER_RATE, Choice, LogUniform, Space, searched


@dataclass
class Abmll:
    """Adapts φ from θ on the support set, then moves θ by the gradient of β·KL(φ ‖ θ) - γ·log p(θ).

    Attributes:
        inner: the inner loop on the support set.
        outer: the outer objective; its NLL reaches θ only with `query_gradient`.
        outer_data: "query" judges φ on the query set; "union" on support ∪ query (ABML's bound); "last_batch" on the
            inner loop's last batch (as published).
        query_gradient: also add the first-order gradient of the outer NLL, taken at φ, to θ's gradient (dφ/dθ ≈ 1). The
            published code has no such path: there, θ follows φ through the KL alone.
        persistent_optimizer: one inner optimiser whose moments live on across tasks (as published) instead of a fresh
            one for each episode.

    Source: arXiv 2508.14285 (algorithm and objective); the published settings are `methods.abmll_paper`.
    """

    equal_passes: ClassVar[bool] = True
    inner: InnerLoop = InnerLoop()
    outer: Objective = Objective()
    outer_data: Literal["query", "union", "last_batch"] = "query"
    query_gradient: bool = True
    persistent_optimizer: bool = False
    _optimizer: torch.optim.Optimizer | None = field(default=None, init=False, repr=False)
    _pending_state: Mapping[str, Any] | None = field(default=None, init=False, repr=False)

    def meta_gradient(self, likelihood: Likelihood, episode: Episode) -> Metrics:
        inner_loss = self.inner.run(likelihood, episode.support, self._inner_optimizer(likelihood))
        theta, phi = likelihood.parameters(META), likelihood.parameters(TASK)
        train_only(likelihood, *((META, TASK) if self.query_gradient else (META,)))
        outer = self.outer.at(episode.progress)
        with likelihood.terms(
            self._outer_examples(episode),
            sample=outer.sample,
            kl=outer.kl,
            hyper_prior=bool(outer.prior_weight),
            prior_only=True,  # φ's own KL gradient would cancel θ's: the KL pulls the two together
        ) as terms:
            nll, regulariser = outer.nll(terms), outer.regulariser(terms)
            if self.query_gradient:
                of_phi, of_theta = gradients_of(nll + regulariser, phi, theta)
                add_to_grad(theta, of_phi)
                add_to_grad(theta, of_theta)
            elif regulariser.requires_grad:
                add_to_grad(theta, *gradients_of(regulariser, theta))
        return {
            "inner_loss": inner_loss,
            "nll": float(nll.detach()),
            "kl": float(terms.kl.detach()),
            "hyper_prior": float(terms.hyper.detach()),
            "num_tokens": float(terms.num_tokens),
        }

    def passes(self, support: int, query: int, progress: float = 1.0) -> Passes:
        last = min(self.inner.batch_size or support, support)
        outer = {"query": query, "union": support + query, "last_batch": last}[self.outer_data]
        adapted = float(examples_of(self.inner, support))
        # Where the divergence alone reaches θ, no way leads back through the network.
        return Passes(adapted + outer) if self.query_gradient else Passes(adapted, float(outer))

    def _outer_examples(self, episode: Episode) -> list[Example]:
        if self.outer_data == "last_batch":
            *_, last = self.inner.batches(episode.support)
            return list(last)
        return [*(episode.support if self.outer_data == "union" else ()), *episode.query]

    def _inner_optimizer(self, likelihood: Likelihood) -> torch.optim.Optimizer | None:
        if not self.persistent_optimizer:
            return None
        if self._optimizer is None:
            self._optimizer = self.inner.new_optimizer(likelihood)
            if self._pending_state:
                self._optimizer.load_state_dict(copy.deepcopy(dict(self._pending_state)))
        return self._optimizer

    def state_dict(self) -> dict[str, Any]:
        """The moments of the persistent inner optimiser; empty otherwise."""
        if self._optimizer is not None:
            return copy.deepcopy(self._optimizer.state_dict())  # torch hands out its live tensors
        return dict(self._pending_state or {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        # The optimiser is made with the first episode, when the parameters are known; its state waits until then.
        self._optimizer, self._pending_state = None, state or None


OUTPUT_SPACE: Space = {
    "learning_rate": ADAM_RATE,
    "outer_learning_rate": OUTER_RATE,
    "kl_weight": LogUniform(1e-6, 1e-1),
    "log_var_offset": Choice((-6.0, -5.0, -4.0, -3.0, -2.0)),
}
"""What is searched of `abmll-output`, and of its variant that is shown demonstrations."""


@searched(**OUTPUT_SPACE)
def abmll_output(
    num_steps: int = 5,
    learning_rate: float = 1e-3,
    optimizer: InnerOptimizer = "adamw",
    batch_size: int | None = None,
    outer_learning_rate: float = 5e-3,
    kl_weight: float = 1e-4,
    kl_schedule: Schedule = "constant",
    prior_weight: float = 0.0,
    log_var_offset: float = -4.0,
    log_var_bound: float | None = 4.0,
    adapts: Literal["all", "mean"] = "mean",
    inner_kl_weight: float = 0.0,
    inner_sample: bool = False,
    query_gradient: bool = True,
    sample: bool = True,
    predict_by_samples: bool = True,
    persistent_optimizer: bool = False,
    space: Literal["output", "weight"] = "output",
) -> Method:
    """ABMLL with a Gaussian over the LoRA's output and the query set's gradient: the published form, adapted further.

    It was the default `abmll` of the first version; what it was measured to do stands in docs/log.md. The inner loop
    moves φ's mean only, at the mean, and the posterior's variance is θ's, learned from how φ answers the query sets.

    Args:
        learning_rate: AdamW's steps are as large as its rate whatever the size of model and gradient; plain steps
            ("sgd") do as well on the package's model at a rate of 0.3, which no other model needs to bear.
        optimizer: likewise.
        kl_weight: β, γ and the sampled NLL of the outer objective.
        prior_weight: likewise.
        sample: likewise.
        kl_schedule: of the outer β; see `Objective`.
        log_var_bound: how far a log-variance may get from its offset, in nats (of the Gaussian over outputs); without a
            bound, outer rates of 8e-3 and more overflow.
        inner_kl_weight: the same for the inner loop, where the paper has β > 0 and a sample.
        inner_sample: likewise.
        adapts: "all" also moves φ's variance in the inner loop, as published.
        space: what the Gaussian is over. A divergence between weights is one number however many tokens there are, so
            with "weight" it is counted per example and not per token, and `kl_weight` = 1 is the exact bound. Weights
            are small: give a smaller `log_var_offset` with it, such as -10 (a standard deviation of 0.007).
    """
    reduction: Reduction = "example" if space == "weight" else "mean"
    inner_objective = Objective(inner_kl_weight, 0.0, reduction, "closed_form", inner_sample)
    inner = InnerLoop(num_steps, learning_rate, optimizer, batch_size, inner_objective, adapts)
    outer = Objective(kl_weight, prior_weight, reduction, "closed_form", sample, kl_schedule)
    return Method(
        AdapterSpec("abmll", log_var_offset, space=space, log_var_bound=log_var_bound if space == "output" else None),
        GradientAdaptation(inner, sample=predict_by_samples),
        Abmll(inner, outer, "query", query_gradient, persistent_optimizer),
        OuterOptimizer("adamw", outer_learning_rate, "linear"),
    )


@searched(kl_weight=Choice((1e-8, 1e-7)))
def abmll_paper(num_tasks: int = 34, kl_weight: float = 1e-8) -> Method:
    """ABMLL with every published setting (v2/v3 recipe): arXiv 2508.14285 and the authors' code.

    Args:
        num_tasks: number of training tasks T; the hyper-prior's weight is β / T.
        kl_weight: β; 1e-8 in the code, 1e-7 in the reviewed text.
    """
    objective = Objective(kl_weight, kl_weight / num_tasks, "sum", "sample", sample=True)
    inner = InnerLoop(num_steps=5, learning_rate=1e-5, batch_size=2, objective=objective)
    return Method(
        AdapterSpec("abmll", -20.0),
        GradientAdaptation(inner, sample=False),
        Abmll(inner, objective, "last_batch", query_gradient=False, persistent_optimizer=True),
        OuterOptimizer("adamw", 5e-5),
    )
