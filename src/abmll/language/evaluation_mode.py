"""A model that computes the same in training as in prediction, whatever its own dropout."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


def evaluation_mode(model: nn.Module) -> None:
    """Puts the whole model into evaluation mode, and keeps its gradient checkpointing at work all the same.

    transformers checkpoints a layer only in training mode, in which the layer's own dropout (and layer drop, and router
    noise) is on too. So such a layer stays in training mode for that decision, and is in evaluation mode while it
    computes, also when it computes again in the backward pass. Called before every pass: a model that is in this state
    already is looked through once, and that is all.
    """
    modules = list(model.modules())
    checkpointed = [m for m in modules if isinstance(m, GradientCheckpointingLayer) and m.gradient_checkpointing]
    if sum(module.training for module in modules) != sum(module.training for module in checkpointed):
        model.eval()
    for module in checkpointed:
        module.training = True
        checkpoint: Any = module._gradient_checkpointing_func
        if not (isinstance(checkpoint, partial) and checkpoint.func is _checkpointed):
            evaluated: Any = partial(_checkpointed, checkpoint, module)
            module._gradient_checkpointing_func = evaluated


def _checkpointed(checkpoint: Callable[..., Any], module: nn.Module, function: Callable[..., Any], *args: Any) -> Any:
    return checkpoint(partial(_evaluated, module, function), *args)


def _evaluated(module: nn.Module, function: Callable[..., Any], *args: Any) -> Any:
    module.training = False
    try:
        return function(*args)
    finally:
        module.training = True
