"""Bayesian-LoRA: both factors of a LoRA as sparse Gaussian processes with a few inducing variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.core.params import clone, placed, with_prefix
from abmll.core.seeds import seeded
from abmll.core.types import TASK, Adaptation, Example, Likelihood, Method
from abmll.methods.parts.gradient import NoAdaptation
from abmll.methods.parts.inducing import InducingMatrix
from abmll.methods.parts.inner import InnerLoop
from abmll.methods.parts.space import LogUniform, searched
from abmll.methods.parts.start import STARTS, Start, from_start
from abmll.methods.parts.weights import WeightPosterior, backpropagate_nll


@dataclass(frozen=True)
class BayesianLora:
    """φ = φ0 + prior_std·W for every tensor, W an `InducingMatrix`; its q is learned by the evidence lower bound.

    Attributes:
        point: gives φ0, the centre of the prior; θ itself by default.
        inner: number, size, rate and optimiser of the steps, each on mean NLL + kl_weight / N · KL for N support
            examples.
        num_inducing: rows and columns of U.
        prior_std: of φ around φ0.

    Source: Lin et al. 2026, arXiv 2601.21003, and its code (9 × 9 inducing variables on A and on B, prior_std 1, all
    initial widths .001 but λ .0001). Deliberate differences: q(V) is Gaussian (no normalising flow), Z is a point,
    and U starts at mean zero, so that adaptation starts at φ0.
    """

    point: Adaptation = NoAdaptation()
    inner: InnerLoop = InnerLoop(num_steps=20)
    num_inducing: int = 9
    prior_std: float = 1.0
    kl_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.num_inducing < 1 or self.prior_std <= 0 or self.kl_weight < 0:
            raise AbmllError(
                "Bayesian-LoRA: num_inducing must be at least 1, prior_std above 0 and kl_weight at least 0; got "
                f"num_inducing={self.num_inducing}, prior_std={self.prior_std}, kl_weight={self.kl_weight}."
            )

    def adapt(self, likelihood: Likelihood, support: Sequence[Example]) -> WeightPosterior:
        self.point.adapt(likelihood, support)
        centre = clone(likelihood.parameters(TASK))
        matrices = {n: InducingMatrix(as_matrix(tensor), self.num_inducing) for n, tensor in centre.items()}
        distribution = InducingDistribution(centre, matrices, self.prior_std)
        optimizer = self.inner.optimizer_of(p for matrix in matrices.values() for p in matrix.parameters())
        for batch in self.inner.batches(support):
            optimizer.zero_grad()
            backpropagate_nll(likelihood, distribution.differentiable_draw(), batch)
            kl = torch.stack([matrix.kl_divergence() for matrix in matrices.values()]).sum()
            (self.kl_weight / len(support) * kl).backward()
            optimizer.step()
        return WeightPosterior(likelihood, distribution)

    def restore(self, likelihood: Likelihood, state: Mapping[str, Tensor]) -> WeightPosterior:
        state = placed(likelihood, state)
        centre, matrices = with_prefix(state, "centre"), {}
        for name, tensor in centre.items():
            with seeded(0):  # its random start is overwritten, and must not move the caller's generator
                matrices[name] = InducingMatrix(as_matrix(tensor), self.num_inducing)
            keys = matrices[name].state_dict()
            matrices[name].load_state_dict({key: state[f"{key}.{name}"] for key in keys})
        return WeightPosterior(likelihood, InducingDistribution(centre, matrices, self.prior_std))


class InducingDistribution:
    """centre + prior_std·W, independently for each tensor."""

    def __init__(self, centre: Mapping[str, Tensor], matrices: Mapping[str, InducingMatrix], prior_std: float) -> None:
        self.centre, self.matrices, self.prior_std = dict(centre), matrices, prior_std

    def differentiable_draw(self) -> dict[str, Tensor]:
        return self._around_centre({name: matrix.draw() for name, matrix in self.matrices.items()})

    @torch.no_grad()
    def draw(self) -> dict[str, Tensor]:
        return self.differentiable_draw()

    @property
    @torch.no_grad()
    def mean(self) -> dict[str, Tensor]:
        return self._around_centre({name: q.conditional_mean(q.mean) for name, q in self.matrices.items()})

    def _around_centre(self, W: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor + self.prior_std * W[name].view_as(tensor) for name, tensor in self.centre.items()}

    def state_dict(self) -> dict[str, Tensor]:
        inducing = {f"{key}.{n}": t for n, matrix in self.matrices.items() for key, t in matrix.state_dict().items()}
        return {**{f"centre.{name}": tensor for name, tensor in self.centre.items()}, **inducing}


def as_matrix(tensor: Tensor) -> Tensor:
    """The tensor with its last dimensions as columns; a vector is one row."""
    return tensor.flatten(1) if tensor.dim() > 1 else tensor[None]


@searched(
    learning_rate=LogUniform(3e-3, 0.3),
    **STARTS,
    prior_std=LogUniform(0.1, 3.0),
    kl_weight=LogUniform(1e-3, 1.0),
)
def bayesian_lora(
    num_steps: int = 20,
    learning_rate: float = 3e-2,
    batch_size: int | None = None,
    start: Start = "multitask",
    outer_learning_rate: float | None = None,
    num_inducing: int = 9,
    prior_std: float = 1.0,
    kl_weight: float = 1.0,
) -> Method:
    """Bayesian-LoRA around where adaptation starts."""
    inner = InnerLoop(num_steps, learning_rate, batch_size=batch_size)
    adaptation = BayesianLora(NoAdaptation(), inner, num_inducing, prior_std, kl_weight)
    return from_start(adaptation, start, inner, outer_learning_rate)
