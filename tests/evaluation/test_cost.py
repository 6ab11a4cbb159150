"""What is measured of a task's cost."""

from __future__ import annotations

import sys

import pytest
import torch

from abmll.evaluation.cost import now, peak_memory_bytes, reset_peak_memory, stored_bytes

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="the mark is reset through /proc")
def test_a_peak_is_seen_and_forgotten():
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pytest.skip("this system does not reset the resident high-water mark")
    reset_peak_memory(CPU)
    before = peak_memory_bytes(CPU)
    block = torch.ones(64, 2**18)  # 64 MiB, written
    assert peak_memory_bytes(CPU) - before > 60 * 2**20
    del block
    reset_peak_memory(CPU)
    assert peak_memory_bytes(CPU) - before < 30 * 2**20


def test_bytes_of_a_state():
    state = {"a": torch.zeros(3, 5), "b": torch.zeros(7, dtype=torch.uint8), "c": torch.zeros((), dtype=torch.float64)}
    assert stored_bytes(state) == 60 + 7 + 8
    assert stored_bytes({}) == 0


def test_the_clock_goes_on():
    first = now(CPU)
    assert now(CPU) >= first
