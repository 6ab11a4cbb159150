"""Seconds, saved bytes and peak bytes of training steps, all of them measured in turns."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch

Step = Callable[[], object]
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
"""Seconds on the wall, or those the process spent on any processor: the same for one thread with a core of its own, and
the one to ask for on a machine that others use as well."""


class Case(NamedTuple):
    """step: one forward and backward pass. known: tensors that it does not keep: they are there without it."""

    step: Step
    known: tuple[torch.Tensor, ...]


def compare(
    cases: Mapping[str, Case], repeats: int, baseline: str, clock: Clock = time.perf_counter
) -> dict[str, dict[str, float]]:
    """Of each case: median seconds, saved and peak bytes, and each as a ratio to the baseline's.

    The cases take turns, so that whatever else the machine does falls on all alike. A ratio of seconds is the median of
    the ratios within a turn; `ratio_low` and `ratio_high` are their quartiles.
    """
    bytes_of = {
        name: {"saved_bytes": saved_bytes(case), "peak_bytes": peak_bytes(case)} for name, case in cases.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, case in cases.items():
            seconds[name].append(timed(case.step, clock))
    results = {}
    for name in cases:
        ratios = sorted(own / base for own, base in zip(seconds[name], seconds[baseline], strict=True))
        results[name] = {
            "seconds": statistics.median(seconds[name]),
            "seconds_ratio": statistics.median(ratios),
            "seconds_ratio_low": ratios[len(ratios) // 4],
            "seconds_ratio_high": ratios[-1 - len(ratios) // 4],
        }
        for key, value in bytes_of[name].items():
            results[name] |= {
                key: value,
                f"{key.removesuffix('_bytes')}_ratio": value / max(1, bytes_of[baseline][key]),
            }
    return results


def timed(step: Step, clock: Clock = time.perf_counter) -> float:
    """Seconds of one step, until the device is done."""
    _synchronise()
    start = clock()
    step()
    _synchronise()
    return clock() - start


def saved_bytes(case: Case) -> int:
    """What autograd keeps between forward and backward pass: each storage once, the known ones left out."""
    known = {tensor.untyped_storage().data_ptr() for tensor in case.known}
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            # the tensor is held, so that no later one is put at its address and taken for it
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        case.step()
    return sum(size for size, _ in kept.values())


def peak_bytes(case: Case) -> int:
    """How far the memory of tensors rises during a step: what the device's allocator, or the processor's, handed out.

    Resident memory would tell more (a matrix product's own work space) and less exactly: the C library keeps what was
    freed, and a small layer's peak came out anywhere within a half.
    """
    case.step()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        case.step()
        return torch.cuda.max_memory_allocated() - before
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        case.step()
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())), default=0)


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def environment() -> dict[str, Any]:
    """What the numbers depend on."""
    import peft
    import transformers

    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
