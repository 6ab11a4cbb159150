"""How often each label occurs in the support set: what a prediction is worth that never reads its row."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.core.types import AdapterSpec, Example, Likelihood, Method
from abmll.methods.parts.space import searched

COUNTS = "label_counts"
"""Name of the counts among the tensors of a posterior."""


@searched()
def label_frequency(smoothing: float = 1.0) -> Method:
    """The labels' frequencies in the support set, smoothed; uniform where each row has choices of its own."""
    return Method(AdapterSpec(), LabelFrequency(smoothing), None)


@dataclass(frozen=True)
class LabelFrequency:
    """p(c) ∝ count(c) + smoothing, over the texts of the choices.

    A row whose choices are not those of the support set's rows is answered by the uniform distribution: where every
    row has choices of its own, as in question answering, no label occurs twice.

    Args:
        smoothing: Added to the count of every choice; 1 is Laplace's rule of succession. Above 0, so that a label that
            the support set lacks is never impossible.

    Source: the posterior mean of a categorical distribution under a symmetric Dirichlet(smoothing) prior.
    """

    smoothing: float = 1.0
    needs_model: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not (0 < self.smoothing < math.inf):
            raise AbmllError(f"smoothing must be a number above 0; got {self.smoothing}.")

    def adapt(self, likelihood: Likelihood, support: Sequence[Example]) -> FrequencyPosterior:
        if not support:
            raise AbmllError("cannot adapt: the support set is empty. Give at least one labelled example.")
        if len({frozenset(row.choices) for row in support}) > 1:
            return FrequencyPosterior({}, self.smoothing)
        found = Counter(row.answer for row in support)
        return FrequencyPosterior({choice: found[choice] for choice in support[0].choices}, self.smoothing)

    def restore(self, likelihood: Likelihood, state: Mapping[str, Tensor]) -> FrequencyPosterior:
        return FrequencyPosterior(json.loads(bytes(state[COUNTS].tolist())), self.smoothing)


class FrequencyPosterior:
    """Answers every row alike, by the counts of its choices; without counts of just these choices, uniformly.

    Args:
        counts: Choice text to how often it is right in the support set.
        smoothing: Added to every count.
    """

    def __init__(self, counts: Mapping[str, int], smoothing: float = 1.0) -> None:
        self._counts, self._smoothing = dict(counts), smoothing

    def predict(self, query: Sequence[Example], num_samples: int) -> Tensor:
        """Log-probabilities (1, examples, choices); there is nothing to sample."""
        width = max(len(row.choices) for row in query)
        log_probs = torch.full((1, len(query), width), -math.inf)
        for index, row in enumerate(query):
            known = self._counts.keys() == set(row.choices)
            counts = [self._counts[choice] + self._smoothing if known else 1.0 for choice in row.choices]
            total = sum(counts)
            log_probs[0, index, : len(counts)] = torch.tensor([math.log(count / total) for count in counts])
        return log_probs

    def mean(self) -> None:
        """No setting of the adapter stands for it."""
        return None

    def state_dict(self) -> dict[str, Tensor]:
        """The counts as bytes of JSON."""
        code = json.dumps(self._counts, ensure_ascii=False).encode()
        return {COUNTS: torch.tensor(list(code), dtype=torch.uint8)}

    def __repr__(self) -> str:
        shown = ", ".join(f"{choice} {count}" for choice, count in list(self._counts.items())[:10])
        return f"FrequencyPosterior({shown}{', …' if len(self._counts) > 10 else ''})"
