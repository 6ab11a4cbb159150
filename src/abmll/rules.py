"""What a value may be: one description, one check and one wording, for Python and for run files alike.

A rule is a type annotation: `Annotated[int, Field(ge=1)]`, `Literal["adamw", "sgd"]`, `float | None`. Types are
strict: a text is no number and 1 is not true, but a whole number is a number, and so are numpy's and torch's.
"""

from __future__ import annotations

import difflib
import functools
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from abmll.core.errors import AbmllError
from abmll.core.toml_text import toml_value


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuses repeated items."""
    if len(set(values)) < len(values):
        raise ValueError("repeated items")
    return values


Positive = Annotated[float, Field(gt=0)]
"""A number above 0."""
Count = Annotated[int, Field(ge=1)]
"""A whole number of at least 1."""
Amount = Annotated[int, Field(ge=0)]
"""A whole number of at least 0, such as a seed."""
Rank = Annotated[int, Field(ge=1, le=1024)]
"""Of a low-rank product."""
Tokens = Annotated[int, Field(ge=16)]
"""A length of text."""
Text = Annotated[str, Field(min_length=1)]
"""Text that is not empty."""
Names = Annotated[tuple[Text, ...], Field(strict=False, min_length=1), AfterValidator(distinct)]
"""Different names, at least one."""
Schedule = Literal["constant", "linear", "cosine"]
"""Of a learning rate, over the outer steps."""


def describe(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """A type and its constraints in words: "a whole number, at least 1", "one of: random, sequential"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return describe(arguments[0], [*arguments[1:], *metadata])
    if origin in (Union, types.UnionType):
        return "; or ".join(describe(option, metadata) for option in arguments if option is not type(None))
    if origin is Literal:
        return "one of: " + ", ".join(map(str, arguments))
    if origin is tuple:
        different = "different " if any(getattr(item, "func", None) is distinct for item in metadata) else ""
        item = describe(arguments[0])
        for one, many in (("a whole number", "whole numbers"), ("a number", "numbers"), ("text, not empty", "texts")):
            item = item.replace(one, f"{different}{many}")
        return ", ".join([f"a list of {item}", *_bounds(metadata)])
    nouns = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    noun = "a table" if origin is dict else nouns.get(annotation, str(annotation))
    return ", ".join([noun, *_bounds(metadata)])


def _bounds(metadata: Sequence[Any]) -> Iterator[str]:
    # Field(...) inside Annotated keeps its constraints one level deeper than Field(...) as a default.
    constraints = [inner for item in metadata for inner in (item, *getattr(item, "metadata", ()))]
    for constraint in constraints:
        for attribute, words in (("gt", "above"), ("ge", "at least"), ("lt", "below"), ("le", "at most")):
            bound = getattr(constraint, attribute, None)
            if bound is not None:
                yield f"{words} {bound:g}"
        if getattr(constraint, "min_length", None):
            yield "not empty"


def breach(name: str, value: Any, rule: str) -> str:
    """The message for a value that breaks a rule: what was found, what is possible, and what was perhaps meant."""
    hint = ""
    if rule.startswith("one of: ") and isinstance(value, str):
        hint = perhaps(value, rule.removeprefix("one of: ").split(", "))
    elif rule.startswith("a list of") and not isinstance(value, (list, tuple, dict)):
        hint = f" Write {name.rpartition('.')[2]} = [{in_toml(value)}]"
    elif isinstance(value, str) and rule.startswith(("a whole number", "a number", "true or false")):
        bare = value.strip().lower()
        if bare in ("true", "false") or bare.replace(".", "", 1).lstrip("-").isdigit():
            hint = f" Write {bare} without quotes"
        elif bare in ("yes", "no", "on", "off") and rule == "true or false":
            hint = f" Write {'true' if bare in ('yes', 'on') else 'false'}"
    return f"{name} = {in_toml(value)}: must be {rule}.{hint}".rstrip(".")


def perhaps(name: str, known: Sequence[str]) -> str:
    """ " Did you mean 'adamw'?" if one of `known` is near; capitals and the kind of dash do not count."""

    def plain(text: str) -> str:
        return text.casefold().replace("_", "-").replace(" ", "-")

    by_plain = {plain(one): one for one in reversed(known)}
    near = difflib.get_close_matches(plain(name), by_plain, n=1, cutoff=0.7)
    return f" Did you mean {by_plain[near[0]]!r}?" if near else ""


def in_toml(value: Any) -> str:
    """A value as a message quotes it: in TOML, on one line, and cut where it gets long."""
    text = " ".join(toml_value(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def plain(value: Any) -> Any:
    """A numpy or torch scalar as the Python number that it is; anything else as it stands."""
    # numpy's float64 is a float to Python, but writes itself as np.float64(0.1)
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def breaches(rules: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, str]:
    """Names of the values that break their rules -> the rules in words. A name without a rule may be anything."""
    wrong = {}
    for name, value in values.items():
        if name in rules:
            try:
                _adapter(rules[name]).validate_python(plain(value))
            except ValidationError:
                wrong[name] = describe(rules[name])
    return wrong


@functools.lru_cache(maxsize=512)
def _adapter(rule: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(rule, config=ConfigDict(strict=True, allow_inf_nan=False))
    except Exception:  # a model brings a configuration of its own
        return TypeAdapter(rule)


def require(rules: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Raises AbmllError that tells every value which breaks its rule."""
    raise_all(breach(name, values[name], rule) for name, rule in breaches(rules, values).items())


def require_fields(instance: Any) -> None:
    """`require` for a frozen dataclass, by the annotations of its fields; numpy's numbers become Python's."""
    rules = rules_of(type(instance))
    values = {field.name: getattr(instance, field.name) for field in fields(instance) if field.init}
    require(rules, values)
    for name, value in values.items():
        if (simple := plain(value)) is not value:
            object.__setattr__(instance, name, simple)


def rules_of(source: Callable[..., Any] | type) -> dict[str, Any]:
    """The rules of a function's arguments or of a class's fields: its annotations.

    Raises:
        AbmllError: If they name what does not exist.
    """
    try:
        # Every object of ours asks for those of its class.
        return dict(_hints(source)) if isinstance(source, type) else get_type_hints(source, include_extras=True)
    except (NameError, TypeError) as error:
        name = getattr(source, "__qualname__", source)
        raise AbmllError(f"the annotations of {name} cannot be read: {error}.") from error


@functools.lru_cache(maxsize=512)
def _hints(source: type) -> dict[str, Any]:
    return get_type_hints(source, include_extras=True)


def raise_all(mistakes: Iterator[str] | Sequence[str]) -> None:
    """Raises one AbmllError for all of the mistakes; nothing if there is none."""
    told = [mistake.rstrip(".") + ("" if mistake.endswith("?") else ".") for mistake in dict.fromkeys(mistakes)]
    if len(told) == 1:
        raise AbmllError(told[0])
    if told:
        raise AbmllError("\n".join([f"{len(told)} mistakes:", *(f"  {one}" for one in told)]))
