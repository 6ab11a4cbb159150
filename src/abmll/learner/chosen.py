"""Which method a learner has: given by name, as a function or as an object, or named by a card.

A card comes with files from anywhere. A name in it is looked up in this package's own table and nowhere else: for any
other, the person who loads it must give the method again, because importing a module runs its code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abmll.card import CARD, Card
from abmll.core.errors import AbmllError
from abmll.core.types import Method
from abmll.methods import METHODS, is_built_in, is_method, method_factory, unknown_method
from abmll.methods.table.options import defaults_of, made, option_mistakes
from abmll.rules import in_toml, plain, raise_all

OBJECT = "custom"
"""What a method that was given as an object is called."""


@dataclass(frozen=True)
class ChosenMethod:
    """A method, and how it may be made again.

    Attributes:
        name: in the table, announced, "package.module:factory", or "custom" for an object.
        factory: makes it; None for an object.
        options: those that were given.
        method: the method.
    """

    name: str
    factory: Callable[..., Method] | None
    options: Mapping[str, Any]
    method: Method

    def resolved(self) -> dict[str, Any]:
        """Every option, those that were left at their defaults too."""
        defaults = defaults_of(self.factory) if self.factory is not None else {}
        return defaults | {key: plain(value) for key, value in self.options.items()}


def chosen_method(
    method: str | Method | Callable[..., Method], options: Mapping[str, Any], mistakes: list[str] | None = None
) -> ChosenMethod:
    """The method that a person named or gave, its options checked.

    Args:
        method: a name, a function that makes a method, or a method.
        options: for the first two.
        mistakes: found elsewhere; they are told together with those of the options.

    Raises:
        AbmllError: For an unknown name, an option that is unknown or breaks its rule, or something that is no method.
    """
    told = list(mistakes or ())
    if isinstance(method, Method):
        if options:
            told.append(
                f"options ({', '.join(options)}) go with a method's name: this one is an object, so set them in it"
            )
        raise_all(told)
        return ChosenMethod(OBJECT, None, {}, method)
    if not isinstance(method, str) and not callable(method):
        told.append(
            f"method is {type(method).__name__}: give a name, a function that makes a method, or an abmll.Method"
        )
        raise_all(told)
    try:
        factory = method_factory(method) if isinstance(method, str) else method
    except AbmllError as error:
        raise_all([*told, str(error)])
        raise
    name = method if isinstance(method, str) else _name_of(method)
    raise_all([*told, *(mistake.text for mistake in option_mistakes(name, factory, options))])
    return ChosenMethod(name, factory, dict(options), made(name, factory, options))


def method_of_card(card: Card, directory: Path, given: str | Method | Callable[..., Method] | None) -> ChosenMethod:
    """The method of an adapter folder. See the head of this file for what `given` is for.

    Raises:
        AbmllError: If the card's method is from outside and was not given, or another one was given.
    """
    if isinstance(given, Method):
        return ChosenMethod(card.method, None, card.options, given)
    if given is None and not is_built_in(card.method):
        if card.method == OBJECT:
            raise AbmllError(
                f"the adapter in {directory} was made with a method that was given as an object. Give it again: "
                "abmll.load(folder, method=...)."
            )
        if ":" not in card.method and not is_method(card.method):
            raise AbmllError(
                f"cannot use the adapter card {directory / CARD}: {unknown_method('method', card.method)}."
            )
        raise AbmllError(
            f"the adapter in {directory} is of a method from outside abmll, {in_toml(card.method)}, and loading it "
            "would run that module's code. If you trust it, name it: "
            f"abmll.load(folder, method={card.method!r}), or on the command line --method {card.method}."
        )
    if isinstance(given, str) and given != card.method:
        raise AbmllError(f"the adapter in {directory} was made by method {card.method!r}, not by {given!r}.")
    try:
        chosen = chosen_method(card.method if given is None else given, card.options)
    except AbmllError as error:
        raise AbmllError(f"cannot use the adapter card {directory / CARD}: {error}") from error
    return ChosenMethod(card.method, chosen.factory, card.options, chosen.method)


def _name_of(factory: Callable[..., Method]) -> str:
    """The table's name for one of its factories; else where the function lies."""
    known = next((name for name, one in METHODS.items() if one is factory), None)
    return known or f"{getattr(factory, '__module__', '')}:{getattr(factory, '__qualname__', type(factory).__name__)}"
