"""The options of a method, asked of its factory: their names, their rules, and what is wrong with given ones."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from abmll.core.errors import AbmllError
from abmll.core.types import Method
from abmll.rules import breach, breaches, perhaps, plain, rules_of

RESERVED = frozenset(
    (
        *("model", "tokenizer", "method", "prompt", "r", "lora_alpha", "target_modules", "upper_layers"),
        *("prediction_batch_size", "seed", "dtype", "device", "revision"),
    )
)
"""What `Learner` takes itself: no method may call an option so."""
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class OptionMistake(NamedTuple):
    """One mistake. `option` is None if the method refuses the options taken together."""

    option: str | None
    text: str


def defaults_of(factory: Callable[..., Any]) -> dict[str, Any]:
    """The keyword options of a factory with their defaults, in its own order."""
    return {name: one.default for name, one in inspect.signature(factory).parameters.items() if one.kind in _NAMED}


def option_mistakes(name: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> list[OptionMistake]:
    """Unknown options, values that break the factory's annotations, and what the method itself refuses."""
    known = defaults_of(factory)
    if taken := sorted(RESERVED & known.keys()):
        text = f"method {name!r} has options called {', '.join(taken)}, as the learner's own are called: rename them"
        return [OptionMistake(None, text)]
    unknown = [option for option in options if option not in known]
    found = [OptionMistake(option, unknown_option(option, [name], list(known))) for option in unknown]
    given = {option: value for option, value in options.items() if option in known}
    wrong = breaches(rules_of(factory), given)
    found += [OptionMistake(option, breach(option, given[option], rule)) for option, rule in wrong.items()]
    if not wrong and (refused := refusal(name, factory, given)):
        found.append(OptionMistake(None, refused))
    return found


def unknown_option(option: str, methods: Sequence[str], known: Sequence[str]) -> str:
    """The message for an option that none of the methods has; `known` are those they have."""
    has = f" Options: {', '.join(sorted(known))}" if known else " It takes none"
    return f"{option}: {' or '.join(methods)} has no such option.{perhaps(option, known)}{has}"


def refusal(name: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> str | None:
    """What the method itself says against these options (a value out of range); None if it takes them."""
    try:
        made(name, factory, options)
    except AbmllError as error:
        return str(error)
    return None


def made(name: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> Method:
    """What the factory makes. Raises: AbmllError if it is no method, or the factory refuses the options."""
    missing = [
        key
        for key, default in defaults_of(factory).items()
        if default is inspect.Parameter.empty and key not in options
    ]
    if missing:
        raise AbmllError(f"method {name!r} needs a value for {', '.join(missing)}: give its options defaults.")
    method = factory(**{option: plain(value) for option, value in options.items()})
    if not isinstance(method, Method):
        raise AbmllError(f"method {name!r}: its factory gave {type(method).__name__}, not an abmll.Method.")
    return method
