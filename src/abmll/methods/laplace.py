"""Laplace-LoRA: a Gaussian around the adapted adapter, as wide as the support set's curvature leaves it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from abmll.core.errors import AbmllError, unknown_name
from abmll.core.params import assign, clone, placed, with_prefix
from abmll.core.passes import Passes
from abmll.core.types import META, TASK, Adaptation, Example, Likelihood, Method
from abmll.methods.parts.curvature import Curvature, DiagonalCurvature, FullCurvature, KroneckerCurvature
from abmll.methods.parts.evidence import best_precision, log_evidence
from abmll.methods.parts.gradient import GradientAdaptation
from abmll.methods.parts.inner import InnerLoop
from abmll.methods.parts.jacobian import choice_jacobians, fisher_rows
from abmll.methods.parts.passes import adaptation_passes
from abmll.methods.parts.space import ADAM_RATE, Choice, searched
from abmll.methods.parts.start import STARTS, Start, from_start
from abmll.methods.parts.weights import WeightPosterior

Structure = Literal["diagonal", "kronecker", "full"]
Scope = Literal["all", "last_layer"]


@dataclass(frozen=True)
class Laplace:
    """φ* from the point adaptation inside, then q(φ) = N(φ*, (H + λI)^-1).

    Attributes:
        point: any adaptation that ends with TASK at a point.
        structure: of H, the Fisher information (= generalised Gauss-Newton matrix) of the choices over the support set.
        scope: which tensors are Gaussian; the others stay at φ*.
        rank: leading directions that a Kronecker factor keeps (Laplace-LoRA: 10); None keeps them all.
        prior_precision: λ; None takes the one of the greatest evidence on the support set.
        prior_mean: of the prior N(μ, I/λ), which matters to the evidence alone: zero as published, or "meta" for θ.
        linearized: predict with logits f(φ*) + J(φ - φ*); else with the network at draws of φ.

    H is that of the probabilities normalised over the choices, dropout off, whatever loss φ* was trained with.
    Source: Yang et al. 2024, arXiv 2308.13111. Deliberate difference: the Kronecker factors come from per-example
    Jacobians (`KroneckerCurvature`), not from activations and output gradients.
    """

    point: Adaptation = GradientAdaptation()
    structure: Structure = "kronecker"
    scope: Scope = "all"
    rank: int | None = None
    prior_precision: float | None = None
    prior_mean: Literal["zero", "meta"] = "zero"
    linearized: bool = True

    def __post_init__(self) -> None:
        for kind, name, known in (
            ("structure", self.structure, get_args(Structure)),
            ("scope", self.scope, get_args(Scope)),
            ("prior_mean", self.prior_mean, ("zero", "meta")),
        ):
            if name not in known:
                raise unknown_name(f"{kind} of Laplace", name, known)
        if (self.rank or 1) < 1 or (self.prior_precision is not None and self.prior_precision <= 0):
            raise AbmllError(
                "Laplace: rank must be at least 1 and prior_precision above 0 (leave either out for the default); "
                f"got rank={self.rank}, prior_precision={self.prior_precision}."
            )

    def adapt(self, likelihood: Likelihood, support: Sequence[Example]) -> LaplacePosterior | WeightPosterior:
        self.point.adapt(likelihood, support)
        mean = clone(likelihood.parameters(TASK))
        names = last_layer(mean) if self.scope == "last_layer" else list(mean)
        curvature = self._new_curvature({name: mean[name] for name in names})
        log_likelihood = 0.0
        for example, (log_probs, jacobian) in zip(support, choice_jacobians(likelihood, support, names), strict=True):
            curvature.add(fisher_rows(log_probs, jacobian))
            log_likelihood += log_probs[example.known_target].item()
        square_distance = self._square_distance(mean, likelihood.parameters(META), names)
        eigenvalues = curvature.eigenvalues()
        precision = self.prior_precision or best_precision(square_distance, eigenvalues)
        evidence = log_evidence(log_likelihood, square_distance, eigenvalues, precision)
        distribution = LaplaceDistribution(mean, names, curvature, precision, evidence)
        return (LaplacePosterior if self.linearized else WeightPosterior)(likelihood, distribution)

    def restore(self, likelihood: Likelihood, state: Mapping[str, Tensor]) -> LaplacePosterior | WeightPosterior:
        state = placed(likelihood, state)
        mean = with_prefix(state, "mean")
        names = last_layer(mean) if self.scope == "last_layer" else list(mean)
        curvature = self._new_curvature({name: mean[name] for name in names})
        curvature.load_state_dict(state)
        numbers = state["precision"].item(), state["log_evidence"].item()
        distribution = LaplaceDistribution(mean, names, curvature, *numbers)
        return (LaplacePosterior if self.linearized else WeightPosterior)(likelihood, distribution)

    def passes(self, support: int) -> Passes:
        """A Jacobian is a pass forward and one back for each choice; counted as one of either."""
        return adaptation_passes(self.point, support).plus(Passes(float(support)))

    def query_passes(self, num_samples: int) -> Passes:
        if self.linearized and num_samples:
            return Passes(1.0)
        return Passes(0.0, float(max(1, num_samples)))

    def _new_curvature(self, like: Mapping[str, Tensor]) -> Curvature:
        if self.structure == "kronecker":
            return KroneckerCurvature(like, self.rank)
        return {"diagonal": DiagonalCurvature, "full": FullCurvature}[self.structure](like)

    def _square_distance(self, mean: Mapping[str, Tensor], theta: Mapping[str, Tensor], names: list[str]) -> float:
        centres = theta if self.prior_mean == "meta" else {name: torch.zeros_like(mean[name]) for name in names}
        return sum((mean[name] - centres[name]).detach().square().sum().item() for name in names)


@dataclass(frozen=True)
class LaplaceDistribution:
    """N(mean, (H + precision·I)^-1) over the tensors in `names`; log_evidence in nats."""

    mean: Mapping[str, Tensor]
    names: list[str]
    curvature: Curvature
    precision: float
    log_evidence: float

    def draw(self) -> dict[str, Tensor]:
        noise = {name: torch.randn_like(self.mean[name])[None] for name in self.names}
        return {**self.mean, **{n: self.mean[n] + step[0] for n, step in self.whiten(noise).items()}}

    def whiten(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.curvature.whiten(vectors, self.precision)

    def state_dict(self) -> dict[str, Tensor]:
        scalars = {"precision": self.precision, "log_evidence": self.log_evidence}
        return {
            **{f"mean.{name}": tensor for name, tensor in self.mean.items()},
            **self.curvature.state_dict(),
            **{name: torch.tensor(value, dtype=torch.float64) for name, value in scalars.items()},
        }


class LaplacePosterior(WeightPosterior):
    """The linearised predictive: f ~ N(f(φ*), J(H + λI)^-1Jᵀ), then softmax of each draw of f.

    The network runs once a question, however many samples are asked for: draws of f cost nothing.
    """

    distribution: LaplaceDistribution

    def predict(self, query: Sequence[Example], num_samples: int) -> Tensor:
        """Log-probabilities (samples, examples, choices), on the CPU; `num_samples` = 0 predicts at φ*."""
        if not num_samples:
            return super().predict(query, 0)
        assign(self._likelihood.parameters(TASK), self.distribution.mean)
        width = max((len(example.choices) for example in query), default=0)
        out = []
        for logits, jacobian in choice_jacobians(self._likelihood, query, self.distribution.names):
            root = torch.cat([part.flatten(1) for part in self.distribution.whiten(jacobian).values()], dim=1)
            # a square root of the covariance root·rootᵀ that is no wider than there are choices
            triangle = torch.linalg.qr(root.mT, mode="r").R
            draws = logits + torch.randn(num_samples, len(triangle)).to(logits) @ triangle
            out.append(torch.nn.functional.pad(draws.log_softmax(-1), (0, width - len(logits)), value=-torch.inf))
        return torch.stack(out, dim=1).cpu()


def last_layer(names: Iterable[str]) -> list[str]:
    """The tensors nearest to the output: those of `lm_head`, else of the highest layer number, else all."""
    names = list(names)
    numbers = {name: max((int(n) for n in re.findall(r"(?<=\.)\d+(?=\.)", name)), default=-1) for name in names}
    top = max(numbers.values(), default=-1)
    return [name for name in names if "lm_head" in name] or [name for name in names if numbers[name] == top]


@searched(
    learning_rate=ADAM_RATE,
    **STARTS,
    structure=Choice(("diagonal", "kronecker")),
    scope=Choice(("all", "last_layer")),
    prior_mean=Choice(("zero", "meta")),
)
def laplace(
    num_steps: int = 20,
    learning_rate: float = 3e-3,
    batch_size: int | None = None,
    start: Start = "multitask",
    outer_learning_rate: float | None = None,
    structure: Structure = "kronecker",
    scope: Scope = "all",
    rank: int | None = None,
    prior_precision: float | None = None,
    prior_mean: Literal["zero", "meta"] = "zero",
    linearized: bool = True,
) -> Method:
    """Laplace-LoRA; `scope="last_layer"` is LLLA."""
    inner = InnerLoop(num_steps, learning_rate, batch_size=batch_size)
    adaptation = Laplace(GradientAdaptation(inner), structure, scope, rank, prior_precision, prior_mean, linearized)
    return from_start(adaptation, start, inner, outer_learning_rate)
