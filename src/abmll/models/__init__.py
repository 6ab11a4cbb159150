"""Language models by name: fetched once, converted once, then offline.

    folder = abmll.models.get("smollm2")             # fetches what is not there yet
    model, tokenizer = abmll.models.load("smollm2")  # also "default", a folder, a Hugging Face name

Importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from abmll.models.cache import cache_folder, is_cached, model_folder
from abmll.models.registry import RegisteredModel, find, registered
from abmll.models.store import get

if TYPE_CHECKING:
    from abmll.models.loading import load, load_config, load_tokenizer, resolve_device

_LOADING = ("load", "load_config", "load_tokenizer", "resolve_device")

__all__ = [
    "RegisteredModel",
    "cache_folder",
    "find",
    "get",
    "is_cached",
    "load",
    "load_config",
    "load_tokenizer",
    "model_folder",
    "registered",
    "resolve_device",
]


def __getattr__(name: str) -> Any:
    if name not in _LOADING:
        raise AttributeError(f"module 'abmll.models' has no attribute {name!r}")
    return getattr(importlib.import_module("abmll.models.loading"), name)
