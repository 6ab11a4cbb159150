"""The reference methods of a run: methods that are evaluated although nobody named them."""

from __future__ import annotations

from abmll.config import RunConfig
from abmll.evaluation.references import REFERENCES


def with_references(config: RunConfig) -> RunConfig:
    """The run with `REFERENCES` after its own methods, unless `evaluation.references` is off."""
    if not config.evaluation.references:
        return config
    names = (*config.method.names, *(name for name in REFERENCES if name not in config.method.names))
    return config.model_copy(update={"method": config.method.model_copy(update={"name": names})})
