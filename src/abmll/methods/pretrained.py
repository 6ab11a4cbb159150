"""The language model as it is: zero-shot."""

from __future__ import annotations

from abmll.core.types import AdapterSpec, Method
from abmll.methods.parts.gradient import NoAdaptation
from abmll.methods.parts.space import searched


@searched()
def pretrained() -> Method:
    """The language model as it is, zero-shot."""
    return Method(AdapterSpec(), NoAdaptation(), None)
