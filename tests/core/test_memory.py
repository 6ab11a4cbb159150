"""The most memory that some work takes, as seen from inside."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from abmll.core.memory import peak_memory_bytes, reset_peak_memory

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def mark() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("this system does not reset the resident high-water mark")


def test_a_peak_is_seen_and_forgotten():
    reset_peak_memory(CPU)
    before = peak_memory_bytes(CPU)
    block = torch.ones(64, 2**18)  # 64 MiB, written
    assert peak_memory_bytes(CPU) - before > 60 * 2**20
    del block
    reset_peak_memory(CPU)
    assert peak_memory_bytes(CPU) - before < 30 * 2**20


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="this C library returns what is freed, or cannot be asked"
)
def test_what_was_freed_before_does_not_count():
    """In pieces too small to be returned at once, below one that is still held, as a long process leaves them."""
    pieces = [torch.ones(3000) for _ in range(20_000)]
    reset_peak_memory(CPU)
    held = peak_memory_bytes(CPU)
    last = pieces[-1]
    del pieces
    reset_peak_memory(CPU)
    assert peak_memory_bytes(CPU) < held - 150 * 2**20
    assert float(last[0]) == 1
