"""Training-free Bayesianization: as much noise on a finished LoRA as the support set's loss lets pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.core.params import assign, clone
from abmll.core.passes import Passes
from abmll.core.types import TASK, Adaptation, Example, Likelihood, Method
from abmll.methods.parts.gradient import GradientAdaptation
from abmll.methods.parts.inner import InnerLoop
from abmll.methods.parts.passes import adaptation_passes
from abmll.methods.parts.space import ADAM_RATE, LogUniform, searched
from abmll.methods.parts.start import STARTS, Start, from_start
from abmll.methods.parts.weights import DiagonalGaussian, WeightPosterior


@dataclass(frozen=True)
class TrainingFreeBayes:
    """A Gaussian on A around the point adaptation's result, its one width σ found by binary search.

    Attributes:
        point: any adaptation that ends with TASK at a point.
        tolerance: ε, how far the loss on the support set (the anchor set) may move, relative to itself.
        min_sigma: between which σ is looked for.
        max_sigma: likewise.
        num_iterations: halvings of that interval.
        num_search_samples: draws that the loss, the NLL of their average probabilities, is taken over.

    Source: Shi et al. 2025, arXiv 2412.05723 (ε = 0.3 % of the NLL, 5 halvings, 10 draws; its code searches .001 to
    .015). Deliberate difference: every σ is evaluated by the same noise, so that the search sees one smooth function.
    """

    point: Adaptation = GradientAdaptation()
    tolerance: float = 0.003
    min_sigma: float = 0.001
    max_sigma: float = 0.2
    num_iterations: int = 5
    num_search_samples: int = 10

    def __post_init__(self) -> None:
        if not 0 <= self.min_sigma < self.max_sigma or self.tolerance < 0:
            raise AbmllError(
                "TFB: 0 <= min_sigma < max_sigma and tolerance >= 0 are needed; got "
                f"min_sigma={self.min_sigma}, max_sigma={self.max_sigma}, tolerance={self.tolerance}."
            )
        if self.num_iterations < 1 or self.num_search_samples < 1:
            raise AbmllError(
                "TFB: num_iterations and num_search_samples must be at least 1; got "
                f"num_iterations={self.num_iterations}, num_search_samples={self.num_search_samples}."
            )

    def adapt(self, likelihood: Likelihood, support: Sequence[Example]) -> WeightPosterior:
        self.point.adapt(likelihood, support)
        mean, unit = balance(clone(likelihood.parameters(TASK)))
        noise = [{n: torch.randn_like(std) for n, std in unit.items()} for _ in range(self.num_search_samples)]

        def loss(sigma: float) -> float:
            draws = [{n: m + sigma * unit[n] * e[n] if n in unit else m for n, m in mean.items()} for e in noise]
            return mixture_nll(likelihood, draws if sigma else [mean], support)

        at_mean = loss(0.0)
        allowed = self.tolerance * abs(at_mean)
        sigma = largest(
            lambda sigma: abs(loss(sigma) - at_mean) <= allowed, self.min_sigma, self.max_sigma, self.num_iterations
        )
        std = {name: sigma * scale for name, scale in unit.items()}
        return WeightPosterior(likelihood, DiagonalGaussian(mean, std))

    def restore(self, likelihood: Likelihood, state: Mapping[str, Tensor]) -> WeightPosterior:
        return WeightPosterior(likelihood, DiagonalGaussian.from_state(likelihood, state))

    def passes(self, support: int) -> Passes:
        asked = 1 + self.num_iterations * self.num_search_samples  # at the mean, then all draws in every halving
        return adaptation_passes(self.point, support).plus(Passes(0.0, float(asked * support)))


def balance(params: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(mean, unit): the same function written so that noise σ·unit is isotropic in the space of full weights.

    With B = U diag(d) Vᵀ, BA = (U diag d)(VᵀA). Noise of standard deviation σ/d_i on row i of VᵀA then moves the
    product by σ·U·(white noise), whatever d is. Directions that B does not have (d_i = 0) get none. Parameters that
    are no LoRA at all are full weights already: unit 1.
    """
    mean, unit = dict(params), {}
    for name, A in params.items():
        partner = name.replace("lora_A", "lora_B")
        if "lora_A" not in name or partner not in params:
            continue
        B = params[partner]
        U, d, Vt = torch.linalg.svd(B, full_matrices=False)
        kept = d > d[0] * max(B.shape) * torch.finfo(d.dtype).eps
        mean[name], mean[partner] = torch.zeros_like(A), torch.zeros_like(B)
        mean[name][: len(d)], mean[partner][:, : len(d)] = Vt @ A, U * d
        unit[name] = torch.zeros_like(A)
        unit[name][: len(d)][kept] = 1 / d[kept, None]
    return mean, unit or {name: torch.ones_like(tensor) for name, tensor in params.items()}


def mixture_nll(likelihood: Likelihood, draws: Sequence[Mapping[str, Tensor]], examples: Sequence[Example]) -> float:
    """Mean over the examples of -log of the target's probability, averaged over the draws; in nats."""
    task, out = likelihood.parameters(TASK), []
    for draw in draws:
        assign(task, draw)
        out.append(likelihood.choice_log_probs(examples))
    log_probs = torch.cat(out).logsumexp(0) - math.log(len(out))
    targets = torch.tensor([example.known_target for example in examples], device=log_probs.device)
    return -log_probs.gather(1, targets[:, None]).mean().item()


def largest(passes: Callable[[float], bool], low: float, high: float, num_iterations: int) -> float:
    """The largest value between `low` and `high` that passes, by bisection; `low` if none does.

    It is a lower bound, at most (high - low) / 2^num_iterations below the value where `passes` turns false.
    """
    for _ in range(num_iterations):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if passes(middle) else (low, middle)
    return low


@searched(learning_rate=ADAM_RATE, **STARTS, tolerance=LogUniform(1e-3, 0.1))
def tfb(
    num_steps: int = 20,
    learning_rate: float = 3e-3,
    batch_size: int | None = None,
    start: Start = "multitask",
    outer_learning_rate: float | None = None,
    tolerance: float = 0.003,
    min_sigma: float = 0.001,
    max_sigma: float = 0.2,
    num_iterations: int = 5,
    num_search_samples: int = 10,
) -> Method:
    """Training-free Bayesianization of a fine-tuned LoRA."""
    inner = InnerLoop(num_steps, learning_rate, batch_size=batch_size)
    adaptation = TrainingFreeBayes(
        GradientAdaptation(inner), tolerance, min_sigma, max_sigma, num_iterations, num_search_samples
    )
    return from_start(adaptation, start, inner, outer_learning_rate)
