"""Seeds as pure functions of what they are for, and blocks of code whose randomness depends on their seed alone.

Nothing in the library carries a random state from one piece of work to the next. Every piece derives its own
seed from its name and its index, so that it may run alone, in another order, on another rank or after a restart,
and draw the same numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager


def derive_seed(*parts: int | float | str) -> int:
    """A seed in [0, 2⁶³), a stable function of `parts`: of their values, their types and their order.

    It is the first 63 bits of BLAKE2b over the JSON list of the parts, hence the same on every machine and in
    every process (unlike `hash`). `derive_seed("train", 0, 7)` seeds episode 7 of a training run of seed 0.
    """
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's global generators (CPU and every CUDA device) in the block; restores their states after it.

    The global generators, not a `torch.Generator`: activation checkpointing replays only the global ones.
    CUDA states are saved only if CUDA is already in use, so that the block alone never initialises it.
    """
    import torch  # here: a seed alone needs no torch

    cpu_state = torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:  # which would write down, for devices that are not there, where it was called
        torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(cpu_state)
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)
