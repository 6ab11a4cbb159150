"""Every choice as likely as any other: what a method must beat to be worth anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from abmll.core.types import AdapterSpec, Example, Likelihood, Method
from abmll.methods.label_frequency import FrequencyPosterior
from abmll.methods.parts.space import searched


@searched()
def uniform() -> Method:
    """Every choice with the same probability: its NLL is the logarithm of the number of choices."""
    return Method(AdapterSpec(), Uniform(), None)


@dataclass(frozen=True)
class Uniform:
    """Never looks at the support set, nor at the row."""

    needs_model: ClassVar[bool] = False

    def adapt(self, likelihood: Likelihood, support: Sequence[Example]) -> FrequencyPosterior:
        return FrequencyPosterior({})

    def restore(self, likelihood: Likelihood, state: Mapping[str, Tensor]) -> FrequencyPosterior:
        return FrequencyPosterior({})
