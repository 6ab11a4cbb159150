"""What a method predicts by when there is no labelled row at all."""

from __future__ import annotations

from typing import Any

from abmll.core.types import Adaptation
from abmll.methods.parts.gradient import NoAdaptation


def zero_shot_of(adaptation: Adaptation) -> Adaptation:
    """What an adaptation does without labels: its own `zero_shot`, if it or one inside it has one; else θ as it is."""
    part: Any = adaptation
    while part is not None:
        own: Adaptation | None = getattr(part, "zero_shot", None)
        if own is not None:
            return own
        part = getattr(part, "adaptation", None)
    return NoAdaptation()
