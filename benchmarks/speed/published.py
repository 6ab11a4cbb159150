"""The published formulation written as it reads: what one gets without caring for cost.

Each adapted layer runs four low-rank maps over its input, builds torch distributions, draws the output, and keeps the
log-densities under posterior and prior, which the loss adds up; the prior's parameters are judged likewise.

Source: arXiv 2508.14285, algorithm and the formulas of its code (written anew).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Gamma, Normal


class PublishedLinear(nn.Module):
    """A linear layer under its posterior; `terms` holds log q - log p - log p(θ) of every element of the last pass."""

    def __init__(self, base: nn.Linear, r: int, scaling: float, offset: float) -> None:
        super().__init__()
        self.base, self.scaling, self.offset = base, scaling, offset
        self.terms: list[Tensor] = []
        self.maps = nn.ModuleDict()
        for role in ("task", "meta"):
            for part in ("mean", "log_var"):
                A, B = nn.Linear(base.in_features, r, bias=False), nn.Linear(r, base.out_features, bias=False)
                nn.init.kaiming_uniform_(A.weight, a=math.sqrt(5))
                nn.init.zeros_(B.weight)
                self.maps[f"{role}_{part}"] = nn.Sequential(A, B)
        for name, module in self.maps.items():
            module.requires_grad_(name.startswith("task"))

    def moments(self, x: Tensor, role: str) -> tuple[Tensor, Tensor]:
        mean = self.scaling * self.maps[f"{role}_mean"](x)
        return mean, torch.exp(0.5 * (self.scaling * self.maps[f"{role}_log_var"](x) + self.offset))

    def forward(self, x: Tensor) -> Tensor:
        posterior = Normal(*self.moments(x, "task"), validate_args=False)
        mean, std = self.moments(x, "meta")
        value = posterior.rsample()
        prior = Normal(mean, std, validate_args=False)
        one = torch.ones((), device=x.device)
        gamma = Gamma(one, 0.01 * one, validate_args=False)
        judged = Normal(0 * one, one).log_prob(mean) + gamma.log_prob(std.square().reciprocal())
        self.terms = [posterior.log_prob(value) - prior.log_prob(value) - 1e-3 * judged]
        return self.base(x) + value


def adapt(model: nn.Module, names: tuple[str, ...], r: int, scaling: float, offset: float) -> list[PublishedLinear]:
    """Puts the layer in the place of every linear layer with one of these names; returns them."""
    model.requires_grad_(False)
    made = []
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if name in names and isinstance(child, nn.Linear):
                made.append(PublishedLinear(child, r, scaling, offset))
                setattr(parent, name, made[-1])
    return made
