"""What is measured of a task's cost."""

from __future__ import annotations

import torch

from abmll.evaluation.cost import now, stored_bytes

CPU = torch.device("cpu")


def test_bytes_of_a_state():
    state = {"a": torch.zeros(3, 5), "b": torch.zeros(7, dtype=torch.uint8), "c": torch.zeros((), dtype=torch.float64)}
    assert stored_bytes(state) == 60 + 7 + 8
    assert stored_bytes({}) == 0


def test_the_clock_goes_on():
    first = now(CPU)
    assert now(CPU) >= first
