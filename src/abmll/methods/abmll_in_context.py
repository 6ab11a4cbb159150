"""ABMLL on prompts with demonstrations."""

from __future__ import annotations

from abmll.core.types import Method
from abmll.methods.abmll_output import OUTPUT_SPACE, abmll_output
from abmll.methods.in_context import InContext
from abmll.methods.metaicl import MetaIcl
from abmll.methods.parts.inner import InnerOptimizer
from abmll.methods.parts.space import Choice, searched


@searched(**OUTPUT_SPACE, num_demonstrations=Choice((4, 8, 16)))
def abmll_in_context(
    num_demonstrations: int = 8,
    num_steps: int = 5,
    learning_rate: float = 1e-3,
    optimizer: InnerOptimizer = "adamw",
    batch_size: int | None = None,
    outer_learning_rate: float = 5e-3,
    kl_weight: float = 1e-4,
    log_var_offset: float = -4.0,
    log_var_bound: float | None = 4.0,
) -> Method:
    """`abmll-output`, meta-trained, adapted and asked on prompts with demonstrations."""
    plain = abmll_output(
        num_steps,
        learning_rate,
        optimizer,
        batch_size,
        outer_learning_rate,
        kl_weight,
        log_var_offset=log_var_offset,
        log_var_bound=log_var_bound,
    )
    assert plain.meta_learner is not None
    return plain._replace(
        adaptation=InContext(plain.adaptation, num_demonstrations),
        meta_learner=MetaIcl(plain.meta_learner, num_demonstrations),
    )
