"""The nouns of the library and the three protocols that every method is made of.

A method has three parts: an *adapter* (which parameters there are, deterministic or Gaussian), an
*adaptation* (the inner loop: support set -> posterior) and a *meta-learner* (the outer loop: episode -> gradient
on the global parameters). All of them see the language model through one door, the `Likelihood`, so that a toy with
a closed-form answer can stand in for it.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
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

META: Final = "meta"
"""Role (and PEFT adapter name) of the global, meta-learned parameters θ."""
TASK: Final = "task"
"""Role (and PEFT adapter name) of the current task's parameters φ."""
Role = Literal["meta", "task"]

Estimator = Literal["closed_form", "sample"]
"""How a KL divergence is computed: exactly, or by the published one-sample estimate log q(φ) - log p(φ)."""

Metrics = dict[str, float]


if TYPE_CHECKING:
    _Text = str
    _Texts = Sequence[str]
    _Index = int | None
    _Examples = Sequence["Example"]
    _Kl = Estimator | None
else:  # Some check themselves, in words for people: nothing may refuse their arguments before they do.
    _Text = _Texts = _Index = _Examples = _Kl = Any


class _Row(NamedTuple):
    prompt: str
    choices: tuple[str, ...]
    target: int | None = None
    question: str = ""
    id: str = ""
    demonstrations: tuple[Any, ...] = ()


class Example(_Row):
    """One row of a task, still text.

    prompt: what is to be answered, without the question that all rows of a task share.
    choices: at least two different answers, none of them empty.
    target: the index of the right choice, counted from 0; None where it is not known.
    demonstrations: solved rows of the same task, shown before this one in its prompt (in-context learning).

    Raises: AbmllError that says which of these is broken, what was found and what to write.
    """

    __slots__ = ()

    def __new__(
        cls,
        prompt: _Text,
        choices: _Texts,
        target: _Index = None,
        question: _Text = "",
        id: _Text = "",
        demonstrations: _Examples = (),
    ) -> Example:
        choices = checked_choices(prompt, choices)
        target = _checked_target(prompt, choices, target)
        for name, text in (("question", question), ("id", id)):
            if not isinstance(text, str):
                raise AbmllError(f"{_named(prompt)}: its {name} must be text; found {text!r}.")
        if not isinstance(demonstrations, tuple):
            demonstrations = tuple(demonstrations)
        return super().__new__(cls, prompt, choices, target, question, id, demonstrations)

    def _replace(self, **changes: Any) -> Example:
        return Example(**{**self._asdict(), **changes})

    @property
    def answer(self) -> str:
        """The right choice. Raises: AbmllError if it is not known."""
        return self.choices[self.known_target]

    @property
    def known_target(self) -> int:
        """The index of the right choice. Raises: AbmllError if it is not known."""
        if self.target is None:
            raise AbmllError(f"{_named(self.prompt)} has no label (its target is None), and one is needed here.")
        return self.target


def _named(prompt: Any) -> str:
    text = repr(prompt)
    return f"the example {text if len(text) <= 60 else text[:57] + '...'}"


def checked_choices(prompt: Any, choices: Any) -> tuple[str, ...]:
    """The choices of an example as a tuple. Raises: AbmllError for a prompt or choices that no example may have."""
    if not isinstance(prompt, str):
        raise AbmllError(f"{_named(prompt)} is {type(prompt).__name__}, not text. Write it as text.")
    if isinstance(choices, str) or not isinstance(choices, Sequence):
        raise AbmllError(f'{_named(prompt)}: its choices must be a list such as ["no", "yes"]; found {choices!r}.')
    for choice in choices:
        if not isinstance(choice, str) or not choice.strip():
            raise AbmllError(f"{_named(prompt)}: every choice must be text, not empty; found {choice!r}.")
    if len(choices) < 2 or len(set(choices)) < len(choices):
        raise AbmllError(f"{_named(prompt)}: it needs at least two different choices; found {list(choices)!r}.")
    return choices if isinstance(choices, tuple) else tuple(choices)


def _checked_target(prompt: str, choices: tuple[str, ...], target: Any) -> int | None:
    if target is None or (type(target) is int and 0 <= target < len(choices)):
        return target
    if isinstance(target, str):
        cure = f"Write {choices.index(target)}" if target in choices else "Write the index of the right choice"
        raise AbmllError(f"{_named(prompt)}: its target is the text {target!r}, not an index. {cure}.")
    try:
        index = None if isinstance(target, bool) else operator.index(target)
    except TypeError:
        index = None
    if index is None:
        raise AbmllError(f"{_named(prompt)}: its target must be a whole number, or None; found {target!r}.")
    if not 0 <= index < len(choices):
        unknown = " Write None if the right choice is not known." if index == -1 else ""
        raise AbmllError(
            f"{_named(prompt)}: its target {index} is out of range; {len(choices)} choices are counted "
            f"0 … {len(choices) - 1}.{unknown}"
        )
    return index


class Episode(NamedTuple):
    """One visit to one task: adapt on `support`, be evaluated on `query`.

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


class Requested(TypedDict, total=False):
    """The questions of a `PassRequest` as keyword arguments."""

    sample: bool
    kl: Estimator | None
    hyper_prior: bool
    prior_only: bool


@dataclass(frozen=True)
class PassRequest:
    """What a forward pass is asked for besides the NLL: from `Likelihood.terms` down to the arithmetic of a layer.

    sample: draw the task parameters from their Gaussian (one draw) instead of using the mean.
    kl: also report KL(task ‖ meta), by this estimator; None skips it (and its cost).
    hyper_prior: also report -log p(θ).
    prior_only: to both of these the task parameters and the layers' inputs are constants, so that their gradient is
        META's alone. An outer loop whose posterior follows the likelihood gets the gradients of both from one backward
        pass, and they do not mix.

    Raises: AbmllError for an unknown estimator, and for a one-sample estimate without a sample.
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

        requested: sample, kl, hyper_prior and prior_only, as `PassRequest` describes them.
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

    log_var_rate: the learning rate of log-variances as a multiple of `learning_rate`. A LoRA's elements are hundredths,
        a log-variance moves by whole numbers.
    betas: AdamW's decays of its two moments.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    max_grad_norm: float | None = None
    log_var_rate: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)


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
    """What is compared. `meta_learner` is None for methods that learn nothing across tasks."""

    adapter: AdapterSpec
    adaptation: Adaptation
    meta_learner: MetaLearner | None
    outer: OuterOptimizer = OuterOptimizer()
