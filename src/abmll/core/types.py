"""The nouns of the library and the three protocols that every method is made of.

A method is a row of three parts: an *adapter* (which parameters there are, deterministic or Gaussian), an
*adaptation* (the inner loop: support set -> posterior) and a *meta-learner* (the outer loop: episode -> gradient
on the global parameters). All of them see the language model through one door, the `Likelihood`, so that a toy with
a closed-form answer can stand in for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

META: Final = "meta"
"""Role (and PEFT adapter name) of the global, meta-learned parameters θ."""
TASK: Final = "task"
"""Role (and PEFT adapter name) of the current task's parameters φ."""
Role = Literal["meta", "task"]

Estimator = Literal["closed_form", "sample"]
"""How a KL divergence is computed: exactly, or by the published one-sample estimate log q(φ) - log p(φ)."""

Metrics = dict[str, float]


class Example(NamedTuple):
    """One labelled row of a task, still text. `target` is the index of the right choice.

    demonstrations: solved rows of the same task, shown before this one in its prompt (in-context learning).
    """

    prompt: str
    choices: tuple[str, ...]
    target: int
    question: str = ""
    id: str = ""
    demonstrations: tuple[Example, ...] = ()


class Episode(NamedTuple):
    """One visit to one task: adapt on `support`, be judged on `query`.

    progress: the share of meta-training that was done before this visit, 0 to 1, for schedules; the trainer sets it.
    """

    task: str
    support: Sequence[Example]
    query: Sequence[Example]
    progress: float = 1.0


class Terms(NamedTuple):
    """What one forward pass contributes to an objective, in nats.

    nll: (examples,) negative log-likelihood of each example's target.
    kl: scalar, KL(task ‖ meta) summed over the counted tokens, output units and layers; 0 for point adapters.
    hyper: scalar, -log p(θ), summed likewise; 0 unless asked for.
    num_tokens: how many (non-padding) tokens `kl` and `hyper` are summed over.
    """

    nll: Tensor
    kl: Tensor
    hyper: Tensor
    num_tokens: int


@runtime_checkable
class Likelihood(Protocol):
    """The only door to a model: p(target | prompt, task parameters)."""

    def terms(
        self,
        examples: Sequence[Example],
        *,
        sample: bool = False,
        kl: Estimator | None = None,
        hyper_prior: bool = False,
        prior_only: bool = False,
    ) -> AbstractContextManager[Terms]:
        """Forward pass under the task parameters. Call `backward()` inside the block.

        sample: draw the task parameters from their Gaussian (one draw) instead of using the mean.
        kl: also report KL(task ‖ meta), by this estimator; None skips it (and its cost).
        hyper_prior: also report -log p(θ).
        prior_only: to `kl` and `hyper` the task parameters are constants, so that their gradient is META's alone.
        """
        ...

    def choice_log_probs(self, examples: Sequence[Example], *, num_samples: int = 0) -> Tensor:
        """Log-probabilities (samples, examples, choices) under the task parameters, without gradient.

        num_samples = 0 predicts at the mean and returns one "sample". Absent choices hold -inf.
        """
        ...

    def choice_graph(self, examples: Sequence[Example]) -> AbstractContextManager[Tensor]:
        """Log-probabilities (examples, choices) at the mean, as `choice_log_probs` gives them, but with gradient.

        Differentiate inside the block. Normalised over the choices and free of dropout, unlike `terms`: what
        curvatures and linearisations are made of.
        """
        ...

    def parameters(self, role: Role) -> dict[str, Tensor]:
        """The leaf tensors of a role; both roles have the same keys and shapes."""
        ...


@runtime_checkable
class FunctionalLikelihood(Likelihood, Protocol):
    """A likelihood that can be evaluated at tensors other than its own: what a gradient through an inner loop needs."""

    def at(self, params: Mapping[Role, Mapping[str, Tensor]]) -> AbstractContextManager[None]:
        """Until the block ends, `terms` takes these tensors for those of the roles named; twice differentiable.

        The keys are those of `parameters(role)`. Roles that are not named keep their own tensors.
        Raises: AbmllError if the model, as it is set up, would give a wrong gradient or none.
        """
        ...


@runtime_checkable
class StackedLikelihood(Likelihood, Protocol):
    """A likelihood that can be evaluated for several tasks in one pass."""

    def stacked(self, params: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """Until the block ends, `terms` takes params[name][t] for TASK's tensors in the t-th equal part of examples.

        params: for every name of `parameters(TASK)` a tensor (tasks, *shape). At the mean only.
        Raises: AbmllError if the model has adapters of which several cannot share a pass.
        """
        ...


@runtime_checkable
class Posterior(Protocol):
    """What an adaptation returns. It survives later adaptations: it holds its own copy of what it needs."""

    def predict(self, query: Sequence[Example], num_samples: int) -> Tensor:
        """Log-probabilities (samples, examples, choices); average probabilities over samples, never logits."""
        ...

    def mean(self) -> dict[str, Tensor] | None:
        """The task parameters at its mean; None if no single setting of them stands for it, as with an ensemble."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors that make this posterior, for safetensors."""
        ...


@runtime_checkable
class Adaptation(Protocol):
    """Inner loop: from θ and a support set to a posterior over φ. Leaves META bit-identical."""

    def adapt(self, likelihood: Likelihood, support: Sequence[Example]) -> Posterior: ...

    def restore(self, likelihood: Likelihood, state: Mapping[str, Tensor]) -> Posterior:
        """The posterior that `adapt` returned, from its `state_dict`: equal predictions for equal seeds.

        Raises: KeyError if a tensor is missing.
        """
        ...


@runtime_checkable
class MetaLearner(Protocol):
    """Outer loop: adds one episode's gradient to META's `.grad`, and touches nothing else of META.

    One that takes the same number of passes through the model in every episode, each differentiated once, may say so
    by an attribute `equal_passes = True`: ranks that hold one model between them can then train it.
    """

    def meta_gradient(self, likelihood: Likelihood, episode: Episode) -> Metrics: ...

    def state_dict(self) -> dict[str, Any]:
        """What must survive a restart besides META (e.g. moments of a persistent inner optimiser)."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class OuterOptimizer:
    """How the trainer turns META's gradient into a step.

    Reptile's θ ← θ + ε(φ - θ) is `name="sgd"` with learning rate ε on the gradient θ - φ.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    max_grad_norm: float | None = None


@dataclass(frozen=True)
class AdapterSpec:
    """Which parameters a method has: an ordinary LoRA (a point) or a Gaussian around one.

    space: what the Gaussian is over: the LoRA's "output" (ABMLL as published), its "weight" (ABMLL as its paper writes
        it), or each element of its two "factors" (ABML).
    log_var_offset: log-variance at initialisation; the published value is -20, a standard deviation of e^-10.
    log_var_bound: how far the log-variance of an output can get from there (nats); None, as published, is no bound.
    dropout: probability that an element of a LoRA's input is dropped, wherever a draw is asked for (`sample`); the
        mean is taken without dropout.
    """

    kind: Literal["lora", "abmll"] = "lora"
    log_var_offset: float = -20.0
    dropout: float = 0.0
    space: Literal["output", "weight", "factors"] = "output"
    log_var_bound: float | None = None


class Method(NamedTuple):
    """One row of the comparison. `meta_learner` is None for methods that learn nothing across tasks."""

    adapter: AdapterSpec
    adaptation: Adaptation
    meta_learner: MetaLearner | None
    outer: OuterOptimizer = OuterOptimizer()
