"""What gradient adaptations return: one setting of the task adapter, a point or a Gaussian."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from abmll.core.params import assign, clone
from abmll.core.types import TASK, Example, Likelihood


class AdapterPosterior:
    """The task parameters as they stand now, kept for later.

    Args:
        sample: predict by draws from the adapter's own Gaussian; else at its mean, whatever `num_samples` says.
    """

    def __init__(self, likelihood: Likelihood, params: Mapping[str, Tensor], *, sample: bool = False) -> None:
        self._likelihood = likelihood
        self._params = clone(params)
        self._sample = sample

    def predict(self, query: Sequence[Example], num_samples: int) -> Tensor:
        """Log-probabilities (samples, examples, choices)."""
        assign(self._likelihood.parameters(TASK), self._params)
        return self._likelihood.choice_log_probs(query, num_samples=num_samples if self._sample else 0)

    def mean(self) -> dict[str, Tensor]:
        return clone(self._params)

    def state_dict(self) -> dict[str, Tensor]:
        return clone(self._params)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'a Gaussian' if self._sample else 'a point'}, {counted(self._params)})"


def counted(params: Mapping[str, Tensor]) -> str:
    """How many numbers there are, in words."""
    return f"{sum(tensor.numel() for tensor in params.values()):,} numbers"
