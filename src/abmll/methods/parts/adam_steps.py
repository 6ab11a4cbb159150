"""An inner loop whose steps are sized by the prior: Adam's, one standard deviation of the prior long."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from abmll.core.errors import AbmllError
from abmll.core.types import TASK, Likelihood
from abmll.methods.parts.prior_steps import PriorSteps, Step, Tensors, dot

BETAS = (0.9, 0.999)
EPSILON = 1e-8


@dataclass(frozen=True)
class AdamSteps(PriorSteps):
    """K steps on the mean of φ, from θ, under the prior N(θ, σ²), one standard deviation σ for each tensor:

        φ ← φ - σ m̂ / (√v̂ + ε)

    with m̂ and v̂ Adam's averages of the batch's gradient and of its square. No element moves further than about σ a
    step, whatever its gradient's size is, and what the sign of its gradient is not sure of moves less.

    The way back is that of a sign: m̂ / √v̂ does not change when a gradient does, but where it crosses 0. So dφ'/dφ is
    the identity, and a step's derivative by log σ² is half of how far it went. For K = 1 that is exact.

    Its attributes are those of `PriorSteps`.

    Source: Kingma and Ba 2015, arXiv 1412.6980. A learned rate for each tensor: Meta-SGD, Li et al. 2017,
        arXiv 1707.09835.

    Raises:
        AbmllError: For options out of range.
    """

    needed: ClassVar[int | None] = 1  # the way back asks where it began, no more
    num_steps: int = 5
    batch_size: int | None = None
    log_var_offset: float = -13.8

    def __post_init__(self) -> None:
        if self.num_steps < 0 or (self.batch_size is not None and self.batch_size < 1):
            raise AbmllError(
                "inner loop: num_steps must be at least 0 and batch_size at least 1; got "
                f"num_steps={self.num_steps}, batch_size={self.batch_size}."
            )

    def mover(self, phi: Tensors, variance: Mapping[str, float]) -> Callable[[float, Tensors], None]:
        groups = [{"params": [phi[name]], "lr": share**0.5} for name, share in variance.items()]
        optimizer = torch.optim.Adam(groups, betas=BETAS, eps=EPSILON)

        def move(nll: float, gradient: Tensors) -> None:
            optimizer.step()

        return move

    def back(
        self, likelihood: Likelihood, steps: Sequence[Step], v: Tensors, variance: Mapping[str, float]
    ) -> tuple[Tensors, dict[str, float]]:
        if not steps:
            return v, dict.fromkeys(v, 0.0)
        phi, start = likelihood.parameters(TASK), steps[0].point
        return v, {name: dot(v[name], phi[name].detach() - start[name]) / 2 for name in v}
