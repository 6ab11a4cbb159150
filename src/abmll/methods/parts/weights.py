"""Posteriors over the adapter's weights: draws that are put into TASK one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from abmll.core.params import assign, clone, placed, train_only, with_prefix, zero_grad
from abmll.core.types import TASK, Example, Likelihood
from abmll.methods.parts.posterior import counted


class WeightDistribution(Protocol):
    """A distribution over named tensors. It owns its tensors; draws come from torch's global generator."""

    @property
    def mean(self) -> Mapping[str, Tensor]: ...

    def draw(self) -> Mapping[str, Tensor]: ...

    def state_dict(self) -> dict[str, Tensor]: ...


class WeightPosterior:
    """Predicts with draws of the weights; with `num_samples` = 0, at their mean."""

    def __init__(self, likelihood: Likelihood, distribution: WeightDistribution) -> None:
        self._likelihood = likelihood
        self.distribution = distribution

    def predict(self, query: Sequence[Example], num_samples: int) -> Tensor:
        """Log-probabilities (samples, examples, choices)."""
        out = []
        for _ in range(max(1, num_samples)):
            assign(
                self._likelihood.parameters(TASK),
                self.distribution.draw() if num_samples else self.distribution.mean,
            )
            out.append(self._likelihood.choice_log_probs(query))
        return torch.cat(out)

    def mean(self) -> dict[str, Tensor]:
        return clone(self.distribution.mean)

    def state_dict(self) -> dict[str, Tensor]:
        return clone(self.distribution.state_dict())

    def __repr__(self) -> str:
        kind = type(self.distribution).__name__
        return f"{type(self).__name__}({kind} about a mean of {counted(self.distribution.mean)})"


class DiagonalGaussian:
    """Independent N(mean, std²) for each element; tensors without an entry in `std` stay at their mean."""

    def __init__(self, mean: Mapping[str, Tensor], std: Mapping[str, Tensor]) -> None:
        self.mean, self.std = clone(mean), clone(std)

    @classmethod
    def from_state(cls, likelihood: Likelihood, state: Mapping[str, Tensor]) -> DiagonalGaussian:
        """The one that had this `state_dict`."""
        state = placed(likelihood, state)
        return cls(with_prefix(state, "mean"), with_prefix(state, "std"))

    def draw(self) -> dict[str, Tensor]:
        noise = {name: torch.randn_like(std) for name, std in self.std.items()}
        return {n: m + self.std[n] * noise[n] if n in noise else m for n, m in self.mean.items()}

    def state_dict(self) -> dict[str, Tensor]:
        return {f"{kind}.{n}": t for kind, part in (("mean", self.mean), ("std", self.std)) for n, t in part.items()}


def backpropagate_nll(
    likelihood: Likelihood, draw: Mapping[str, Tensor], examples: Sequence[Example], weight: float = 1.0
) -> float:
    """Backpropagates `weight` · mean NLL at `draw` into whatever made `draw`; returns the mean NLL in nats.

    TASK's tensors are leaves that live in the model. So the draw is copied into them, the pass leaves its gradient
    there, and that gradient is handed on to the graph of the draw: the chain rule in two pieces.
    """
    task = likelihood.parameters(TASK)
    train_only(likelihood, TASK)
    assign(task, draw)
    with likelihood.terms(examples) as terms:
        nll = terms.nll.mean()
        (weight * nll).backward()
    tracked = [name for name, tensor in draw.items() if tensor.requires_grad and task[name].grad is not None]
    torch.autograd.backward([draw[name] for name in tracked], [task[name].grad for name in tracked])
    zero_grad(task.values())
    return float(nll.detach())


def gaussian_names(names: Iterable[str]) -> list[str]:
    """The tensors that a Gaussian on A alone is about: those of LoRA's A; all of them if there is no LoRA."""
    names = list(names)
    return [name for name in names if "lora_A" in name] or names
