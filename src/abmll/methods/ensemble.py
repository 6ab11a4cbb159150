"""Deep ensembles: several adaptations that began in different places, averaged in probability."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.core.params import assign, clone, with_prefix
from abmll.core.passes import Passes
from abmll.core.types import META, Adaptation, AdapterSpec, Example, Likelihood, Method, Posterior
from abmll.methods.parts.gradient import GradientAdaptation
from abmll.methods.parts.inner import InnerLoop
from abmll.methods.parts.passes import adaptation_passes, query_passes
from abmll.methods.parts.space import ADAM_RATE, Choice, searched


@dataclass(frozen=True)
class Ensemble:
    """M members, each adapted on its own from its own start with its own order of the support set.

    Attributes:
        adaptation: what a member is; a point or itself a posterior.
        num_members: M.
        noise: how far apart the members start: θ_m = (θ + noise·rms(θ)·ε) / √(1 + noise²), tensor by tensor, which
            keeps every tensor's size. A tensor of zeros (B of a fresh LoRA) stays zero, so members of a fresh LoRA
            begin as different initialisations of one function. 0 starts all members at θ.
        bootstrap: each member adapts to a sample of the support set with replacement instead of a permutation of it.

    Source: Lakshminarayanan et al. 2017, arXiv 1612.01474, without adversarial training; it recommends no bootstrap.
    """

    adaptation: Adaptation = GradientAdaptation()
    num_members: int = 5
    noise: float = 1.0
    bootstrap: bool = False

    def __post_init__(self) -> None:
        if self.num_members < 1 or self.noise < 0:
            raise AbmllError(
                "ensemble: num_members must be at least 1 and noise at least 0; got "
                f"num_members={self.num_members}, noise={self.noise}."
            )

    def adapt(self, likelihood: Likelihood, support: Sequence[Example]) -> EnsemblePosterior:
        meta = likelihood.parameters(META)
        theta, members = clone(meta), []
        # Members start from META itself, so that any adaptation can be one; it is put back bit by bit.
        try:
            for _ in range(self.num_members):
                assign(meta, self._start(theta))
                members.append(self.adaptation.adapt(likelihood, self._order(support)))
        finally:
            assign(meta, theta)
        return EnsemblePosterior(members)

    def restore(self, likelihood: Likelihood, state: Mapping[str, Tensor]) -> EnsemblePosterior:
        count = len({name.partition(".")[0] for name in state})
        parts = [with_prefix(state, f"member{index}") for index in range(count)]
        return EnsemblePosterior([self.adaptation.restore(likelihood, part) for part in parts])

    def passes(self, support: int) -> Passes:
        return adaptation_passes(self.adaptation, support).times(self.num_members)

    def query_passes(self, num_samples: int) -> Passes:
        share = max(1, num_samples // self.num_members)
        return query_passes(self.adaptation, share).times(self.num_members)

    def _start(self, theta: Mapping[str, Tensor]) -> dict[str, Tensor]:
        shrink = math.sqrt(1 + self.noise**2)
        return {
            name: (tensor + self.noise * tensor.square().mean().sqrt() * torch.randn_like(tensor)) / shrink
            for name, tensor in theta.items()
        }

    def _order(self, support: Sequence[Example]) -> list[Example]:
        size = len(support)
        chosen = torch.randint(size, (size,)) if self.bootstrap and size else torch.randperm(size)
        return [support[i] for i in chosen.tolist()]


class EnsemblePosterior:
    """The members' predictions side by side: whoever averages samples averages members, in probability."""

    def __init__(self, members: Sequence[Posterior]) -> None:
        self.members = list(members)

    def predict(self, query: Sequence[Example], num_samples: int) -> Tensor:
        """Log-probabilities (samples, examples, choices), the same number of samples from every member.

        Members that are points give one sample each; others share `num_samples`, at least one each.
        """
        share = max(1, num_samples // len(self.members))
        return torch.cat([member.predict(query, share) for member in self.members])

    def mean(self) -> None:
        """None: members that began apart have no function between them that the average of their parameters gives."""

    def state_dict(self) -> dict[str, Tensor]:
        return {
            f"member{index}.{name}": tensor
            for index, member in enumerate(self.members)
            for name, tensor in member.state_dict().items()
        }

    def __repr__(self) -> str:
        return f"EnsemblePosterior({len(self.members)} members, each {self.members[0]!r})"


@searched(learning_rate=ADAM_RATE, noise=Choice((0.3, 1.0, 3.0)), bootstrap=Choice((False, True)))
def ensemble(
    num_steps: int = 20,
    learning_rate: float = 3e-3,
    batch_size: int | None = None,
    num_members: int = 5,
    noise: float = 1.0,
    bootstrap: bool = False,
) -> Method:
    """A deep ensemble of fresh LoRAs; takes `num_members` times the seconds and bytes of one."""
    member = GradientAdaptation(InnerLoop(num_steps, learning_rate, batch_size=batch_size))
    return Method(AdapterSpec(), Ensemble(member, num_members, noise, bootstrap), None)
