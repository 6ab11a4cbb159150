"""Where `abmll tune` looks: for each row of the table, the options that are searched and the values they may take.

Every range holds the row's default. The number of gradient steps and the batch size are in no space: a comparison
fixes them for all methods alike. Options of the outer loop and of the adaptation are drawn together, so that one
trial is one whole experiment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from abmll.core.seeds import derive_seed
from abmll.methods.scaled_rows import SCALE


@dataclass(frozen=True)
class LogUniform:
    """Numbers between `low` and `high`, every factor as likely as any other; drawn with three digits."""

    low: float
    high: float

    def at(self, place: float) -> float:
        """The value at `place` in [0, 1)."""
        return float(f"{math.exp(math.log(self.low) + place * math.log(self.high / self.low)):.3g}")

    def __contains__(self, value: object) -> bool:
        return isinstance(value, float | int) and self.low <= value <= self.high


@dataclass(frozen=True)
class Choice:
    """One of some values, each as likely."""

    values: tuple[Any, ...]

    def at(self, place: float) -> Any:
        """The value at `place` in [0, 1)."""
        return self.values[int(place * len(self.values))]

    def __contains__(self, value: object) -> bool:
        return value in self.values


@dataclass(frozen=True)
class Given:
    """Values that depend on another option of the same space; where that has no entry, this one stays at its default.

    The default is None, which the method takes for the default of what `option` chose.
    """

    option: str
    spaces: Mapping[Any, LogUniform]

    def __contains__(self, value: object) -> bool:
        return value is None or any(value in space for space in self.spaces.values())


Space = Mapping[str, LogUniform | Choice | Given]

_ADAM = LogUniform(1e-4, 3e-2)  # of AdamW on a LoRA
_SGD = LogUniform(1e-2, 1.0)  # of plain gradient steps
_LORA: Space = {"learning_rate": _ADAM}
_OUTER = LogUniform(1e-3, 1e-2)  # of AdamW in the outer loop
_REPTILE_OUTER = LogUniform(0.1, 1.0)  # ε of Reptile
_META: Space = {"learning_rate": _SGD, "outer_learning_rate": _OUTER}
_SECOND_ORDER: Space = {"learning_rate": _SGD, "outer_learning_rate": LogUniform(3e-4, 3e-2)}
_STARTS: Space = {
    "start": Choice(("none", "multitask", "reptile")),
    "outer_learning_rate": Given("start", {"multitask": _OUTER, "reptile": _REPTILE_OUTER}),
}
_START: Space = {**_LORA, **_STARTS}
_ABMLL: Space = {
    "trust": LogUniform(0.03, 0.5),
    "outer_learning_rate": _OUTER,
    "support_weight": Choice((0.1, 0.3, 1.0)),
    "scale_mean": LogUniform(0.4, 1.4),
}
_ABMLL_OUTPUT: Space = {
    **_LORA,
    "outer_learning_rate": _OUTER,
    "kl_weight": LogUniform(1e-6, 1e-1),
    "log_var_offset": Choice((-6.0, -5.0, -4.0, -3.0, -2.0)),
}

SPACES: Mapping[str, Space] = {
    "uniform": {},
    "label-frequency": {},
    "pretrained": {},
    "lora": {"learning_rate": _SGD},
    "multitask": _META,
    "reptile": {"learning_rate": _SGD, "outer_learning_rate": _REPTILE_OUTER},
    "fomaml": _META,
    "maml": _SECOND_ORDER,
    "abml": {**_SECOND_ORDER, "kl_weight": LogUniform(1e-5, 1.0), "log_var_offset": Choice((-10.0, -8.0, -7.0, -6.0))},
    "metaicl": {"num_demonstrations": Choice((4, 8, 16)), "outer_learning_rate": LogUniform(3e-4, 3e-2)},
    "in-context": {"num_demonstrations": Choice((2, 4, 8, 16))},
    "mc-dropout": {**_LORA, "dropout": Choice((0.05, 0.1, 0.2, 0.3))},
    "ensemble": {**_LORA, "noise": Choice((0.3, 1.0, 3.0)), "bootstrap": Choice((False, True))},
    "temperature": {**_LORA, "holdback": Choice((0.25, 0.5)), "prior_std": LogUniform(0.3, 3.0)},
    "laplace": {
        **_START,
        "structure": Choice(("diagonal", "kronecker")),
        "scope": Choice(("all", "last_layer")),
        "prior_mean": Choice(("zero", "meta")),
    },
    "swag": {**_START, "rank": Choice((0, 2, 5))},
    "tfb": {**_START, "tolerance": LogUniform(1e-3, 0.1)},
    "blob": {
        **_START,
        "prior_std": LogUniform(0.02, 1.0),
        "prior_mean": Choice(("zero", "meta")),
        "initial_std": LogUniform(0.01, 0.3),
        "kl_learning_rate": LogUniform(1e-4, 0.1),
    },
    "bayesian-lora": {
        "learning_rate": LogUniform(3e-3, 0.3),
        **_STARTS,
        "prior_std": LogUniform(0.1, 3.0),
        "kl_weight": LogUniform(1e-3, 1.0),
    },
    "abmll": _ABMLL,
    "abmll-output": _ABMLL_OUTPUT,
    "abmll-in-context": {**_ABMLL_OUTPUT, "num_demonstrations": Choice((4, 8, 16))},
    "abmll-paper": {"kl_weight": Choice((1e-8, 1e-7))},
}
_SCALE: Space = {"scale_mean": LogUniform(0.3, 1.2), "scale_std": LogUniform(0.2, 0.8)}


def space_of(method: str) -> Space:
    """The options of a method that are searched; none for one that has no space."""
    if method.endswith(SCALE):
        return {**space_of(method.removesuffix(SCALE)), **_SCALE}
    return SPACES.get(method, {})


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
