"""The rows of the table: the defaults of every method, in one place where they can be compared."""

from __future__ import annotations

from typing import Literal

from abmll.core.types import AdapterSpec, Method, OuterOptimizer
from abmll.methods.abmll import Abmll
from abmll.methods.amortised import Amortised, Gradient
from abmll.methods.gradient import GradientAdaptation, NoAdaptation
from abmll.methods.inner import InnerLoop, InnerOptimizer
from abmll.methods.multitask import MultiTask
from abmll.methods.natural import NaturalSteps
from abmll.methods.objective import Objective, Reduction, Schedule
from abmll.methods.reptile import Reptile
from abmll.methods.scaled import CrossFittedScale


def pretrained() -> Method:
    """The language model as it is, zero-shot."""
    return Method(AdapterSpec(), NoAdaptation(), None)


def lora(
    num_steps: int = 5,
    learning_rate: float = 0.1,
    optimizer: InnerOptimizer = "sgd",
    batch_size: int | None = None,
) -> Method:
    """A fresh LoRA, fine-tuned on each task's support set alone."""
    inner = InnerLoop(num_steps, learning_rate, optimizer, batch_size)
    return Method(AdapterSpec(), GradientAdaptation(inner), None)


def multitask(
    num_steps: int = 5,
    learning_rate: float = 0.03,
    optimizer: InnerOptimizer = "sgd",
    batch_size: int | None = None,
    outer_learning_rate: float = 3e-3,
) -> Method:
    """One LoRA trained on all tasks, then fine-tuned on each new task's support set."""
    inner = InnerLoop(num_steps, learning_rate, optimizer, batch_size)
    outer = OuterOptimizer("adamw", outer_learning_rate, "linear")
    return Method(AdapterSpec(), GradientAdaptation(inner), MultiTask(), outer)


def reptile(
    num_steps: int = 5,
    learning_rate: float = 0.03,
    optimizer: InnerOptimizer = "sgd",
    batch_size: int | None = None,
    outer_learning_rate: float = 1.0,
) -> Method:
    """Reptile on a LoRA; the outer rate ε decays linearly to 0, as in the paper's baseline (AdamW, ε = 0.5 there)."""
    inner = InnerLoop(num_steps, learning_rate, optimizer, batch_size)
    outer = OuterOptimizer("sgd", outer_learning_rate, "linear")
    return Method(AdapterSpec(), GradientAdaptation(inner), Reptile(inner), outer)


def abmll(
    num_steps: int = 5,
    trust: float = 0.15,
    batch_size: int | None = None,
    outer_learning_rate: float = 2e-3,
    variance_rate: float = 25.0,
    log_var_offset: float = 0.0,
    support_weight: float = 0.3,
    gradient: Gradient = "exact",
    scale: bool = True,
    scale_mean: float = 0.7,
    scale_std: float = 0.4,
    scale_folds: int = 2,
) -> Method:
    """ABMLL: a Gaussian prior over LoRA parameters, learned over tasks; adapting is a few steps sized by its variances.

    The exact gradient through those steps teaches the prior, at a LoRA's memory; a posterior over one scale of the
    log-probabilities says how sure to be of a task. Each part is an option, measured in docs/log.md.

    trust: the share of the NLL that an inner step may promise to take away.
    variance_rate: how many times faster log-variances learn than means.
    log_var_offset: log σ² of the prior at first; the trust region makes the start matter little.
    support_weight: of the support's own NLL at θ in the outer objective.
    gradient: "first_order" spares half of an outer step's time.
    scale: fit the scale, for two adaptations of half size; scale_mean, scale_std and scale_folds are its own.
    """
    inner = NaturalSteps(num_steps, trust, batch_size, log_var_offset)
    adaptation = GradientAdaptation(inner)
    return Method(
        AdapterSpec("abmll", log_var_offset, space="factors"),
        CrossFittedScale(adaptation, scale_mean, scale_std, scale_folds) if scale else adaptation,
        Amortised(inner, support_weight, gradient),
        OuterOptimizer("adamw", outer_learning_rate, "linear", log_var_rate=variance_rate),
    )


def abmll_output(
    num_steps: int = 5,
    learning_rate: float = 1e-3,
    optimizer: InnerOptimizer = "adamw",
    batch_size: int | None = None,
    outer_learning_rate: float = 5e-3,
    kl_weight: float = 1e-4,
    kl_schedule: Schedule = "constant",
    prior_weight: float = 0.0,
    log_var_offset: float = -4.0,
    log_var_bound: float | None = 4.0,
    adapts: Literal["all", "mean"] = "mean",
    inner_kl_weight: float = 0.0,
    inner_sample: bool = False,
    query_gradient: bool = True,
    sample: bool = True,
    predict_by_samples: bool = True,
    persistent_optimizer: bool = False,
    space: Literal["output", "weight"] = "output",
) -> Method:
    """ABMLL with a Gaussian over the LoRA's output and the query set's gradient: the published form, adapted further.

    It was the default `abmll` of the first version; what it was measured to do stands in docs/log.md. The inner loop
    moves φ's mean only, at the mean, and the posterior's variance is θ's, learned from how φ answers the query sets.

    learning_rate, optimizer: AdamW's steps are as large as its rate whatever the size of model and gradient; plain
        steps ("sgd") do as well on the package's model at a rate of 0.3, which no other model needs to bear.
    kl_weight, prior_weight, sample: β, γ and the sampled NLL of the outer objective.
    kl_schedule: of the outer β; see `Objective`.
    log_var_bound: how far a log-variance may get from its offset, in nats (of the Gaussian over outputs); without a
        bound, outer rates of 8e-3 and more overflow.
    inner_kl_weight, inner_sample: the same for the inner loop, where the paper has β > 0 and a sample.
    adapts: "all" also moves φ's variance in the inner loop, as published.
    space: what the Gaussian is over. A divergence between weights is one number however many tokens there are, so
        with "weight" it is counted per example and not per token, and `kl_weight` = 1 is the exact bound. Weights
        are small: give a smaller `log_var_offset` with it, such as -10 (a standard deviation of 0.007).
    """
    reduction: Reduction = "example" if space == "weight" else "mean"
    inner_objective = Objective(inner_kl_weight, 0.0, reduction, "closed_form", inner_sample)
    inner = InnerLoop(num_steps, learning_rate, optimizer, batch_size, inner_objective, adapts)
    outer = Objective(kl_weight, prior_weight, reduction, "closed_form", sample, kl_schedule)
    return Method(
        AdapterSpec("abmll", log_var_offset, space=space, log_var_bound=log_var_bound if space == "output" else None),
        GradientAdaptation(inner, sample=predict_by_samples),
        Abmll(inner, outer, "query", query_gradient, persistent_optimizer),
        OuterOptimizer("adamw", outer_learning_rate, "linear"),
    )


def abmll_paper(num_tasks: int = 34, kl_weight: float = 1e-8) -> Method:
    """ABMLL with every published setting (v2/v3 recipe): arXiv 2508.14285 and the authors' code.

    num_tasks: number of training tasks T; the hyper-prior's weight is β / T.
    kl_weight: β; 1e-8 in the code, 1e-7 in the reviewed text.
    """
    objective = Objective(kl_weight, kl_weight / num_tasks, "sum", "sample", sample=True)
    inner = InnerLoop(num_steps=5, learning_rate=1e-5, batch_size=2, objective=objective)
    return Method(
        AdapterSpec("abmll", -20.0),
        GradientAdaptation(inner, sample=False),
        Abmll(inner, objective, "last_batch", query_gradient=False, persistent_optimizer=True),
        OuterOptimizer("adamw", 5e-5),
    )
