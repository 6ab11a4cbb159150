"""A LoRA fine-tuned on each task alone."""

from __future__ import annotations

from abmll.core.types import AdapterSpec, Method
from abmll.methods.parts.gradient import GradientAdaptation
from abmll.methods.parts.inner import InnerLoop, InnerOptimizer
from abmll.methods.parts.space import SGD_RATE, searched


@searched(learning_rate=SGD_RATE)
def lora(
    num_steps: int = 5,
    learning_rate: float = 0.1,
    optimizer: InnerOptimizer = "sgd",
    batch_size: int | None = None,
) -> Method:
    """A fresh LoRA, fine-tuned on each task's support set alone."""
    inner = InnerLoop(num_steps, learning_rate, optimizer, batch_size)
    return Method(AdapterSpec(), GradientAdaptation(inner), None)
