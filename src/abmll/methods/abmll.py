"""ABMLL: a LoRA learned over tasks by their log evidence; a task is adapted to in one pass, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.core.params import add_to_grad, gradients, reset_task, train_only
from abmll.core.passes import Passes
from abmll.core.types import (
    META,
    TASK,
    AdapterSpec,
    Episode,
    Example,
    FeatureLikelihood,
    Features,
    Likelihood,
    Method,
    Metrics,
    OuterOptimizer,
)
from abmll.methods.parts.bayesian_head import HeadPrior, evidence
from abmll.methods.parts.head_posterior import BayesianHead
from abmll.methods.parts.space import OUTER_RATE, LogUniform, searched
from abmll.methods.parts.stateless import Stateless


@dataclass(frozen=True)
class HeadEvidence(Stateless):
    """The gradient of -log p(labels of support ∪ query | θ) a row, the head's weights integrated out.

    By the chain rule it is what each run of the rows says of the next, from none to all but the last, in every
    rotation (`bayesian_head.evidence`). One pass through the model; the gradient is exact.

    Attributes:
        prior: over the head.
        batch_size: rows that go through the model at once, for its memory; None takes all. Fewer cost one more forward
            pass, and change nothing: the evidence's gradient by what a pass made of the rows is taken first.
        blocks: into how many runs the rows are dealt.
        nodes: settings of the scores that an expectation is taken over.

    Source: empirical Bayes with features as parameters: Patacchiola et al. 2020, arXiv 1910.05199. In runs instead of
        the marginal likelihood: Dawid 1984, "Statistical theory: the prequential approach"; Fong and Holmes
        2020, arXiv 1905.08737. Batches: Gao et al. 2021, arXiv 2101.06983.

    Raises:
        AbmllError: For options out of range.
    """

    equal_passes: ClassVar[bool] = True
    prior: HeadPrior = HeadPrior()
    batch_size: int | None = None
    blocks: int = 4
    nodes: int = 32

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise AbmllError(f"batch_size must be at least 1, got {self.batch_size}.")

    def meta_gradient(self, likelihood: Likelihood, episode: Episode) -> Metrics:
        assert isinstance(likelihood, FeatureLikelihood)
        reset_task(likelihood)
        train_only(likelihood, TASK)
        rows = [*episode.support, *episode.query]
        targets = torch.tensor([example.known_target for example in rows])
        size = self._at_once(len(rows))
        if size == len(rows):
            with likelihood.features(rows) as features:
                loss = self._loss(features, targets)
                loss.backward()
        else:
            loss = self._in_batches(likelihood, rows, targets, size)
        add_to_grad(likelihood.parameters(META), gradients(likelihood.parameters(TASK)))
        return {"nll": float(loss.detach())}

    def passes(self, support: int, query: int, progress: float = 1.0) -> Passes:
        rows = support + query
        return Passes(float(rows), 0.0 if self._at_once(rows) == rows else float(rows))

    def _at_once(self, rows: int) -> int:
        return min(self.batch_size or rows, rows)

    def _loss(self, features: Features, targets: Tensor) -> Tensor:
        return -evidence(self.prior, features, targets, self.blocks, self.nodes)

    def _in_batches(self, likelihood: FeatureLikelihood, rows: Sequence[Example], targets: Tensor, size: int) -> Tensor:
        """The loss, its gradient added to TASK's batch by batch."""
        with torch.no_grad(), likelihood.features(rows) as seen:
            ends = (seen.hidden.detach().requires_grad_(), seen.log_probs.detach().requires_grad_())
        loss = self._loss(seen._replace(hidden=ends[0], log_probs=ends[1]), targets)
        by_hidden, by_log_probs = torch.autograd.grad(loss, ends)
        for start in range(0, len(rows), size):
            here = slice(start, start + size)
            with likelihood.features(rows[here]) as part:
                there = ~part.log_probs.isneginf()  # a batch may have fewer choices than all rows together
                weights = by_log_probs[here, : there.shape[1]][there]
                torch.autograd.backward([part.hidden, part.log_probs[there]], [by_hidden[here], weights])
        return loss


@searched(
    outer_learning_rate=OUTER_RATE,
    weight_std=LogUniform(0.5, 8.0),
    temperature=LogUniform(0.1, 1.0),
    scale_mean=LogUniform(0.4, 1.4),
)
def abmll(
    outer_learning_rate: float = 2e-3,
    batch_size: int | None = None,
    scale_mean: float = HeadPrior.scale_mean,
    scale_std: float = HeadPrior.scale_std,
    weight_std: float = HeadPrior.weight_std,
    bias_std: float = HeadPrior.bias_std,
    temperature: float = HeadPrior.temperature,
) -> Method:
    """ABMLL: a LoRA learned over tasks by their log evidence; a task's own weights are a Gaussian in closed form.

    Args:
        batch_size: rows that go through the model at once in meta-training, for its memory; None takes a whole episode.
        scale_mean, scale_std: of the prior on how sure to be of the language model's own answer.
        weight_std, bias_std: of the prior on what a task adds to the output head.
        temperature: of the posterior: how much of its doubt counts in a prediction; 1 is Bayes' own.
    """
    prior = HeadPrior(scale_mean, scale_std, weight_std, bias_std, temperature)
    learner = HeadEvidence(prior, batch_size)
    return Method(AdapterSpec(), BayesianHead(prior), learner, OuterOptimizer("adamw", outer_learning_rate, "linear"))
