"""LoRAHub: a new task's LoRA composed of those of the training tasks, without a gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.core.library import composed, lora_of, put_alone
from abmll.core.params import placed
from abmll.core.passes import Passes
from abmll.core.types import TASK, AdapterSpec, Example, LibraryLikelihood, Likelihood, Method, OuterOptimizer
from abmll.methods.parts.inner import InnerLoop, InnerOptimizer
from abmll.methods.parts.library import LoraPerTask, WithoutLora, library, library_of
from abmll.methods.parts.posterior import AdapterPosterior
from abmll.methods.parts.space import ADAM_RATE, Choice, searched

Loras = dict[int, dict[str, Tensor]]
"""The LoRAs that have been trained, by their place in the library."""


@dataclass(frozen=True)
class LoraHub:
    """A weight for each LoRA of the library, sought on the support set; their composition is the posterior.

    Minimised is NLL(support; w) + l1 · mean |w_i|, the NLL per example in nats, over -bound ≤ w_i ≤ bound, from w = 0,
    where the model is as it is. A LoRA that was never trained takes no part. What is composed has a LoRA's rank, and
    lies in the place of the library's first.

    Attributes:
        num_loras: how many LoRAs the library has room for.
        num_steps: how often the loss is asked, a forward pass over the support set each.
        bound, l1: as above.
        spread: the search's standard deviation at first.

    Source: Huang et al. 2023, arXiv 2307.13269: 20 LoRAs drawn from about 200, 40 evaluations, bound 1.5, l1 0.05.
    Deliberate differences: it seeks by Nevergrad's NGOpt, which chooses among many optimisers; here it is one of them,
    the (1+1) evolution strategy (`seek`). Its code divides the batch's mean NLL once more by the number of examples;
    here the NLL per example is minimised. All LoRAs of the library take part, not 20 at random.

    Raises:
        AbmllError: For options out of range.
    """

    num_loras: int
    num_steps: int = 40
    bound: float = 1.5
    l1: float = 0.05
    spread: float = 0.5

    def __post_init__(self) -> None:
        if self.num_loras < 1 or self.num_steps < 1 or self.bound <= 0 or self.l1 < 0 or self.spread <= 0:
            raise AbmllError(
                "lorahub: num_loras and num_evaluations must be at least 1, bound and spread above 0 and l1 at least "
                f"0; got num_loras={self.num_loras}, num_evaluations={self.num_steps}, bound={self.bound}, "
                f"spread={self.spread}, l1={self.l1}."
            )

    @property
    def zero_shot(self) -> WithoutLora:
        """Without labels no LoRA is chosen."""
        return WithoutLora()

    def adapt(self, likelihood: Likelihood, support: Sequence[Example]) -> AdapterPosterior:
        weights, loras = self._sought(likelihood, support)
        self._put(likelihood, loras, weights)
        return ComposedPosterior(library(likelihood), likelihood.parameters(TASK), self.num_loras)

    def weights(self, likelihood: Likelihood, support: Sequence[Example]) -> dict[int, float]:
        """What `adapt` weighs each LoRA with, by the number of the training task that it is of; TASK is overwritten."""
        weights, loras = self._sought(likelihood, support)
        return dict(zip(loras, weights.tolist(), strict=True))

    def _sought(self, likelihood: Likelihood, support: Sequence[Example]) -> tuple[Tensor, Loras]:
        if not support:
            raise AbmllError("cannot adapt: the support set is empty. Give at least one labelled example.")
        theta, found = library_of(likelihood, self.num_loras, "lorahub")
        loras = {index: lora_of(theta, index, self.num_loras) for index in found}

        @torch.no_grad()
        def loss(weights: Tensor) -> float:
            self._put(likelihood, loras, weights)
            with library(likelihood).only(0, self.num_loras), likelihood.terms(support) as terms:
                return float(terms.nll.mean()) + self.l1 * float(weights.abs().mean())

        return seek(loss, len(loras), self.num_steps, self.bound, self.spread), loras

    def _put(self, likelihood: Likelihood, loras: Loras, weights: Tensor) -> None:
        put_alone(likelihood.parameters(TASK), composed(list(loras.values()), weights), 0, self.num_loras)

    def restore(self, likelihood: Likelihood, state: Mapping[str, Tensor]) -> AdapterPosterior:
        return ComposedPosterior(library(likelihood), placed(likelihood, state), self.num_loras)

    def passes(self, support: int) -> Passes:
        return Passes(0.0, float(self.num_steps * support))

    def query_passes(self, num_samples: int) -> Passes:
        return Passes(0.0, 1.0)


class ComposedPosterior(AdapterPosterior):
    """One LoRA in the place of the library's first, and zeros beside it."""

    def __init__(self, likelihood: LibraryLikelihood, params: Mapping[str, Tensor], count: int) -> None:
        super().__init__(likelihood, params)
        self._library, self._count = likelihood, count

    def predict(self, query: Sequence[Example], num_samples: int) -> Tensor:
        """Log-probabilities (1, examples, choices), at the cost of one LoRA."""
        with self._library.only(0, self._count):
            return super().predict(query, num_samples)


def seek(loss: Callable[[Tensor], float], size: int, evaluations: int, bound: float, spread: float) -> Tensor:
    """The (1+1) evolution strategy with the rule of one fifth, from 0: the best point of all that were asked.

    Each trial is the best point so far plus a normal draw of standard deviation s, cut to the bounds; s doubles when
    the trial is as good or better, and falls by the fourth root of 2 when it is not, so that it stands still at one
    success in five.

    Args:
        loss: what is minimised, of a float64 vector.
        size: of the vector.
        evaluations: how often `loss` is asked, 0 first.
        bound: of every element's absolute value.
        spread: s at first.

    Source: Rechenberg 1973, "Evolutionsstrategie".
    """
    best = torch.zeros(size, dtype=torch.float64)
    least = loss(best)
    for _ in range(evaluations - 1):
        trial = (best + spread * torch.randn(size, dtype=torch.float64)).clamp(-bound, bound)
        found = loss(trial)
        if found <= least:
            best, least, spread = trial, found, 2 * spread
        else:
            spread *= 2**-0.25
    return best


@searched(learning_rate=ADAM_RATE, l1=Choice((0.0, 0.05, 0.2)))
def lorahub(
    num_loras: int = 20,
    num_steps: int = 5,
    learning_rate: float = 3e-3,
    optimizer: InnerOptimizer = "adamw",
    batch_size: int | None = None,
    num_evaluations: int = 40,
    bound: float = 1.5,
    l1: float = 0.05,
) -> Method:
    """LoRAHub: one LoRA a training task, and a new task's weights over them by a search without gradients.

    Takes the memory and disk of `num_loras` LoRAs. A run sets their number to that of its training tasks, unless it is
    given.

    Args:
        num_loras: one for each training task.
        num_steps: of the steps that a LoRA is trained by when its task is visited.
        learning_rate: likewise.
        optimizer: likewise.
        batch_size: likewise.
        num_evaluations: forward passes over the support set of a new task; three cost about what a gradient step does.
        bound: of the weights.
        l1: likewise.
    """
    inner = InnerLoop(num_steps, learning_rate, optimizer, batch_size)
    return Method(
        AdapterSpec(num_loras=num_loras, same_start=True),
        LoraHub(num_loras, num_evaluations, bound, l1),
        LoraPerTask(num_loras, inner),
        OuterOptimizer("sgd", 1.0),
    )
