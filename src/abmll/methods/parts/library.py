"""A library of LoRAs: one for each training task, side by side in the meta adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.core.library import present
from abmll.core.params import clone
from abmll.core.passes import Passes
from abmll.core.types import META, Episode, Example, LibraryLikelihood, Likelihood, Metrics
from abmll.methods.parts.gradient import NoAdaptation
from abmll.methods.parts.inner import InnerLoop, examples_of, towards
from abmll.methods.parts.posterior import AdapterPosterior
from abmll.methods.parts.stateless import Stateless


@dataclass(frozen=True)
class LoraPerTask(Stateless):
    """K inner steps of the LoRA of the episode's task, on support ∪ query, from where its last visit ended.

    Returned is the gradient θ - φ of that LoRA, and 0 of the others: an outer SGD of rate 1 makes φ the new θ. With
    plain inner steps every LoRA is trained as if alone; AdamW's moments begin anew at every visit. With several
    episodes an outer step, a LoRA moves by its share of them, as every outer step is a mean.

    Attributes:
        num_loras: how many LoRAs there are; the task's number says which is its own.
        inner: the inner loop.

    Source: the libraries of Huang et al. 2023, arXiv 2307.13269, and Ostapenko et al. 2024, arXiv 2405.11157.
    """

    equal_passes: ClassVar[bool] = True
    num_loras: int
    inner: InnerLoop = InnerLoop()

    def meta_gradient(self, likelihood: Likelihood, episode: Episode) -> Metrics:
        index, count = episode.number, self.num_loras
        if index >= count:
            raise AbmllError(
                f"task {episode.task!r} is number {index + 1} of those trained on, and the library has room for "
                f"{count} LoRAs. Set num_loras to the number of training tasks."
            )
        with library(likelihood).only(index, count):  # the others have gradients of 0, and stay where they are
            return towards(self.inner, likelihood, episode)

    def passes(self, support: int, query: int, progress: float = 1.0) -> Passes:
        return Passes(float(examples_of(self.inner, support + query)))


def library(likelihood: Likelihood) -> LibraryLikelihood:
    """The likelihood, as one with a library. Raises: AbmllError if it is none."""
    if not isinstance(likelihood, LibraryLikelihood):
        raise AbmllError(
            f"{type(likelihood).__name__} has no `only` and no `routed`, which a library of LoRAs needs. Implement "
            "abmll.core.types.LibraryLikelihood."
        )
    return likelihood


def library_of(likelihood: Likelihood, num_loras: int, method: str) -> tuple[dict[str, Tensor], list[int]]:
    """A copy of θ, and which of its LoRAs have been trained.

    Raises:
        AbmllError: If none has.
    """
    theta = clone(likelihood.parameters(META))
    found = present(theta, num_loras)
    if not found:
        raise AbmllError(
            f"{method}: the library is empty. Train its LoRAs first, one for each task (abmll train, "
            "Learner.meta_train), or take those that you have (--from-adapters)."
        )
    return theta, found


@dataclass(frozen=True)
class WithoutLora(NoAdaptation):
    """The model without any LoRA, whatever the support set: what a library of which nothing is chosen comes to."""

    def adapt(self, likelihood: Likelihood, support: Sequence[Example]) -> AdapterPosterior:
        nothing = {name: torch.zeros_like(tensor) for name, tensor in likelihood.parameters(META).items()}
        return AdapterPosterior(likelihood, nothing)
