"""Adapting by a head of the task's own: one pass over the support set, no gradient step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from abmll.core.errors import AbmllError
from abmll.core.params import assign, clone, placed, reset_task, with_prefix
from abmll.core.passes import Passes
from abmll.core.types import TASK, Example, FeatureLikelihood, Features, Likelihood
from abmll.methods.parts.bayesian_head import (
    Fit,
    HeadPrior,
    Scores,
    Space,
    answers_of,
    draws,
    fit,
    labelled_scores,
    moments,
    overlaps,
    scores,
)
from abmll.methods.parts.posterior import counted

PREFIX = "head"
"""What the names of a posterior's own tensors begin with."""
NODES = 16
"""At least so many settings of a row's scores stand for their posterior."""
AT_ONCE = 256
"""So many rows are predicted at once: what they share with the labelled rows is rows times choices on both sides."""


@dataclass(frozen=True)
class BayesianHead:
    """θ as it is, with a posterior over what the task adds to the output head.

    Attributes:
        prior: over the head, before a label is seen.

    Source: a Bayesian last layer over features that are learned across tasks: Harrison et al. 2018, arXiv 1807.08912
        (ALPaCA); Patacchiola et al. 2020, arXiv 1910.05199 (deep kernel transfer). Deliberate difference: here the
        language model's own answer is the prior's mean, with a scale of which only a distribution is known.
    """

    prior: HeadPrior = HeadPrior()

    def adapt(self, likelihood: Likelihood, support: Sequence[Example]) -> HeadPosterior:
        if not support:
            raise AbmllError("cannot adapt: the support set is empty. Give at least one labelled row.")
        reset_task(likelihood)
        params = clone(likelihood.parameters(TASK))
        features = _features(likelihood, support)
        targets = torch.tensor([example.known_target for example in support])
        return HeadPosterior(likelihood, params, self.prior, _Seen.of(self.prior, features, targets))

    def restore(self, likelihood: Likelihood, state: Mapping[str, Tensor]) -> HeadPosterior:
        params = placed(likelihood, {name: t for name, t in state.items() if not name.startswith(f"{PREFIX}.")})
        return HeadPosterior(likelihood, params, self.prior, _Seen.from_state(with_prefix(state, PREFIX)))

    def passes(self, support: int) -> Passes:
        return Passes(0.0, float(support))

    def query_passes(self, num_samples: int) -> Passes:
        return Passes(0.0, 1.0)


@torch.no_grad()
def _features(likelihood: Likelihood, examples: Sequence[Example]) -> Features:
    assert isinstance(likelihood, FeatureLikelihood)
    with likelihood.features(examples) as features:
        return features


@dataclass(frozen=True)
class _Seen:
    """The support set as the posterior keeps it. tokens: of every answer, -1 behind the shorter ones."""

    rows: Scores
    space: Space
    found: Fit
    tokens: Tensor

    @classmethod
    def of(cls, prior: HeadPrior, features: Features, targets: Tensor) -> _Seen:
        answers = answers_of(features)
        space = Space.of(features.hidden)
        rows = labelled_scores(features, space, answers)
        size = rows.offset.numel()
        kernel = prior.kernel(rows, rows, overlaps(answers)).reshape(size, size)
        found = fit(kernel, prior.scale_mean * rows.offset, targets, rows.present)
        tokens = torch.full((len(answers), max(map(len, answers))), -1)
        for place, answer in enumerate(answers):
            tokens[place, : len(answer)] = torch.tensor(answer)
        return cls(rows, space, found, tokens)

    @property
    def answers(self) -> list[tuple[int, ...]]:
        return [tuple(token for token in row if token >= 0) for row in self.tokens.tolist()]

    def state_dict(self) -> dict[str, Tensor]:
        parts = {**self.rows._asdict(), **self.space._asdict(), **self.found._asdict(), "tokens": self.tokens}
        return {f"{PREFIX}.{name}": tensor.clone() for name, tensor in parts.items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> _Seen:
        state = {name: tensor.cpu() for name, tensor in state.items()}
        rows = Scores(state["x"], state["offset"], state["answer"])
        space, found = Space(state["centre"], state["size"]), Fit(state["dual"], state["whitened"])
        return cls(rows, space, found, state["tokens"])


class HeadPosterior:
    """θ, and the Gaussian over a task's own head. Predictions of a row are settings of its scores' posterior."""

    def __init__(self, likelihood: Likelihood, params: Mapping[str, Tensor], prior: HeadPrior, seen: _Seen) -> None:
        self._likelihood = likelihood
        self._params = clone(params)
        self._prior = prior
        self._seen = seen

    @torch.no_grad()
    def scores(self, query: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (rows, choices) and covariance (rows, choices, choices) of the scores; which choices there are."""
        assign(self._likelihood.parameters(TASK), self._params)
        features = _features(self._likelihood, query)
        seen = self._seen
        answers = list(dict.fromkeys([*seen.answers, *answers_of(features)]))
        rows, overlap = scores(features, seen.space, answers), overlaps(answers)
        mean = self._prior.scale_mean * rows.offset
        cross = self._prior.kernel(seen.rows, rows, overlap).flatten(0, 1)
        return *moments(seen.found, cross, self._prior.own(rows, overlap), mean), rows.present

    def predict(self, query: Sequence[Example], num_samples: int) -> Tensor:
        """Log-probabilities (at least num_samples, examples, choices); 0 samples predict at the scores' mean."""
        count = max(NODES, num_samples) if num_samples else 0
        parts = []
        for start in range(0, len(query), AT_ONCE):
            mean, covariance, present = self.scores(query[start : start + AT_ONCE])
            parts.append(draws(mean, self._prior.temperature * covariance, present, count).float())
        width = max(part.shape[-1] for part in parts)
        return torch.cat([pad(part, (0, width - part.shape[-1]), value=-torch.inf) for part in parts], 1)

    def mean(self) -> None:
        """None: an adapter cannot say what a task adds to the output head."""

    def state_dict(self) -> dict[str, Tensor]:
        return {**clone(self._params), **self._seen.state_dict()}

    def __repr__(self) -> str:
        return f"HeadPosterior({len(self._seen.rows.x)} labels, {counted(self._params)})"
