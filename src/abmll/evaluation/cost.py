"""What a task costs: seconds, peak memory, bytes to keep."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def now(device: torch.device) -> float:
    """The clock in seconds, after everything that was asked of a CUDA device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def reset_peak_memory(device: torch.device) -> None:
    """Begins a new measurement of `peak_memory_bytes`, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")  # Linux: sets the resident high-water mark back to what is resident now


def peak_memory_bytes(device: torch.device) -> int | None:
    """Most memory since the reset: allocated on a CUDA device, else resident in the process (model and libraries
    included); since the process began where the mark cannot be reset; None where nothing is known.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = _STATUS.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return _peak_of_process()


def _peak_of_process() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def stored_bytes(state: Mapping[str, Tensor]) -> int:
    """Bytes of the tensors of a posterior's `state_dict`: what must be kept to answer for a task later."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())
