"""The most memory that some work takes."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from pathlib import Path

import torch

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def reset_peak_memory(device: torch.device) -> None:
    """Begins a new measurement of `peak_memory_bytes`, where the system can.

    On Linux what was freed before goes back to the system first: the C library keeps most of it, and a long
    comparison would count the memory of its largest method for every one after.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library has no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)
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
