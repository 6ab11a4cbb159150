"""Temperature scaling: one number, fitted where the adaptation has not looked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.core.passes import Passes
from abmll.core.types import Adaptation, AdapterSpec, Example, Likelihood, Method, Posterior
from abmll.methods.parts.gradient import GradientAdaptation
from abmll.methods.parts.inner import InnerLoop
from abmll.methods.parts.passes import adaptation_passes, query_passes
from abmll.methods.parts.space import ADAM_RATE, Choice, LogUniform, searched

TEMPERATURE = "temperature"
"""Name of T among the tensors of a posterior."""
LOG_RANGE = math.log(20.0)
"""Temperatures lie in [1/20, 20]: without a prior, held-back rows that are all right ask for T = 0."""


def scale(log_probs: Tensor, temperature: float) -> Tensor:
    """softmax(f / T) of each sample, in logs: log-probabilities are logits up to a constant. -inf stays -inf."""
    return (log_probs / temperature).log_softmax(-1)


def fit_temperature(log_probs: Tensor, targets: Tensor, prior_std: float | None = None) -> float:
    """The T that minimises the summed NLL of the samples' mixture, plus (log T)²/2·prior_std² if that is given.

    Args:
        log_probs: (samples, examples, choices).
        targets: (examples,). In log T: the best of a grid of 65, then golden section between its neighbours. With one
            sample the NLL has a single minimum in T (it is convex in 1/T).
    """
    log_probs = log_probs.double()

    def objective(log_temperature: float) -> float:
        mixture = scale(log_probs, math.exp(log_temperature)).logsumexp(0) - math.log(len(log_probs))
        nll = -mixture.gather(1, targets[:, None]).sum().item()
        return nll + (0.0 if prior_std is None else 0.5 * (log_temperature / prior_std) ** 2)

    grid = torch.linspace(-LOG_RANGE, LOG_RANGE, 65, dtype=torch.float64).tolist()
    best = min(range(len(grid)), key=lambda i: (objective(grid[i]), abs(grid[i])))
    refined = _golden_section(objective, grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    return math.exp(min(grid[best], refined, key=objective))


def _golden_section(function: Callable[[float], float], low: float, high: float) -> float:
    """The minimum of a function with a single one in [low, high], to 1e-8 of argument."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    f_left, f_right = function(left), function(right)
    while high - low > 1e-8:
        if f_left <= f_right:
            high, right, f_right = right, left, f_left
            left = high - ratio * (high - low)
            f_left = function(left)
        else:
            low, left, f_left = left, right, f_right
            right = low + ratio * (high - low)
            f_right = function(right)
    return (low + high) / 2


@dataclass(frozen=True)
class TemperatureScaled:
    """Adapts on a part of the support set and fits T to the rest; the query set is never seen.

    Attributes:
        adaptation: any; it sees the support set without the rows held back.
        holdback: their share, at least one row and never all; spread evenly over the support set's order.
        prior_std: standard deviation of a normal prior on log T; None leaves it out, as published.
        num_samples: how many samples of a sampling posterior T is fitted to.

    Source: Guo et al. 2017, arXiv 1706.04599, section 4.2. Deliberate difference: the prior, since a handful of rows
    that are all right would ask for T = 0.
    """

    adaptation: Adaptation = GradientAdaptation()
    holdback: float = 0.25
    prior_std: float | None = 1.0
    num_samples: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.holdback < 1 or (self.prior_std is not None and self.prior_std <= 0):
            raise AbmllError(
                "temperature scaling: holdback must lie between 0 and 1 and prior_std above 0; got "
                f"holdback={self.holdback}, prior_std={self.prior_std}."
            )

    def adapt(self, likelihood: Likelihood, support: Sequence[Example]) -> TemperaturePosterior:
        kept, held = self.split(support)
        posterior = self.adaptation.adapt(likelihood, kept)
        log_probs = posterior.predict(held, self.num_samples)
        targets = torch.tensor([example.known_target for example in held], device=log_probs.device)
        return TemperaturePosterior(posterior, fit_temperature(log_probs, targets, self.prior_std))

    def restore(self, likelihood: Likelihood, state: Mapping[str, Tensor]) -> TemperaturePosterior:
        inner = {name: tensor for name, tensor in state.items() if name != TEMPERATURE}
        return TemperaturePosterior(self.adaptation.restore(likelihood, inner), state[TEMPERATURE].item())

    def passes(self, support: int) -> Passes:
        held = self._num_held(support)
        fitted = query_passes(self.adaptation, self.num_samples).times(held)
        return adaptation_passes(self.adaptation, support - held).plus(fitted)

    def query_passes(self, num_samples: int) -> Passes:
        return query_passes(self.adaptation, num_samples)

    def _num_held(self, size: int) -> int:
        return min(size - 1, max(1, round(self.holdback * size)))

    def split(self, support: Sequence[Example]) -> tuple[list[Example], list[Example]]:
        """(rows to adapt on, rows held back). Raises AbmllError if there are fewer than two."""
        size = len(support)
        if size < 2:
            what = "the support set is empty" if not size else "the support set has one example"
            raise AbmllError(f"cannot fit a temperature: {what}. Give at least two: one to adapt on, one held back.")
        count = self._num_held(size)
        held = {(2 * i + 1) * size // (2 * count) for i in range(count)}
        return [e for i, e in enumerate(support) if i not in held], [support[i] for i in sorted(held)]


class TemperaturePosterior:
    """A posterior whose logits are divided by T, sample by sample, before anything is averaged."""

    def __init__(self, posterior: Posterior, temperature: float) -> None:
        self._posterior = posterior
        self.temperature = temperature

    def predict(self, query: Sequence[Example], num_samples: int) -> Tensor:
        """Log-probabilities (samples, examples, choices)."""
        return scale(self._posterior.predict(query, num_samples), self.temperature)

    def mean(self) -> dict[str, Tensor] | None:
        """The inner posterior's: no adapter can say T."""
        return self._posterior.mean()

    def state_dict(self) -> dict[str, Tensor]:
        temperature = torch.tensor(self.temperature, dtype=torch.float64)
        return {**self._posterior.state_dict(), TEMPERATURE: temperature}

    def __repr__(self) -> str:
        return f"TemperaturePosterior(temperature {self.temperature:.3g} of {self._posterior!r})"


@searched(learning_rate=ADAM_RATE, holdback=Choice((0.25, 0.5)), prior_std=LogUniform(0.3, 3.0))
def temperature(
    num_steps: int = 20,
    learning_rate: float = 3e-3,
    batch_size: int | None = None,
    holdback: float = 0.25,
    prior_std: float | None = 1.0,
) -> Method:
    """A fresh LoRA fine-tuned on three quarters of the support set, its temperature fitted on the last."""
    inner = InnerLoop(num_steps, learning_rate, batch_size=batch_size)
    return Method(AdapterSpec(), TemperatureScaled(GradientAdaptation(inner), holdback, prior_std), None)
