"""Several LoRAs of rank r side by side in one of rank N·r, for B A = B_1 A_1 + … + B_N A_N.

LoRA i has the rows i·r to (i + 1)·r of every A and the same columns of every B. So a library of LoRAs is one adapter to
everything that trains, saves, loads and resumes one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

A, B = "lora_A", "lora_B"
"""What the names of the two factors' tensors hold."""


def rank_axis(name: str) -> int:
    """The dimension of a factor along which the LoRAs stand: rows of A, columns of B."""
    return 0 if A in name else 1


def lora_of(params: Mapping[str, Tensor], index: int, count: int) -> dict[str, Tensor]:
    """LoRA `index` of `count`: views of its part of every tensor."""
    parts = {}
    for name, tensor in params.items():
        axis = rank_axis(name)
        r = tensor.shape[axis] // count
        parts[name] = tensor.narrow(axis, index * r, r)
    return parts


def present(params: Mapping[str, Tensor], count: int) -> list[int]:
    """Which of the LoRAs there are. One whose every B is 0, as at first, changes nothing: it was never trained."""
    found = []
    for index in range(count):
        own = lora_of(params, index, count)
        if any(bool(tensor.detach().count_nonzero()) for name, tensor in own.items() if B in name):
            found.append(index)
    return found


@torch.no_grad()
def put_alone(target: Mapping[str, Tensor], lora: Mapping[str, Tensor], index: int, count: int) -> None:
    """Sets `target` to a library that holds this LoRA at `index`, and zeros."""
    for tensor in target.values():
        tensor.zero_()
    for name, part in lora_of(target, index, count).items():
        part.copy_(lora[name])


def composed(loras: Sequence[Mapping[str, Tensor]], weights: Tensor) -> dict[str, Tensor]:
    """LoRAHub's composition, a LoRA of the same rank: Â = Σ w_i A_i and B̂ = Σ w_i B_i, so that ΔW = B̂ Â.

    It is not Σ w_i B_i A_i: it holds the products of every B_i with every A_j, and a weight counts twice.

    Args:
        loras: at least one.
        weights: (loras,).

    Source: Huang et al. 2023, arXiv 2307.13269, section 2.3.
    """
    own = [float(weight) for weight in weights]
    return {
        name: torch.stack([weight * lora[name].detach() for weight, lora in zip(own, loras, strict=True)]).sum(0)
        for name in loras[0]
    }
