"""The table of methods: one row each, made of an adapter, an adaptation and a meta-learner.

A row is a factory: its keyword arguments are the options a run file may set under `[method.options]`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from abmll.core.errors import AbmllError, unknown_name
from abmll.core.types import Method
from abmll.methods.bayesian_rows import bayesian_lora, blob, laplace, swag, tfb
from abmll.methods.rivals import (
    abml,
    abmll_in_context,
    ensemble,
    fomaml,
    in_context,
    maml,
    mc_dropout,
    metaicl,
    temperature,
)
from abmll.methods.rows import abmll, abmll_paper, lora, multitask, pretrained, reptile

METHODS: dict[str, Callable[..., Method]] = {
    "pretrained": pretrained,
    "lora": lora,
    "multitask": multitask,
    "reptile": reptile,
    "fomaml": fomaml,
    "maml": maml,
    "abml": abml,
    "metaicl": metaicl,
    "in-context": in_context,
    "mc-dropout": mc_dropout,
    "ensemble": ensemble,
    "temperature": temperature,
    "laplace": laplace,
    "swag": swag,
    "blob": blob,
    "tfb": tfb,
    "bayesian-lora": bayesian_lora,
    "abmll": abmll,
    "abmll-paper": abmll_paper,
    "abmll-in-context": abmll_in_context,
}


def build_method(name: str, **options: Any) -> Method:
    """The method of that name. Raises AbmllError for an unknown name or option, with the nearest known one."""
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    factory = METHODS[name]
    known = inspect.signature(factory).parameters
    for option in options:
        if option not in known:
            if not known:
                raise AbmllError(f"method {name!r} takes no options; found {option!r}. Remove it.")
            raise unknown_name(f"option of method {name!r}", option, known)
    return factory(**options)


__all__ = ["METHODS", "build_method"]
