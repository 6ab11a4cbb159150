"""Methods of published tables that the library's own table has not; `abmll reproduce` names them by module.

They differ from the library's methods in numbers, not in kind; what they cannot follow of the published code is said by
the protocols that use them.
"""

from __future__ import annotations

from abmll.core.types import AdapterSpec, Method, OuterOptimizer
from abmll.methods.abmll_output import Abmll
from abmll.methods.multitask import MultiTask
from abmll.methods.parts.gradient import GradientAdaptation
from abmll.methods.parts.inner import InnerLoop
from abmll.methods.parts.objective import Objective
from abmll.methods.reptile import Reptile


def abmll_v1(num_tasks: int = 34, kl_weight: float = 5e-10, num_steps: int = 10) -> Method:
    """ABMLL by the recipe of version 1: β = 5e-10, inner rate 3e-6, outer rate 1e-5, ten steps at test.

    Args:
        num_tasks: kept for symmetry with `abmll-paper`; version 1 weighs the hyper-prior by 1e-6 / 5, not by the tasks.
        num_steps: gradient steps on a new task, on batches of two.

    Source: arXiv 2508.14285v1 and its code.
    """
    objective = Objective(kl_weight, 1e-6 / 5, "sum", "sample", sample=True)
    training = InnerLoop(num_steps=5, learning_rate=3e-6, batch_size=2, objective=objective)
    adaptation = InnerLoop(num_steps=num_steps, learning_rate=3e-6, batch_size=2, objective=objective)
    return Method(
        AdapterSpec("abmll", -20.0),
        GradientAdaptation(adaptation, sample=False),
        Abmll(training, objective, "last_batch", query_gradient=False, persistent_optimizer=True),
        OuterOptimizer("adamw", 1e-5),
    )


def structured_lora(num_steps: int = 5, learning_rate: float = 1e-5, outer_learning_rate: float = 1e-5) -> Method:
    """One LoRA trained task after task on the likelihood alone, then a few AdamW steps on a new task's batches of two.

    Source: the baseline "Structured LoRA" of arXiv 2508.14285, whose script is the method's own without its KL terms.
    """
    inner = InnerLoop(num_steps, learning_rate, "adamw", batch_size=2)
    outer = OuterOptimizer("adamw", outer_learning_rate)
    return Method(AdapterSpec(), GradientAdaptation(inner), MultiTask(), outer)


def reptile_paper(num_steps: int = 5, learning_rate: float = 5e-5, test_learning_rate: float = 1e-5) -> Method:
    """Reptile on a LoRA: AdamW at 5e-5 in the inner loop, ε falling from 0.5 to 0, AdamW at 1e-5 on a new task.

    Source: the baseline "Reptile" of arXiv 2508.14285 and its script.
    """
    training = InnerLoop(num_steps, learning_rate, "adamw", batch_size=2)
    adaptation = InnerLoop(num_steps, test_learning_rate, "adamw", batch_size=2)
    return Method(
        AdapterSpec(), GradientAdaptation(adaptation), Reptile(training), OuterOptimizer("sgd", 0.5, "linear")
    )


def adapted_pretrained(num_steps: int = 5, learning_rate: float = 1e-5) -> Method:
    """The model as it is, given the same gradient steps on a new task as the others.

    Source: "Pretrained" in the figures of arXiv 2508.14285v1.
    """
    return Method(AdapterSpec(), GradientAdaptation(InnerLoop(num_steps, learning_rate, "adamw", batch_size=2)), None)
