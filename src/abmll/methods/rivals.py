"""Rows of the field's other methods: meta-learners, and adaptations that know how sure they are."""

from __future__ import annotations

from abmll.core.types import AdapterSpec, Method, OuterOptimizer
from abmll.methods.abml import Abml
from abmll.methods.ensemble import Ensemble
from abmll.methods.fomaml import Fomaml
from abmll.methods.gradient import GradientAdaptation, NoAdaptation
from abmll.methods.in_context import InContext
from abmll.methods.inner import InnerLoop, InnerOptimizer
from abmll.methods.maml import Maml
from abmll.methods.metaicl import MetaIcl
from abmll.methods.multitask import MultiTask
from abmll.methods.objective import Objective
from abmll.methods.rows import abmll_output
from abmll.methods.temperature import TemperatureScaled


def fomaml(
    num_steps: int = 5,
    learning_rate: float = 0.3,
    optimizer: InnerOptimizer = "sgd",
    batch_size: int | None = None,
    outer_learning_rate: float = 5e-3,
    support_weight: float = 0.0,
) -> Method:
    """First-order MAML on a LoRA.

    support_weight: of the support's own NLL at θ in the outer objective; 0 as published.
    """
    inner = InnerLoop(num_steps, learning_rate, optimizer, batch_size)
    outer = OuterOptimizer("adamw", outer_learning_rate, "linear")
    return Method(AdapterSpec(), GradientAdaptation(inner), Fomaml(inner, support_weight), outer)


def maml(
    num_steps: int = 5,
    learning_rate: float = 0.1,
    batch_size: int | None = None,
    outer_learning_rate: float = 3e-3,
) -> Method:
    """Exact MAML on a LoRA, second order through plain gradient steps."""
    inner = InnerLoop(num_steps, learning_rate, "sgd", batch_size)
    outer = OuterOptimizer("adamw", outer_learning_rate, "linear")
    return Method(AdapterSpec(), GradientAdaptation(inner), Maml(inner), outer)


def metaicl(num_demonstrations: int = 8, outer_learning_rate: float = 3e-3) -> Method:
    """MetaICL: a LoRA trained on prompts with demonstrations; no gradient step on a new task."""
    outer = OuterOptimizer("adamw", outer_learning_rate, "linear")
    return Method(
        AdapterSpec(),
        InContext(NoAdaptation(), num_demonstrations),
        MetaIcl(MultiTask(), num_demonstrations),
        outer,
    )


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


def in_context(num_demonstrations: int = 8) -> Method:
    """The language model as it is, shown the support set in its prompt."""
    return Method(AdapterSpec(), InContext(NoAdaptation(), num_demonstrations), None)


def mc_dropout(
    num_steps: int = 20, learning_rate: float = 3e-3, batch_size: int | None = None, dropout: float = 0.1
) -> Method:
    """A fresh LoRA fine-tuned with dropout on its input, and dropout kept at prediction: each mask is a sample.

    Source: Gal & Ghahramani 2016, arXiv 1506.02142; p = 0.1 as in the baselines of BLoB.
    """
    objective = Objective(sample=True)
    inner = InnerLoop(num_steps, learning_rate, batch_size=batch_size, objective=objective)
    return Method(AdapterSpec(dropout=dropout), GradientAdaptation(inner, sample=True), None)


def ensemble(
    num_steps: int = 20,
    learning_rate: float = 3e-3,
    batch_size: int | None = None,
    num_members: int = 5,
    noise: float = 1.0,
    bootstrap: bool = False,
) -> Method:
    """A deep ensemble of fresh LoRAs; takes `num_members` times the seconds and bytes of one."""
    member = GradientAdaptation(InnerLoop(num_steps, learning_rate, batch_size=batch_size))
    return Method(AdapterSpec(), Ensemble(member, num_members, noise, bootstrap), None)


def temperature(
    num_steps: int = 20,
    learning_rate: float = 3e-3,
    batch_size: int | None = None,
    holdback: float = 0.25,
    prior_std: float | None = 1.0,
) -> Method:
    """A fresh LoRA fine-tuned on three quarters of the support set, its temperature fitted on the last."""
    inner = InnerLoop(num_steps, learning_rate, batch_size=batch_size)
    return Method(AdapterSpec(), TemperatureScaled(GradientAdaptation(inner), holdback, prior_std), None)


def abml(
    num_steps: int = 5,
    learning_rate: float = 0.1,
    batch_size: int | None = None,
    outer_learning_rate: float = 3e-3,
    kl_weight: float = 1e-3,
    prior_weight: float = 0.0,
    log_var_offset: float = -7.0,
) -> Method:
    """The original ABML, on the factors of a LoRA: a variational inner loop, differentiated through.

    kl_weight: 1 in the paper, which had to lower it for few-shot tasks; the same in both loops.
    log_var_offset: initial log-variance of every element; public implementations draw the log of the standard
        deviation from (-4, -3).
    """
    inner_objective = Objective(kl_weight, 0.0, "example", sample=True)
    inner = InnerLoop(num_steps, learning_rate, "sgd", batch_size, inner_objective)
    return Method(
        AdapterSpec("abmll", log_var_offset, space="factors"),
        GradientAdaptation(inner, sample=True),
        Abml(inner, Objective(kl_weight, prior_weight, "example", sample=True)),
        OuterOptimizer("adamw", outer_learning_rate, "linear"),
    )
