"""Many draws of a distribution at the price of a few."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def many(draw: Callable[[], Any], count: int) -> Any:
    """What `count` calls of `draw` return, stacked: in one, each with noise of its own from the global generator."""
    return torch.vmap(lambda _: draw(), randomness="different")(torch.empty(count))
