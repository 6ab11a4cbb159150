"""Monte-Carlo dropout on a LoRA's input."""

from __future__ import annotations

from abmll.core.types import AdapterSpec, Method
from abmll.methods.parts.gradient import GradientAdaptation
from abmll.methods.parts.inner import InnerLoop
from abmll.methods.parts.objective import Objective
from abmll.methods.parts.space import ADAM_RATE, Choice, searched


@searched(learning_rate=ADAM_RATE, dropout=Choice((0.05, 0.1, 0.2, 0.3)))
def mc_dropout(
    num_steps: int = 20, learning_rate: float = 3e-3, batch_size: int | None = None, dropout: float = 0.1
) -> Method:
    """A fresh LoRA fine-tuned with dropout on its input, and dropout kept at prediction: each mask is a sample.

    Source: Gal & Ghahramani 2016, arXiv 1506.02142; p = 0.1 as in the baselines of BLoB.
    """
    objective = Objective(sample=True)
    inner = InnerLoop(num_steps, learning_rate, batch_size=batch_size, objective=objective)
    return Method(AdapterSpec(dropout=dropout), GradientAdaptation(inner, sample=True), None)
