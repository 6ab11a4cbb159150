"""What a task costs: seconds and bytes to keep (its memory: `core.memory`)."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from torch import Tensor


def now(device: torch.device) -> float:
    """The clock in seconds, after everything that was asked of a CUDA device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def stored_bytes(state: Mapping[str, Tensor]) -> int:
    """Bytes of the tensors of a posterior's `state_dict`: what must be kept to answer for a task later."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())
