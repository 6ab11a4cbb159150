"""MetaICL: meta-training on prompts with demonstrations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from abmll.core.passes import Passes
from abmll.core.types import AdapterSpec, Episode, Likelihood, MetaLearner, Method, Metrics, OuterOptimizer
from abmll.methods.in_context import InContext, demonstrate
from abmll.methods.multitask import MultiTask
from abmll.methods.parts.gradient import NoAdaptation
from abmll.methods.parts.passes import episode_passes
from abmll.methods.parts.space import Choice, LogUniform, searched


@dataclass(frozen=True)
class MetaIcl:
    """Another meta-learner on the same episode, with demonstrations from the support set before every row.

    Attributes:
        meta_learner: multi-task training makes it MetaICL; ABMLL, its in-context variant.
        num_demonstrations: k, chosen as in `InContext`; a support row is shown the other rows.

    Source: Min et al. 2022, arXiv 2110.15943 (k = 16, rows drawn at random, the loss on the last row's answer).
    Deliberate difference: demonstrations are chosen evenly over the labels, as at prediction.
    """

    meta_learner: MetaLearner = MultiTask()
    num_demonstrations: int = 8

    @property
    def equal_passes(self) -> bool:
        return bool(getattr(self.meta_learner, "equal_passes", False))

    def meta_gradient(self, likelihood: Likelihood, episode: Episode) -> Metrics:
        support, count = episode.support, self.num_demonstrations
        shown, asked = demonstrate(support, support, count), demonstrate(episode.query, support, count)
        return self.meta_learner.meta_gradient(likelihood, episode._replace(support=shown, query=asked))

    def passes(self, support: int, query: int, progress: float = 1.0) -> Passes:
        """The other meta-learner's: as many examples, of prompts that are longer by the demonstrations."""
        return episode_passes(self.meta_learner, support, query, progress)

    def state_dict(self) -> dict[str, Any]:
        return self.meta_learner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.meta_learner.load_state_dict(state)


@searched(num_demonstrations=Choice((4, 8, 16)), outer_learning_rate=LogUniform(3e-4, 3e-2))
def metaicl(num_demonstrations: int = 8, outer_learning_rate: float = 3e-3) -> Method:
    """MetaICL: a LoRA trained on prompts with demonstrations; no gradient step on a new task."""
    outer = OuterOptimizer("adamw", outer_learning_rate, "linear")
    return Method(
        AdapterSpec(),
        InContext(NoAdaptation(), num_demonstrations),
        MetaIcl(MultiTask(), num_demonstrations),
        outer,
    )
