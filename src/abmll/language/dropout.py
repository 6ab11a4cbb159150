"""Dropout on the adapters' input as an explicit switch: never a side effect of `model.train()`."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


def adapter_dropouts(model: nn.Module) -> list[nn.Module]:
    """The dropout modules of the model's LoRA adapters; none if they were made without dropout."""
    return [
        module for name, module in model.named_modules() if ".lora_dropout." in name and isinstance(module, nn.Dropout)
    ]


def switch(dropouts: Iterable[nn.Module], on: bool) -> None:
    """Draws a mask in every pass, or drops nothing."""
    for module in dropouts:
        module.train(on)
