"""ABMLL as a PEFT tuner, laid out as PEFT lays out its own (config, layer, model)."""

from .config import AbmllConfig
from .layer import AbmllLayer, Linear
from .model import AbmllModel

__all__ = ["AbmllConfig", "AbmllLayer", "AbmllModel", "Linear"]
