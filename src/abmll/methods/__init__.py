"""The table of methods: one file and one factory each.

A factory makes the method of an adapter, an adaptation and a meta-learner; its keyword arguments are the options that
a run file may set under `[method.options]`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from abmll.core.errors import AbmllError
from abmll.core.types import Method
from abmll.methods.abml import abml
from abmll.methods.abmll import abmll
from abmll.methods.abmll_adam import abmll_adam
from abmll.methods.abmll_in_context import abmll_in_context
from abmll.methods.abmll_natural import abmll_natural
from abmll.methods.abmll_output import abmll_output, abmll_paper
from abmll.methods.arrow import arrow
from abmll.methods.bayesian_lora import bayesian_lora
from abmll.methods.blob import blob
from abmll.methods.ensemble import ensemble
from abmll.methods.fomaml import fomaml
from abmll.methods.in_context import in_context
from abmll.methods.label_frequency import label_frequency
from abmll.methods.laplace import laplace
from abmll.methods.lora import lora
from abmll.methods.lorahub import lorahub
from abmll.methods.maml import maml
from abmll.methods.mc_dropout import mc_dropout
from abmll.methods.metaicl import metaicl
from abmll.methods.multitask import multitask
from abmll.methods.pretrained import pretrained
from abmll.methods.reptile import reptile
from abmll.methods.swag import swag
from abmll.methods.table.endings import ENDINGS, ending_of, without_endings
from abmll.methods.table.options import made, option_mistakes
from abmll.methods.table.outside import announced, load_factory
from abmll.methods.temperature import temperature
from abmll.methods.tfb import tfb
from abmll.methods.uniform import uniform
from abmll.rules import in_toml, perhaps, raise_all

METHODS: dict[str, Callable[..., Method]] = {
    "uniform": uniform,
    "label-frequency": label_frequency,
    "pretrained": pretrained,
    "lora": lora,
    "multitask": multitask,
    "reptile": reptile,
    "fomaml": fomaml,
    "maml": maml,
    "abml": abml,
    "metaicl": metaicl,
    "lorahub": lorahub,
    "arrow": arrow,
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
    "abmll-adam": abmll_adam,
    "abmll-natural": abmll_natural,
    "abmll-output": abmll_output,
    "abmll-paper": abmll_paper,
    "abmll-in-context": abmll_in_context,
}


def method_names() -> list[str]:
    """Every method that may be named without its module: those of the table, then those of installed packages."""
    return [*METHODS, *(name for name in announced() if name not in METHODS)]


def is_method(name: str) -> bool:
    """Whether a name is one that `method_names` lists, with endings (+scale, +icl) or without. Imports nothing."""
    return is_built_in(name) or without_endings(name) in announced()  # which reads the metadata of every package


def is_built_in(name: str) -> bool:
    """Whether a name is of this package's own table, with endings (+scale, +icl) or without."""
    return without_endings(name) in METHODS


def method_factory(name: str) -> Callable[..., Method]:
    """The factory behind a name: of the table, announced by an installed package, or "package.module:factory".

    "NAME+scale" is NAME with a scale of its log-probabilities fitted to each task, "NAME+icl" and "NAME+metaicl" NAME
    with demonstrations, at test time and in training too.
    For a name that is not in the table this imports the module that holds it, which runs that module's code.

    Raises:
        AbmllError: For an unknown name, with the nearest, and for a module that cannot be imported.
    """
    if name in METHODS:
        return METHODS[name]
    if (ending := ending_of(name)) is not None:
        plain = name.removesuffix(ending)
        return ENDINGS[ending](plain, method_factory(plain))
    if ":" in name:
        return load_factory(name, name)
    others = announced()
    if name not in others:
        raise AbmllError(f"{unknown_method('method', name)}.")
    return load_factory(name, others[name].value)


def build_method(name: str, **options: Any) -> Method:
    """The method of that name, its options checked as those of a run file are.

    Raises:
        AbmllError: For an unknown name or option, with the nearest known one, and for a value of the wrong type or out
            of range; all of them at once.
    """
    factory = method_factory(name)
    raise_all(mistake.text for mistake in option_mistakes(name, factory, options))
    return made(name, factory, options)


def unknown_method(field: str, name: str) -> str:
    """The message for a name that no method has, found in `field`."""
    known = method_names()
    more = ", ".join(f"NAME{ending}" for ending in ENDINGS)
    return f"{field} = {in_toml(name)}: no such method.{perhaps(name, known)} Methods: {', '.join(known)}; and {more}"


__all__ = ["METHODS", "build_method", "is_built_in", "is_method", "method_factory", "method_names", "unknown_method"]
