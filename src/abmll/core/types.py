"""The nouns of the library and the three protocols that every method is made of.

A method has three parts: an *adapter* (which parameters there are, deterministic or Gaussian), an
*adaptation* (the inner loop: support set -> posterior) and a *meta-learner* (the outer loop: episode -> gradient
on the global parameters). All of them see the language model through one door, the `Likelihood`, so that a toy with
a closed-form answer can stand in for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Literal,
    NamedTuple,
    Protocol,
    TypedDict,
    Unpack,
    get_args,
    runtime_checkable,
)

from torch import Tensor

from abmll.core.errors import AbmllError, unknown_name
from abmll.core.example import Episode as Episode
from abmll.core.example import Example as Example

META: Final = "meta"
"""Role (and PEFT adapter name) of the global, meta-learned parameters θ."""
TASK: Final = "task"
"""Role (and PEFT adapter name) of the current task's parameters φ."""
Role = Literal["meta", "task"]

Estimator = Literal["closed_form", "sample"]
"""How a KL divergence is computed: exactly, or by the published one-sample estimate log q(φ) - log p(φ)."""

Metrics = dict[str, float]


if TYPE_CHECKING:
    _Kl = Estimator | None
else:  # A request checks itself, in words for people: nothing may refuse its arguments before it does.
    _Kl = Any


class Terms(NamedTuple):
    """What one forward pass contributes to an objective, in nats.

    Attributes:
        nll: (examples,) negative log-likelihood of each example's target.
        kl: scalar, KL(task ‖ meta) summed over the counted tokens, output units and layers; 0 for point adapters.
        hyper: scalar, -log p(θ), summed likewise; 0 unless asked for.
        num_tokens: how many (non-padding) tokens `kl` and `hyper` are summed over.
    """

    nll: Tensor
    kl: Tensor
    hyper: Tensor
    num_tokens: int


class Requested(TypedDict, total=False):
    """The questions of a `PassRequest` as keyword arguments."""

    sample: bool
    kl: Estimator | None
    hyper_prior: bool
    prior_only: bool


@dataclass(frozen=True)
class PassRequest:
    """What a forward pass is asked for besides the NLL: from `Likelihood.terms` down to the arithmetic of a layer.

    Attributes:
        sample: draw the task parameters from their Gaussian (one draw) instead of using the mean.
        kl: also report KL(task ‖ meta), by this estimator; None skips it (and its cost).
        hyper_prior: also report -log p(θ).
        prior_only: to both of these the task parameters and the layers' inputs are constants, so that their gradient is
            META's alone. An outer loop whose posterior follows the likelihood gets the gradients of both from one
            backward pass, and they do not mix.

    Raises:
        AbmllError: for an unknown estimator, and for a one-sample estimate without a sample.
    """

    sample: bool = False
    kl: _Kl = None
    hyper_prior: bool = False
    prior_only: bool = False

    def __post_init__(self) -> None:
        if self.kl is not None and self.kl not in get_args(Estimator):
            raise unknown_name("KL estimator", self.kl, get_args(Estimator))
        if self.kl == "sample" and not self.sample:
            raise AbmllError("the one-sample KL estimate needs a sample: pass sample=True, or kl='closed_form'.")

    @property
    def estimator(self) -> Estimator:
        """Of the KL, wherever a prior stands to compare with."""
        return self.kl or "closed_form"


@runtime_checkable
class Likelihood(Protocol):
    """The only door to a model: p(target | prompt, task parameters)."""

    def terms(self, examples: Sequence[Example], **requested: Unpack[Requested]) -> AbstractContextManager[Terms]:
        """Forward pass under the task parameters. Call `backward()` inside the block.

        Args:
            examples: the batch; every one has a target.
            **requested: sample, kl, hyper_prior and prior_only, as `PassRequest` describes them.

        Returns:
            A block, with what the pass contributes to an objective.
        """
        ...

    def choice_log_probs(self, examples: Sequence[Example], *, num_samples: int = 0) -> Tensor:
        """Log-probabilities under the task parameters, without gradient.

        Args:
            examples: what is predicted.
            num_samples: draws of the task parameters; 0 predicts at the mean, which counts as one sample.

        Returns:
            (samples, examples, choices), normalised over the choices. Absent choices hold -inf.
        """
        ...

    def choice_graph(self, examples: Sequence[Example]) -> AbstractContextManager[Tensor]:
        """Log-probabilities (examples, choices) at the mean, as `choice_log_probs` gives them, but with gradient.

        Differentiate inside the block. Normalised over the choices and free of dropout, unlike `terms`: what
        curvatures and linearisations are made of.

        Args:
            examples: the batch.

        Returns:
            A block, with the log-probabilities. Absent choices hold -inf.
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

        Args:
            params: for each role named, tensors by the keys of `parameters(role)`; other roles keep their own.

        Raises:
            AbmllError: if the model, as it is set up, would give a wrong gradient or none.
        """
        ...


@runtime_checkable
class StackedLikelihood(Likelihood, Protocol):
    """A likelihood that can be evaluated for several tasks in one pass."""

    def stacked(self, params: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """Until the block ends, `terms` takes params[name][t] for TASK's tensors in the t-th equal part of examples.

        Args:
            params: for every name of `parameters(TASK)` a tensor (tasks, *shape). At the mean only.

        Raises:
            AbmllError: if the model has adapters of which several cannot share a pass.
        """
        ...


class Features(NamedTuple):
    """What a pass makes of n questions of at most c choices, before a head of the task's own reads it.

    Attributes:
        hidden: (n, width) what the model's output head reads where a question ends and its answer begins.
        log_probs: (n, c), as `choice_log_probs` gives them.
        answers: the tokens of every choice's text: what is learned of one answer is learned of those that share tokens.
    """

    hidden: Tensor
    log_probs: Tensor
    answers: Sequence[Sequence[tuple[int, ...]]]


@runtime_checkable
class FeatureLikelihood(Likelihood, Protocol):
    """A likelihood that shows what its predictions are made of: what a head of a task's own needs."""

    def features(self, examples: Sequence[Example]) -> AbstractContextManager[Features]:
        """The features of rows under the task parameters at their mean. Differentiate inside the block.

        Args:
            examples: the rows; their targets are not looked at. With a graph it is one pass over all of them.

        Raises:
            AbmllError: if the model has no output head that reads hidden states.
        """
        ...


Gate = Callable[[Tensor], Tensor]
"""A layer's input (..., in_features) to a weight for each of its adapter's hidden numbers, (..., rank)."""


@runtime_checkable
class LibraryLikelihood(Likelihood, Protocol):
    """A likelihood with LoRAs side by side (`core.library`), of which it can take one, or weigh them by token."""

    def only(self, index: int, count: int) -> AbstractContextManager[None]:
        """Until the block ends, TASK is its LoRA `index` of `count` alone, at the cost of one.

        Raises:
            AbmllError: if the model's adapters are no ordinary LoRAs.
        """
        ...

    def routed(self, gates: Mapping[str, Gate]) -> AbstractContextManager[None]:
        """Until the block ends, a layer's LoRA is B (gate(x) ⊙ A x) in place of B A x, for every token's x.

        Args:
            gates: by the name of a layer's A among `parameters(TASK)`; other layers stay as they are.

        Raises:
            AbmllError: if the model's adapters are no ordinary LoRAs.
        """
        ...


@runtime_checkable
class Posterior(Protocol):
    """What an adaptation returns. It survives later adaptations: it holds its own copy of what it needs."""

    def predict(self, query: Sequence[Example], num_samples: int) -> Tensor:
        """What new rows are answered with.

        Args:
            query: the rows; their targets are not looked at.
            num_samples: how many draws a posterior that samples takes; 0 predicts at its mean.

        Returns:
            Log-probabilities (samples, examples, choices), normalised. Average probabilities over samples, not logits.
        """
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

    def adapt(self, likelihood: Likelihood, support: Sequence[Example]) -> Posterior:
        """The posterior of a task given its support set.

        Args:
            likelihood: whose META it starts from; TASK is overwritten.
            support: labelled rows.

        Raises:
            AbmllError: for an empty support set, if it needs one.
        """
        ...

    def restore(self, likelihood: Likelihood, state: Mapping[str, Tensor]) -> Posterior:
        """The posterior that `adapt` returned, from its `state_dict`: equal predictions for equal seeds.

        Raises:
            KeyError: if a tensor is missing.
        """
        ...


@runtime_checkable
class MetaLearner(Protocol):
    """Outer loop: adds one episode's gradient to META's `.grad`, and touches nothing else of META.

    One that takes the same number of passes through the model in every episode, each differentiated once, may say so
    by an attribute `equal_passes = True`: ranks that hold one model between them can then train it. And it may say how
    many examples an episode sends through the model, by `passes(support, query, progress)`, for plans
    (`methods.parts.passes`).
    """

    def meta_gradient(self, likelihood: Likelihood, episode: Episode) -> Metrics:
        """Adds the episode's gradient to META's `.grad`, and overwrites TASK.

        Returns:
            Numbers for the log, by name.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """What must survive a restart besides META (e.g. moments of a persistent inner optimiser)."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class OuterOptimizer:
    """How the trainer turns META's gradient into a step.

    Reptile's θ ← θ + ε(φ - θ) is `name="sgd"` with learning rate ε on the gradient θ - φ.

    Attributes:
        name: the optimiser.
        learning_rate: at first.
        schedule: of the learning rate over meta-training; "linear" and "cosine" end at 0.
        max_grad_norm: clips META's gradient to this norm; None does not.
        log_var_rate: the learning rate of log-variances as a multiple of `learning_rate`. A LoRA's elements are
            hundredths, a log-variance moves by whole numbers.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    max_grad_norm: float | None = None
    log_var_rate: float = 1.0


@dataclass(frozen=True)
class AdapterSpec:
    """Which parameters a method has: an ordinary LoRA (a point) or a Gaussian around one.

    Attributes:
        kind: an ordinary LoRA, or a Gaussian.
        log_var_offset: log-variance at initialisation; the published value is -20, a standard deviation of e^-10.
        dropout: probability that an element of a LoRA's input is dropped, wherever a draw is asked for (`sample`); the
            mean is taken without dropout.
        space: what the Gaussian is over: the LoRA's "output" (ABMLL as published), its "weight" (ABMLL as its paper
            writes it), or each element of its two "factors" (ABML).
        log_var_bound: how far the log-variance of an output can get from its offset (nats); None, as published, is no
            bound.
        num_loras: how many LoRAs stand side by side in one of that many times the rank (`core.library`).
        same_start: all of them begin with the same A, and are not drawn each anew.
    """

    kind: Literal["lora", "abmll"] = "lora"
    log_var_offset: float = -20.0
    dropout: float = 0.0
    space: Literal["output", "weight", "factors"] = "output"
    log_var_bound: float | None = None
    num_loras: int = 1
    same_start: bool = False


class Method(NamedTuple):
    """What is compared. `meta_learner` is None for methods that learn nothing across tasks."""

    adapter: AdapterSpec
    adaptation: Adaptation
    meta_learner: MetaLearner | None
    outer: OuterOptimizer = OuterOptimizer()
