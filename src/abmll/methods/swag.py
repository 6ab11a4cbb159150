"""SWAG-LoRA: the Gaussian of the optimiser's own trajectory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.core.params import clone, placed, with_prefix
from abmll.core.types import TASK, Example, Likelihood, Method
from abmll.methods.parts.inner import InnerLoop
from abmll.methods.parts.space import ADAM_RATE, Choice, searched
from abmll.methods.parts.start import STARTS, Start, from_start
from abmll.methods.parts.weights import WeightPosterior


@dataclass(frozen=True)
class Swag:
    """One inner loop; from step `start` on, its iterates are the sample that the Gaussian is fitted to.

    Attributes:
        inner: the whole trajectory, from θ to the last iterate.
        start: how many steps pass first.
        every: steps from one iterate taken to the next.
        rank: K, how many of the last deviations make the low-rank part; 0 leaves the diagonal alone (SWAG-diagonal).
        learning_rate: from `start` on, constant and meant to be high enough to move about; None keeps the inner loop's.

    Source: Maddox et al. 2019, arXiv 1902.02476, algorithm 1; on LoRA by Onal et al. 2024, arXiv 2405.03425 (K = 5,
    rate 6e-4 then 1e-4). Deliberate difference: variances by Welford's sum, which cannot come out negative.
    """

    inner: InnerLoop = InnerLoop(num_steps=20)
    start: int = 10
    every: int = 1
    rank: int = 5
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        if self.start < 0 or self.every < 1 or self.rank < 0 or (self.learning_rate or 1.0) <= 0:
            raise AbmllError(
                "SWAG: start and rank must be at least 0, every at least 1 and learning_rate above 0; got "
                f"start={self.start}, rank={self.rank}, every={self.every}, learning_rate={self.learning_rate}."
            )
        if self.inner.num_steps - self.start < 2 * self.every:
            raise AbmllError(
                f"SWAG takes iterates from step {self.start} on, one in {self.every}, and {self.inner.num_steps} steps "
                "leave fewer than two. Raise num_steps, or lower start or every."
            )

    @property
    def least_steps(self) -> int:
        """The least number of steps that leaves two iterates to take, if the two phases keep their shares."""
        sampled = self.inner.num_steps - self.start  # of n steps ⌈n · sampled / num_steps⌉ come after the start
        return (2 * self.every - 1) * self.inner.num_steps // sampled + 1

    def with_num_steps(self, num_steps: int) -> Swag:
        """The same with so many steps in all; the two phases keep their shares.

        Raises:
            AbmllError: If they are fewer than `least_steps`.
        """
        start = self.start * num_steps // self.inner.num_steps
        return replace(self, inner=replace(self.inner, num_steps=num_steps), start=start)

    def adapt(self, likelihood: Likelihood, support: Sequence[Example]) -> WeightPosterior:
        task = likelihood.parameters(TASK)
        moments = RunningMoments(self.rank)
        optimizer = self.inner.new_optimizer(likelihood)

        def on_step(step: int) -> None:
            past = step + 1 - self.start
            if past == 0 and self.learning_rate:
                optimizer.param_groups[0]["lr"] = self.learning_rate
            if past > 0 and past % self.every == 0:
                moments.add(task)

        if self.start == 0 and self.learning_rate:
            optimizer.param_groups[0]["lr"] = self.learning_rate
        self.inner.run(likelihood, support, optimizer, on_step)
        return WeightPosterior(likelihood, moments.gaussian())

    def restore(self, likelihood: Likelihood, state: Mapping[str, Tensor]) -> WeightPosterior:
        state = placed(likelihood, state)
        parts = [with_prefix(state, part) for part in ("mean", "variance", "deviations")]
        return WeightPosterior(likelihood, SwagGaussian(*parts))


class RunningMoments:
    """Mean, variance and last deviations of a sequence of parameters, without keeping the sequence.

    A deviation is θ_i minus the mean of θ_1 … θ_i, as published, so the first of all is zero.
    """

    def __init__(self, rank: int) -> None:
        self.rank, self.count = rank, 0
        self.mean: dict[str, Tensor] = {}
        self._squares: dict[str, Tensor] = {}
        self._deviations: list[dict[str, Tensor]] = []

    def add(self, params: Mapping[str, Tensor]) -> None:
        values = clone(params)
        if not self.count:
            self.mean, self._squares = values, {name: torch.zeros_like(value) for name, value in values.items()}
        self.count += 1
        before = self.mean
        self.mean = {n: before[n] + (value - before[n]) / self.count for n, value in values.items()}
        deviation = {name: value - self.mean[name] for name, value in values.items()}
        for name, square in self._squares.items():
            square += (values[name] - before[name]) * deviation[name]
        self._deviations = [*self._deviations, deviation][-self.rank :] if self.rank else []

    def gaussian(self) -> SwagGaussian:
        variance = {name: square / self.count for name, square in self._squares.items()}
        deviations = {n: torch.stack([d[n] for d in self._deviations]) for n in self.mean if self._deviations}
        return SwagGaussian(self.mean, variance, deviations)


@dataclass(frozen=True)
class SwagGaussian:
    """N(mean, ½ diag(variance) + DᵀD / 2(K - 1)); without deviations N(mean, diag(variance)).

    Attributes:
        deviations: name -> (K, *shape), the rows of D. The K coefficients of a draw are the same for all tensors, since
            D is one matrix over all of them; the diagonal noise is each tensor's own.
    """

    mean: dict[str, Tensor]
    variance: dict[str, Tensor]
    deviations: dict[str, Tensor]

    def draw(self) -> dict[str, Tensor]:
        share = 0.5 if self.deviations else 1.0
        out = {n: m + (share * self.variance[n]).sqrt() * torch.randn_like(m) for n, m in self.mean.items()}
        if self.deviations:
            first = next(iter(self.deviations.values()))
            coefficients = torch.randn(len(first), dtype=first.dtype, device=first.device)
            coefficients = coefficients / math.sqrt(2 * max(1, len(first) - 1))
            for name, rows in self.deviations.items():
                out[name] = out[name] + torch.tensordot(coefficients.to(rows), rows, dims=1)
        return out

    def state_dict(self) -> dict[str, Tensor]:
        parts = {"mean": self.mean, "variance": self.variance, "deviations": self.deviations}
        return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


@searched(learning_rate=ADAM_RATE, **STARTS, rank=Choice((0, 2, 5)))
def swag(
    num_steps: int = 20,
    learning_rate: float = 3e-3,
    batch_size: int | None = None,
    start: Start = "multitask",
    outer_learning_rate: float | None = None,
    first_step: int | None = None,
    every: int = 1,
    rank: int = 5,
    swag_learning_rate: float | None = None,
) -> Method:
    """SWAG-LoRA: the first half of the steps (or `first_step` of them) adapts, the second half is the sample."""
    inner = InnerLoop(num_steps, learning_rate, batch_size=batch_size)
    first_step = num_steps // 2 if first_step is None else first_step
    return from_start(Swag(inner, first_step, every, rank, swag_learning_rate), start, inner, outer_learning_rate)
