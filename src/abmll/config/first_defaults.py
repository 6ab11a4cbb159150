"""What options that a card does not hold mean: an adapter answers as it did when it was saved.

Cards of format 1 kept only the options that were set, cards of format 2 keep all but those that a method got later.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

_FIVE_SGD = {"num_steps": 5, "optimizer": "sgd", "batch_size": None}
_TWENTY = {"num_steps": 20, "learning_rate": 0.003, "batch_size": None}
_FROM_MULTITASK = {"start": "multitask", "outer_learning_rate": None}
_ABMLL = {"num_steps": 5, "learning_rate": 0.001, "optimizer": "adamw", "batch_size": None}
_ABMLL |= {"outer_learning_rate": 0.005, "kl_weight": 1e-4, "log_var_offset": -4.0, "log_var_bound": 4.0}

_ONCE_ABMLL = {"kl_weight": "abmll-output", "trust": "abmll-natural", "variance_rate": "abmll-adam"}
"""What was called `abmll` one after the other, by an option that none of those after it has."""


def name_today(method: str, options: Collection[str]) -> str:
    """The name of a card's method, which was another one when it was written, perhaps."""
    found = (name for option, name in _ONCE_ABMLL.items() if option in options)
    return next(found, method) if method == "abmll" else method


ADDED_LATER: dict[str, dict[str, Any]] = {"abmll-natural": {"warm_up": 0.0, "symmetric": False}}
"""Options that a method got after cards of format 2 were written with it, as it was without them."""

FIRST_DEFAULTS: dict[str, dict[str, Any]] = {
    "pretrained": {},
    "lora": _FIVE_SGD | {"learning_rate": 0.1},
    "multitask": _FIVE_SGD | {"learning_rate": 0.03, "outer_learning_rate": 0.003},
    "reptile": _FIVE_SGD | {"learning_rate": 0.03, "outer_learning_rate": 1.0},
    "fomaml": _FIVE_SGD | {"learning_rate": 0.3, "outer_learning_rate": 0.005, "support_weight": 0.0},
    "maml": {"num_steps": 5, "learning_rate": 0.1, "batch_size": None, "outer_learning_rate": 0.003},
    "abml": {"num_steps": 5, "learning_rate": 0.1, "batch_size": None, "outer_learning_rate": 0.003}
    | {"kl_weight": 0.001, "prior_weight": 0.0, "log_var_offset": -7.0},
    "metaicl": {"num_demonstrations": 8, "outer_learning_rate": 0.003},
    "in-context": {"num_demonstrations": 8},
    "mc-dropout": _TWENTY | {"dropout": 0.1},
    "ensemble": _TWENTY | {"num_members": 5, "noise": 1.0, "bootstrap": False},
    "temperature": _TWENTY | {"holdback": 0.25, "prior_std": 1.0},
    "laplace": _TWENTY
    | _FROM_MULTITASK
    | {"structure": "kronecker", "scope": "all", "rank": None, "prior_precision": None}
    | {"prior_mean": "zero", "linearized": True},
    "swag": _TWENTY | _FROM_MULTITASK | {"first_step": None, "every": 1, "rank": 5, "swag_learning_rate": None},
    "blob": _TWENTY
    | _FROM_MULTITASK
    | {"prior_std": 0.2, "prior_mean": "zero", "initial_std": 0.05, "kl_learning_rate": 0.01}
    | {"gamma": 8.0, "flipout": True},
    "tfb": _TWENTY
    | _FROM_MULTITASK
    | {"tolerance": 0.003, "min_sigma": 0.001, "max_sigma": 0.2, "num_iterations": 5, "num_search_samples": 10},
    "bayesian-lora": _TWENTY
    | _FROM_MULTITASK
    | {"learning_rate": 0.03, "num_inducing": 9, "prior_std": 1.0, "kl_weight": 1.0},
    "abmll": _ABMLL
    | {"kl_schedule": "constant", "prior_weight": 0.0, "adapts": "mean", "inner_kl_weight": 0.0}
    | {"inner_sample": False, "query_gradient": True, "sample": True, "predict_by_samples": True}
    | {"persistent_optimizer": False, "space": "output"},
    "abmll-paper": {"num_tasks": 34, "kl_weight": 1e-8},
    "abmll-in-context": _ABMLL | {"num_demonstrations": 8},
}
