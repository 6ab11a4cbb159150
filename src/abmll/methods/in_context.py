"""In-context learning: solved rows of the support set shown before the question."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.core.passes import Passes
from abmll.core.types import Adaptation, AdapterSpec, Example, Likelihood, Method, Posterior
from abmll.methods.parts.gradient import NoAdaptation
from abmll.methods.parts.passes import adaptation_passes, query_passes
from abmll.methods.parts.space import Choice, searched

DEMONSTRATIONS = "demonstrations"
"""Name of the demonstrations among the tensors of a posterior."""


def choose(pool: Sequence[Example], count: int) -> tuple[Example, ...]:
    """At most `count` rows of `pool`, as evenly over the labels as it allows; a label is the right choice's text.

    Takes the first row of every label, in the order in which the labels appear, then the second of every label, and
    so on; no chance is involved beyond the order of the pool. With other choices in every row, as in question
    answering, every label is new, and the first rows are taken.
    """
    by_label: dict[str, list[Example]] = {}
    for example in pool:
        by_label.setdefault(example.answer, []).append(example)
    rounds = zip_longest(*by_label.values())
    return tuple([example for row in rounds for example in row if example is not None][:count])


def demonstrate(examples: Sequence[Example], pool: Sequence[Example], count: int) -> list[Example]:
    """The examples, each with demonstrations chosen from the pool; a row never demonstrates itself."""
    return [
        example._replace(demonstrations=choose([row for row in pool if row != example], count)) for example in examples
    ]


@dataclass(frozen=True)
class InContext:
    """Shows k rows of the support set in every query's prompt, and adapts the parameters besides, if asked to.

    Attributes:
        adaptation: what the support set does to the parameters; its rows then carry demonstrations too (from the other
            rows), so that it adapts to the prompts it will be evaluated on.
        num_demonstrations: k. Rows that do not fit the prompt are left out from the front (`language.prompt`).

    Source: Brown et al. 2020, arXiv 2005.14165; label-balanced choice as a default. With a meta-learner that saw
    demonstrations (`methods.metaicl`) this is MetaICL, or ABMLL's in-context variant.
    """

    adaptation: Adaptation = NoAdaptation()
    num_demonstrations: int = 8

    def __post_init__(self) -> None:
        if self.num_demonstrations < 1:
            raise AbmllError(f"num_demonstrations must be at least 1; got {self.num_demonstrations}.")

    def adapt(self, likelihood: Likelihood, support: Sequence[Example]) -> InContextPosterior:
        if not support:
            raise AbmllError("cannot adapt: the support set is empty. Give at least one labelled example.")
        posterior = self.adaptation.adapt(likelihood, demonstrate(support, support, self.num_demonstrations))
        return InContextPosterior(posterior, choose(support, self.num_demonstrations))

    def restore(self, likelihood: Likelihood, state: Mapping[str, Tensor]) -> InContextPosterior:
        inner = {name: tensor for name, tensor in state.items() if name != DEMONSTRATIONS}
        return InContextPosterior(self.adaptation.restore(likelihood, inner), _decode(state[DEMONSTRATIONS]))

    def passes(self, support: int) -> Passes:
        return adaptation_passes(self.adaptation, support)

    def query_passes(self, num_samples: int) -> Passes:
        return query_passes(self.adaptation, num_samples)


class InContextPosterior:
    """A posterior whose queries are asked after demonstrations."""

    def __init__(self, posterior: Posterior, demonstrations: tuple[Example, ...]) -> None:
        self._posterior = posterior
        self.demonstrations = demonstrations

    def predict(self, query: Sequence[Example], num_samples: int) -> Tensor:
        """Log-probabilities (samples, examples, choices)."""
        asked = [example._replace(demonstrations=self.demonstrations) for example in query]
        return self._posterior.predict(asked, num_samples)

    def mean(self) -> dict[str, Tensor] | None:
        """The inner posterior's: no adapter can say the demonstrations."""
        return self._posterior.mean()

    def state_dict(self) -> dict[str, Tensor]:
        """The inner posterior's tensors, and the demonstrations as bytes of JSON."""
        return {**self._posterior.state_dict(), DEMONSTRATIONS: _encode(self.demonstrations)}

    def __repr__(self) -> str:
        return f"InContextPosterior({len(self.demonstrations)} demonstrations before {self._posterior!r})"


def _encode(examples: Sequence[Example]) -> Tensor:
    """(bytes,) uint8, the UTF-8 of a JSON list; demonstrations have none of their own."""
    rows = [[e.prompt, list(e.choices), e.target, e.question, e.id] for e in examples]
    return torch.tensor(list(json.dumps(rows, ensure_ascii=False).encode()), dtype=torch.uint8)


def _decode(code: Tensor) -> tuple[Example, ...]:
    rows = json.loads(bytes(code.tolist()))
    return tuple(Example(prompt, tuple(choices), *rest) for prompt, choices, *rest in rows)


@searched(num_demonstrations=Choice((2, 4, 8, 16)))
def in_context(num_demonstrations: int = 8) -> Method:
    """The language model as it is, shown the support set in its prompt."""
    return Method(AdapterSpec(), InContext(NoAdaptation(), num_demonstrations), None)
