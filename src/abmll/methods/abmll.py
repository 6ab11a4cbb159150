"""ABMLL's outer loop: amortised Bayesian meta-learning for LoRA."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch

from abmll.core.params import add_to_grad, gradients_of, train_only
from abmll.core.types import META, TASK, Episode, Likelihood, Metrics
from abmll.methods.inner import InnerLoop
from abmll.methods.objective import Objective


@dataclass
class Abmll:
    """Adapts φ from θ on the support set, then moves θ by the gradient of β·KL(φ ‖ θ) - γ·log p(θ).

    inner: the inner loop on the support set.
    outer: the outer objective; its NLL reaches θ only with `query_gradient`.
    outer_data: "query" judges φ on the query set; "union" on support ∪ query (ABML's bound); "last_batch" on the
        inner loop's last batch (as published).
    query_gradient: also add the first-order gradient of the outer NLL, taken at φ, to θ's gradient (dφ/dθ ≈ 1).
        The published code has no such path: there, θ follows φ through the KL alone.
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

    def _outer_examples(self, episode: Episode) -> list:
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
