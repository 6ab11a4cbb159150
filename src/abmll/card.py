"""abmll.json, the card beside a saved adapter: what it was made with, and for which task.

A card comes with files from anywhere, so everything in it is checked by type and range before anything is built of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from abmll.config.first_defaults import ADDED_LATER, FIRST_DEFAULTS, name_today
from abmll.config.schema import AdapterConfig, ModelConfig, PromptConfig
from abmll.core.documents import read_json
from abmll.core.errors import AbmllError, Unreadable
from abmll.core.types import Role
from abmll.language import PromptFormat
from abmll.methods import is_built_in, method_factory
from abmll.methods.table.options import option_mistakes
from abmll.rules import raise_all

CARD = "abmll.json"
"""File beside a saved adapter: which method and which prompts it was made with."""
CARD_FORMAT = 2
"""1 kept only the options that were set; 2 keeps all of them, and the version that wrote it."""


class _Part(BaseModel):
    """A part of a card. Keys that this version does not know are left alone: they decide nothing of what it reads."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


class CardTask(_Part):
    """The task that a posterior was adapted to.

    Attributes:
        choices: the words of its classes, none if every row brings its own.
        labels: what the user calls the classes, where that is something else.
    """

    name: str = ""
    question: str = ""
    choices: tuple[str, ...] = Field(default=(), strict=False)
    labels: tuple[str | bool | int | float, ...] = Field(default=(), strict=False)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.choices and (
            len(set(self.choices)) < max(2, len(self.choices)) or not all(map(str.strip, self.choices))
        ):
            raise ValueError("choices must be two different words or more")
        if self.labels and len(self.labels) != len(self.choices):
            raise ValueError(f"there are {len(self.labels)} labels for {len(self.choices)} choices")
        return self


class CardPosterior(_Part):
    """The file that holds the whole posterior, and its SHA-256."""

    file: str = ""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Card(_Part):
    """What stands in a card.

    Attributes:
        version: of the abmll that wrote it; "" before format 2.
        options: all options of the method, those that were left at their defaults too.
        base_model: name or folder of the language model; None if it had none.
        dtype: of the base model's weights.
    """

    format: int = CARD_FORMAT
    version: str = ""
    role: Role
    method: str
    options: dict[str, Any]
    base_model: str | None
    dtype: str = Field(default="float32", pattern=r"^(b?float[0-9a-z_]+)?$")
    prompt: PromptConfig
    adapter: AdapterConfig
    task: CardTask = CardTask()
    posterior: CardPosterior | None = None

    @property
    def asked_dtype(self) -> str | None:
        """The type of the base model's weights, if it is one that can be asked for."""
        return self.dtype if self.dtype in get_args(ModelConfig.model_fields["dtype"].annotation) else None

    @property
    def prompt_format(self) -> PromptFormat:
        """How questions are put and answers scored."""
        return PromptFormat(**self.prompt.model_dump())


def card_file(card: Card) -> bytes:
    """The card as the file `CARD`."""
    return (json.dumps(card.model_dump(mode="json"), indent=2, sort_keys=True) + "\n").encode()


def read_card(directory: Path) -> Card:
    """The card beside a saved adapter, its options complete.

    Raises:
        AbmllError: If it is missing or damaged, was written by a newer version, or holds a value that is of no use: all
            of them are told at once.
    """
    path = directory / CARD
    if not path.exists():
        raise AbmllError(
            f"{path} is missing: {directory} is not an adapter saved by abmll. Give the folder that `abmll train` or "
            "`abmll adapt` named."
        )
    try:
        found = read_json(path)
    except Unreadable as error:
        raise _damaged(path, error.found.removeprefix(f"{path}: ")) from None
    if not isinstance(found, dict):
        raise _damaged(path, "it is no JSON object")
    kept = found.get("format")
    if isinstance(kept, bool) or not isinstance(kept, int) or kept < 1:
        raise _damaged(path, f"its format is {kept!r}")
    if kept > CARD_FORMAT:
        raise AbmllError(f"{path} has format {kept}, this version reads up to {CARD_FORMAT}. Update abmll.")
    try:
        card = Card.model_validate(found)
    except ValidationError as error:
        raise _damaged(path, "; ".join(dict.fromkeys(_finding(item) for item in error.errors()))) from error
    if kept == 1:
        card = card.model_copy(update={"options": FIRST_DEFAULTS.get(card.method, {}) | card.options})
    card = card.model_copy(update={"method": name_today(card.method, card.options)})
    card = card.model_copy(update={"options": ADDED_LATER.get(card.method, {}) | card.options})
    # A method from outside is not looked up for its name's sake: that would run its module's code.
    if is_built_in(card.method) and (wrong := option_faults(card.method, card.options)):
        raise AbmllError(f"cannot use the adapter card {path}: {wrong}")
    return card


def option_faults(method: str, options: Mapping[str, Any]) -> str | None:
    """What is wrong with a method's name or with its options, in one text; None if nothing is."""
    try:
        found = [mistake.text for mistake in option_mistakes(method, method_factory(method), options)]
        raise_all(found)
    except AbmllError as error:
        return str(error)
    return None


def _finding(item: Any) -> str:
    # A union's branch and a list's index stand behind the field's own name.
    place = ".".join(str(part) for part in item["loc"][:2])
    if item["type"] == "missing":
        return f"{place} is missing"
    if item["type"] == "extra_forbidden":
        return f"{place}: no such field"
    shown = repr(item["input"])
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return f"{place} = {shown}: {item['msg'][:1].lower()}{item['msg'][1:]}"


def _damaged(path: Path, reason: str) -> AbmllError:
    return AbmllError(f"{path} is damaged ({reason}). Restore it, or save the adapter again.")
