"""The base model of a learner: an object, or loaded by its name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from abmll.card import CARD
from abmll.core.errors import AbmllError


def base_model(
    model: Any, tokenizer: Any, *, dtype: str | None = None, device: str | None = None, revision: str | None = None
) -> tuple[Any, Any]:
    """The language model and its tokenizer.

    Args:
        model: a name or a folder, a model, or the pair of a model and its tokenizer.
        tokenizer: with a model that is an object.
        dtype: of the weights, for a name.
        device: where to compute, for a name.
        revision: of a Hugging Face model, for a name.

    Raises:
        AbmllError: If one of the two is missing or of the wrong kind, or the name cannot be loaded.
    """
    if isinstance(model, (tuple, list)) and len(model) == 2 and tokenizer is None:
        model, tokenizer = model
    if isinstance(model, (str, os.PathLike)):
        if tokenizer is not None:
            hint = f" A method is named by method={tokenizer!r}." if isinstance(tokenizer, str) else ""
            raise AbmllError(f"a model given by name brings its own tokenizer: leave tokenizer out.{hint}")
        if (Path(model) / CARD).is_file():
            raise AbmllError(f"{os.fspath(model)} is a saved adapter, not a language model. Load it with abmll.load().")
        from abmll import models

        return models.load(
            os.fspath(model), dtype=dtype or "auto", device="auto" if device is None else device, revision=revision
        )
    given = [
        name for name, value in (("dtype", dtype), ("device", device), ("revision", revision)) if value is not None
    ]
    if given:
        raise AbmllError(
            f"{', '.join(given)} go with a model given by name; this one is loaded already: use model.to(...)."
        )
    if not hasattr(model, "forward") or not hasattr(model, "config"):
        raise AbmllError(
            f"model is {type(model).__name__}: give a name, the path of a folder, or a causal LM of transformers."
        )
    if any(parameter.is_meta for parameter in model.parameters()):
        raise AbmllError("the model's weights are on the device 'meta', which holds none: load it with its weights.")
    if tokenizer is None:
        raise AbmllError("the tokenizer is missing: Learner(model, tokenizer), or give the model's name alone.")
    if not hasattr(tokenizer, "encode") or not hasattr(tokenizer, "decode"):
        hint = f" A method is named by method={tokenizer!r}." if isinstance(tokenizer, str) else ""
        raise AbmllError(f"tokenizer is {type(tokenizer).__name__}, not a tokenizer of transformers.{hint}")
    return model, tokenizer
