"""BLoB: Bayesian low-rank adaptation by backpropagation, a Gaussian on A learned together with its mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.core.params import clone, reset_task
from abmll.core.types import META, Example, Likelihood, Method
from abmll.gaussian.moments import kl_divergence
from abmll.methods.parts.inner import InnerLoop
from abmll.methods.parts.space import ADAM_RATE, Choice, LogUniform, searched
from abmll.methods.parts.start import STARTS, Start, from_start
from abmll.methods.parts.weights import DiagonalGaussian, WeightPosterior, backpropagate_nll, gaussian_names


@dataclass(frozen=True)
class Blob:
    """q(A) = N(M, Ω²) with Ω = ρ², B a point; each step is one on the NLL, then one of plain SGD on π_i·KL(q ‖ p).

    Attributes:
        inner: number, size, rate and optimiser of the NLL's steps on M, ρ and B, starting from θ.
        prior_std: of p(A) = N(μ, prior_std²).
        prior_mean: μ, zero as published, or "meta" for θ's A.
        initial_std: ε; ρ starts uniform in (ε/√2, ε), so that Ω starts at ε²/2 to ε².
        kl_learning_rate: of the KL's steps.
        gamma: γ, of the length of the KL's schedule (`schedule_length`).
        flipout: every example of a batch has its own signs on one shared noise, at one forward pass an example; without
            it the batch shares one draw and one pass. Both have the same expectation; Flipout's gradient varies less.

    Source: Wang et al. 2024, arXiv 2406.11675 and its code (ε .05, β = prior_std .2, γ 8, KL rate .01). Deliberate
    differences: both rates are constant (its code warms up and decays), and the weights of an epoch sum to 1.
    """

    inner: InnerLoop = InnerLoop(num_steps=20)
    prior_std: float = 0.2
    prior_mean: Literal["zero", "meta"] = "zero"
    initial_std: float = 0.05
    kl_learning_rate: float = 0.01
    gamma: float = 8.0
    flipout: bool = True

    def __post_init__(self) -> None:
        if min(self.prior_std, self.initial_std, self.gamma) <= 0 or self.kl_learning_rate < 0:
            raise AbmllError(
                "BLoB: prior_std, initial_std and gamma must be above 0 and kl_learning_rate at least 0; got "
                f"prior_std={self.prior_std}, initial_std={self.initial_std}, gamma={self.gamma}, "
                f"kl_learning_rate={self.kl_learning_rate}."
            )

    def adapt(self, likelihood: Likelihood, support: Sequence[Example]) -> WeightPosterior:
        reset_task(likelihood)
        theta = clone(likelihood.parameters(META))
        names = gaussian_names(theta)
        mean = {name: tensor.clone().requires_grad_() for name, tensor in theta.items()}
        low, high = self.initial_std / math.sqrt(2), self.initial_std
        rho = {name: torch.empty_like(theta[name]).uniform_(low, high).requires_grad_() for name in names}
        prior_mean = {n: theta[n] if self.prior_mean == "meta" else torch.zeros_like(theta[n]) for n in names}
        optimizer = self.inner.optimizer_of([*mean.values(), *rho.values()])
        kl_optimizer = torch.optim.SGD([*(mean[n] for n in names), *rho.values()], lr=self.kl_learning_rate)

        for step, batch in enumerate(self.inner.batches(support)):
            optimizer.zero_grad()
            noise = {name: torch.randn_like(tensor) for name, tensor in rho.items()}
            if self.flipout:
                for example in batch:
                    own = {name: flip(tensor) for name, tensor in noise.items()}
                    backpropagate_nll(likelihood, perturbed(mean, rho, own), [example], 1 / len(batch))
            else:
                backpropagate_nll(likelihood, perturbed(mean, rho, noise), batch)
            optimizer.step()
            kl_optimizer.zero_grad()
            weight = kl_weight(step, schedule_length(len(support), len(batch), self.gamma))
            (weight * divergence(mean, rho, prior_mean, self.prior_std)).backward()
            kl_optimizer.step()
        std = {name: tensor.detach().square() for name, tensor in rho.items()}
        return WeightPosterior(likelihood, DiagonalGaussian(mean, std))

    def restore(self, likelihood: Likelihood, state: Mapping[str, Tensor]) -> WeightPosterior:
        return WeightPosterior(likelihood, DiagonalGaussian.from_state(likelihood, state))


def perturbed(mean: Mapping[str, Tensor], rho: Mapping[str, Tensor], noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """M + ρ²·ε where there is a ρ, the mean elsewhere; differentiable in both."""
    return {n: m + rho[n].square() * noise[n] if n in rho else m for n, m in mean.items()}


def flip(noise: Tensor) -> Tensor:
    """`noise` times an outer product of random signs, one vector of signs for each dimension.

    For a matrix E it is E ∘ t sᵀ: what Flipout does to one example's inputs (s) and outputs (t). Symmetric noise keeps
    its distribution, and two examples' noises are uncorrelated though they share E.
    Source: Wen et al. 2018, arXiv 1803.04386.
    """
    for dim, size in enumerate(noise.shape):
        signs = torch.randint(0, 2, (size,), device=noise.device).mul_(2).sub_(1).to(noise.dtype)
        noise = noise * signs.view(-1, *[1] * (noise.dim() - dim - 1))
    return noise


def divergence(
    mean: Mapping[str, Tensor], rho: Mapping[str, Tensor], prior_mean: Mapping[str, Tensor], prior_std: float
) -> Tensor:
    """KL(q ‖ p) summed over all elements that have a ρ, in nats."""
    prior_log_var = 2 * math.log(prior_std)
    parts = [
        kl_divergence(mean[n], 2 * r.square().log(), prior_mean[n], torch.full_like(r, prior_log_var)).sum()
        for n, r in rho.items()
    ]
    return torch.stack(parts).sum()


def schedule_length(num_examples: int, batch_size: int, gamma: float) -> int:
    """M = 100·N^(π/γ) / batch size, the length of an epoch of the KL's schedule, as in BLoB's code."""
    return max(1, int(100 * num_examples ** (math.pi / gamma) / batch_size))


def kl_weight(step: int, length: int) -> float:
    """π_i = 2^i / (2^(M+1) - 2), i = 1 … M over and over: almost all of an epoch's KL comes at its end.

    BLoB's code divides by 2^(M+1) - 1, so that an epoch sums to a little less than 1.
    """
    return 2.0 ** (step % length - length) / (1 - 2.0**-length)


@searched(
    learning_rate=ADAM_RATE,
    **STARTS,
    prior_std=LogUniform(0.02, 1.0),
    prior_mean=Choice(("zero", "meta")),
    initial_std=LogUniform(0.01, 0.3),
    kl_learning_rate=LogUniform(1e-4, 0.1),
)
def blob(
    num_steps: int = 20,
    learning_rate: float = 3e-3,
    batch_size: int | None = None,
    start: Start = "multitask",
    outer_learning_rate: float | None = None,
    prior_std: float = 0.2,
    prior_mean: Literal["zero", "meta"] = "zero",
    initial_std: float = 0.05,
    kl_learning_rate: float = 0.01,
    gamma: float = 8.0,
    flipout: bool = True,
) -> Method:
    """BLoB with its published prior, initialisation and schedule."""
    inner = InnerLoop(num_steps, learning_rate, batch_size=batch_size)
    return from_start(
        Blob(inner, prior_std, prior_mean, initial_std, kl_learning_rate, gamma, flipout),
        start,
        inner,
        outer_learning_rate,
    )
