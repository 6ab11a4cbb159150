"""What `abmll tune` draws for a method: its options, from the space beside its factory."""

from __future__ import annotations

from typing import Any

import numpy as np

from abmll.core.seeds import derive_seed
from abmll.methods import is_method, method_factory
from abmll.methods.parts.space import Given, Space
from abmll.methods.table.endings import SPACES, ending_of


def space_of(method: str) -> Space:
    """The options of a method that are searched; none for one that has no space."""
    if (ending := ending_of(method)) is not None:
        return {**space_of(method.removesuffix(ending)), **SPACES[ending]}
    if not is_method(method) and ":" not in method:
        return {}
    space: Space = getattr(method_factory(method), "space", {})
    return space


def draw_options(method: str, seed: int, trial: int) -> dict[str, Any]:
    """The options of a trial: none for trial 0, the defaults; a random draw that depends on its arguments alone after.

    Each option has a stream of its own, so that one more in a space leaves the draws of the others as they are.
    A method without a space has only its defaults.
    """
    options: dict[str, Any] = {}
    for name, values in space_of(method).items() if trial else ():
        chosen = values.spaces.get(options[values.option]) if isinstance(values, Given) else values
        if chosen is not None:
            options[name] = chosen.at(_uniform(method, name, seed, trial))
    return options


def _uniform(*key: str | int) -> float:
    """A number in [0, 1) that depends on `key` alone."""
    # Raw output of a counter-based generator, which numpy promises not to change.
    return (int(np.random.Philox(key=derive_seed("tune", *key)).random_raw()) >> 11) * 2.0**-53
