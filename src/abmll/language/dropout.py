"""Dropout on the adapters' input as an explicit switch: never a side effect of `model.train()`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from abmll.gaussian.stochastic_pass import current_pass


class AdapterDropout:
    """The dropout of a model's LoRA adapters, under a switch.

    `on` draws a mask in every pass; tokens that a pass holds several times (`Copies`) have one mask. While it is off
    the modules are as PEFT made them.
    """

    def __init__(self, model: nn.Module) -> None:
        self.on = False
        self.modules = [
            module
            for name, module in model.named_modules()
            if ".lora_dropout." in name and isinstance(module, nn.Dropout)
        ]
        for module in self.modules:
            module.register_forward_hook(self._drop)

    def _drop(self, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not self.on:
            return output
        x, record = inputs[0], current_pass()
        copies = None if record is None else record.copies_of_tokens(x.shape)
        places = None if record is None else record.places_of_tokens(x.shape)
        if copies is not None:
            mask = nn.functional.dropout(x.new_ones(copies.num_tokens, x.shape[-1]), module.p, training=True)
            return x * mask[copies.token].view(x.shape)
        if places is not None:  # drawn for tokens, as where copies of them draw it, and not for padding
            mask = nn.functional.dropout(x.new_ones(len(places), x.shape[-1]), module.p, training=True)
            every = x.new_ones(x.shape[:-1].numel(), x.shape[-1]).index_copy(0, places, mask)
            return x * every.view(x.shape)
        return nn.functional.dropout(x, module.p, training=True)
