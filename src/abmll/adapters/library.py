"""The LoRAs of a library in the layers of a model: how they begin, and one weight for each of them and each token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from abmll.adapters.roles import adapter_parameters
from abmll.core.errors import AbmllError
from abmll.core.library import lora_of, rank_axis
from abmll.core.types import META, TASK, Gate


@torch.no_grad()
def begin_alike(model: PeftModel, count: int) -> None:
    """Gives each of the `count` LoRAs in META and in TASK the first one's factors."""
    for role in (META, TASK):
        params = adapter_parameters(model, role)
        first = lora_of(params, 0, count)
        for name, tensor in params.items():
            tensor.copy_(torch.cat([first[name]] * count, rank_axis(name)))


@contextmanager
def only(model: PeftModel, index: int, count: int) -> Iterator[None]:
    """See `core.types.LibraryLikelihood.only`."""
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, BaseTunerLayer):
                layer: Any = module
                A, B = _first_factor(layer).weight, layer.lora_B[TASK].weight
                hook = _adds(A, B, index, count, layer.scaling[TASK])
                stack.callback(module.register_forward_hook(hook).remove)
        # All of it is switched off, and the one LoRA added by hand: a product with all of them is N times as dear.
        stack.enter_context(model.disable_adapter())
        yield


@contextmanager
def routed(model: PeftModel, gates: Mapping[str, Gate]) -> Iterator[None]:
    """See `core.types.LibraryLikelihood.routed`."""
    names = {id(parameter): name for name, parameter in adapter_parameters(model, TASK).items()}
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, BaseTunerLayer):
                first = _first_factor(module)
                gate = gates.get(names[id(first.weight)])
                if gate is not None:
                    stack.callback(first.register_forward_hook(_weighed(gate)).remove)
        yield


def _first_factor(layer: Any) -> Any:
    """The module of a layer's A. Raises: AbmllError if the layer's adapter is more than two factors."""
    plain = isinstance(layer, LoraLinear) and not layer.use_dora.get(TASK)
    if not plain or TASK not in layer.lora_A:
        raise AbmllError(
            "a library of LoRAs needs plain LoRA adapters on linear layers, without DoRA; found "
            f"{type(layer).__module__}.{type(layer).__name__}. Name other layers in target_modules."
        )
    return layer.lora_A[TASK]


def _adds(
    A: Tensor, B: Tensor, index: int, count: int, scaling: float
) -> Callable[[Any, tuple[Any, ...], Tensor], Tensor]:
    r = A.shape[0] // count

    def hook(module: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        own_A, own_B = A.narrow(0, index * r, r), B.narrow(1, index * r, r)
        x = inputs[0].to(A.dtype)
        total: Tensor = output + ((x @ own_A.mT) @ own_B.mT * scaling).to(output.dtype)
        return total

    return hook


def _weighed(gate: Gate) -> Callable[[Any, tuple[Any, ...], Tensor], Tensor]:
    def hook(module: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        weights: Tensor = gate(inputs[0])
        return output * weights

    return hook
