"""Models that are made once and given away as copies, for PEFT changes the model that it is given."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Maker = TypeVar("Maker", bound=Callable[..., Any])


def made_once(make: Maker) -> Maker:
    """Makes a thing once for its arguments; who asks gets a copy, and the random state that making it leaves behind."""

    @functools.cache
    def made(*arguments: Any, **named: Any) -> tuple[Any, torch.Tensor]:
        return make(*arguments, **named), torch.get_rng_state()

    @functools.wraps(make)
    def a_copy(*arguments: Any, **named: Any) -> Any:
        thing, state = made(*arguments, **named)
        torch.set_rng_state(state)
        return copy.deepcopy(thing)

    return a_copy  # type: ignore[return-value]
