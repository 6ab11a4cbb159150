"""What may stand behind a method's name: `lora+scale`, `abmll+icl`, `multitask+icl+scale`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from abmll.methods.parts.space import Choice, LogUniform, Space
from abmll.methods.table.extended import Factory
from abmll.methods.table.with_context import ICL, METAICL, with_context
from abmll.methods.table.with_scale import SCALE, with_scale

ENDINGS: Mapping[str, Callable[[str, Factory], Factory]] = {
    SCALE: with_scale,
    ICL: partial(with_context, in_training=False),
    METAICL: partial(with_context, in_training=True),
}
"""By ending: from a method's name and factory to the factory of the name with the ending."""
_SHOWN: Space = {"num_demonstrations": Choice((4, 8, 16))}
SPACES: Mapping[str, Space] = {
    SCALE: {"scale_mean": LogUniform(0.3, 1.2), "scale_std": LogUniform(0.2, 0.8)},
    ICL: _SHOWN,
    METAICL: _SHOWN,
}
"""What is searched besides, by ending."""


def ending_of(name: str) -> str | None:
    """The last ending of a name; None if it has none."""
    return next((ending for ending in ENDINGS if name.endswith(ending)), None)


def without_endings(name: str) -> str:
    """The name of the method behind all endings."""
    while (ending := ending_of(name)) is not None:
        name = name.removesuffix(ending)
    return name
