"""Arithmetic on named tensors, and the two ways in which methods touch a likelihood's parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from abmll.core.types import META, TASK, Likelihood, Role


def clone(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A detached copy, key by key."""
    return {name: tensor.detach().clone() for name, tensor in params.items()}


@torch.no_grad()
def assign(target: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    """Copies `source` into `target` in place. Raises KeyError if the keys differ."""
    if target.keys() != source.keys():
        raise KeyError(f"parameter names differ: {sorted(target.keys() ^ source.keys())[:5]}")
    for name, tensor in target.items():
        tensor.copy_(source[name])


@torch.no_grad()
def add_to_grad(params: Mapping[str, Tensor], gradient: Mapping[str, Tensor]) -> None:
    """Adds `gradient` to the `.grad` of `params`."""
    for name, tensor in params.items():
        step = gradient[name].detach()
        tensor.grad = step.clone() if tensor.grad is None else tensor.grad.add_(step)


def gradients(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The `.grad` of every tensor, zeros where there is none."""
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in params.items()}


def placed(likelihood: Likelihood, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of `state` where and in the order in which the likelihood has its parameters.

    Draws on another device would be others, and so would draws tensor by tensor in another order: a file keeps none.
    A name counts as a parameter's if it is one, or becomes one without what stands before its first dot.
    """
    task = likelihood.parameters(TASK)
    device = next(iter(task.values())).device
    places = {name: place for place, name in enumerate(task)}
    order = {name: places.get(name, places.get(name.partition(".")[2], len(places))) for name in state}
    return {name: state[name].detach().to(device, copy=True) for name in sorted(state, key=order.__getitem__)}


def with_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix` and a dot, named by what follows."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)}


def gradients_of(value: Tensor, *groups: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The gradient of a scalar by every tensor of each group, from one backward pass; `.grad` stays as it is.

    Zeros for a tensor that it does not depend on.
    """
    tensors = [tensor for group in groups for tensor in group.values()]
    grads = iter(torch.autograd.grad(value, tensors, materialize_grads=True))
    return [{name: next(grads) for name in group} for group in groups]


def train_only(likelihood: Likelihood, *roles: Role) -> None:
    """Lets gradients flow to these roles' parameters and to no others; clears the task's old gradient."""
    for role in (META, TASK):
        for tensor in likelihood.parameters(role).values():
            tensor.requires_grad_(role in roles)
    zero_grad(likelihood.parameters(TASK).values())


def zero_grad(tensors: Iterable[Tensor]) -> None:
    """Sets every `.grad` to None."""
    for tensor in tensors:
        tensor.grad = None


def reset_task(likelihood: Likelihood) -> None:
    """φ ← θ: copies META into TASK."""
    assign(likelihood.parameters(TASK), likelihood.parameters(META))
