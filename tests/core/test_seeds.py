"""Seeds: stable across processes, distinct across purposes; `seeded` leaves the caller's generator alone."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from typing import Any

import pytest
import torch

from abmll.core.seeds import derive_seed, seeded


def test_value_never_changes() -> None:
    # If this fails, every published run changes its noise.
    independent = int(hashlib.blake2b(b'["train", 0, 7]', digest_size=8).hexdigest(), 16) // 2
    assert derive_seed("train", 0, 7) == independent
    assert 0 <= derive_seed("train", 0, 7) < 2**63


def test_other_process_with_other_hash_seed_agrees() -> None:
    code = "from abmll.core.seeds import derive_seed; print(derive_seed('é', 1.5, -3))"
    run = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "5"}, capture_output=True, text=True, check=True
    )
    assert int(run.stdout) == derive_seed("é", 1.5, -3)


def test_type_order_and_boundaries_count() -> None:
    parts: list[tuple[Any, ...]] = [("a", 1), ("a", "1"), (1, "a"), ("a1",), ("a", 1.0), ("a", 1, 0), ("a", True), ()]
    assert len({derive_seed(*part) for part in parts}) == len(parts)


def test_low_bits_are_spread() -> None:
    # torch's CPU generator uses the low 32 bits only.
    assert len({derive_seed("train", 0, i) % 2**32 for i in range(2000)}) > 1990


def test_seeded_is_repeatable_and_restores_the_state() -> None:
    torch.manual_seed(3)
    undisturbed = torch.randn(4)
    torch.manual_seed(3)
    with seeded(11):
        first = torch.randn(4)
    with seeded(11):
        second = torch.randn(4)
    assert torch.equal(first, second)
    assert torch.equal(torch.randn(4), undisturbed)


def test_seeded_restores_the_state_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="shape"), seeded(11):
        torch.randn(4).reshape(3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.gpu
def test_seeded_on_cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.cuda.manual_seed(3)
    undisturbed = torch.randn(4, device="cuda")
    torch.cuda.manual_seed(3)
    with seeded(11):
        first = torch.randn(4, device="cuda")
    with seeded(11):
        second = torch.randn(4, device="cuda")
    assert torch.equal(first, second)
    assert torch.equal(torch.randn(4, device="cuda"), undisturbed)
