"""The inner loop: a few gradient steps on the task parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from abmll.core.errors import AbmllError
from abmll.core.params import add_to_grad, reset_task, train_only
from abmll.core.types import META, TASK, Episode, Example, Likelihood, Metrics
from abmll.methods.parts.objective import Objective

InnerOptimizer = Literal["adamw", "sgd"]
OnStep = Callable[[int], None]


@dataclass(frozen=True)
class InnerLoop:
    """K gradient steps on φ, starting from θ.

    Attributes:
        num_steps: K.
        learning_rate: of the steps; no weight decay.
        optimizer: likewise.
        batch_size: how many support examples a step takes, in order and starting over at the end; None takes them all.
        objective: what is minimised.
        adapts: "all" of φ, as published, or only its "mean"; its variance then stays θ's, learned by the outer loop
            alone.
    """

    num_steps: int = 5
    learning_rate: float = 1e-2
    optimizer: InnerOptimizer = "adamw"
    batch_size: int | None = None
    objective: Objective = Objective()
    adapts: Literal["all", "mean"] = "all"

    def __post_init__(self) -> None:
        if self.num_steps < 0 or self.learning_rate <= 0 or (self.batch_size is not None and self.batch_size < 1):
            raise AbmllError(
                "inner loop: num_steps must be at least 0, learning_rate above 0 and batch_size at least 1; got "
                f"num_steps={self.num_steps}, learning_rate={self.learning_rate}, batch_size={self.batch_size}."
            )

    def new_optimizer(self, likelihood: Likelihood) -> torch.optim.Optimizer:
        """A fresh optimiser of the task parameters."""
        return self.optimizer_of(t for name, t in likelihood.parameters(TASK).items() if self.moves(name))

    def moves(self, name: str) -> bool:
        """Whether the steps change the task parameter of this name."""
        return self.adapts == "all" or "log_var" not in name

    def optimizer_of(self, tensors: Iterable[Tensor]) -> torch.optim.Optimizer:
        """A fresh optimiser of these tensors."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(list(tensors), lr=self.learning_rate)
        return torch.optim.AdamW(list(tensors), lr=self.learning_rate, weight_decay=0.0)

    def batches(self, support: Sequence[Example]) -> Iterator[Sequence[Example]]:
        """The K batches of the inner loop."""
        return batches_of(support, self.batch_size, self.num_steps)

    def run(
        self,
        likelihood: Likelihood,
        support: Sequence[Example],
        optimizer: torch.optim.Optimizer | None = None,
        on_step: OnStep | None = None,
    ) -> float:
        """φ ← θ, then K steps; `on_step(k)` is called after each. Returns the last objective in nats (0 for K = 0)."""
        reset_task(likelihood)
        train_only(likelihood, TASK)
        for name, tensor in likelihood.parameters(TASK).items():
            tensor.requires_grad_(self.moves(name))
        optimizer = optimizer or self.new_optimizer(likelihood)
        loss = torch.tensor(float("nan"))
        for step, batch in enumerate(self.batches(support)):
            optimizer.zero_grad()
            with likelihood.terms(batch, sample=self.objective.sample, kl=self.objective.kl) as terms:
                loss = self.objective(terms)
                loss.backward()
            optimizer.step()
            if on_step is not None:
                on_step(step)
        return float(loss.detach()) if self.num_steps else 0.0


def towards(inner: InnerLoop, likelihood: Likelihood, episode: Episode) -> Metrics:
    """K steps on support ∪ query, then adds θ - φ to θ's gradient: an outer SGD of rate ε makes it θ + ε(φ - θ)."""
    loss = inner.run(likelihood, [*episode.support, *episode.query])
    theta, phi = likelihood.parameters(META), likelihood.parameters(TASK)
    add_to_grad(theta, {name: (theta[name] - phi[name]).detach() for name in theta})
    return {"inner_loss": loss}


def examples_of(loop: Any, support: int) -> int:
    """How many examples the steps of a loop take from a support set of this size, all batches together."""
    return int(loop.num_steps * min(loop.batch_size or support, support))


def batches_of(support: Sequence[Example], batch_size: int | None, num_steps: int) -> Iterator[Sequence[Example]]:
    """`num_steps` batches of a support set, in order and starting over at the end; None takes all rows each time.

    Raises:
        AbmllError: If the support set is empty.
    """
    size = min(batch_size or len(support), len(support))
    if not size:
        raise AbmllError("cannot adapt: the support set is empty. Give at least one labelled example.")
    for step in range(num_steps):
        start = step * size
        yield [support[i % len(support)] for i in range(start, start + size)]
