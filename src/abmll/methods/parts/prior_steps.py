"""What inner loops share whose steps are sized by the prior: a gradient, a variance a tensor, the record of a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.core.params import clone, gradients, reset_task, train_only
from abmll.core.types import META, TASK, Example, Likelihood
from abmll.methods.parts.inner import batches_of, examples_of

Tensors = dict[str, Tensor]


class Step(NamedTuple):
    """One step of the inner loop, as the way back through it needs it.

    Attributes:
        batch: the support examples of the step.
        point: φ before the step; empty if it was not to be kept.
        gradient: of the batch's mean NLL at `point`; likewise.
        nll: that NLL, in nats.
    """

    batch: Sequence[Example]
    point: Tensors
    gradient: Tensors
    nll: float


class PriorSteps(ABC):
    """An inner loop on the mean of φ, from θ, whose steps are sized by the prior's variances.

    Attributes:
        num_steps: K.
        batch_size: how many support examples a step takes, in order and starting over at the end; None takes them all.
        log_var_offset: log σ² where the stored log-variance is 0.
        needed: how many steps, from the first, the way back needs whole; None: all.
    """

    needed: ClassVar[int | None] = None
    num_steps: int
    batch_size: int | None
    log_var_offset: float

    def batches(self, support: Sequence[Example]) -> Iterator[Sequence[Example]]:
        """The K batches of the inner loop."""
        return batches_of(support, self.batch_size, self.num_steps)

    def run(self, likelihood: Likelihood, support: Sequence[Example]) -> float:
        """φ ← θ, then K steps. Returns the last step's NLL in nats, before the step (0 for K = 0)."""
        nll = 0.0
        for step in self.steps(likelihood, support, kept=0):
            nll = step.nll
        return nll

    def walk(
        self, likelihood: Likelihood, support: Sequence[Example], variance: Mapping[str, float] | None = None
    ) -> list[Step]:
        """φ ← θ, then K steps, with what the way back needs of each. variance: as for `steps`."""
        return list(self.steps(likelihood, support, variance, kept=self.needed))

    def examples(self, support: int) -> int:
        """How many examples' gradients the steps and the way back take for a support set of this size."""
        return examples_of(self, support)

    def steps(
        self,
        likelihood: Likelihood,
        support: Sequence[Example],
        variance: Mapping[str, float] | None = None,
        *,
        kept: int | None = None,
    ) -> Iterator[Step]:
        """φ ← θ, then one step whenever the next is asked for; each is told after it is taken.

        Args:
            likelihood: the model.
            support: labelled rows.
            variance: σ² of every tensor (`variances`); None asks θ for it.
            kept: how many steps, from the first, are told with their point and gradient, each a copy of φ; None: all.
        """
        reset_task(likelihood)
        variance = variances(likelihood, self.log_var_offset) if variance is None else variance
        phi = {name: tensor for name, tensor in likelihood.parameters(TASK).items() if name in variance}
        move = self.mover(phi, variance)
        for number, batch in enumerate(self.batches(support)):
            nll, gradient, _ = nll_gradient(likelihood, batch, variance)
            whole = kept is None or number < kept
            point = clone(phi) if whole else {}
            move(nll, gradient)
            yield Step(batch, point, gradient if whole else {}, nll)

    @abstractmethod
    def mover(self, phi: Tensors, variance: Mapping[str, float]) -> Callable[[float, Tensors], None]:
        """What moves `phi`, in place, by a batch's NLL and its gradient there, which is also the tensors' own `.grad`.

        Asked for once before the first step, so that it may remember the steps before.
        """

    @abstractmethod
    def back(
        self, likelihood: Likelihood, steps: Sequence[Step], v: Tensors, variance: Mapping[str, float]
    ) -> tuple[Tensors, dict[str, float]]:
        """From a gradient `v` by φ_K, with TASK at φ_K after `walk`, that by φ_0 and that by every tensor's log σ².

        Args:
            variance: the one that the steps were sized by.
        """


def variances(likelihood: Likelihood, log_var_offset: float) -> dict[str, float]:
    """σ² of every tensor of φ that moves, by its name: exp of the mean stored log-variance and the offset."""
    theta = likelihood.parameters(META)
    pairs = means_of(theta)
    means = torch.stack([theta[log_var].detach().double().mean() for log_var in pairs.values()])
    return dict(zip(pairs, (means + log_var_offset).exp().tolist(), strict=True))


def means_of(theta: Mapping[str, Tensor]) -> dict[str, str]:
    """The names of the means among θ's tensors, with that of the log-variance of each.

    Raises:
        AbmllError: If there is none.
    """
    pairs = {name: log_var_of(name) for name in theta if log_var_of(name) in theta and log_var_of(name) != name}
    if not pairs:
        raise AbmllError(
            "steps sized by the prior need an adapter with a variance for every tensor "
            '(AdapterSpec(kind="abmll", space="factors")).'
        )
    return pairs


def log_var_of(name: str) -> str:
    """The name of the log-variance that belongs to the mean of this name."""
    head, found, tail = name.rpartition("mean")
    return f"{head}log_var{tail}" if found else name


def nll_gradient(
    likelihood: Likelihood, examples: Sequence[Example], names: Mapping[str, object]
) -> tuple[float, Tensors, int]:
    """The mean NLL of the examples at TASK, in nats, its gradient by TASK's tensors of these names, and its tokens.

    The gradient is the tensors' own `.grad`: it lasts, for the next pass makes another.
    """
    train_only(likelihood, TASK)
    phi = {name: tensor for name, tensor in likelihood.parameters(TASK).items() if name in names}
    for name, tensor in likelihood.parameters(TASK).items():
        tensor.requires_grad_(name in phi)
    with likelihood.terms(examples) as terms:
        nll = terms.nll.mean()
        nll.backward()
    return float(nll.detach()), gradients(phi), terms.num_tokens


def dot(first: Tensor, second: Tensor) -> float:
    """The inner product, summed in float64."""
    return float((first.double() * second.double()).sum())
